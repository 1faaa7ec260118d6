"""Targets: a file or a folder, what may be replaced and what may not, and a replacement that fails."""

from pathlib import Path

import pytest

from sscm.errors import WorkspaceError
from sscm.index.export_target import Target, part_name
from sscm.workspace import open_workspace


@pytest.mark.parametrize(
    ("target", "uri", "collection", "is_file"),
    [
        ("/data/a.parquet", "file:///data/a.parquet", "a.collection.json", True),
        ("/data/a/", "file:///data/a", "a.collection.json", False),
        ("file:///data/a.b", "file:///data/a.b", "a.b.collection.json", False),
        ("s3://bucket/x/a.parquet", "s3://bucket/x/a.parquet", "a.collection.json", True),
        ("s3://bucket/a", "s3://bucket/a", "a.collection.json", False),
    ],
)
def test_what_a_target_is(target, uri, collection, is_file):
    place = Target.of(target)
    assert place.folder.uri_of(place.name) == uri
    assert (place.collection, place.is_file) == (collection, is_file)
    assert place.inside("f") == ("f" if is_file else f"{place.name}/f")


def test_the_root_of_the_file_system():
    place = Target.of("/a.parquet")
    assert place.folder.is_local and Path(place.folder.path_of(place.name)) == Path("/a.parquet")
    assert place.folder.child(".staging").is_local


@pytest.mark.parametrize("target", ["s3://bucket", "s3://bucket/", "memory://a", "/"])
def test_no_place_beside_it(target):
    with pytest.raises(WorkspaceError, match="expected a file or folder inside of it"):
        Target.of(target)
    with pytest.raises(WorkspaceError, match="scheme 'gopher' is unknown"):
        Target.of("gopher://x/a")


def test_what_is_no_export_is_never_replaced(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Target.of(str(folder)).require_free(False)  # an empty folder is in nobody's way
    (folder / part_name(0)).write_text("")
    with pytest.raises(WorkspaceError, match="photos is there already; choose another target, or --overwrite it"):
        Target.of(str(folder)).require_free(False)
    Target.of(str(folder)).require_free(True)
    (folder / "part-one.parquet").write_text("")
    with pytest.raises(WorkspaceError, match=r"photos holds what no export has written \(part-one.parquet\)"):
        Target.of(str(folder)).require_free(True)
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(WorkspaceError, match=r"a.parquet is a folder; expected a file, whose name ends in .parquet"):
        Target.of(str(tmp_path / "a.parquet")).require_free(True)
    (tmp_path / "notes").write_text("")
    with pytest.raises(WorkspaceError, match="notes is a file; expected a folder"):
        Target.of(str(tmp_path / "notes")).require_free(True)
    (tmp_path / "b.collection.json").write_text("")
    with pytest.raises(WorkspaceError, match=r"b.collection.json is there already"):
        Target.of(str(tmp_path / "b.parquet")).require_free(False)


def test_part_names_sort_and_are_known_again(tmp_path):
    names = [part_name(number) for number in (0, 9, 10, 99_999, 100_000)]
    assert names[:4] == sorted(names[:4]) and names[4] == "part-100000.parquet"
    (tmp_path / "export").mkdir()
    for name in names:
        (tmp_path / "export" / name).write_text("")
    Target.of(str(tmp_path / "export")).require_free(True)


@pytest.mark.parametrize("fails", ["a.parquet", "a.collection.json"])
def test_a_replacement_that_fails_half_way_is_undone(tmp_path, monkeypatch, fails):
    place = Target.of(str(tmp_path / "a.parquet"))
    old = {"a.parquet": "old", "a.collection.json": "old too"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    rename = Path.rename

    def failing(self, target):
        if self.name == fails and self.parent != tmp_path and Path(target).parent == tmp_path:
            raise PermissionError(13, "denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(WorkspaceError, match=r"cannot write .*a.parquet: denied"), place.staging() as staging:
        for name in old:
            staging.write_bytes(b"new", name)
        place.publish(staging, ["a.parquet"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == old


def test_staging_is_gone_whatever_happens(tmp_path):
    place = Target.of(str(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt), place.staging() as staging:
        staging.write_bytes(b"new", "a", part_name(0))
        assert open_workspace(staging.uri).names("a") == [part_name(0)]
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []

"""Deleting: the pairs that are meant go, from the next generation on, and nothing that was written changes."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sscm.config import DeleteConfig
from sscm.errors import ConfigError, ConflictError, GenerationError, IntegrityError, QueryError, WorkspaceError
from sscm.index import delete
from sscm.index.append import append_segment
from sscm.index.delete import delete_from_index, delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import commit, current_number, read_generation, settle
from sscm.index.tombstones import read_tombstones
from tests.plugins.growing import answers, begin, live_ids, scanned


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


@pytest.fixture
def index(workspace, rows_factory):
    """Pairs 0 to 9 in one segment, 10 to 14 in another; pairs 3 and 12 have no s2."""
    begin(workspace, *rows_factory(list(range(10)), lacking={3}))
    append_segment(workspace, *rows_factory(list(range(10, 15)), lacking={12}))
    return workspace


def files_of(workspace):
    """Every file of an index and its content."""
    root = Path(workspace.path_of("index"))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_by_id(index, rows_factory):
    before, written = read_generation(index), files_of(index)
    deletion = delete_pairs(index, Filter(ids=names([11, 3, 8])))
    assert (deletion.rows, deletion.unknown) == (3, ())
    after = deletion.generation
    assert (after.number, after.rows, after.deleted) == (3, 12, 3) and read_generation(index) == after
    assert [info.files for info in after.segments] == [info.files for info in before.segments]
    assert after.sources == before.sources
    found = [read_tombstones(index, info.name, info.deleted).tolist() for info in after.segments]
    assert found == [[3, 8], [1]]
    left = [number for number in range(15) if number not in (3, 8, 11)]
    assert live_ids(index) == names(left) and live_ids(index, 2) == names(range(15))
    queries = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    for target in ("s1", "s2"):
        assert answers(index, queries, target) == scanned(*rows_factory(left, lacking={12}), queries, target)
    now = files_of(index)
    assert {name: now[name] for name in written if name != "CURRENT"} == {
        name: content for name, content in written.items() if name != "CURRENT"
    }
    assert index.names("index", "pins") == []


def test_a_deletion_may_be_run_again(index):
    first = delete_pairs(index, Filter(ids=names([2, 5])))
    again = delete_pairs(index, Filter(ids=names([2, 5])))
    assert (again.rows, again.generation, again.unknown) == (0, first.generation, ())
    more = delete_pairs(index, Filter(ids=names([5, 2, 9])))
    assert (more.rows, more.generation.number, more.generation.deleted) == (1, 4, 3)
    assert [live_ids(index, number)[:6] for number in (3, 4)] == [names([0, 1, 3, 4, 6, 7])] * 2
    assert "pair_0009" in live_ids(index, 3) and "pair_0009" not in live_ids(index, 4)


def test_everything_may_go(index, rows_factory):
    assert delete_pairs(index, Filter(filter="id LIKE 'pair%'")).generation.rows == 0
    assert live_ids(index) == []
    assert answers(index, np.ones((2, 16), np.float32), "s1") == [[], []]
    append_segment(index, *rows_factory([20]))
    assert live_ids(index) == names([20])


@pytest.mark.parametrize(
    ("which", "gone"),
    [
        ({"ids": names([1, 2, 3, 4]), "split": "train"}, [3]),
        ({"split": "test"}, [2, 5, 8, 11, 14]),
        ({"labels": ["Pastures", "Else"]}, [1, 3, 5, 7, 9, 11, 13]),
        ({"bbox": (20.035, 43, 20.085, 45)}, [2, 3, 4]),
        # Images of s1 are taken from 1 June 2018 on, a day each; those of s2 a month later.
        ({"datetime": "2018-06-04T00:00:00Z/2018-06-05T00:00:00Z"}, [3, 4]),
        ({"datetime": "2018-07-14T00:00:00Z/.."}, [13, 14]),
        ({"datetime": "2018-06-15T00:00:00Z/2018-07-02T00:00:00Z"}, [0, 1, 14]),
        ({"filter": "country = 'Serbia' AND id > 'pair_0011'"}, [12, 13, 14]),
        ({"filter": {"op": "=", "args": [{"property": "split"}, "validation"]}}, [1, 4, 7, 10, 13]),
        ({"intersects": {"type": "Point", "coordinates": [20.285, 44.005]}, "labels": ["Pastures"]}, []),
        ({"intersects": {"type": "Point", "coordinates": [20.265, 44.005]}, "labels": ["Pastures"]}, [13]),
    ],
)
def test_by_filter(index, which, gone):
    before = read_generation(index)
    dry = delete_pairs(index, Filter(**which), dry_run=True)
    deletion = delete_pairs(index, Filter(**which))
    assert (dry.rows, dry.generation) == (len(gone), before)
    assert deletion.rows == len(gone)
    assert live_ids(index) == names(number for number in range(15) if number not in gone)


def test_unknown_ids(index, capsys):
    which = Filter(ids=[*names([4, 12]), *(f"x{number}" for number in range(7))])
    with pytest.raises(QueryError) as caught:
        delete_pairs(index, which)
    told = "7 ids are not in index generation 2: x0, x1, x2, x3, x4 and 2 more"
    assert str(caught.value) == f"{told}; nothing was deleted: correct them, or pass --ignore-missing"
    assert current_number(index) == 2 and index.names("index", "pins") == []
    deletion = delete_pairs(index, which, ignore_missing=True)
    assert (deletion.rows, deletion.unknown) == (2, tuple(f"x{number}" for number in range(7)))
    told_now = capsys.readouterr().err
    assert told in told_now and "2 of 15 pairs go" in told_now


def test_a_dry_run_changes_nothing(index, capsys):
    delete_pairs(index, Filter(ids=names([0])))
    before = files_of(index)
    deletion = delete_pairs(index, Filter(split="train"), dry_run=True)
    assert (deletion.rows, deletion.generation.number) == (4, 3)
    assert files_of(index) == before
    assert "4 of 14 pairs would go" in capsys.readouterr().err


def test_only_ids_are_read_where_ids_say_it(index):
    """No vector is opened: their files may even be gone."""
    for info in read_generation(index).segments:
        for file in set(info.files) - {"rows.parquet"}:
            index.delete("index", "segments", info.name, file)
    assert delete_pairs(index, Filter(ids=names([0, 13]))).rows == 2
    assert delete_pairs(index, Filter(split="train")).rows == 4


def test_a_filter_must_say_something_and_refer_to_what_is_there(index, rows_factory, monkeypatch):
    with pytest.raises(QueryError, match="would delete all; say which"):
        delete_pairs(index, Filter())
    with pytest.raises(QueryError, match=r"property 'cloud' is unknown; known are .*country"):
        delete_pairs(index, Filter(filter="cloud > 5"))
    rows, vectors = rows_factory([20, 21])
    rows = rows.set_column(
        rows.column_names.index("properties"),
        "properties",
        pa.array([[("cloud", "9")], [("cloud", "2")]], pa.map_(pa.string(), pa.string())),
    )
    append_segment(index, rows, vectors)
    dry = delete_pairs(index, Filter(filter="cloud > 5"), dry_run=True)
    # Manifests of before do not say which properties there are: the rows do.
    old = read_generation(index)
    unsaid = tuple(dataclasses.replace(info, properties=None) for info in old.segments)
    commit(index, dataclasses.replace(old, number=4, segments=unsaid))
    assert dry.rows == delete_pairs(index, Filter(filter="cloud > 5")).rows == 1
    assert delete_pairs(index, Filter(filter="country IS NULL")).rows == 1
    assert live_ids(index) == names(range(15))


def test_rows_that_are_not_whole(index):
    first, second = read_generation(index).segments
    path = Path(index.path_of("index", "segments", second.name, "rows.parquet"))
    content = path.read_bytes()
    for bad, message in (
        (content[:-1], rf"{second.name}/rows.parquet has {len(content) - 1} bytes; its manifest says {len(content)}"),
        (content[:-4] + b"????", rf"{second.name}/rows.parquet is not a whole Parquet file"),
        (None, rf"{second.name}/rows.parquet is missing"),
    ):
        path.unlink() if bad is None else path.write_bytes(bad)
        with pytest.raises(IntegrityError, match=message):
            delete_pairs(index, Filter(ids=names([1, 12])))
    path.write_bytes(content)
    generation = delete_pairs(index, Filter(ids=names([1]))).generation
    index.delete("index", "segments", first.name, generation.segments[0].deleted.file)
    with pytest.raises(IntegrityError, match=r"deleted_\w+.npy is missing: the segment's deleted rows are not known"):
        delete_pairs(index, Filter(ids=names([12])))
    assert settle(index) == 3 and index.names("index", "pins") == []


def test_another_writer_was_first(index, monkeypatch):
    def beaten(workspace, generation):
        monkeypatch.setattr(delete, "commit", commit)
        delete_pairs(workspace, Filter(ids=names([0])))
        commit(workspace, generation)

    monkeypatch.setattr(delete, "commit", beaten)
    with pytest.raises(ConflictError, match="another `sscm index` committed first; run the same command again"):
        delete_pairs(index, Filter(ids=names([7])))
    assert live_ids(index) == names(range(1, 15))
    delete_pairs(index, Filter(ids=names([7])))
    assert live_ids(index) == names([*range(1, 7), *range(8, 15)])


def test_no_index_and_one_that_cannot_be_written(workspace, index):
    index.delete("index", "pins")
    index.write_bytes(b"in the way", "index", "pins")
    with pytest.raises(WorkspaceError, match="cannot write"):
        delete_pairs(index, Filter(ids=names([1])))
    assert delete_pairs(index, Filter(ids=names([1])), dry_run=True).rows == 1
    index.delete("index")
    for dry_run in (True, False):
        with pytest.raises(GenerationError, match="there is no index in this workspace"):
            delete_pairs(index, Filter(ids=names([1])), dry_run=dry_run)


def test_as_the_command_line_says_it(index, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffpair_0003\r\n\n  pair_0004 \r\n".encode())
    deletion = delete_from_index(DeleteConfig(workspace=index.uri, ids=("pair_0014",), ids_file=file))
    assert deletion.rows == 3 and live_ids(index) == names([*range(3), *range(5, 14)])
    more = DeleteConfig(
        workspace=index.uri,
        bbox=(20, 44, 20.2, 45),
        datetime="2018-06-01T00:00:00Z/2018-06-10T00:00:00Z",
        labels=("Pastures",),
        split="validation",
        filter="country = 'Serbia'",
    )
    assert delete_from_index(dataclasses.replace(more, dry_run=True)).rows == 2
    assert delete_from_index(more).rows == 2  # pairs 1 and 7
    assert live_ids(index) == names([0, 2, 5, 6, *range(8, 14)])
    unknown = DeleteConfig(workspace=index.uri, ids=("pair_0000", "x"), ignore_missing=True)
    assert delete_from_index(unknown).unknown == ("x",)


def test_settings_that_cannot_work(index, tmp_path):
    with pytest.raises(ConfigError, match="nothing says which pairs: expected --ids"):
        DeleteConfig()
    for content, message in ((b" \n\n", "has no ids; expected one a line"), (b"\xff\xfe", "expected a text file")):
        (tmp_path / "ids").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            delete_from_index(DeleteConfig(workspace=index.uri, ids_file=tmp_path / "ids"))
    with pytest.raises(ConfigError, match="expected a text file"):
        delete_from_index(DeleteConfig(workspace=index.uri, ids_file=tmp_path / "none"))
    with pytest.raises(QueryError, match="bbox"):
        delete_from_index(DeleteConfig(workspace=index.uri, bbox=(0, 10, 1, 5)))
    assert current_number(index) == 2

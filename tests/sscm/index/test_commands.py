"""`sscm index append | delete | compact | list | verify | gc`, as typed: exit codes, and what is said where."""

import dataclasses

import pytest

from sscm import cli
from sscm.archive.manifest import read_manifest, write_manifest
from sscm.config import IndexConfig
from sscm.index.append import append_segment
from sscm.index.build import build_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.pins import pinned, writing
from tests.plugins.growing import begin, live_ids


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


@pytest.fixture
def index(workspace, rows_factory):
    begin(workspace, *rows_factory(list(range(6))))
    append_segment(workspace, *rows_factory([10, 11, 12]))
    return workspace


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command: exit code, what it printed, what it said on stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(workspace, *words):
        capsys.readouterr()
        code = cli.main(["index", *words, "--workspace", workspace.uri])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_append(archive, small_bundle, embedded, run):
    manifest = read_manifest(archive)
    write_manifest(archive, dataclasses.replace(manifest, shards=manifest.shards[:2]))
    build_index(IndexConfig(workspace=archive.uri))
    write_manifest(archive, manifest)
    assert run(archive, "append", "--splits", "validation", "test")[:2] == (
        0,
        "index generation 2: 44 rows in 2 segments\n",
    )
    code, out, err = run(archive, "append")
    assert code == 0 and out == "index generation 2: 44 rows in 2 segments\n" and "nothing to append" in err


def test_delete(index, run, tmp_path):
    code, out, err = run(index, "delete", "--labels", "Pastures", "--split", "test", "--dry-run")
    assert (code, out) == (0, "2 rows would go; nothing was deleted\n") and "2 of 9 pairs would go" in err
    (tmp_path / "ids").write_text("pair_0003\npair_0010\n")
    code, out, _ = run(index, "delete", "--ids", "pair_0000", "pair_0004", "--ids-file", str(tmp_path / "ids"))
    assert (code, out) == (0, "index generation 3: 4 rows deleted, 5 left; next: sscm index compact\n")
    code, out, _ = run(index, "delete", "--bbox", "20.0", "43", "20.025", "45", "--filter", "country = 'Serbia'")
    assert (code, live_ids(index)) == (0, names([2, 5, 11, 12]))
    code, out, err = run(index, "delete", "--ids", "x")
    assert (code, out) == (1, "") and err.splitlines()[-1].startswith(
        "sscm: Query error: 1 ids are not in index generation 4: x; nothing"
    )
    code, _, err = run(index, "delete")
    assert code == 1 and "sscm: Config error: nothing says which pairs: expected --ids" in err
    assert run(index, "delete", "--ids", "x", "--ignore-missing")[0] == 0 and len(live_ids(index)) == 4


def test_compact(index, run):
    delete_pairs(index, Filter(ids=names([1])))
    code, out, _ = run(index, "compact")
    assert (code, out) == (0, "index generation 4: 2 segments became 1, 1 deleted rows are out; next: sscm index gc\n")
    assert run(index, "compact", "--small", "0")[1] == "index generation 4 has nothing to compact\n"
    code, _, err = run(index, "compact", "--small", "2")
    assert code == 1 and "small = 2.0; expected a share from 0 to 1" in err


def test_list(index, run):
    with pinned(index, 1, "a reader"):
        code, out, _ = run(index, "list")
    assert code == 0 and "2 (current)" in out and "a reader (" in out and out.count("small") == 2
    index.delete("index")
    code, _, err = run(index, "list")
    assert code == 1 and "sscm: Generation error: " in err and "`sscm index` makes one" in err


def test_verify(archive, small_bundle, embedded, run):
    generation = build_index(IndexConfig(workspace=archive.uri))
    code, out, err = run(archive, "verify")
    assert code == 0 and out.count("sound") == 4 and "error" not in err
    archive.delete("index", "segments", generation.segments[0].name, "vectors_s2.npy")
    code, out, err = run(archive, "verify", "--generation", "1")
    assert code == 1 and "vectors_s2.npy is missing" in "".join(out.split("\n")).replace("│", "")
    assert err.splitlines()[-1] == "sscm: Integrity error: index generation 1 is not sound: 1 faults, see above"


def test_gc(index, run):
    delete_pairs(index, Filter(ids=names([1])))
    code, out, _ = run(index, "gc", "--min-age", "0", "--dry-run")
    assert code == 0 and out.startswith("generations 1; 0 segments and 1 files in all would go, 0.0 MB")
    with writing(index, "an append"):
        assert (
            "a writer is at work, so that only generations are gone: an append ("
            in run(index, "gc", "--min-age", "0")[1]
        )
    assert index.names("index", "generations") == ["2", "3"]
    run(index, "compact")
    index.write_bytes(b"x", "index", "adaptations", "unused")
    code, out, _ = run(index, "gc")
    assert code == 0 and out.startswith("generations none; 0 segments") and "younger than 1 h: they go later" in out
    assert run(index, "gc", "--min-age", "0", "--keep", "1")[1].startswith("generations 2, 3; 2 segments and")
    assert live_ids(index) == names([0, 2, 3, 4, 5, 10, 11, 12])


def test_help_names_the_commands(capsys):
    for words, told in ((["index", "--help"], "append"), (["index", "gc", "--help"], "--min-age")):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0 and told in capsys.readouterr().out

"""Refresh: what is new is committed where it does as well as what is there, and else the index stays."""

import numpy as np
import pytest

from sscm.cli import main
from sscm.config import RefreshConfig
from sscm.errors import GenerationError, RefreshError
from sscm.index.generation import commit, open_segments, read_generation, successor
from sscm.index.manifest import SegmentInfo
from sscm.index.segment import write_segment
from sscm.refresh.launch import refresh
from tests.plugins.growing import live_ids


@pytest.fixture
def spoiled(grown):
    """The same, as if the model had known the indexed images perfectly: those that it embeds now do worse."""
    before = read_generation(grown)
    [info], [segment] = before.segments, open_segments(grown, before)
    vectors = np.array(segment.vectors("s1"))
    name, files = write_segment(grown, segment.rows, {"s1": vectors, "s2": vectors})
    known = SegmentInfo(name=name, rows=info.rows, files=files, sources=info.sources, properties=info.properties)
    commit(grown, successor(before, (known,)))
    return grown


def config(workspace, **changes):
    return RefreshConfig(workspace=workspace.uri, batch_size=16, depth=1, **changes)


def records(workspace):
    return [workspace.read_json("refreshes", name) for name in workspace.names("refreshes")]


def test_what_is_new_is_committed(grown):
    done = refresh(None, config(grown, splits=("train", "validation", "test")))
    assert (done.generation, done.rows, done.objections) == (read_generation(grown), 16, ())
    assert (done.generation.number, done.generation.rows) == (2, 44)
    [told] = records(grown)
    assert (told["decision"], told["generation"], told["new_pairs"]) == ("committed", 2, 16)
    assert [one["direction"] for one in told["growth"]] == ["s1→s2", "s2→s1"]
    assert [(one["before"]["queries"], one["new"]["queries"]) for one in told["growth"]] == [(4, 16)] * 2
    again = refresh(None, config(grown, splits=("train", "validation", "test")))
    assert (again.generation, again.rows, again.record) == (done.generation, 0, None)
    assert len(records(grown)) == 1


def test_what_does_worse_stays_out_until_it_is_accepted(spoiled, embedded):
    before = read_generation(spoiled)
    ids = live_ids(spoiled)
    embedded.clear()
    splits = ("train", "validation", "test")
    with pytest.raises(RefreshError, match=r"stays generation 2, 16 new pairs .* new images: recall@2 .* --accept"):
        refresh(None, config(spoiled, splits=splits))
    assert read_generation(spoiled) == before and live_ids(spoiled) == ids
    [told] = records(spoiled)
    assert told["decision"] == "stays" and len(told["objections"]) >= 2
    done = refresh(None, config(spoiled, splits=splits, accept=True))
    assert (done.generation.number, done.generation.rows, len(done.objections)) == (3, 44, len(told["objections"]))
    assert len(embedded) == 3, "what was embedded is embedded again"
    assert [one["decision"] for one in records(spoiled)] == ["stays", "committed"]


def test_the_exit_code_tells(spoiled, capsys):
    words = [
        "refresh",
        "archived",
        "--workspace",
        spoiled.uri,
        "--depth",
        "1",
        "--splits",
        "train",
        "validation",
        "test",
    ]
    assert main(words) == 1
    assert "sscm: Refresh error: the index stays generation 2" in capsys.readouterr().err
    assert main([*words, "--accept"]) == 0
    assert "16 new pairs, 44 rows" in capsys.readouterr().out
    assert main(words) == 0
    assert "generation 3 has all there is" in capsys.readouterr().out


def test_there_must_be_an_index(archive):
    with pytest.raises(GenerationError, match="sscm index"):
        refresh(None, config(archive))

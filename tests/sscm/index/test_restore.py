"""Going back to an earlier generation."""

import pytest

from sscm.cli import main
from sscm.config import CollectConfig, IndexConfig, RestoreConfig
from sscm.errors import GenerationError, IntegrityError
from sscm.index.build import build_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.garbage import collect_garbage
from sscm.index.generation import read_generation
from sscm.index.restore import restore_index
from sscm.index.segment import vectors_file
from tests.plugins.growing import live_ids


@pytest.fixture
def shrunk(archive, small_bundle, embedded):
    """An index from which a pair was deleted: two generations."""
    build_index(IndexConfig(workspace=archive.uri))
    delete_pairs(archive, Filter(ids=("pair_0003",)))
    return archive


def test_what_was_deleted_is_back(shrunk, capsys):
    first = read_generation(shrunk, 1)
    assert len(live_ids(shrunk)) == 43
    assert main(["index", "restore", "--workspace", shrunk.uri, "--generation", "1"]) == 0
    assert "index generation 3: the 44 rows of generation 1" in capsys.readouterr().out
    now = read_generation(shrunk)
    assert (now.number, now.segments, now.fingerprint) == (3, first.segments, first.fingerprint)
    assert now.created > first.created
    assert len(live_ids(shrunk)) == 44
    assert restore_index(RestoreConfig(workspace=shrunk.uri, generation=3)) == now


def test_only_to_what_is_whole(shrunk):
    with pytest.raises(GenerationError, match=r"no such generation; the index has \[1, 2\]"):
        restore_index(RestoreConfig(workspace=shrunk.uri, generation=7))
    collect_garbage(CollectConfig(workspace=shrunk.uri, keep=1, min_age=0))
    with pytest.raises(GenerationError, match="no such generation"):
        restore_index(RestoreConfig(workspace=shrunk.uri, generation=1))
    [segment] = read_generation(shrunk).segments
    delete_pairs(shrunk, Filter(ids=("pair_0004",)))
    shrunk.delete("index", "segments", segment.name, vectors_file("s1"))
    with pytest.raises(IntegrityError, match="missing"):
        restore_index(RestoreConfig(workspace=shrunk.uri, generation=2))
    assert read_generation(shrunk).number == 3

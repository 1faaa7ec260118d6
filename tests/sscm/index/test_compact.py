"""Compacting: fewer segments, no deleted rows, the same answers."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.config import CompactConfig
from sscm.errors import ConfigError, ConflictError, GenerationError, IntegrityError
from sscm.index import compact
from sscm.index.append import append_segment
from sscm.index.compact import compact_index, plan
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import commit, current_number, read_generation
from sscm.index.manifest import SegmentInfo
from sscm.index.tombstones import Tombstones
from tests.plugins.growing import answers, begin, live_ids, scanned

QUERIES = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)


def names(numbers):
    return [f"pair_{number:04d}" for number in numbers]


def config(workspace, **changes):
    return CompactConfig(workspace=workspace.uri, **changes)


def info(name, rows, dead=0):
    deleted = Tombstones(file="d", bytes=1, sha256="0", rows=dead) if dead else None
    return SegmentInfo(name=name, rows=rows, files={}, sources={}, deleted=deleted)


@pytest.fixture
def index(workspace, rows_factory):
    """Segments of 10, 5 and 3 pairs, of which pairs 3 and 12 have no s2."""
    begin(workspace, *rows_factory(list(range(10)), lacking={3}))
    append_segment(workspace, *rows_factory(list(range(10, 15)), lacking={12}), sources={"shards/b": "1" * 64})
    append_segment(workspace, *rows_factory([20, 17, 16]), sources={"shards/c": "2" * 64})
    return workspace


def test_small_segments_become_one_without_deleted_rows(index, rows_factory):
    delete_pairs(index, Filter(ids=names([4, 12, 16])))
    before = read_generation(index)
    done = compact_index(config(index))
    assert (done.merged, done.written, done.dropped) == (3, 1, 3)
    after = done.generation
    assert after == read_generation(index) and after.number == before.number + 1
    (segment,) = after.segments
    assert (segment.rows, segment.deleted, segment.properties) == (15, None, ("country",))
    assert (after.rows, after.deleted) == (before.rows, 0)
    assert after.sources == before.sources and after.emptied == {}
    left = [*range(4), *range(5, 12), 13, 14, 17, 20]
    assert live_ids(index) == live_ids(index, before.number) == names(left)
    for target in ("s1", "s2"):
        wanted = scanned(*rows_factory(left, lacking={3}), QUERIES, target)
        assert answers(index, QUERIES, target) == answers(index, QUERIES, target, number=before.number) == wanted
    assert index.names("index", "pins") == []
    again = compact_index(config(index))
    assert (again.generation, again.merged, again.written, again.dropped) == (after, 0, 0, 0)


def test_the_same_rows_make_the_same_segment(index, workspace, rows_factory, tmp_path):
    """However they got there: a build of the same rows, and a compaction, write the same bytes."""
    delete_pairs(index, Filter(ids=names(range(3, 15))))
    (segment,) = compact_index(config(index)).generation.segments
    other = dataclasses.replace(workspace, uri=f"file://{tmp_path}/other")
    (rows, vectors), (more_rows, more) = rows_factory([0, 1, 2]), rows_factory([20, 17, 16])
    together = {name: np.concatenate([more[name], vectors[name]]) for name in vectors}
    (wanted,) = begin(other, pa.concat_tables([more_rows, rows]), together).segments
    assert wanted.name == segment.name
    assert {file: stored.sha256 for file, stored in wanted.files.items()} == {
        file: stored.sha256 for file, stored in segment.files.items()
    }


def test_large_segments_stay_and_are_not_even_read(index, monkeypatch):
    monkeypatch.setattr(compact, "SEGMENT_ROWS", 12)
    first, *_ = read_generation(index).segments
    index.delete("index", "segments", first.name, "vectors_s1.npy")  # would be missed
    done = compact_index(config(index))
    assert (done.merged, done.written) == (2, 1)
    assert done.generation.segments[0] == first and done.generation.segments[1].rows == 8


def test_a_segment_of_which_much_is_deleted_is_written_anew(index, monkeypatch):
    monkeypatch.setattr(compact, "SEGMENT_ROWS", 5)
    delete_pairs(index, Filter(ids=names([0])))
    assert compact_index(config(index, small=0)).merged == 0  # a tenth, not more
    done = compact_index(config(index, small=0, deleted=0.05))
    assert (done.merged, done.written, done.dropped) == (1, 1, 1)
    assert [segment.rows for segment in done.generation.segments] == [9, 5, 3]
    assert live_ids(index) == names([*range(1, 15), 16, 17, 20])


def test_a_segment_of_which_all_is_deleted_goes_but_not_what_it_was_made_of(index, rows_factory):
    delete_pairs(index, Filter(ids=names(range(10, 15))))
    done = compact_index(config(index, small=0))
    assert (done.merged, done.written, done.dropped) == (1, 0, 5)
    after = done.generation
    assert [segment.rows for segment in after.segments] == [10, 3]
    assert after.emptied == {"shards/b": "1" * 64} and after.sources["shards/b"] == "1" * 64
    delete_pairs(index, Filter(filter="id LIKE 'pair%'"))
    emptied = compact_index(config(index)).generation
    assert emptied.segments == () and emptied.rows == 0
    assert set(emptied.emptied) == {"shards/a.parquet", "shards/b", "shards/c"} == set(emptied.sources)
    assert live_ids(index) == [] and answers(index, QUERIES, "s1") == [[], [], []]
    append_segment(index, *rows_factory([30]))
    assert live_ids(index) == names([30])


def test_what_is_left_may_be_a_segment_that_was_there(index):
    """Everything but the first segment is deleted: the compacted one has the first one's rows, and its name."""
    first, *_ = read_generation(index).segments
    delete_pairs(index, Filter(filter="id >= 'pair_0010'"))
    (segment,) = compact_index(config(index)).generation.segments
    assert segment.name == first.name and segment.files == first.files
    assert live_ids(index) == names(range(10)) and live_ids(index, 3) == names([*range(15), 16, 17, 20])


def test_a_pair_that_is_there_twice_is_refused_and_named(index, rows_factory):
    rows, vectors = rows_factory([4, 30])
    append_segment(index, rows, {name: values[::-1] for name, values in vectors.items()})
    with pytest.raises(GenerationError, match=r"1 pairs are in the index more than once \(pair_0004\); .*delete --ids"):
        compact_index(config(index))
    assert current_number(index) == 4 and index.names("index", "pins") == []
    delete_pairs(index, Filter(ids=names([4, 30])))
    append_segment(index, *rows_factory([4]))
    compact_index(config(index))
    left = [*range(15), 16, 17, 20]
    assert live_ids(index) == names(left)
    assert answers(index, QUERIES, "s1") == scanned(*rows_factory(left, lacking={3, 12}), QUERIES, "s1")


def test_what_is_merged_is_compared_with_its_checksums(index):
    segment = read_generation(index).segments[1]
    path = ("index", "segments", segment.name, "vectors_s2.npy")
    content = index.read_bytes(*path)
    index.write_bytes(content[:-1] + bytes([content[-1] ^ 1]), *path)
    with pytest.raises(IntegrityError, match=rf"{segment.name}/vectors_s2.npy was altered"):
        compact_index(config(index))
    assert current_number(index) == 3 and len(index.names("index", "generations")) == 3


def test_another_writer_was_first(index, monkeypatch):
    def beaten(workspace, generation):
        delete_pairs(workspace, Filter(ids=names([0])))
        commit(workspace, generation)

    with monkeypatch.context() as patch:
        patch.setattr(compact, "commit", beaten)
        with pytest.raises(ConflictError, match="another `sscm index` committed first; run the same command again"):
            compact_index(config(index))
    assert compact_index(config(index)).dropped == 1
    assert live_ids(index) == names([*range(1, 15), 16, 17, 20])


def test_nothing_to_compact(workspace, rows_factory):
    with pytest.raises(GenerationError, match="there is no index in this workspace"):
        compact_index(config(workspace))
    first = begin(workspace, *rows_factory([1, 2]))
    assert compact_index(config(workspace)).generation == first


def test_which_segments_are_merged(monkeypatch):
    monkeypatch.setattr(compact, "SEGMENT_ROWS", 100)
    segments = [info("a", 100), info("b", 30), info("c", 80), info("d", 40), info("e", 45), info("f", 20, 20)]
    groups = [[one.name for one in group] for group in plan(segments, 0.5, 0.1)]
    assert groups == [["b", "d"], ["e", "f"]]
    assert [[one.name for one in group] for group in plan([*segments, info("g", 49)], 0, 0)] == [["f"]]
    assert plan([info("a", 100, 10), info("b", 90)], 0.5, 0.1) == []
    assert [[one.name for one in group] for group in plan([info("a", 100, 11), info("b", 90)], 0.5, 0.1)] == [["a"]]
    assert plan([info("a", 1)], 0.5, 0.1) == []


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 1_000_000).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows)))),
    st.floats(0, 1),
    st.floats(0, 0.99),
)
def test_any_plan_is_worth_its_while(counts, small, deleted):
    segments = [info(str(place), rows, dead) for place, (rows, dead) in enumerate(counts)]
    groups = plan(segments, small, deleted)
    chosen = [one.name for group in groups for one in group]
    assert chosen == sorted(chosen, key=int) and len(set(chosen)) == len(chosen)
    for group in groups:
        assert sum(one.live for one in group) <= 1_000_000
        assert len(group) > 1 or group[0].rows - group[0].live > deleted * group[0].rows
    for one in segments:
        if one.rows - one.live > deleted * one.rows:
            assert one.name in chosen


def test_settings_that_cannot_work():
    for wrong in ({"small": -0.1}, {"small": 1.1}, {"deleted": 1.0}, {"deleted": -1}):
        with pytest.raises(ConfigError, match="expected a share from 0"):
            CompactConfig(**wrong)

"""Shards together answer as one index does, however rows are dealt."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest

from serve.merge import merge
from serve.messages import ShardQuery
from serve.shard import IndexShard, Slice, deal, live_rows
from sscm.errors import GenerationError, QueryError
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import open_segments
from sscm.index.pins import leases
from sscm.index.search import IndexReader
from sscm.index.tombstones import read_tombstones
from sscm.workspace import open_workspace

TITLES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}


@pytest.mark.parametrize(("segments", "shards"), [([5, 7, 1], 1), ([5, 7, 1], 3), ([100], 4), ([3, 3], 5), ([2], 9)])
def test_rows_are_dealt_evenly_and_each_once(segments, shards):
    named = [(f"g{i}", rows) for i, rows in enumerate(segments)]
    dealt = deal(named, shards)
    seen = sorted((part.segment, row) for parts in dealt for part in parts for row in range(part.start, part.stop))
    assert seen == sorted((name, row) for name, rows in named for row in range(rows))
    sizes = [sum(part.stop - part.start for part in parts) for parts in dealt]
    assert len(sizes) == min(shards, sum(segments))
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("whole", [{"g1"}, {"g0", "g1", "g2"}])
def test_segments_that_are_not_to_be_cut_are_dealt_whole(shards, whole):
    named = [("g0", 50), ("g1", 100), ("g2", 60)]
    dealt = deal(named, shards, whole)
    parts = [part for shard in dealt for part in shard]
    seen = sorted((part.segment, row) for part in parts for row in range(part.start, part.stop))
    assert seen == sorted((name, row) for name, rows in named for row in range(rows))
    assert all(len([part for part in parts if part.segment == name]) == 1 for name in whole)
    assert 1 <= len(dealt) <= shards
    assert all(dealt)


def test_no_rows_are_one_empty_shard():
    assert deal([], 3) == [()]


def opened(indexed, shards):
    named = [(segment.name, segment.rows) for segment in indexed.generation.segments]
    return [IndexShard(indexed.workspace, 1, parts, TITLES, threads=1) for parts in deal(named, shards)]


def queries_of(indexed, count=12):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(count, indexed.bundle.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds = [None, Filter(labels=["Pastures"]), Filter(bbox=[20, 44, 21, 45], split="train"), None]
    return [
        ShardQuery(
            vector=vector,
            target=("s1", "s2")[i % 2],
            k=(3, 10, 500)[i % 3],
            filter=kinds[i % 4],
            exclude=frozenset({"pair_0003", "pair_0170", "nobody"} if i % 5 == 0 else ()),
        )
        for i, vector in enumerate(vectors)
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_a_batch_over_any_number_of_shards_answers_as_the_whole_index(indexed, shards):
    queries = queries_of(indexed)
    answers = [shard.search_batch(queries) for shard in opened(indexed, shards)]
    for place, query in enumerate(queries):
        expected = indexed.reader.search(
            query.vector[None],
            target=query.target,
            k=query.k,
            filter=query.filter,
            exclude=[set(query.exclude)],
        )[0]
        merged = merge((parts[place].hits for parts in answers), query.k)
        assert [(hit.pair_id, hit.score) for hit in merged] == [(hit.pair_id, hit.score) for hit in expected]
        assert [hit.item["id"] for hit in merged] == [hit.pair_id for hit in merged]
        everything = indexed.reader.search(
            query.vector[None], target=query.target, k=10_000, filter=query.filter, exclude=[set(query.exclude)]
        )[0]
        assert sum(parts[place].matched for parts in answers) == len(everything)


def test_a_query_that_cannot_be_answered_leaves_the_others_alone(indexed):
    [shard] = opened(indexed, 1)
    good, *_ = queries_of(indexed)
    bad = ShardQuery(vector=good.vector, target="s9", k=3)
    answers = shard.search_batch([bad, good])
    assert isinstance(answers[0], QueryError)
    assert "s9" in str(answers[0])
    assert answers[1] == shard.search_batch([good])[0]

    async def ask():
        return await asyncio.gather(shard.search(bad), shard.search(good), return_exceptions=True)

    failed, (answer, size) = asyncio.run(ask())
    assert isinstance(failed, QueryError)
    assert answer == answers[1]
    assert size in (1, 2)


def test_a_pair_is_found_in_exactly_one_shard_with_its_embedding(indexed):
    shards = opened(indexed, 3)
    found = [shard.find("pair_0100", "s1") for shard in shards]
    assert sum(pair is not None for pair in found) == 1
    pair = next(pair for pair in found if pair is not None)
    segment, row = indexed.reader.find("pair_0100")
    np.testing.assert_array_equal(pair.vector, segment.vectors("s1")[row])
    assert pair.item["id"] == "pair_0100"
    assert [shard.find("nobody") for shard in shards] == [None] * 3


def test_rows_are_counted_over_the_slices_of_a_shard(indexed):
    [shard] = opened(indexed, 1)
    count = shard.ready()
    assert count == 176
    ids = [found.item["id"] for found in shard.rows(range(count))]
    assert ids == [name for segment in indexed.reader.segments for name in segment.rows["pair_id"].to_pylist()]


def test_another_generation_is_refused(indexed):
    with pytest.raises(GenerationError, match="no such generation"):
        IndexShard(indexed.workspace, 7, (), TITLES, threads=1)


@pytest.fixture
def thinned(indexed, tmp_path):
    """A copy of the index of which some pairs are deleted: its workspace, generation, and the pairs left."""
    shutil.copytree(indexed.workspace.path_of("index"), tmp_path / "w" / "index", ignore=lambda *_: ["pins"])
    workspace = open_workspace(str(tmp_path / "w"))
    gone = {f"pair_{number:04d}" for number in (*range(0, 40, 3), 100, 170, 171, 175)}
    deletion = delete_pairs(workspace, Filter(ids=sorted(gone)))
    assert deletion.rows == len(gone)
    return workspace, deletion.generation, [f"pair_{n:04d}" for n in range(176) if f"pair_{n:04d}" not in gone]


@pytest.mark.parametrize("count", [1, 3])
def test_deleted_rows_are_neither_found_nor_counted_nor_handed_out(indexed, thinned, count):
    workspace, generation, left = thinned
    slices = deal([(segment.name, segment.rows) for segment in generation.segments], count)
    shards = [IndexShard(workspace, generation.number, parts, TITLES, threads=1) for parts in slices]
    deleted = {info.name: read_tombstones(workspace, info.name, info.deleted) for info in generation.segments}
    assert [shard.ready() for shard in shards] == [live_rows(parts, deleted) for parts in slices]
    handed_out = [found.item["id"] for shard in shards for found in shard.rows(range(shard.ready()))]
    assert sorted(handed_out) == left
    assert [shard.find("pair_0003") for shard in shards] == [None] * count
    reader = IndexReader(open_segments(workspace, generation))
    queries = queries_of(indexed)
    answers = [shard.search_batch(queries) for shard in shards]
    for place, query in enumerate(queries):
        everything = reader.search(
            query.vector[None], target=query.target, k=10_000, filter=query.filter, exclude=[set(query.exclude)]
        )[0]
        assert {hit.pair_id for hit in everything} <= set(left)
        merged = merge((parts[place].hits for parts in answers), query.k)
        assert [(hit.pair_id, hit.score) for hit in merged] == [(h.pair_id, h.score) for h in everything[: query.k]]
        assert sum(parts[place].matched for parts in answers) == len(everything)


def test_a_shard_pins_its_generation_while_it_runs(thinned, capsys):
    workspace, generation, _ = thinned
    slices = [Slice(segment=info.name, start=0, stop=info.rows) for info in generation.segments]
    shard = IndexShard(workspace, generation.number, slices, TITLES, threads=1)
    (lease,) = leases(workspace)
    assert (lease.generation, lease.who, lease.alive) == (generation.number, "sscm serve", True)
    shard.__del__()
    assert leases(workspace) == ()
    with pytest.raises(GenerationError, match="no such generation"):
        IndexShard(workspace, 7, (), TITLES, threads=1)
    assert leases(workspace) == ()
    workspace.delete("index", "pins")
    workspace.write_bytes(b"in the way", "index", "pins")
    shard = IndexShard(workspace, generation.number, slices, TITLES, threads=1)
    assert shard.ready() == generation.rows
    assert f"index generation {generation.number} is not pinned" in capsys.readouterr().err

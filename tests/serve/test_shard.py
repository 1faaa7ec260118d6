"""Shards together answer as one index does, however rows are dealt."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import orjson
import pytest

from serve import shard as of_shards
from serve.editions import Slice, deal, live_rows
from serve.merge import merge
from serve.messages import ShardQuery
from serve.shard import IndexShard
from sscm.errors import GenerationError, QueryError
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import open_segments
from sscm.index.pins import leases
from sscm.index.search import IndexReader
from sscm.index.tombstones import read_tombstones
from sscm.workspace import open_workspace

TITLES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}


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
        features = [orjson.loads(hit.feature) for hit in merged]
        assert [feature["id"] for feature in features] == [hit.pair_id for hit in merged]
        assert [feature["properties"]["score"] for feature in features] == [hit.score for hit in merged]
        assert {feature["properties"]["target"] for feature in features} <= {query.target}
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
    [alone] = shard.search_batch([good])
    assert (answers[1].hits, answers[1].matched) == (alone.hits, alone.matched)

    async def ask():
        return await asyncio.gather(shard.search(bad), shard.search(good), return_exceptions=True)

    failed, (answer, size) = asyncio.run(ask())
    assert isinstance(failed, QueryError)
    assert answer.hits == alone.hits
    assert size in (1, 2)


def test_a_pair_is_found_in_exactly_one_shard_with_its_embedding(indexed):
    shards = opened(indexed, 3)
    found = [shard.find("pair_0100", "s1") for shard in shards]
    assert sum(pair is not None for pair in found) == 1
    pair = next(pair for pair in found if pair is not None)
    segment, row = indexed.reader.find("pair_0100")
    np.testing.assert_array_equal(pair.vector, segment.vectors("s1")[row])
    assert orjson.loads(pair.item)["id"] == "pair_0100"
    assert next(filter(None, (shard.find("pair_0100") for shard in shards))).vector is None
    assert [shard.find("nobody") for shard in shards] == [None] * 3


def ids(items):
    return [orjson.loads(item)["id"] for item in items]


def all_ids(indexed):
    return [name for segment in indexed.reader.segments for name in segment.rows["pair_id"].to_pylist()]


def test_rows_are_browsed_in_order_from_any_row_on(indexed):
    [shard] = opened(indexed, 1)
    expected = all_ids(indexed)
    assert shard.ready() == len(expected) == 176
    everything = shard.browse(None, 0, 1000)
    assert ids(everything.items) == expected
    assert (everything.matched, everything.rows, everything.following) == (176, list(range(176)), None)
    for first, limit in ((0, 10), (170, 6), (170, 5), (150, 100), (9, 0), (176, 10)):
        listed = shard.browse(None, first, limit)
        assert ids(listed.items) == expected[first : first + limit]
        assert listed.matched == 176
        assert listed.rows == list(range(176))[first : first + limit]
        assert listed.following == (first + limit if first + limit < 176 else None)


def test_rows_that_pass_a_filter_are_browsed_and_counted(indexed):
    restriction = Filter(labels=["Pastures"], split="train")
    expected = [n for n in range(96) if n % 4 == 1]
    seen = []
    for shard in opened(indexed, 3):
        first, listed = 0, None
        total = shard.browse(restriction, 0, 0).matched
        mine = []
        while first is not None:
            listed = shard.browse(restriction, first, 4)
            assert listed.matched == total and len(listed.items) <= 4
            mine += ids(listed.items)
            first = listed.following
        assert len(mine) == total
        seen += mine
    assert seen == [f"pair_{n:04d}" for n in expected]


def test_a_filter_that_cannot_be_answered_is_refused_however_rows_are_asked_for(indexed):
    [shard] = opened(indexed, 1)
    for ask in (lambda which: shard.browse(which, 0, 5), lambda which: shard.sample(which, 5)):
        with pytest.raises(QueryError, match="property 'cloud' is unknown"):
            ask(Filter(filter="cloud < 3"))


def test_a_sample_is_of_different_rows_each_as_likely(indexed):
    [shard] = opened(indexed, 1)
    restriction = Filter(split="validation")
    counts = dict.fromkeys((f"pair_{n:04d}" for n in range(96, 128)), 0)
    for _ in range(300):
        listed = shard.sample(restriction, 8)
        drawn = ids(listed.items)
        assert (listed.matched, len(set(drawn)), len(listed.rows)) == (32, 8, 8)
        for name in drawn:
            counts[name] += 1
    assert min(counts.values()) > 35  # 75 expected; 35 is more than 5 deviations away
    assert sorted(ids(shard.sample(None, 1000).items)) == sorted(all_ids(indexed))
    assert shard.sample(Filter(ids=["nobody"]), 5).items == []


def test_what_is_kept_has_a_bound_and_does_not_change_answers(indexed, monkeypatch):
    monkeypatch.setattr(of_shards, "KEPT_BYTES", 20_000)
    monkeypatch.setattr(of_shards, "KEPT_LISTS", 2)
    [shard] = opened(indexed, 1)
    for _ in range(2):
        for first in range(0, 176, 16):
            assert ids(shard.browse(None, first, 50).items) == all_ids(indexed)[first : first + 50]
            assert ids(shard.browse(Filter(ids=[f"pair_{first:04d}"]), 0, 50).items) == [f"pair_{first:04d}"]
    kept = sum(map(len, shard._items.values())) + of_shards._BESIDE_ITEM * len(shard._items)
    assert 0 < kept == shard._items_bytes <= 20_000
    assert len(shard._listed) == 2


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
    assert [name for shard in shards for name in ids(shard.browse(None, 0, 1000).items)] == left
    assert sorted(name for shard in shards for name in ids(shard.sample(None, 1000).items)) == left
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

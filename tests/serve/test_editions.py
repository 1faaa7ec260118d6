"""Editions: rows dealt over shards, and what is read of an index and its model before any vector is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from serve.editions import Plan, Slice, deal, live_rows, read_edition
from sscm.errors import GenerationError, QueryError


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


def test_rows_of_a_slice_are_counted_without_the_deleted_ones():
    deleted = {"a": np.array([0, 3, 9]), "b": np.array([], np.int64)}
    parts = [Slice(segment="a", start=1, stop=9), Slice(segment="b", start=0, stop=4)]
    assert live_rows(parts, deleted) == 8 - 1 + 4
    assert live_rows([Slice(segment="a", start=9, stop=10)], deleted) == 0


@pytest.mark.parametrize("shards", [1, 3, 200])
def test_an_edition_has_as_many_shards_as_wished_whatever_the_rows(indexed, shards):
    edition = read_edition(indexed.workspace, shards)
    assert len(edition.slices) == len(edition.shard_rows) == shards
    assert sum(edition.shard_rows) == 176
    assert (edition.generation, edition.dimension, edition.simulated, edition.recall) == (1, 16, True, 1.0)
    assert [modality.name for modality in edition.modalities] == ["s1", "s2"]
    assert edition.properties is None  # this index is as old as that: its segments do not say
    assert edition.model["fingerprint"] == indexed.bundle.fingerprint
    with pytest.raises(QueryError, match=r"target: 's9' is unknown; this index has \['s1', 's2'\]"):
        edition.modality("s9", "target")


def test_there_is_an_edition_of_no_generation_that_is_not_there(indexed):
    with pytest.raises(GenerationError, match=r"no such generation; the index has \[1\]"):
        read_edition(indexed.workspace, 2, 7)


def test_a_plan_knows_its_editions(indexed):
    current = read_edition(indexed.workspace, 2)
    following = dataclasses.replace(current, generation=2)
    plan = Plan(version=("a", 0), current=current, following=following)
    assert [plan.edition(number) for number in (1, 2, 3)] == [current, following, None]
    assert Plan(version=("a", 0), current=current).edition(2) is None

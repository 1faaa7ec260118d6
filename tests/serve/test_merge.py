"""Merging against sorting everything."""

from __future__ import annotations

import random
from dataclasses import dataclass

from serve.merge import merge


@dataclass(frozen=True)
class Hit:
    pair_id: str
    score: float


def order(hit):
    return (-hit.score, hit.pair_id)


def test_it_equals_sorting_all_whatever_the_number_of_shards():
    rng = random.Random(0)
    for _ in range(200):
        hits = [Hit(f"p{i:03d}", rng.choice((0.1, 0.5, 0.5, 0.9, -0.3))) for i in range(rng.randrange(40))]
        shards = rng.randrange(1, 6)
        dealt = [sorted((h for i, h in enumerate(hits) if i % shards == s), key=order) for s in range(shards)]
        k = rng.randrange(1, 50)
        assert merge(dealt, k) == sorted(hits, key=order)[:k]


def test_ties_go_by_id_not_by_shard():
    first, second = Hit("a", 0.5), Hit("b", 0.5)
    assert merge([[second], [first]], 1) == merge([[first], [second]], 1) == [first]


def test_nothing_is_merged_to_nothing():
    assert merge([[], []], 3) == []
    assert merge([], 3) == []

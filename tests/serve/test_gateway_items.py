"""Single items and random ones, over the shards of a gateway."""

from __future__ import annotations

import asyncio

import numpy as np
import orjson

from serve.api import Filters
from serve.messages import Found, pack_found, unpack_filter
from tests.plugins.stand_ins import (
    Shard,
    answer,
    ask,
    died,
    gateway_of,
    item,
    listed,
    refused,
    search,
)


def test_an_item_is_looked_for_in_all_shards(tmp_path):
    found = pack_found(Found(item("a"), "shards/x.parquet", 3, np.float32([0, 1, 0, 0])))
    shards = [Shard(find=[None], search=[answer()]), Shard(find=[found], search=[answer(("a", 1.0))])]
    gateway = gateway_of(tmp_path, shards)
    assert ask(gateway, "GET", "/v1/items/a%2Fb").json()["id"] == "a"
    assert shards[0].calls == [("find", 7, "a/b", None)]
    same = ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1"})
    assert same.status_code == 200
    assert shards[0].queries[-1].exclude == {"a"}
    ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1", "target": "s2"})
    assert shards[0].queries[-1].exclude == frozenset()
    refused(ask(gateway_of(tmp_path, shards[:1]), "GET", "/v1/items/a"), 404, "item 'a' is not in generation 7")
    lost = [Shard(find=[None]), Shard(find=[died()])]
    refused(ask(gateway_of(tmp_path, lost), "GET", "/v1/items/a"), 503, "shard that may hold item 'a'")
    one_lost = [Shard(find=[died()]), Shard(find=[found])]
    assert ask(gateway_of(tmp_path, one_lost), "GET", "/v1/items/a").json()["id"] == "a"
    without = [Shard(find=[pack_found(Found(item("a"), "x", 3, None))])]
    refused(search(gateway_of(tmp_path, without), vector=None, id="a"), 404, "item 'a' has no image of s1")


class Rows(Shard):
    """A shard of so many rows, of which it draws some; a row's name is its number among those of all shards."""

    def __init__(self, first, count):
        super().__init__()
        self.first, self.count, self.random = first, count, np.random.default_rng(first)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        drawn = self.random.permutation(self.count)[: arguments[2]]
        return listed(*(str(self.first + n) for n in drawn), matched=self.count)


def test_a_sample_is_drawn_evenly_from_all_rows_however_they_are_dealt(tmp_path):
    gateway = gateway_of(tmp_path, [Rows(0, 1), Rows(1, 20), Rows(21, 9), Rows(30, 0)])
    gateway.retrieval._random = np.random.default_rng(11)
    counts, places = np.zeros(30), np.zeros(30)

    async def draw():
        turn = await gateway.turn()
        for _ in range(500):
            found = orjson.loads(await gateway.retrieval.sample(turn, Filters(), 6))
            drawn = [int(feature["id"]) for feature in found["features"]]
            assert len(set(drawn)) == found["numberReturned"] == 6 and found["numberMatched"] == 30
            counts[drawn] += 1
            places[drawn[0]] += 1

    asyncio.run(draw())
    assert (
        chi_square(counts * 29 / 24) < 58.3
    )  # drawn without repetition: it varies less; 58.3 is exceeded in 1 of 1000
    assert chi_square(places) < 58.3  # and they come in any order
    everything = ask(gateway, "GET", "/v1/items?sample=1000").json()
    assert sorted(int(f["id"]) for f in everything["features"]) == list(range(30))


def chi_square(counts):
    """Statistic of 30 counts that are to be equal; it has 29 degrees of freedom."""
    expected = counts.mean()
    return ((counts - expected) ** 2 / expected).sum()


def test_a_sample_of_what_passes_a_filter_asks_for_that(tmp_path):
    shards = [Rows(0, 3), Rows(3, 2)]
    found = ask(gateway_of(tmp_path, shards), "GET", "/v1/items?sample=4&split=test&labels=a,b&filter=country='x'")
    assert (found.json()["numberMatched"], found.json()["numberReturned"], found.json()["links"]) == (5, 4, [])
    for shard in shards:
        [(method, generation, text, count)] = shard.calls
        assert (method, generation, count) == ("sample", 7, 4)
        restriction = unpack_filter(text)
        assert (restriction.split, restriction.labels) == ("test", ("a", "b"))
        assert restriction.properties() == ("country",)

"""Stand-ins for the parts that a gateway calls, which answer as a test says, and a gateway of them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import httpx
import numpy as np
import orjson

from serve.calls import Lost
from serve.editions import Edition, Plan
from serve.gateway import Gateway
from serve.guard import Rules
from serve.items import scored
from serve.messages import Found, ShardAnswer, ShardHit, pack_found
from serve.routes import build_api
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import open_workspace
from tests.plugins.service import Local

SILENT = 30.0
"""Seconds that are longer than anybody waits here."""


class Shard:
    """An index shard whose methods give these outcomes in turn: a value, an exception, or seconds to sleep.

    One that sleeps for longer than there is time is lost, as :class:`serve.fanout.ShardClient` has it.
    """

    def __init__(self, **outcomes):
        self._outcomes = {name: itertools.cycle(given) for name, given in outcomes.items()}
        self.queries, self.calls, self.replicas, self.waiting = [], [], None, 0

    async def search(self, generation, query, seconds):
        self.queries.append(query)
        self.calls.append(("search", generation))
        return await outcome(next(self._outcomes["search"]), seconds)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        return await outcome(next(self._outcomes[method]), seconds)

    def follow(self, replicas):
        self.replicas = dict(replicas)


async def outcome(given, seconds):
    if isinstance(given, float):
        await asyncio.sleep(min(given, seconds))
        if given > seconds:
            raise Lost(504, f"no answer within {seconds:.3g} s")
        return None
    if isinstance(given, Exception):
        raise given
    return given


class Encoder:
    """An encoder's replica whose outcomes are like those of a shard; Ray's errors come as a handle raises them."""

    def __init__(self, *outcomes):
        self._outcomes = itertools.cycle(outcomes)
        self.calls = []

    async def encode(self, generation, groups):
        self.calls.append((generation, groups))
        return await outcome(next(self._outcomes), SILENT + 1)

    async def ready(self):
        return await outcome(next(self._outcomes), SILENT + 1)


class Coordinator:
    """Hands out plans."""

    def __init__(self, edition, reload=None):
        self.members, self._reload = [], reload
        self.plan = Plan(version=("c", 0), current=edition, replicas=tuple({} for _ in edition.shard_rows))

    async def follow(self, member, known):
        self.members.append(member)
        while self.plan.version == known:
            await asyncio.sleep(0.005)
        return self.plan

    async def report(self, member):
        self.members.append(member)

    async def reload(self, seconds):
        return await outcome(self._reload, seconds)

    def switch(self, **changes):
        """Hand out a plan whose edition is another."""
        edition = dataclasses.replace(self.plan.current, **changes)
        self.plan = dataclasses.replace(self.plan, version=("c", self.plan.version[1] + 1), current=edition)


def item(pair_id):
    return orjson.dumps(
        {"type": "Feature", "id": pair_id, "geometry": None, "assets": {}, "links": [], "properties": {"split": "test"}}
    )


def answer(*hits, matched=10, batch=1, target="s2"):
    return (
        ShardAnswer([ShardHit(name, score, scored(item(name), score, target)) for name, score in hits], matched),
        batch,
    )


def listed(*names, matched=None, following=None):
    """What a shard answers to browse and sample."""
    return [len(names) if matched is None else matched, [item(name) for name in names], [*range(len(names))], following]


def died():
    return Lost(503, "its replica died")


def edition_of(tmp_path, shards, generation=7, properties=("country",)):
    return Edition(
        workspace=open_workspace(str(tmp_path)),
        generation=generation,
        created="2026-01-01T00:00:00+00:00",
        modalities=(sentinel1(24), sentinel2(24)),
        dimension=4,
        model={"name": "small", "fingerprint": "ab"},
        simulated=False,
        shard_rows=tuple(10 for _ in shards),
        properties=properties,
    )


def gateway_of(tmp_path, shards, encoder=None, deadline_s=5.0, max_upload_bytes=100_000, coordinator=None, **edition):
    return Gateway(
        coordinator=Local(coordinator or Coordinator(edition_of(tmp_path, shards, **edition))),
        encoders={"s1": Local(encoder or Encoder((np.float32([1, 0, 0, 0]), 3)))},
        shards=shards,
        deadline_s=deadline_s,
        max_upload_bytes=max_upload_bytes,
        rules=Rules(local=True),
    )


async def asked(gateway, method, path, raises=True, **how):
    transport = httpx.ASGITransport(build_api(gateway), raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await http.request(method, path, **how)


def ask(gateway, method, path, raises=True, **how):
    return asyncio.run(asked(gateway, method, path, raises, **how))


QUERY = {"vector": [1, 2, 3, 4], "modality": "s1", "target": "s2", "limit": 3}


def search(gateway, **changes):
    return ask(gateway, "POST", "/v1/search", json={**QUERY, **changes})


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    for word in words:
        assert word in problem["detail"]


def metric(gateway, name, **labels):
    return gateway.metrics.registry.get_sample_value(name, labels)


class Ranked(Shard):
    """A shard of answers 0 to before ``count``, of which it has every so many; a pair has its number as vector."""

    def __init__(self, count, first=0, step=1):
        super().__init__()
        self.numbers = range(first, count, step)

    async def search(self, generation, query, seconds):
        self.queries.append(query)
        self.calls.append(("search", generation))
        hits = [(n, 1 - n / 10_000) for n in self.numbers if query.least is None or 1 - n / 10_000 >= query.least]
        named = ((f"p{n:04d}", score) for n, score in hits[: query.k])
        return answer(*named, matched=len(self.numbers), target=query.target)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        assert method == "find"
        _, pair_id, _ = arguments
        if pair_id == "imageless":
            return pack_found(Found(item(pair_id), "x", 0, None))
        vectors = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "c": [0, 0, 1, 0]}
        return pack_found(Found(item(pair_id), "x", 0, np.float32(vectors[pair_id])) if pair_id in vectors else None)


def following(response):
    """The body that asks for the next page, as STAC API says; None where there is none."""
    links = [link for link in response.json()["links"] if link["rel"] == "next"]
    if not links:
        return None
    assert links == [
        {
            "rel": "next",
            "href": "/v1/search",
            "method": "POST",
            "type": "application/geo+json",
            "merge": True,
            "body": links[0]["body"],
        }
    ]
    return links[0]["body"]


def ids(response):
    assert response.status_code == 200, response.text
    return [feature["id"] for feature in response.json()["features"]]

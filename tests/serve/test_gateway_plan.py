"""What a gateway serves: the plan that it follows, generations, readiness."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
from ray.exceptions import ActorDiedError

from serve.messages import Found, pack_found
from tests.plugins.stand_ins import (
    QUERY,
    SILENT,
    Coordinator,
    Encoder,
    Shard,
    answer,
    ask,
    asked,
    died,
    edition_of,
    gateway_of,
    item,
    metric,
    refused,
    search,
)


def test_readiness_says_what_is_missing(tmp_path):
    gateway = gateway_of(tmp_path, [Shard(ready=[10]), Shard(ready=[died()])])
    response = ask(gateway, "GET", "/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False,
        "generation": 7,
        "loading": None,
        "refused": None,
        "parts": {"encoder s1": "ready", "shard 0": "ready", "shard 1": "does not answer"},
    }
    assert ask(gateway, "GET", "/livez").text == "alive"
    gateway = gateway_of(tmp_path, [Shard(ready=[10])], Encoder(ActorDiedError()))
    response = ask(gateway, "GET", "/readyz")
    assert (response.status_code, response.json()["parts"]["encoder s1"]) == (503, "does not answer")
    assert ask(gateway_of(tmp_path, [Shard(ready=[10])]), "GET", "/readyz").status_code == 200


def test_a_request_keeps_the_generation_that_it_began_with(tmp_path):
    found = pack_found(Found(item("a"), "x", 3, np.float32([0, 1, 0, 0])))
    shard = Shard(find=[found], search=[answer(("a", 0.9))])
    coordinator = Coordinator(edition_of(tmp_path, [shard]))
    gateway = gateway_of(tmp_path, [shard], coordinator=coordinator)
    begun, go_on = asyncio.Event(), asyncio.Event()
    plain = shard.call

    async def held_up(method, arguments, seconds):
        begun.set()
        await go_on.wait()
        return await plain(method, arguments, seconds)

    async def run():
        shard.call = held_up
        body = {**QUERY, "vector": None, "id": "a"}
        before = asyncio.create_task(asked(gateway, "POST", "/v1/search", json=body))
        await asyncio.wait_for(begun.wait(), 5)
        coordinator.switch(generation=8, model={"name": "other", "fingerprint": "cd"})
        await eventually(lambda: gateway.generation == 8)
        after = await asked(gateway, "POST", "/v1/search", json=QUERY)
        go_on.set()
        return await before, after

    before, after = asyncio.run(run())
    assert [r.json()["sscm"]["generation"] for r in (before, after)] == [7, 8]
    assert [r.json()["sscm"]["model"]["name"] for r in (before, after)] == ["small", "other"]
    assert shard.calls == [("search", 8), ("find", 7, "a", "s1"), ("search", 7)]
    assert metric(gateway, "sscm_generation") == 8
    assert coordinator.members[-1].loaded == (8,)


def test_all_searches_of_a_batch_are_of_one_generation(tmp_path):
    class Switching(Shard):
        """After the first search another generation is served."""

        async def search(self, generation, query, seconds):
            if len(self.queries) == 1:
                coordinator.switch(generation=8)
                await eventually(lambda: gateway.generation == 8)
            return await super().search(generation, query, seconds)

    shard = Switching(search=[answer(("a", 0.9))])
    coordinator = Coordinator(edition_of(tmp_path, [shard]))
    gateway = gateway_of(tmp_path, [shard], coordinator=coordinator)
    response = ask(gateway, "POST", "/v1/search/batch", json={"searches": [QUERY] * 5})
    assert [result["sscm"]["generation"] for result in response.json()["results"]] == [7] * 5
    assert shard.calls == [("search", 7)] * 5
    assert gateway.generation == 8


async def eventually(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_replicas_of_each_shard_are_told_to_it(tmp_path):
    shards = [Shard(search=[answer()]), Shard(search=[answer()])]
    coordinator = Coordinator(edition_of(tmp_path, shards))
    coordinator.plan = dataclasses.replace(coordinator.plan, replicas=({"r0": ("h", 1)}, {"r1": ("h", 2)}))
    assert search(gateway_of(tmp_path, shards, coordinator=coordinator)).status_code == 200
    assert [shard.replicas for shard in shards] == [{"r0": ("h", 1)}, {"r1": ("h", 2)}]


def test_until_it_is_known_what_is_served_requests_are_told_to_come_back(tmp_path):
    class Silent(Coordinator):
        async def follow(self, member, known):
            await asyncio.sleep(SILENT)

    shard = Shard(search=[answer()])
    gateway = gateway_of(tmp_path, [shard], deadline_s=0.2, coordinator=Silent(edition_of(tmp_path, [shard])))

    async def run():
        alive = await asked(gateway, "GET", "/livez")
        asking = (("POST", "/v1/search", {"json": QUERY}), ("GET", "/v1/items", {}), ("GET", "/readyz", {}))
        return alive, [await asked(gateway, method, path, **how) for method, path, how in asking]

    alive, others = asyncio.run(run())
    assert alive.status_code == 200
    for response in others:
        refused(response, 503, "the service is starting; try again")
        assert response.headers["retry-after"] == "1"
    assert shard.calls == []


def test_moving_to_the_current_generation_tells_what_became_of_it(tmp_path):
    def reloaded(told, **options):
        coordinator = Coordinator(edition_of(tmp_path, []), reload=told)
        return ask(gateway_of(tmp_path, [], coordinator=coordinator, **options), "POST", "/v1/admin/reload")

    moved = {"generation": 8, "previous": 7, "loading": None, "refused": None}
    assert reloaded(moved).json() == moved
    assert reloaded({**moved, "generation": 7, "loading": 8}).json()["loading"] == 8
    wrong = {"generation": 7, "previous": 7, "loading": None, "refused": "generation 8 is of another model"}
    refused(reloaded(wrong), 409, "generation 8 is of another model; generation 7 is served on")
    refused(reloaded(ActorDiedError()), 503, "no coordinator answers")

"""The coordinator over a real index: it sees what is new, refuses what is damaged, and takes another's place."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from pathlib import Path

import pytest

from serve import coordinator as module
from serve.coordinator import FRESH_S, Coordinator
from serve.editions import read_edition
from serve.swap import GATEWAY, Member, encoder_part, shard_part
from sscm.errors import GenerationError, WorkspaceError
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import commit, current_number, read_generation, successor

pytestmark = pytest.mark.timeout(60)

SHARDS = 2
PARTS = [shard_part(0), shard_part(1), encoder_part("s1"), encoder_part("s2")]


@pytest.fixture
def growing(indexed, copy_factory, tmp_path):
    """A copy of the workspace, to be changed."""
    return copy_factory(indexed, tmp_path / "workspace")


def grow(workspace):
    """The next generation: one pair less."""
    pair_id = f"pair_{read_generation(workspace).number:04d}"
    return delete_pairs(workspace, Filter(ids=[pair_id])).generation


def coordinator_of(workspace, number=1, watch_s=0.0, age_s=0.0):
    return Coordinator(
        first=read_edition(workspace, SHARDS, number),
        parts=PARTS,
        grace_s=0.2,
        watch_s=watch_s,
        composed=time.time() - age_s,
    )


class Part:
    """A replica that does at once what the plan says, but for generations that it is told to stumble over."""

    def __init__(self, coordinator, part, loaded=(), stumbles=(), lags=()):
        self.coordinator, self.part, self.loaded = coordinator, part, set(loaded)
        self.stumbles, self.lags = set(stumbles), set(lags)
        self.plans, self.failed = [], {}

    def member(self):
        address = ("127.0.0.1", 1) if self.part.startswith("shard") else None
        return Member(
            name=f"of {self.part}", part=self.part, address=address, loaded=tuple(self.loaded), failed=self.failed
        )

    async def run(self):
        known = None
        while True:
            plan = await self.coordinator.follow(self.member(), known)
            self.obey(plan)
            known = plan.version

    def obey(self, plan):
        self.plans.append(plan)
        if self.part == GATEWAY:
            self.loaded = {plan.current.generation}
            return
        wanted = {number for number in plan.held if plan.edition(number)} - self.lags
        self.failed = {number: "stumbled" for number in wanted & self.stumbles}
        self.loaded = (self.loaded & set(plan.held)) | (wanted - self.stumbles)


@contextlib.asynccontextmanager
async def following(coordinator, **options):
    """Parts that follow; options are those of each."""
    parts = [Part(coordinator, part, **options) for part in PARTS] + [Part(coordinator, GATEWAY)]
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        await eventually(lambda: all(part.plans for part in parts))
        yield parts
        assert not any(task.done() for task in tasks)
    finally:
        for task in [*tasks, *([coordinator._ticker] if coordinator._ticker else [])]:
            task.cancel()


async def eventually(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not become so in time"
        await asyncio.sleep(0.01)


def run(scenario):
    async def whole():
        async with asyncio.timeout(40):
            return await scenario

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.02)
    monkeypatch.setattr(module, "RECOVER_S", 0.3)
    monkeypatch.setattr(module, "SILENT_S", 2.0)


def test_it_moves_to_what_is_appended_when_it_watches(growing):
    async def scenario():
        coordinator = coordinator_of(growing, watch_s=0.05)
        async with following(coordinator) as parts:
            for number in (2, 3, 4):
                assert grow(growing).number == number
                await eventually(
                    lambda number=number: {part.plans[-1].current.generation for part in parts} == {number}
                )
                assert sum(parts[0].plans[-1].current.shard_rows) == 176 - number + 1
            await eventually(lambda: all(part.plans[-1].held == (4,) for part in parts))
            await eventually(lambda: all(part.loaded == {4} for part in parts))
            seen = [[plan.current.generation for plan in part.plans] for part in parts]
            assert all(numbers == sorted(numbers) for numbers in seen)
            assert {member.part for member in coordinator.members()} == {*PARTS, GATEWAY}

    run(scenario())


def test_it_looks_only_when_told_where_it_does_not_watch(growing):
    async def scenario():
        coordinator = coordinator_of(growing)
        async with following(coordinator) as parts:
            grow(growing)
            await asyncio.sleep(0.3)
            assert parts[0].plans[-1].current.generation == 1
            assert await coordinator.reload(10) == {"generation": 2, "previous": 1, "loading": None, "refused": None}
            assert await coordinator.reload(10) == {"generation": 2, "previous": 2, "loading": None, "refused": None}
            await eventually(lambda: parts[-1].loaded == {2})

    run(scenario())


def test_a_reload_that_takes_longer_than_it_may_tells_what_is_being_loaded(growing):
    async def scenario():
        coordinator = coordinator_of(growing)
        async with following(coordinator, lags={2}) as parts:
            grow(growing)
            begun = time.monotonic()
            told = await coordinator.reload(0.2)
            assert time.monotonic() - begun < 2
            assert told == {"generation": 1, "previous": 1, "loading": 2, "refused": None}
            waiting = [asyncio.create_task(coordinator.reload(10)) for _ in range(3)]
            await asyncio.sleep(0.1)
            for part in parts[:-1]:
                part.lags.clear()
                part.obey(part.plans[-1])
                await coordinator.report(part.member())
            assert {told["generation"] for told in await asyncio.gather(*waiting)} == {2}

    run(scenario())


def test_a_generation_that_a_part_cannot_load_is_refused_once_and_loaded_when_asked_for_again(growing):
    async def scenario():
        coordinator = coordinator_of(growing, watch_s=0.02)
        async with following(coordinator, stumbles={2}) as parts:
            grow(growing)
            await eventually(lambda: parts[0].plans[-1].refused is not None)
            count = len(parts[0].plans)
            await asyncio.sleep(0.3)
            assert len(parts[0].plans) == count  # a watch does not load it again and again
            told = await coordinator.reload(10)
            assert (told["generation"], told["loading"]) == (1, None)
            assert "generation 2 is not served: " in told["refused"]
            assert "stumbled" in told["refused"]
            assert parts[-1].loaded == {1}
            await eventually(lambda: not any(part.failed for part in parts))
            for part in parts:
                part.stumbles.clear()
            assert await coordinator.reload(10) == {"generation": 2, "previous": 1, "loading": None, "refused": None}

    run(scenario())


MANIFEST = "generations/2/manifest.json"


def changed(whole, **values):
    return json.dumps({**json.loads(whole), **values}).encode()


def of_model(whole, **values):
    return changed(whole, bundle={**json.loads(whole)["bundle"], **values})


@pytest.mark.parametrize("watch_s", [0.0, 0.05])
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (MANIFEST, lambda whole: b""),
        (MANIFEST, lambda whole: whole[:50]),
        (MANIFEST, lambda whole: b'{"number": "two"}'),
        (MANIFEST, lambda whole: of_model(whole, name="nobody")),
        (MANIFEST, lambda whole: of_model(whole, fingerprint="f" * 64)),
        (MANIFEST, lambda whole: changed(whole, segments=[])),
        (MANIFEST, lambda whole: changed(whole, format=99)),
        ("CURRENT", lambda whole: b'{"generation": "x"}'),
        ("CURRENT", lambda whole: b'{"generation": 77}'),
    ],
)
def test_a_damaged_generation_is_refused_and_served_once_it_is_mended(growing, file, damage, watch_s):
    async def scenario():
        coordinator = coordinator_of(growing, watch_s=watch_s)
        async with following(coordinator) as parts:
            grow(growing)
            path = Path(growing.path_of("index", *file.split("/")))
            whole = path.read_bytes()
            path.write_bytes(damage(whole))
            told = await coordinator.reload(10)
            if told["generation"] == 2:
                assert watch_s  # it was quicker
                return
            assert (told["generation"], told["loading"]) == (1, None)
            assert told["refused"].startswith("the current generation is not served: ")
            assert parts[-1].loaded == {1}
            coordinator.check_health()
            path.write_bytes(whole)
            if not watch_s:
                await coordinator.reload(10)
            await eventually(lambda: parts[-1].loaded == {2})
            await eventually(lambda: parts[-1].plans[-1].refused is None)

    run(scenario())


def test_storage_that_fails_for_a_moment_costs_no_generation(growing, monkeypatch):
    """Neither one that is being loaded then, nor one that is there to be loaded."""
    broken = []

    def shaky(workspace):
        if broken:
            raise WorkspaceError("connection reset")
        return current_number(workspace)

    monkeypatch.setattr(module, "current_number", shaky)

    async def scenario():
        coordinator = coordinator_of(growing, watch_s=0.02)
        async with following(coordinator, lags={2}) as parts:
            grow(growing)
            await eventually(lambda: parts[0].plans[-1].following)
            broken.append(True)
            await eventually(lambda: parts[0].plans[-1].refused)
            assert parts[0].plans[-1].following.generation == 2
            for part in parts[:-1]:
                part.lags.clear()
                part.obey(part.plans[-1])
                await coordinator.report(part.member())
            await eventually(lambda: parts[-1].loaded == {2})
            grow(growing)
            await asyncio.sleep(0.1)
            broken.clear()
            await eventually(lambda: parts[-1].loaded == {3})
            await eventually(lambda: parts[-1].plans[-1].refused is None)
            coordinator.check_health()

    run(scenario())


def test_other_modalities_are_refused(growing):
    async def scenario():
        coordinator = coordinator_of(growing)
        async with following(coordinator) as parts:
            before = read_generation(growing)
            commit(growing, successor(before, before.segments, modalities=("s2",)))
            told = await coordinator.reload(10)
            assert told["refused"] == (
                "generation 2 has modalities ['s2'], the service was started with ['s1', 's2']; start it anew"
            )
            assert parts[-1].loaded == {1}

    run(scenario())


def test_one_that_takes_another_s_place_serves_on_what_gateways_answer_from(growing):
    grow(growing)
    grow(growing)

    async def scenario():
        coordinator = coordinator_of(growing, age_s=2 * FRESH_S)  # composed when generation 1 was served
        parts = [Part(coordinator, part, loaded={1, 2}) for part in PARTS]
        gateway = Part(coordinator, GATEWAY, loaded={2})
        tasks = [asyncio.create_task(part.run()) for part in (*parts, gateway)]
        await eventually(lambda: gateway.plans)
        await asyncio.sleep(0.1)
        for part in (*parts, gateway):
            assert {plan.current.generation for plan in part.plans} == {2}
            assert 2 in part.loaded
        assert [set(replicas) for replicas in gateway.plans[0].replicas] == [{"of shard-0"}, {"of shard-1"}]
        assert gateway.plans[0].held == (1, 2)  # requests of generation 1 may be under way
        await eventually(lambda: gateway.plans[-1].held == (2,))
        assert (await coordinator.reload(10))["generation"] == 3
        for task in (*tasks, coordinator._ticker):
            task.cancel()

    run(scenario())


def test_one_that_takes_another_s_place_waits_for_parts_that_are_late(growing):
    """A gateway that it tells of no replica of a shard would ask none."""

    async def scenario():
        coordinator = coordinator_of(growing, age_s=2 * FRESH_S)
        late = Part(coordinator, PARTS[0], loaded={1})
        parts = [Part(coordinator, part, loaded={1}) for part in PARTS[1:]]
        gateway = Part(coordinator, GATEWAY, loaded={1})
        tasks = [asyncio.create_task(part.run()) for part in (*parts, gateway)]
        await asyncio.sleep(0.8)
        assert gateway.plans == []
        tasks.append(asyncio.create_task(late.run()))
        await eventually(lambda: gateway.plans)
        assert all(gateway.plans[0].replicas)
        for task in (*tasks, coordinator._ticker):
            task.cancel()

    run(scenario())


def test_one_that_takes_another_s_place_does_not_wait_for_ever(growing):
    grow(growing)

    async def scenario():
        coordinator = coordinator_of(growing, age_s=2 * FRESH_S)
        plan = await coordinator.follow(Member(name="me", part=PARTS[0]), None)
        assert plan.current.generation == 2  # of no gateway it heard: what the index has
        coordinator._ticker.cancel()

    run(scenario())


def test_news_are_told_at_once_and_nothing_after_a_while(growing, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.3)

    async def scenario():
        coordinator = coordinator_of(growing)
        me = Member(name="me", part=PARTS[0])
        plan = await coordinator.follow(me, None)
        begun = time.monotonic()
        assert (await coordinator.follow(me, plan.version)).version == plan.version
        assert 0.25 < time.monotonic() - begun < 2
        begun = time.monotonic()
        waiting = [asyncio.create_task(coordinator.follow(me, plan.version)) for _ in range(20)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        address = ("127.0.0.1", 5)
        await coordinator.report(Member(name="other", part=PARTS[1], address=address, loaded=(1,)))
        later = await asyncio.gather(*waiting[1:])
        assert time.monotonic() - begun < 0.25
        assert {p.version for p in later} == {(plan.version[0], plan.version[1] + 1)}
        assert later[0].replicas == ({}, {"other": address})
        await coordinator.leave("other")
        assert (await coordinator.follow(me, later[0].version)).replicas == ({}, {})
        coordinator._ticker.cancel()

    run(scenario())


def test_one_whose_ticker_ended_is_not_healthy(growing, monkeypatch):
    async def scenario():
        coordinator = coordinator_of(growing, watch_s=0.02)
        coordinator.check_health()
        await coordinator.report(Member(name="me", part=PARTS[0]))
        coordinator.check_health()

        def broken(_):
            raise ZeroDivisionError("unforeseen")

        monkeypatch.setattr(module, "current_number", broken)
        await eventually(lambda: coordinator._ticker.done())
        with pytest.raises(GenerationError, match="unforeseen"):
            coordinator.check_health()
        assert isinstance(coordinator._ticker.exception(), ZeroDivisionError)

    run(scenario())


def test_coordinators_plans_are_told_apart(growing):
    first = dataclasses.asdict(coordinator_of(growing)._swap.plan)["version"]
    assert first[0] != coordinator_of(growing)._swap.plan.version[0]

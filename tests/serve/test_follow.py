"""A replica's side of a swap: it loads what the plan says in the background, and survives its coordinator."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time

import pytest

from serve import follow
from serve.editions import Edition, Plan
from serve.follow import Follower, Held, replica_name
from serve.swap import Member
from sscm.errors import GenerationError, IntegrityError
from sscm.sensors import sentinel1
from sscm.workspace import Workspace
from tests.plugins.service import Local

pytestmark = pytest.mark.timeout(60)


def edition(number):
    return Edition(
        workspace=Workspace(uri="file:///nowhere"),
        generation=number,
        created="2026-01-01T00:00:00+00:00",
        modalities=(sentinel1(24),),
        dimension=4,
        model={},
        simulated=False,
        shard_rows=(10,),
    )


def plan_of(current, following=None, held=(), version=0):
    return Plan(
        version=("e", version),
        current=edition(current),
        following=None if following is None else edition(following),
        held=tuple(sorted({current, *held, *([following] if following else [])})),
    )


class Loading:
    """Loads editions when it is let; what it loaded is its number as text."""

    def __init__(self, **wrong):
        self.wrong = {int(name[1:]): error for name, error in wrong.items()}
        self.begun, self.go = [], threading.Event()
        self.go.set()
        self.changes = 0

    def __call__(self, edition):
        self.begun.append(edition.generation)
        assert self.go.wait(10)
        if edition.generation in self.wrong:
            raise self.wrong[edition.generation]
        return f"generation {edition.generation}"

    def changed(self):
        self.changes += 1


async def eventually(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not become so in time"
        await asyncio.sleep(0.005)


def run(scenario):
    async def whole():
        async with asyncio.timeout(30):
            return await scenario

    return asyncio.run(whole())


def held_of(loading):
    return Held(loading, loading.changed)


def test_what_is_to_be_held_is_loaded_in_the_background_and_the_rest_dropped():
    loading = Loading()
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(1))
        await held.settled(1)
        assert (held.loaded, held.get(1)) == ((1,), "generation 1")
        loading.go.clear()
        begun = time.monotonic()
        await held.follow(plan_of(1, following=2))
        assert time.monotonic() - begun < 1  # it is heard of meanwhile
        assert (held.loaded, held.get(1)) == ((1,), "generation 1")
        loading.go.set()
        await eventually(lambda: held.loaded == (1, 2))
        await held.follow(plan_of(2, held=(1,)))
        assert held.loaded == (1, 2)
        await held.follow(plan_of(2))
        with pytest.raises(GenerationError, match=r"generation 1 is not loaded here, only \[2\]"):
            held.get(1)
        assert loading.begun == [1, 2]
        assert loading.changes == 2
        held.clear()
        assert held.loaded == ()

    run(scenario())


def test_one_that_retires_is_not_loaded_by_a_replica_that_starts_now():
    loading = Loading()
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(3, held=(1, 2)))
        await held.settled(3)
        assert held.loaded == (3,)

    run(scenario())


def test_each_is_loaded_once_however_often_it_is_asked_for():
    loading = Loading()
    loading.go.clear()
    held = held_of(loading)

    async def scenario():
        for _ in range(5):
            await held.follow(plan_of(1, following=2))
        loading.go.set()
        await held.settled(2)
        await held.follow(plan_of(1, following=2))
        assert loading.begun == [1, 2]

    run(scenario())


def test_what_is_given_up_while_it_loads_is_not_kept():
    loading = Loading()
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(1))
        await held.settled(1)
        loading.go.clear()
        await held.follow(plan_of(1, following=2))
        await held.follow(plan_of(1))
        loading.go.set()
        await eventually(lambda: loading.changes == 2)
        assert held.loaded == (1,)

    run(scenario())


def test_what_is_given_up_and_wanted_again_while_it_loads_is_kept():
    loading = Loading()
    loading.go.clear()
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(1, following=2))
        await held.follow(plan_of(1))
        await held.follow(plan_of(1, following=2))
        loading.go.set()
        await held.settled(2)
        assert (held.loaded, loading.begun) == ((1, 2), [1, 2])

    run(scenario())


@pytest.mark.parametrize(
    ("error", "why"),
    [(IntegrityError("vectors.npy was altered"), "vectors.npy was altered"), (KeyError("x"), "KeyError: 'x'")],
)
def test_what_cannot_be_loaded_is_told_until_it_is_not_wanted_any_more(error, why):
    loading = Loading(g2=error)
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(1, following=2))
        await eventually(lambda: held.failed)
        assert (held.loaded, held.failed) == ((1,), {2: why})
        await held.follow(plan_of(1, following=2))
        assert loading.begun == [1, 2]  # not again and again
        await held.settled(1)  # what is served is there
        with pytest.raises(GenerationError, match="generation 2 cannot be served: "):
            await held.settled(2)
        await held.follow(plan_of(1))
        assert held.failed == {}
        loading.wrong.clear()  # mended
        await held.follow(plan_of(1, following=2))
        await held.settled(2)
        assert (held.loaded, held.failed) == ((1, 2), {})

    run(scenario())


def test_a_failure_of_what_was_given_up_is_not_held_against_it_later():
    loading = Loading(g2=IntegrityError("altered"))
    held = held_of(loading)

    async def scenario():
        await held.follow(plan_of(1))
        await held.settled(1)
        loading.go.clear()
        await held.follow(plan_of(1, following=2))
        await eventually(lambda: loading.begun == [1, 2])
        await held.follow(plan_of(1))
        loading.go.set()
        await eventually(lambda: loading.changes == 2)
        assert held.failed == {}
        loading.wrong.clear()
        await held.follow(plan_of(1, following=2))
        await held.settled(2)
        assert held.loaded == (1, 2)

    run(scenario())


class Coordinating:
    """Hands out plans as a coordinator does; may fail, or be silent."""

    def __init__(self):
        self.plan, self.heard, self.reported, self.trouble = plan_of(1), [], [], None

    async def follow(self, member, known):
        self.heard.append((member, known))
        while True:
            if self.trouble == "silent":
                await asyncio.sleep(60)
            if self.trouble is not None:
                raise self.trouble
            if self.plan.version != known:
                return self.plan
            await asyncio.sleep(0.005)

    async def report(self, member):
        self.reported.append(member)
        if self.trouble is not None:
            raise RuntimeError

    def say(self, **changes):
        version = (self.plan.version[0], self.plan.version[1] + 1)
        self.plan = dataclasses.replace(self.plan, version=version, **changes)


class Applying:
    """A replica that notes what it is told to do."""

    def __init__(self, coordinator):
        self.plans, self.trouble = [], None
        self.follower = Follower(Local(coordinator), self.describe, self.apply)

    def describe(self):
        return Member(name="me", part="shard-0", loaded=tuple(range(len(self.plans))))

    async def apply(self, plan):
        if self.trouble is not None:
            raise self.trouble
        self.plans.append(plan.version)


def test_a_replica_does_what_each_new_plan_says_once_and_says_what_it_has():
    coordinator = Coordinating()
    replica = Applying(coordinator)

    async def scenario():
        plan = await replica.follower.once()
        assert plan is coordinator.plan
        assert coordinator.heard == [(Member(name="me", part="shard-0"), None)]
        replica.follower.start()
        for count in range(2, 5):
            await asyncio.sleep(0.02)
            coordinator.say(refused=str(count))
            await eventually(lambda count=count: len(replica.plans) == count)
        assert replica.plans == [("e", number) for number in range(4)]
        await eventually(lambda: coordinator.heard[-1][1] == ("e", 3))
        assert coordinator.heard[-1][0].loaded == (0, 1, 2, 3)
        replica.follower.report()
        await eventually(lambda: coordinator.reported)
        replica.follower.stop()
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    run(scenario())


def test_a_coordinator_in_trouble_is_asked_again(monkeypatch):
    monkeypatch.setattr(follow, "AGAIN_S", 0.02)
    monkeypatch.setattr(follow, "POLL_S", 0.1)
    coordinator = Coordinating()
    replica = Applying(coordinator)

    async def scenario():
        replica.follower.start()
        await eventually(lambda: replica.plans)
        for trouble in (RuntimeError("it died"), "silent", TimeoutError()):
            coordinator.trouble = trouble
            coordinator.say(refused=repr(trouble))
            replica.follower.report()  # nothing comes of that
            await asyncio.sleep(0.1)
            before = len(replica.plans)
            coordinator.trouble = None
            coordinator.say(refused=f"after {trouble!r}")
            await eventually(lambda before=before: len(replica.plans) > before)
        replica.follower.stop()

    run(scenario())


def test_a_plan_that_could_not_be_applied_is_applied_again(monkeypatch):
    monkeypatch.setattr(follow, "AGAIN_S", 0.02)
    coordinator = Coordinating()
    replica = Applying(coordinator)

    async def scenario():
        replica.trouble = ValueError("not now")
        replica.follower.start()
        await asyncio.sleep(0.1)
        assert replica.plans == []
        assert len(coordinator.heard) < 20
        replica.trouble = None
        await eventually(lambda: replica.plans == [("e", 0)])
        replica.follower.stop()

    run(scenario())


def test_without_an_event_loop_following_begins_later():
    replica = Applying(Coordinating())
    with pytest.raises(RuntimeError):
        replica.follower.start()


def test_replicas_have_names_of_their_own_outside_ray_too():
    assert len({replica_name() for _ in range(20)}) == 20

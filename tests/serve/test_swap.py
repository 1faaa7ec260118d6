"""Moving to another generation: whatever happens in whatever order, nobody is asked for what he does not have."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.editions import Edition
from serve.swap import GATEWAY, LOAD_S, SILENT_S, Member, Swap, encoder_part, shard_part
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import Workspace

PARTS = (shard_part(0), shard_part(1), encoder_part("s1"))
GRACE_S = 20.0


MODALITIES = (sentinel1(24), sentinel2(24))


def edition(number, modalities=MODALITIES):
    return Edition(
        workspace=Workspace(uri="file:///nowhere"),
        generation=number,
        created="2026-01-01T00:00:00+00:00",
        modalities=modalities,
        dimension=4,
        model={"name": "small", "fingerprint": "ab"},
        simulated=False,
        shard_rows=(10, 10),
    )


def member(part, *loaded, name=None, failed=None):
    address = ("127.0.0.1", 1) if part.startswith("shard") else None
    return Member(name=name or f"one of {part}", part=part, address=address, loaded=loaded, failed=failed or {})


def swap_of(*loaded):
    """A swap at generation 1 whose parts have a replica each, and a gateway."""
    swap = Swap(edition(1), PARTS, GRACE_S, "epoch")
    for part in PARTS:
        swap.heard(member(part, *loaded), 0.0)
    swap.heard(member(GATEWAY, 1), 0.0)
    return swap


def all_load(swap, *loaded, now=1.0):
    for part in PARTS:
        swap.heard(member(part, *loaded), now)


def test_it_switches_when_the_last_one_has_loaded_and_keeps_the_old_one_until_its_requests_have_ended():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    assert (swap.plan.current.generation, swap.plan.following.generation, swap.plan.held) == (1, 2, (1, 2))
    for part in PARTS[:-1]:
        swap.heard(member(part, 1, 2), 1.0)
        assert swap.plan.current.generation == 1
    swap.heard(member(PARTS[-1], 1, 2), 1.0)
    assert (swap.plan.current.generation, swap.plan.following, swap.plan.held) == (2, None, (1, 2))
    for now in (3.0, 6.0, 9.0):  # a gateway has not moved yet
        all_load(swap, 1, 2, now=now)
        swap.heard(member(GATEWAY, 1), now)
        assert swap.plan.held == (1, 2)
    swap.heard(member(GATEWAY, 2), 10.0)
    all_load(swap, 1, 2, now=10.0)
    swap.heard(member(GATEWAY, 2), 20.0)
    assert swap.plan.held == (1, 2)  # requests that began just before may still ask
    all_load(swap, 1, 2, now=20.0)
    swap.heard(member(GATEWAY, 2), 10.0 + GRACE_S + 0.1)
    assert swap.plan.held == (2,)


def test_a_part_without_any_replica_holds_it_up():
    swap = swap_of(1)
    swap.left(f"one of {PARTS[1]}", 0.0)
    swap.begin(edition(2), 0.0)
    swap.heard(member(PARTS[0], 1, 2), 1.0)
    swap.heard(member(PARTS[2], 1, 2), 1.0)
    assert swap.plan.current.generation == 1
    swap.heard(member(PARTS[1], 1, 2), 2.0)
    assert swap.plan.current.generation == 2


def test_one_of_several_replicas_holds_it_up_until_it_has_loaded_or_is_gone():
    swap = swap_of(1)
    swap.heard(member(PARTS[0], 1, name="slow"), 0.0)
    swap.heard(member(PARTS[0], name="starting"), 0.0)
    swap.begin(edition(2), 0.0)
    all_load(swap, 1, 2)
    assert swap.plan.current.generation == 1
    swap.heard(member(PARTS[0], 1, 2, name="slow"), 2.0)
    assert swap.plan.current.generation == 1
    swap.left("starting", 2.0)
    assert swap.plan.current.generation == 2


def test_one_that_fell_silent_is_gone():
    swap = swap_of(1)
    swap.heard(member(PARTS[0], 1, name="dead"), 0.0)
    swap.begin(edition(2), 0.0)
    all_load(swap, 1, 2, now=SILENT_S)
    assert swap.plan.current.generation == 1
    assert "dead" in swap.plan.replicas[0]
    swap.tick(SILENT_S + 0.1)
    assert swap.plan.current.generation == 2
    assert "dead" not in swap.plan.replicas[0]


def test_one_failure_is_enough_and_the_old_one_is_served_on():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    swap.heard(member(PARTS[1], 1, failed={2: "vectors.npy: checksum"}), 1.0)
    assert (swap.plan.current.generation, swap.plan.following, swap.plan.held) == (1, None, (1,))
    assert swap.plan.refused == "generation 2 is not served: shard-1: vectors.npy: checksum"
    all_load(swap, 1, 2)  # those that had loaded it drop it when they hear of it
    assert swap.plan.current.generation == 1
    swap.begin(edition(2), 2.0)  # mended
    assert swap.plan.refused is None
    all_load(swap, 1, 2, now=3.0)
    assert (swap.plan.current.generation, swap.plan.refused) == (2, None)


def test_it_does_not_load_for_ever():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    for now in (LOAD_S / 2, LOAD_S, LOAD_S + 1):
        all_load(swap, 1, now=now)
    assert swap.plan.refused == "generation 2 was not loaded everywhere within 30 minutes"
    assert swap.plan.following is None


def test_a_later_generation_takes_the_place_of_one_that_is_being_loaded():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    swap.begin(edition(3), 0.5)
    assert (swap.plan.following.generation, swap.plan.held) == (3, (1, 3))
    all_load(swap, 1, 2)
    assert swap.plan.current.generation == 1
    all_load(swap, 1, 3)
    assert swap.plan.current.generation == 3


def test_it_can_go_back_to_what_was_served_while_that_is_still_held():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    all_load(swap, 1, 2)
    swap.begin(edition(1), 1.0)
    assert swap.plan.held == (1, 2)
    swap.tick(1.1)
    all_load(swap, 1, 2, now=1.2)
    assert (swap.plan.current.generation, swap.plan.held) == (1, (1, 2))


def test_to_be_led_to_what_is_served_ends_a_move_and_a_refusal():
    swap = swap_of(1)
    swap.refuse("because")
    swap.begin(edition(2), 0.0)
    swap.refuse("the one after it cannot be read")
    assert swap.plan.following.generation == 2  # goes on
    swap.begin(edition(1), 0.0)
    assert (swap.plan.following, swap.plan.refused, swap.plan.held) == (None, None, (1,))


def test_other_modalities_need_another_service():
    swap = swap_of(1)
    swap.begin(edition(2), 0.0)
    swap.begin(edition(3, modalities=(sentinel1(24),)), 0.0)
    assert swap.plan.refused == (
        "generation 3 has modalities ['s1'], the service was started with ['s1', 's2']; start it anew"
    )
    assert (swap.plan.current.generation, swap.plan.following) == (1, None)


def test_what_is_adopted_is_served_at_once_and_what_else_is_loaded_is_kept_for_a_while():
    swap = Swap(edition(1), PARTS, GRACE_S, "epoch")
    assert not swap.complete
    for part in PARTS:
        swap.heard(member(part, 4, 5), 0.0)
    assert not swap.complete
    swap.heard(member(GATEWAY, 5), 0.0)
    swap.heard(member(GATEWAY, 4, name="behind"), 0.0)
    assert swap.complete
    swap.adopt(edition(5))
    assert (swap.plan.current.generation, swap.plan.held) == (5, (4, 5))
    assert [set(replicas) for replicas in swap.plan.replicas] == [{"one of shard-0"}, {"one of shard-1"}]
    swap.heard(member(GATEWAY, 5, name="behind"), 1.0)
    for now in (10.0, 1.0 + GRACE_S + 1):
        all_load(swap, 4, 5, now=now)
        swap.heard(member(GATEWAY, 5), now)
    assert swap.plan.held == (5,)


def test_a_plan_is_another_only_where_it_says_something_else():
    swap = swap_of(1)
    version = swap.plan.version
    all_load(swap, 1, now=3.0)
    swap.tick(4.0)
    swap.begin(edition(1), 4.0)
    assert swap.plan.version == version
    swap.heard(member(PARTS[0], 1, name="another"), 5.0)
    assert swap.plan.version == ("epoch", version[1] + 1)


class AnyOrder(RuleBasedStateMachine):
    """Reports of any content in any order, and what has to hold of every plan."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.swap = Swap(edition(1), PARTS, GRACE_S, "epoch")
        self.heard = {}
        self.plans = [self.swap.plan]
        self.asked_for = {1: 0.0}  # generation → when it was last known to be answered from
        self.newest = 1

    def live(self):
        return {name: said for name, (said, at) in self.heard.items() if self.now - at <= SILENT_S}

    def did(self, adopted=False):
        before, after = self.plans[-1], self.swap.plan
        same = dataclasses.replace(after, version=before.version) == before
        assert (after.version == before.version) == same
        assert after.version >= before.version
        live = self.live()
        for said in live.values():
            if said.part == GATEWAY:
                self.asked_for.update(dict.fromkeys(said.loaded, self.now))
        if after.current.generation != before.current.generation:
            needed = [said for said in live.values() if said.part in PARTS]
            assert before.following is not None
            assert after.current == before.following
            assert {said.part for said in needed} == set(PARTS)
            assert all(after.current.generation in said.loaded for said in needed)
            self.asked_for[before.current.generation] = self.now
        for generation in set(before.held) - set(after.held):
            assert generation != after.current.generation
            if generation in self.asked_for and generation not in self.given_up:
                assert self.now - self.asked_for[generation] > GRACE_S
        self.plans.append(after)

    @property
    def given_up(self):
        """Generations that never were served: those may go at any time."""
        return {self.newest} | set(range(1, self.newest + 1)) - {plan.current.generation for plan in self.plans}

    @rule(
        part=st.sampled_from([*PARTS, GATEWAY]),
        name=st.integers(0, 1),
        extra=st.sampled_from([(), ("current",), ("current", "following"), ("following",)]),
        fails=st.booleans(),
    )
    def hear(self, part, name, extra, fails):
        plan = self.swap.plan
        known = {"current": plan.current.generation, "following": plan.following and plan.following.generation}
        loaded = tuple(sorted({known[what] for what in extra if known[what]}))
        if part == GATEWAY:  # answers from something that was served
            loaded = loaded[:1] if loaded and loaded[0] == known["current"] else ()
        failed = {known["following"]: "damaged"} if fails and part != GATEWAY and known["following"] else {}
        said = member(part, *loaded, name=f"{part} {name}", failed={} if set(failed) & set(loaded) else failed)
        self.heard[said.name] = (said, self.now)
        self.swap.heard(said, self.now)
        self.did()

    @rule(data=st.data())
    @precondition(lambda self: self.heard)
    def leave(self, data):
        name = data.draw(st.sampled_from(sorted(self.heard)))
        del self.heard[name]
        self.swap.left(name, self.now)
        self.did()

    @rule(seconds=st.sampled_from([0.5, 6.0, 16.0, 25.0]))
    def wait(self, seconds):
        self.now += seconds
        self.swap.tick(self.now)
        self.did()

    @rule()
    def begin(self):
        self.newest += 1
        self.swap.begin(edition(self.newest), self.now)
        self.did()

    @rule()
    def begin_what_is_served(self):
        self.swap.begin(edition(self.swap.plan.current.generation), self.now)
        assert self.swap.plan.following is None
        self.did()

    @rule()
    def refuse(self):
        before = self.swap.plan
        self.swap.refuse("because")
        assert (self.swap.plan.current, self.swap.plan.following) == (before.current, before.following)
        self.did()

    @invariant()
    def plans_hold_together(self):
        plan, live = self.swap.plan, self.live()
        assert plan.current.generation in plan.held
        assert plan.following is None or plan.following.generation in plan.held
        assert plan.following is None or plan.following.generation != plan.current.generation
        for shard, replicas in enumerate(plan.replicas):
            assert set(replicas) >= {
                name
                for name, said in live.items()
                if said.part == shard_part(shard) and plan.current.generation in said.loaded
            }
            assert set(replicas) <= {name for name in self.heard if name.startswith(shard_part(shard))}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class World:
    """Replicas and gateways that do what plans say, each in its own time; requests that ask replicas meanwhile.

    Every request is asked of a gateway, keeps the generation that the gateway answers from, and asks replicas that the
    gateway knows until its time is over: each of them has to have that generation.
    """

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.now, self.newest, self.made = 0.0, 1, 0
        self.swap = Swap(edition(1), PARTS, GRACE_S, "epoch")
        self.replicas, self.gateways, self.requests = {}, {}, []
        self.switches = self.refusals = 0
        for part in PARTS:
            for _ in range(2):
                self.start(part)
        for _ in range(2):
            self.start_gateway()

    def name(self):
        self.made += 1
        return f"{self.made}"

    def start(self, part):
        plan = self.swap.plan
        replica = {"part": part, "loaded": {plan.current.generation}, "failed": set(), "loading": {}, "poll": 0.0}
        name = self.name()
        self.replicas[name] = replica
        self.report(name)

    def start_gateway(self):
        name = self.name()
        self.gateways[name] = {"plan": self.swap.plan, "poll": 0.0}
        self.report_gateway(name)

    def report(self, name):
        replica = self.replicas[name]
        failed = dict.fromkeys(replica["failed"], "damaged")
        self.swap.heard(member(replica["part"], *sorted(replica["loaded"]), name=name, failed=failed), self.now)

    def report_gateway(self, name):
        generation = self.gateways[name]["plan"].current.generation
        self.swap.heard(member(GATEWAY, generation, name=name), self.now)

    def obey(self, replica):
        plan = self.swap.plan
        for kept in ("loaded", "failed"):
            replica[kept] &= set(plan.held)
        for number in plan.held:
            known = number in replica["loaded"] | replica["failed"] or number in replica["loading"]
            if plan.edition(number) is not None and not known:
                replica["loading"][number] = self.now + self.chance.uniform(0, 8)

    def step(self, seconds):
        self.now += seconds
        for name, replica in list(self.replicas.items()):
            for number, done in list(replica["loading"].items()):
                if self.now >= done:
                    del replica["loading"][number]
                    if number in self.swap.plan.held:  # it obeys no plan that it has not heard of; here it has
                        replica["failed" if number % 5 == 0 else "loaded"].add(number)
                    self.report(name)
            if self.now >= replica["poll"]:
                replica["poll"] = self.now + self.chance.uniform(0, 5)
                self.obey(replica)
                self.report(name)
        for name, gateway in self.gateways.items():
            if self.now >= gateway["poll"]:
                gateway["poll"] = self.now + self.chance.uniform(0, 5)
                self.report_gateway(name)
                self.switches += gateway["plan"].current != self.swap.plan.current
                gateway["plan"] = self.swap.plan
                self.report_gateway(name)
            begun = gateway["plan"].current.generation
            self.requests.append((name, begun, self.now + self.chance.uniform(0, GRACE_S)))
        self.swap.tick(self.now)
        self.refusals += self.swap.plan.refused is not None
        self.requests = [request for request in self.requests if request[2] >= self.now]
        self.ask()

    def ask(self):
        for gateway, generation, _ in self.requests:
            for shard, known in enumerate(self.gateways[gateway]["plan"].replicas):
                asked = [name for name in known if name in self.replicas]
                older = self.gateways[gateway]["plan"].current.generation != generation
                having = [name for name in asked if generation in self.replicas[name]["loaded"]]
                # One that started after the switch never had the old one: another is asked then.
                assert having if older else having == asked, (self.now, shard, generation)


@pytest.mark.parametrize("seed", range(30))
def test_no_request_asks_a_replica_for_what_it_does_not_have(seed):
    world = World(seed)
    for number in range(300):
        if number % 40 == 10:
            world.newest += 1
            world.swap.begin(edition(world.newest), world.now)
        if number % 60 == 30 and not any(replica["loading"] for replica in world.replicas.values()):
            part = world.chance.choice(PARTS)
            alike = [name for name, replica in world.replicas.items() if replica["part"] == part]
            gone = alike[0]
            del world.replicas[gone]
            world.swap.left(gone, world.now)
            world.start(part)
        world.step(world.chance.uniform(0.1, 1.5))
    assert world.switches >= 2 * 4
    assert world.refusals  # each fifth generation is damaged

"""How a service moves to another generation: loaded everywhere first, switched then, the old one dropped last.

A state machine without clock, network or Ray: :mod:`serve.coordinator` feeds it what members say, and the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve.channel import Address
from serve.editions import Edition, Plan

SILENT_S = 15.0
"""A member not heard of for so long is gone: three of the times that it should have called."""
LOAD_S = 1800.0
"""Longest time that members take to load a generation."""

GATEWAY = "gateway"


def shard_part(number: int) -> str:
    """What replicas of an index shard are called as a part of a service."""
    return f"shard-{number}"


def encoder_part(modality: str) -> str:
    """What replicas of an encoder are called as a part of a service."""
    return f"encoder-{modality}"


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a replica says of itself.

    Args:
        name: tells it from all others.
        part: what it is a replica of.
        address: where it takes calls of gateways; None where Serve's handles reach it.
        loaded: generations that it answers for; of a gateway, the one it answers from.
        failed: generation → why it could not be loaded.
    """

    name: str
    part: str
    address: Address | None = None
    loaded: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)


class Swap:
    """What a service's parts have loaded, and what they are to do.

    Args:
        first: what is served at first.
        parts: encoders and shards: all that must have loaded a generation before gateways switch to it.
        grace_s: longest time of a request: so long after the switch may the old generation still be asked for.
        epoch: tells this coordinator's plans from those of one before it.
    """

    def __init__(self, first: Edition, parts: Sequence[str], grace_s: float, epoch: str) -> None:
        self._current = first
        self._following: Edition | None = None
        self._begun = 0.0
        self._retiring: dict[int, float | None] = {}
        self._refused: str | None = None
        self._parts = tuple(parts)
        self._grace_s = grace_s
        self._epoch = epoch
        self._members: dict[str, tuple[Member, float]] = {}
        self._plan = self._planned(0)

    @property
    def plan(self) -> Plan:
        """What all parts are to do now."""
        return self._plan

    @property
    def members(self) -> list[Member]:
        """Who was heard of lately."""
        return [member for member, _ in self._members.values()]

    @property
    def complete(self) -> bool:
        """Whether a gateway and a replica of every part were heard of lately."""
        return {member.part for member in self.members} >= {GATEWAY, *self._parts}

    def adopt(self, edition: Edition) -> None:
        """Serve this one from now on, without a switch: gateways do already.

        What members have loaded besides is kept like what was served before a switch: requests may be under way.
        """
        self._current = edition
        loaded = {number for member in self.members for number in member.loaded}
        self._retiring.update(dict.fromkeys(loaded - {edition.generation}))
        self._renew()

    def begin(self, edition: Edition, now: float) -> None:
        """Have an edition loaded everywhere, to switch to it then; one that is being loaded is given up."""
        self._refused = None
        if edition.generation == self._current.generation:
            self._following = None
        elif tuple(m.name for m in edition.modalities) != tuple(m.name for m in self._current.modalities):
            self._following = None
            self.refuse(
                f"generation {edition.generation} has modalities {[m.name for m in edition.modalities]}, the service "
                f"was started with {[m.name for m in self._current.modalities]}; start it anew"
            )
        else:
            self._following, self._begun = edition, now
            self._retiring.pop(edition.generation, None)
        self._renew()

    def refuse(self, why: str) -> None:
        """Tell why a generation is not served; one that is being loaded before it still will be."""
        self._refused = why
        self._renew()

    def heard(self, member: Member, now: float) -> None:
        """Take note of a member, and do what has become possible."""
        self._members[member.name] = (member, now)
        self.tick(now)

    def left(self, name: str, now: float) -> None:
        """A member stops."""
        self._members.pop(name, None)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Forget members that are gone; switch where all are ready; drop what nobody needs any more."""
        for name in [name for name, (_, heard) in self._members.items() if now - heard > SILENT_S]:
            del self._members[name]
        following = self._following
        if following is not None:
            self._advance(following, now)
        for generation, since in list(self._retiring.items()):
            if any(m.part == GATEWAY and generation in m.loaded for m in self.members):
                self._retiring[generation] = None
            elif since is None:
                self._retiring[generation] = now
            elif now - since > self._grace_s:
                del self._retiring[generation]
        self._renew()

    def _advance(self, following: Edition, now: float) -> None:
        number = following.generation
        needed = [member for member in self.members if member.part in self._parts]
        failures = [f"{m.part}: {m.failed[number]}" for m in needed if number in m.failed]
        if failures:
            self._following = None
            self._refused = f"generation {number} is not served: {failures[0]}"
        elif {m.part for m in needed if number in m.loaded} == set(self._parts) and all(
            number in m.loaded for m in needed
        ):
            self._retiring[self._current.generation] = None
            self._current, self._following = following, None
        elif now - self._begun > LOAD_S:
            self._following = None
            self._refused = f"generation {number} was not loaded everywhere within {LOAD_S / 60:g} minutes"

    def _planned(self, number: int) -> Plan:
        current = self._current.generation
        following = () if self._following is None else (self._following.generation,)
        replicas: list[dict[str, Address]] = []
        for shard in range(len(self._current.shard_rows)):
            ready = [m for m in self.members if m.part == shard_part(shard) and current in m.loaded]
            replicas.append({m.name: m.address for m in sorted(ready, key=lambda m: m.name) if m.address is not None})
        return Plan(
            version=(self._epoch, number),
            current=self._current,
            following=self._following,
            held=tuple(sorted({current, *following, *self._retiring})),
            replicas=tuple(replicas),
            refused=self._refused,
        )

    def _renew(self) -> None:
        """Make a new plan where it would say something else."""
        plan = self._planned(self._plan.version[1] + 1)
        if dataclasses.replace(plan, version=self._plan.version) != self._plan:
            self._plan = plan

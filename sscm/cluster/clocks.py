"""Whether the nodes' clocks agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sscm.cluster.crew import Crew
from sscm.cluster.findings import Finding

PINGS = 5
"""Times each node is asked; the shortest way there and back counts."""
WARN_S = 1.0
"""Seconds above which times in logs, names and metrics of different nodes no longer go together."""
FAIL_S = 900.0
"""Seconds above which S3 refuses whatever a node signs."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A node's clock.

    Args:
        offset: seconds that it is ahead of this command's.
        uncertainty: seconds that this may be wrong by: half the way there and back.
    """

    offset: float
    uncertainty: float


def read_clocks(crew: Crew) -> dict[str, Clock]:
    """Clocks of the nodes that answer; one after the other, so that none waits for another."""
    clocks: dict[str, Clock] = {}
    for name in crew.names:
        for _ in range(PINGS):
            began = time.time()
            answer = crew.of([name]).ask(lambda inspector: inspector.now.remote())[name]
            ended = time.time()
            if answer.error is not None:
                break
            clock = Clock(offset=answer.value - (began + ended) / 2, uncertainty=(ended - began) / 2)
            if name not in clocks or clock.uncertainty < clocks[name].uncertainty:
                clocks[name] = clock
    return clocks


def judge_clocks(clocks: Mapping[str, Clock]) -> Iterator[Finding]:
    """How far each clock is from the one in the middle.

    Args:
        clocks: node's name → clock.
    """
    if not clocks:
        return
    middle = statistics.median_low(clock.offset for clock in clocks.values())
    for node, clock in clocks.items():
        apart = clock.offset - middle
        side = "apart" if abs(apart) < 0.0005 else "ahead" if apart > 0 else "behind"
        seen = f"{abs(apart):.3f} s {side}, ± {clock.uncertainty:.3f} s"
        remedy = "have chrony or systemd-timesyncd set its clock"
        if abs(apart) - clock.uncertainty > FAIL_S:
            seen += "; S3 refuses requests that are signed more than 15 min off"
            yield Finding(status="failed", check="clock", node=node, seen=seen, remedy=remedy)
        elif abs(apart) - clock.uncertainty > WARN_S:
            yield Finding(status="warning", check="clock", node=node, seen=seen, remedy=remedy)
        else:
            yield Finding(status="ok", check="clock", node=node, seen=seen)

"""Environment variables that Ray and its Serve read on each node when they start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sscm import runtime
from sscm.cluster.findings import Finding

COSTS: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "a service's requests go through Python proxies, several times slower than HAProxy",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "a service keeps the slower of Ray Serve's two ways within and between processes",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "each gateway that stops is waited for 30 s",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "a training worker that never joins holds the others for ever",
}
"""Variables of :data:`sscm.runtime.NODE_ENVIRONMENT` that every node wants, and what it costs to go without."""


def judge_environment(environments: Mapping[str, Mapping[str, str | None]]) -> Iterator[Finding]:
    """Which nodes lack variables, or have them otherwise than most.

    Args:
        environments: node's name → variable → value, None where it is not set.
    """
    for node, environment in environments.items():
        sound = True
        for name, cost in COSTS.items():
            value, usual = environment.get(name), _usual(name, environments)
            remedy = f"set {name}={runtime.NODE_ENVIRONMENT[name]} on every node before Ray starts there"
            if value in (None, "", "0"):
                sound = False
                state = "is not set" if value in (None, "") else "is 0"
                yield Finding(
                    status="warning", check="environment", node=node, seen=f"{name} {state}: {cost}", remedy=remedy
                )
            elif value != usual:
                sound = False
                seen = f"{name} is {value}, elsewhere {usual}: nodes behave differently"
                yield Finding(status="warning", check="environment", node=node, seen=seen, remedy=remedy)
        if sound:
            yield Finding(status="ok", check="environment", node=node, seen=f"all {len(COSTS)} variables are set")


def _usual(name: str, environments: Mapping[str, Mapping[str, str | None]]) -> str | None:
    """The value that most nodes have that have one."""
    counts = Counter(value for told in environments.values() if (value := told.get(name)) not in (None, "", "0"))
    return counts.most_common(1)[0][0] if counts else None

"""Whether all nodes run the same software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sscm.cluster.findings import COMMAND, Finding
from sscm.cluster.survey import CODE


def judge_versions(versions: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Who departs from the others. What most have is taken for right; among equals, what this command has.

    Builds of one version for other devices, as ``2.14.1+cpu``, count as the same.

    Args:
        versions: node's name, or :data:`COMMAND` → package → version.
    """
    usual = {package: _usual(package, versions) for package in next(iter(versions.values()))}
    seen = ", ".join(f"{package} {value}" for package, value in usual.items())
    for node, found in versions.items():
        odd = {package: value for package, value in found.items() if _release(value) != _release(usual[package])}
        if not odd:
            yield Finding(status="ok", check="versions", node=node, seen=seen)
            continue
        told = "; ".join(f"{package} {value}, elsewhere {usual[package]}" for package, value in odd.items())
        remedy = (
            "the same sources everywhere: roll one image out, or submit with --working-dir"
            if set(odd) == {CODE}
            else f"install the same {' and '.join(odd)} everywhere: one image for all nodes; see cluster/README.md"
        )
        yield Finding(status="failed", check="versions", node=node, seen=told, remedy=remedy)


def _usual(package: str, versions: Mapping[str, Mapping[str, str]]) -> str:
    counts = Counter(_release(found[package]) for found in versions.values())
    most = max(counts.values())
    ours = versions.get(COMMAND, {}).get(package)
    if ours is not None and counts[_release(ours)] == most:
        return ours
    return next(found[package] for found in versions.values() if counts[_release(found[package])] == most)


def _release(version: str) -> str:
    return version.partition("+")[0]

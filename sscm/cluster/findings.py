"""What a check found: one row for each node it looked at, with what was seen and what mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]

CLUSTER = "cluster"
"""Stands for a node in what concerns the cluster as a whole."""
COMMAND = "this command"
"""Stands for a node in what concerns the process that the check was started by."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row.

    Args:
        status: ``failed`` where work would fail, ``warning`` where it would be slower or may fail.
        check: what was looked at.
        node: name of the node, :data:`CLUSTER` or :data:`COMMAND`.
        seen: what was found there.
        remedy: what mends it; empty where nothing is wrong.
    """

    status: Status
    check: str
    node: str
    seen: str
    remedy: str = ""


def counted(findings: Iterable[Finding]) -> dict[Status, int]:
    """How many findings there are of each status."""
    found = Counter(finding.status for finding in findings)
    return {"ok": found["ok"], "warning": found["warning"], "failed": found["failed"]}

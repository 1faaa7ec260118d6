"""How much of an approximate index a search looks at, and what that was measured to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TUNED_K = 10
"""Answers that recall is measured for; more take candidates in proportion."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much of an approximate index a search looks at.

    Args:
        probes: lists.
        candidates: rows scored in float32, for :data:`TUNED_K` answers.
        widest: the same, of queries that need more.
        margin: of scores; a query needs more where the k-th best is not that much above the last candidate's code.
        crowded: the same with the widest; of a query that needs more even then, all rows are scanned.
    """

    probes: int
    candidates: int
    widest: int
    margin: float
    crowded: float = -3e38


@dataclass(frozen=True, kw_only=True)
class ApproximateInfo:
    """An approximate index of one modality of a segment, as the manifest of a generation names it.

    Args:
        file: in the segment's folder.
        lists: inverted lists.
        effort: what reaches the recall asked for.
        asked: recall@10 asked for.
        recall: modality of the query → recall@10 measured with queries that nothing was tuned on.
        queries: how many these were.
    """

    file: str
    lists: int
    effort: Effort
    asked: float
    recall: Mapping[str, float]
    queries: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ApproximateInfo:
        """Read what :func:`dataclasses.asdict` makes of one."""
        return cls(**{**value, "effort": Effort(**value["effort"])})

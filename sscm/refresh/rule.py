"""Whether an index that grew is served: only where nothing that can be noticed got worse."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sscm.refresh.recall import Growth, Recall


def objections(found: Sequence[Growth], tolerance: float, least: float) -> tuple[str, ...]:
    """What speaks against an index that grew; nothing where it may be served.

    In each direction of retrieval, the images that were there must find their partners among more images as well as
    before. New images may be of places where it is harder, but must reach a share of that recall: what is mixed up, of
    other bands or out of register finds nearly none. Both count as worse where they are by more than two standard
    errors of what so few queries can tell; the first from the queries that changed, since they are the same ones.

    Args:
        found: recalls, by direction.
        tolerance: loss of recall that is accepted of images that were there.
        least: share of that recall that new images must reach.
    """
    told = []
    for one in found:
        error = math.sqrt(one.lost + one.gained + 1) / one.before.queries
        if one.after.value < one.before.value - tolerance - 2 * error:
            told.append(_text(one, one.after, "images that were indexed") + "look for duplicates among the new ones")
        if one.new.value < least * one.before.value - 2 * _error(one.before, one.new, least):
            told.append(_text(one, one.new, "new images") + "look at their times, bands and places, or train on them")
    return tuple(told)


def _text(one: Growth, recall: Recall, whose: str) -> str:
    return (
        f"{one.direction}, {whose}: recall@{recall.depth} {recall.value:.3f} of {recall.queries:,} queries, "
        f"{one.before.value:.3f} of {one.before.queries:,} before; "
    )


def _error(before: Recall, new: Recall, least: float) -> float:
    """Standard error of ``new - least * before``.

    Each is counted with one success and one failure more, so that a share of 1 of few queries is not taken for certain
    (Agresti, Caffo 2000).
    """
    variances = []
    for recall in (before, new):
        n = recall.queries + 2
        p = (recall.value * recall.queries + 1) / n
        variances.append(p * (1 - p) / n)
    return math.sqrt(least**2 * variances[0] + variances[1])

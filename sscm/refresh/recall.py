"""Partner recall of an index that grew, before and after: of its own images among more, and of the new ones.

Images of the training split do not ask: a model finds the partners of what it was trained on more often, and no new
image can do as well. New ones ask whatever their split, since the model has seen none of them.

An index that an append made has the rows of the one before and new ones. So the ranks after are the ranks before plus
what the new rows put in front, and every row is compared once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sscm.evaluation.metrics import TIE, chunks
from sscm.evaluation.protocols import Direction
from sscm.index.segment import Segment

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
TRAINED_ON = "train"
BLOCK = 65_536
"""Archive images that are compared with the queries at a time."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Partner recall of some queries.

    Args:
        queries: how many.
        archive: images they were asked of.
        depth: answers that were looked at.
        value: share of the queries whose partner was among them.
    """

    queries: int
    archive: int
    depth: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What one direction of retrieval came to when an index grew.

    Args:
        direction: which.
        before: images that were indexed and not trained on, among all that were.
        after: the same queries, among all; as deep in proportion to the images as before.
        new: images that came, among all, as deep as ``after``.
        lost: queries that found their partner before, and after no more.
        gained: the other way round.
    """

    direction: Direction
    before: Recall
    after: Recall
    new: Recall
    lost: int
    gained: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Queries:
    """Some pairs of segments: their embeddings in two modalities, float32 [q, d]."""

    asked: Vectors
    partners: Vectors


def growth(
    before: Sequence[Segment], new: Sequence[Segment], direction: Direction, depth: int, most: int
) -> Growth | None:
    """Partner recall in one direction before and after an index grew.

    Args:
        before: segments that were there.
        new: segments that came.
        direction: two modalities of theirs.
        depth: answers that are looked at before.
        most: queries of each kind, drawn from the pairs that have both modalities; of the same segments the same ones.
            Where all pairs before are of the training split, these.

    Returns:
        The recalls; None where the pairs before, or the new ones, have none with both modalities: nothing to compare.
    """
    both = [[np.flatnonzero(s.has(direction.query) & s.has(direction.target)) for s in part] for part in (before, new)]
    untrained = [rows[_split(s)[rows] != TRAINED_ON] for s, rows in zip(before, both[0], strict=True)]
    known = _draw(before, untrained if any(map(len, untrained)) else both[0], direction, most)
    fresh = _draw(new, both[1], direction, most)
    if not len(known.asked) or not len(fresh.asked):
        return None
    images = [sum(int(np.count_nonzero(s.has(direction.target))) for s in segments) for segments in (before, new)]
    total = sum(images)
    deep = max(depth, round(depth * total / images[0]))
    ahead = _ahead(known, before, direction.target)
    ranks_before = _ranks(ahead)
    ranks_after = _ranks(ahead + _ahead(known, new, direction.target))
    ranks_new = _ranks(_ahead(fresh, [*before, *new], direction.target))
    return Growth(
        direction=direction,
        before=_recall(ranks_before, images[0], depth),
        after=_recall(ranks_after, total, deep),
        new=_recall(ranks_new, total, deep),
        lost=int(np.count_nonzero((ranks_before <= depth) & (ranks_after > deep))),
        gained=int(np.count_nonzero((ranks_before > depth) & (ranks_after <= deep))),
    )


def _recall(ranks: Counts, archive: int, depth: int) -> Recall:
    return Recall(queries=len(ranks), archive=archive, depth=depth, value=float(np.mean(ranks <= depth)))


def _split(segment: Segment) -> npt.NDArray[np.object_]:
    return np.asarray(segment.rows["split"].to_numpy(), np.object_)


def _draw(segments: Sequence[Segment], rows: Sequence[Counts], direction: Direction, most: int) -> _Queries:
    """At most so many pairs of some rows of each segment, each as likely as any other."""
    total = sum(map(len, rows))
    chosen = np.sort(np.random.default_rng(0).choice(total, min(most, total), replace=False))
    parts = np.split(chosen, np.searchsorted(chosen, np.cumsum([len(found) for found in rows])[:-1])) if rows else []
    starts = np.cumsum([0, *map(len, rows)])
    taken = [(s, found[part - start]) for s, found, part, start in zip(segments, rows, parts, starts, strict=False)]
    dimension = segments[0].vectors(direction.query).shape[1] if segments else 0
    empty = np.empty((0, dimension), np.float32)
    return _Queries(
        asked=np.concatenate([empty, *(s.vectors(direction.query)[picked] for s, picked in taken)]),
        partners=np.concatenate([empty, *(s.vectors(direction.target)[picked] for s, picked in taken)]),
    )


def _ahead(queries: _Queries, segments: Sequence[Segment], target: str) -> Counts:
    """For each query, archive images that score more than its partner, and that tie with it: int64 [2, q]."""
    own = np.einsum("qd,qd->q", queries.asked, queries.partners)[:, None]
    counts = np.zeros((2, len(own)), np.int64)
    for segment in segments:
        present = segment.has(target)
        vectors = segment.vectors(target)
        for start in range(0, len(segment), BLOCK):
            block = vectors[start : start + BLOCK][present[start : start + BLOCK]]
            for part in chunks(len(own), len(block)):
                scores = queries.asked[part] @ block.T
                counts[0, part] += np.count_nonzero(scores > own[part] + TIE, axis=1)
                counts[1, part] += np.count_nonzero(np.abs(scores - own[part]) <= TIE, axis=1)
    return counts


def _ranks(ahead: Counts) -> Counts:
    """As :func:`sscm.evaluation.metrics.partner_ranks` ranks, the partner itself one of those that tie."""
    return np.asarray(1 + ahead[0] + ahead[1] // 2)

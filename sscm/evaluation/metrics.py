"""Rankings and their metrics as functions of arrays, chunked: memory stays bounded for 100,000 × 100,000 images.

Embeddings are unit-norm float32, so a score is a cosine. Labels are bitmaps: bool [images, classes]. ``excluded`` gives
for each query the one archive row that may not be an answer (its own pair), or −1 where there is none. What answers are
worth by labels and class fractions is in :mod:`sscm.evaluation.relevance`, how embeddings lie in
:mod:`sscm.evaluation.geometry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.errors import EvaluationError

SCORES_PER_CHUNK = 1 << 22
"""Query–archive scores held at a time: 16 MB in float32, 32 MB as sort keys."""
TIE = 1e-6
"""Scores this near to each other are a tie: float32 products of equal vectors differ by about as much."""

_LAST = np.iinfo(np.int64).max - 1
"""Sort key behind all others, its lowest bit free."""

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Bitmap = npt.NDArray[np.bool_]


def partner_ranks(queries: Vectors, archive: Vectors, partners: Rows | None = None) -> Rows:
    """Rank of each query's own partner among all archive images.

    Ties are counted fairly: among images whose score ties with the partner's, the partner takes the mean place, rounded
    up. An encoder that maps everything to one point so gets the median rank of chance, and no recall.

    Args:
        queries: float32 [q, d], unit-norm.
        archive: float32 [n, d], unit-norm, in the other modality.
        partners: int64 [q], archive row of each query's partner; by default row i's partner is row i.

    Returns:
        int64 [q], 1 = first.

    Raises:
        EvaluationError: shapes do not fit, an embedding is not finite, or a partner is no row of the archive.
    """
    _check(queries, archive)
    if partners is None:
        if len(queries) != len(archive):
            raise EvaluationError(
                f"{len(queries)} queries and {len(archive)} archive images; expected as many, row i partner of row i"
            )
        partners = np.arange(len(queries))
    if len(partners) != len(queries) or (len(partners) and not 0 <= partners.min() <= partners.max() < len(archive)):
        raise EvaluationError(f"partners: expected one archive row, 0 to {len(archive) - 1}, for each query")
    ranks = np.empty(len(queries), np.int64)
    for part in chunks(len(queries), len(archive)):
        scores = queries[part] @ archive.T
        own = np.take_along_axis(scores, partners[part, None], axis=1)
        better = np.count_nonzero(scores > own + TIE, axis=1)
        tied = np.count_nonzero(np.abs(scores - own) <= TIE, axis=1) - 1  # less the partner itself
        ranks[part] = 1 + better + (tied + 1) // 2
    return ranks


def recall_at(ranks: Rows, k: int) -> float:
    """Partner recall@k: the share of queries whose partner is among the first k.

    Args:
        ranks: int64 [q] of :func:`partner_ranks`.
        k: answers looked at.

    Raises:
        EvaluationError: there are no queries.
    """
    return float(np.mean(_some(ranks, "ranks") <= k))


def median_rank(ranks: Rows) -> float:
    """Median of the partners' ranks, 1 is perfect.

    Raises:
        EvaluationError: there are no queries.
    """
    return float(np.median(_some(ranks, "ranks")))


def chance_recall(archive: int, k: int) -> float:
    """Partner recall@k expected of a random order of ``archive`` images: k/n."""
    return min(k, archive) / archive


def chance_median_rank(archive: int) -> float:
    """Median rank expected of a random order of ``archive`` images: (n + 1)/2."""
    return (archive + 1) / 2


def top_k(queries: Vectors, archive: Vectors, k: int, excluded: Rows | None = None) -> tuple[Vectors, Rows]:
    """The k archive images nearest to each query, best first; equal scores in order of their rows.

    Args:
        queries: float32 [q, d], unit-norm.
        archive: float32 [n, d], unit-norm.
        k: answers wanted.
        excluded: int64 [q], the archive row that each query may not find, −1 for none.

    Returns:
        Scores float32 [q, k] and rows int64 [q, k].

    Raises:
        EvaluationError: shapes do not fit, an embedding is not finite, or the archive has fewer than k images to find.
    """
    _check(queries, archive)
    findable = len(archive) - (excluded is not None and bool((excluded >= 0).any()))
    if not 1 <= k <= findable:
        raise EvaluationError(f"k = {k} of {findable} archive images that can be found; expected 1 to {findable}")
    best = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    for part in chunks(len(queries), len(archive)):
        scores = queries[part] @ archive.T
        if excluded is not None:
            some = np.flatnonzero(excluded[part] >= 0)
            scores[some, excluded[part][some]] = -np.inf
        kth = np.partition(scores, len(archive) - k, axis=1)[:, len(archive) - k]
        query, row = np.nonzero(scores >= kth[:, None])  # the first k, and all that tie with the last of them
        score = scores[query, row]
        order = np.lexsort((row, -score, query))
        starts = np.searchsorted(query, np.arange(len(scores)))
        first = order[starts[:, None] + np.arange(k)]
        rows[part], best[part] = row[first], score[first]
    return best, rows


def mean_average_precision(
    queries: Vectors,
    archive: Vectors,
    query_labels: Bitmap,
    archive_labels: Bitmap,
    excluded: Rows | None = None,
) -> float | None:
    """Mean average precision over the full ranking; relevant is what shares at least one label with the query.

    AP = the mean, over a query's relevant images, of the precision at each one's rank (no interpolation, no cut-off).
    Queries without a relevant image that they may find have no AP and are left out of the mean.

    Args:
        queries: float32 [q, d], unit-norm.
        archive: float32 [n, d], unit-norm.
        query_labels: bool [q, c].
        archive_labels: bool [n, c].
        excluded: int64 [q], the archive row that each query may not find, −1 for none.

    Returns:
        0 to 1; None where no query has a relevant image.

    Raises:
        EvaluationError: shapes do not fit, or an embedding is not finite.
    """
    _check(queries, archive)
    classes_of_query, classes_of_archive = query_labels.astype(np.float32), archive_labels.astype(np.float32).T
    places = np.arange(1, len(archive) + 1)
    total, counted = 0.0, 0
    for part in chunks(len(queries), len(archive)):
        relevant = classes_of_query[part] @ classes_of_archive > 0  # [chunk, n]
        keys = _order_keys(queries[part] @ archive.T)
        if excluded is not None:
            some = np.flatnonzero(excluded[part] >= 0)
            relevant[some, excluded[part][some]] = False
            keys[some, excluded[part][some]] = _LAST  # irrelevant and behind all others: as if it were not there
        keys |= relevant
        keys.sort(axis=1)
        hits = (keys & 1).astype(np.bool_)
        found = hits.cumsum(axis=1)
        has_relevant = found[:, -1] > 0
        precision = (hits * (found / places)).sum(axis=1)
        total += float((precision[has_relevant] / found[has_relevant, -1]).sum())
        counted += int(has_relevant.sum())
    return total / counted if counted else None


def chunks(queries: int, archive: int) -> Iterator[slice]:
    """Parts of the queries whose scores with the archive, or anything of that size, are held at a time."""
    size = max(1, SCORES_PER_CHUNK // max(archive, 1))
    for start in range(0, queries, size):
        yield slice(start, start + size)


def _order_keys(scores: Vectors) -> npt.NDArray[np.int64]:
    """Unique even integers that ascend as scores [q, n] descend, ties by row: 32 bits of score, 31 of row, a free one.

    One sort of these is faster than an argsort of the scores, and carries what the free bit says along.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns −0 into 0
    # IEEE 754 orders like sign and magnitude; flipping the magnitude of negatives makes that two's complement.
    ascending = bits ^ (bits >> 31 & np.int32(0x7FFFFFFF))
    keys = (~ascending).astype(np.int64)
    keys <<= 32
    keys |= np.arange(scores.shape[1], dtype=np.int64) << 1
    return keys


def _some(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    if len(values) == 0:
        raise EvaluationError(f"no {what}; expected at least one")
    return values


def _check(queries: Vectors, archive: Vectors) -> None:
    if queries.ndim != 2 or archive.ndim != 2 or queries.shape[1] != archive.shape[1]:
        raise EvaluationError(f"queries {queries.shape} and archive {archive.shape}; expected [q, d] and [n, d]")
    for name, vectors in (("queries", queries), ("archive", archive)):
        if not len(vectors):
            raise EvaluationError(f"{name}: no embeddings; expected at least one")
        if not np.isfinite(vectors).all():
            raise EvaluationError(f"{name}: embeddings that are not finite; the encoder that made them has diverged")

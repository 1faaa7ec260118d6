"""What makes an answer: inner products in double precision, summed in one order, rounded to float32, ties by row.

A float32 product differs in its last bits with the shape of the batch and the number of threads. Whatever finds the
candidates, their scores are computed here, always in the same way, so that answers never depend on how they were found.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sscm.errors import QueryError
from sscm.index.openmp import faiss

RANK_ROWS = 65_536
"""Candidates ranked at a time; bounds the memory of their float64 copies."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def rank(vectors: Floats, queries: Floats, owners: Rows, rows: Rows, k: int) -> tuple[Floats, Rows]:
    """The k best of each query's candidates.

    Args:
        vectors: float32 [n, d].
        queries: float32 [q, d].
        owners: int64 [c], the query that each candidate is one of; every query has at least k.
        rows: int64 [c], the candidates' rows, none twice for a query.
        k: answers a query.

    Returns:
        Scores float32 [q, k] and rows int64 [q, k], best first, equal scores by row.
    """
    exact = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), RANK_ROWS):
        part = slice(start, start + RANK_ROWS)
        # Products of two float32 are exact in float64; only their sum rounds, row by row in one fixed order.
        products = vectors[rows[part]].astype(np.float64)
        products *= queries[owners[part]]
        exact[part] = products.sum(axis=1)
    order = np.lexsort((rows, -exact, owners))
    first = np.searchsorted(owners[order], np.arange(len(queries)))
    chosen = order[first[:, None] + np.arange(k)]
    return exact[chosen], rows[chosen]


def inner_products(vectors: Floats, queries: Floats, rows: Rows) -> Floats:
    """Float32 inner products [q, c] of each query with rows int64 [q, c]; -inf where a row is -1."""
    scores = np.empty(rows.shape, np.float32)
    rows = np.ascontiguousarray(rows)
    pointer = faiss.swig_ptr
    faiss.fvec_inner_products_by_idx(
        pointer(scores),
        pointer(np.ascontiguousarray(queries)),
        pointer(vectors),
        pointer(rows),
        vectors.shape[1],
        len(queries),
        rows.shape[1],
    )
    scores[rows < 0] = -np.inf
    return scores


def rounding(queries: Floats, longest: float) -> npt.NDArray[np.float64]:
    """The most by which a float32 score and the float64 score rounded to float32 can differ: float64 [q].

    |fl(x·y) - x·y| <= d u / (1 - d u) · |x| |y| in any order of summation (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, section 3.1), and half as much again covers that this bound is rounded itself. The last term
    covers products too small for a normal float32.

    Args:
        queries: float32 [q, d].
        longest: length of the longest row.
    """
    dimension = queries.shape[1]
    size = dimension * _UNIT
    scale = np.linalg.norm(queries.astype(np.float64), axis=1) * longest
    return np.asarray(1.5 * ((size / (1 - size) + 2 * _UNIT) * scale + dimension * 2.0**-125))


def check_queries(queries: npt.NDArray[np.floating], dimension: int, k: int) -> Floats:
    """Queries as float32 [q, d].

    Raises:
        QueryError: k < 1, wrong dimension, a value that is not finite in float32, a query of norm zero.
    """
    if k < 1:
        raise QueryError(f"k = {k}; expected at least 1")
    given = np.asarray(queries)
    if given.ndim != 2 or given.shape[1] != dimension or given.dtype.kind not in "fiu":
        raise QueryError(f"queries: {given.dtype} {given.shape}; expected numbers of shape [queries, {dimension}]")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(given, np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise QueryError(f"query {int(np.argmin(finite))} has a value that is NaN or infinite; expected finite float32")
    empty = ~values.any(axis=1)
    if empty.any():
        raise QueryError(f"query {int(np.argmax(empty))} has norm zero; expected a direction")
    return values

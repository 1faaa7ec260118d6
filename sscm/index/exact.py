"""Exact search: every vector is scanned by matrix product, and the best are ranked again in double precision.

A float32 product differs in its last bits with the shape of the batch and the number of threads. So the scan only
finds candidates: every row whose float32 score lies within the rounding error of the k-th best. Their scores are then
computed one by one in float64, always in the same way, and rounded to float32. The answer is the same for any batch,
block and thread count, and equal to a float64 scan of everything.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from sscm.errors import IntegrityError, QueryError

BLOCK_ROWS = 16_384
"""Rows scanned at a time: block, queries and scores stay in a core's cache."""
QUERY_ROWS = 64
"""Queries scanned at a time."""
GROUP_ROWS = 64
"""Rows of which only the best score is looked at first: a maximum is some ten times cheaper than a sort."""
RANK_ROWS = 65_536
"""Candidates ranked at a time; bounds the memory of their float64 copies."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Bitmap = npt.NDArray[np.bool_]
_Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ExactScan:
    """Inner-product search over a matrix.

    Args:
        vectors: float32 [n, d], C order; may be memory-mapped, is never copied as a whole.
        threads: CPU threads of a search.

    Raises:
        IntegrityError: the vectors are of another dtype or shape, or one is not finite.
    """

    def __init__(self, vectors: Floats, threads: int = 1) -> None:
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.flags.c_contiguous:
            raise IntegrityError(
                f"vectors: {vectors.dtype} {vectors.shape}; expected float32 [rows, dimension] in C order"
            )
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="exact-scan")
        self._vectors = vectors
        self._tensor = _tensor(vectors)
        self._longest = self._largest_norm()

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    def search(self, queries: Floats, k: int, allowed: Bitmap | None = None) -> tuple[Floats, Rows]:
        """The k rows of largest inner product with each query.

        Args:
            queries: float32 [q, d].
            k: answers a query, at least 1.
            allowed: bool [n], the rows that may be returned; None for all.

        Returns:
            Scores float32 [q, k'] and rows int64 [q, k'], k' = min(k, rows allowed), best first, equal scores by row.
            A score is the float64 inner product rounded to float32.

        Raises:
            QueryError: k < 1, wrong dimension, a value that is not finite in float32, a query of norm zero, or one so
                long that its scores do not fit into float32.
        """
        queries = check_queries(queries, self.dimension, k)
        self._require_range(queries)
        if allowed is not None and allowed.shape != (len(self),):
            raise QueryError(f"allowed has shape {allowed.shape}; expected ({len(self)},), one a row")
        available = len(self) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, available)
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        if k == 0:
            return scores, rows
        if available == len(self):
            allowed = None
        with torch.inference_mode():
            for start in range(0, len(queries), QUERY_ROWS):
                part = slice(start, start + QUERY_ROWS)
                owners, candidates = self._candidates(queries[part], k, allowed, available)
                scores[part], rows[part] = self._rank(queries[part], owners, candidates, k)
        return scores, rows

    def _candidates(self, queries: Floats, k: int, allowed: Bitmap | None, available: int) -> tuple[Rows, Rows]:
        """Pairs (query, row) that hold every true answer.

        With e the most by which a float32 score is off, k rows score at least t - e where k of them scored t in
        float32. A true answer then scores at least t - e too, and at least t - 2 e in float32.
        """
        wanted = torch.from_numpy(queries)
        margin = torch.from_numpy(self._margin(queries))
        # Maxima of groups bound the k-th best from below: k groups hold k rows at least as good. Groups are smaller
        # for large k, so that there are enough of them.
        group = max(1, min(GROUP_ROWS, 2 ** int(np.log2(max(1, available // (4 * k))))))
        blocks = range(0, len(self), BLOCK_ROWS)

        def scan(worker: int) -> tuple[torch.Tensor, list[_Found]]:
            mine = blocks[worker :: self.threads]
            with _one_thread(), torch.inference_mode():
                return self._scan_blocks(wanted, margin, k, group, mine, allowed)

        # Threads of our own, each with whole blocks: torch's would meet after every small step of every block.
        results = [scan(0)] if self.threads == 1 else list(self._pool.map(scan, range(self.threads)))
        best = torch.cat([bests for bests, _ in results], 1).topk(k, 1, sorted=False).values
        owners, rows, values = (torch.cat(p) for p in zip(*(f for _, found in results for f in found), strict=True))
        kept = values >= (best.amin(1) - margin)[owners]
        return owners[kept].numpy(), rows[kept].numpy()

    def _scan_blocks(
        self, queries: torch.Tensor, margin: torch.Tensor, k: int, group: int, starts: range, allowed: Bitmap | None
    ) -> tuple[torch.Tensor, list[_Found]]:
        """Lower bounds of the k best float32 scores [q, k] of some blocks, and their candidates (query, row, score)."""
        best = torch.full((len(queries), k), -torch.inf)
        found: list[_Found] = []
        for start in starts:
            scores, places = self._scores(queries, start, None if allowed is None else allowed[start:][:BLOCK_ROWS])
            if scores.shape[1] % group:
                scores = torch.nn.functional.pad(scores, (0, -scores.shape[1] % group), value=-torch.inf)
            groups = scores.view(len(queries), -1, group)
            maxima = groups.amax(2)
            best = torch.cat((best, maxima), 1).topk(k, 1, sorted=False).values
            least = best.amin(1) - margin
            owner, which = torch.nonzero(maxima >= least[:, None], as_tuple=True)
            inside = groups[owner, which]
            hit, place = torch.nonzero((inside >= least[owner, None]) & (inside > -torch.inf), as_tuple=True)
            row = which[hit] * group + place
            found.append((owner[hit], (row if places is None else places[row]) + start, inside[hit, place]))
        return best, found

    def _scores(
        self, queries: torch.Tensor, start: int, allowed: Bitmap | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """float32 scores [q, rows] of a block, and the rows' places in it where they are not all its rows."""
        block = self._tensor[start : start + BLOCK_ROWS]
        if allowed is None:
            return queries @ block.T, None
        if np.count_nonzero(allowed) * 4 > len(allowed):
            bias = torch.zeros(len(allowed)).masked_fill_(torch.from_numpy(~allowed), -torch.inf)
            return torch.addmm(bias, queries, block.T), None
        places = torch.from_numpy(np.flatnonzero(allowed))
        return queries @ block[places].T, places

    def _rank(self, queries: Floats, owners: Rows, rows: Rows, k: int) -> tuple[Floats, Rows]:
        exact = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), RANK_ROWS):
            part = slice(start, start + RANK_ROWS)
            # Products of two float32 are exact in float64; only their sum rounds, row by row in one fixed order.
            products = self._vectors[rows[part]].astype(np.float64)
            products *= queries[owners[part]]
            exact[part] = products.sum(axis=1)
        order = np.lexsort((rows, -exact, owners))
        first = np.searchsorted(owners[order], np.arange(len(queries)))
        chosen = order[first[:, None] + np.arange(k)]
        return exact[chosen], rows[chosen]

    def _require_range(self, queries: Floats) -> None:
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        if len(norms) and norms.max() * self._longest > 2.0**126:
            raise QueryError(f"query {int(norms.argmax())} has norm {norms.max():.3g}; expected a unit vector")

    def _margin(self, queries: Floats) -> Floats:
        """Twice the most by which a float32 score and the float64 score rounded to float32 can differ: float32 [q].

        |fl(x·y) - x·y| <= d u / (1 - d u) · |x| |y| in any order of summation (Higham, Accuracy and Stability of
        Numerical Algorithms, 2002, section 3.1), and half as much again covers that this bound is rounded itself. The
        last term covers products too small for a normal float32.
        """
        size = self.dimension * _UNIT
        scale = np.linalg.norm(queries.astype(np.float64), axis=1) * self._longest
        error = (size / (1 - size) + 2 * _UNIT) * scale + self.dimension * 2.0**-125
        return np.asarray(3 * error, np.float32)

    def _largest_norm(self) -> float:
        squares = 0.0
        with _one_thread(), torch.inference_mode():
            for start in range(0, len(self), BLOCK_ROWS):
                block = self._tensor[start : start + BLOCK_ROWS].double()
                squares = max(squares, float(block.square().sum(1).amax())) if len(block) else squares
                if not np.isfinite(float(block.sum())):
                    raise IntegrityError(f"vectors {start} to {start + len(block)}: one is not finite")
        return float(np.sqrt(squares))


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


def _tensor(values: Floats) -> torch.Tensor:
    with warnings.catch_warnings():
        # A memory-mapped file is read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch from starting threads for what the calling thread does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

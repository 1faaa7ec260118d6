"""Approximate search: inverted lists of 4-bit codes propose rows, exact scores choose among them.

Rows are projected on the directions that their scan form keeps, dealt to the nearest of some thousand centroids, and
what is left of each coordinate is coded in 4 bits, 32 bytes for 64 coordinates (Jégou, Douze, Schmid, Product
quantization for nearest neighbor search, PAMI 2011; André, Kermarrec, Le Scouarnec, Quicker ADC, PAMI 2019; both as
FAISS has them). A query looks into the lists of the nearest centroids (``probes``); the best ``candidates`` by their
codes are scored in float32, and ranked as an exact search ranks. Where the k-th of them is hardly better than what the
last candidate's code promises, more may be hidden behind the errors of codes: that query, and only it, takes ``widest``
candidates from twice as many lists, and has all rows scanned where these do not tell either. How many of each are
needed for a recall is measured when the index is built (:mod:`sscm.index.tuning`), not known beforehand.
"""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sscm.errors import IntegrityError
from sscm.index.effort import TUNED_K, Effort
from sscm.index.exact import ExactScan, ScanCounts
from sscm.index.openmp import faiss, threads
from sscm.index.passing import Bitmap, Passing
from sscm.index.ranking import Floats, Rows, check_queries, inner_products, rank, rounding
from sscm.index.scan_form import ScanForm

LIST_ROWS = 64
"""Training rows of a list."""
ITERATIONS = 8
"""Of k-means: more changed recall by less than its error of measurement."""
LINKS = 32
"""Of the graph that finds the nearest centroids."""
EXACT_ROWS = 100_000
"""Where a filter passes at most so many rows, and not most of them, an exact scan of these is sooner done."""
EXACT_SHARE = 0.1
"""Where it passes no larger share, so many more lists are to be looked into that a scan is as fast."""
SPREAD = 2
"""A filtered search looks at so many times the rows that pass: their neighbours lie in more lists than those of all."""
REACH = 2
"""It looks at most into so many times the lists that would do if what passes were spread evenly."""
MOST_SHARE = 0.05
"""Where candidates are more than this share of the rows, all are scanned exactly."""
SEED = 0


class ApproximateIndex:
    """Inverted lists over rows of a matrix.

    Args:
        lists: the FAISS index.
        basis: float32 [d, w], what rows and queries are projected on.
    """

    def __init__(self, lists: faiss.IndexIVFPQFastScan, basis: Floats) -> None:
        self._lists = lists
        self._basis = basis
        self._list_of_row: npt.NDArray[np.int32] | None = None
        self._passing: weakref.WeakKeyDictionary[Passing, Rows] = weakref.WeakKeyDictionary()
        self._made: dict[int, tuple[faiss.SearchParametersHNSW, faiss.SearchParametersIVF]] = {}
        coarse = faiss.downcast_index(lists.quantizer)
        self._squares = np.square(coarse.reconstruct_n(0, lists.nlist)).sum(axis=1)

    @property
    def lists(self) -> faiss.IndexIVFPQFastScan:
        """The lists as FAISS has them."""
        return self._lists

    @property
    def count(self) -> int:
        """Inverted lists."""
        return int(self._lists.nlist)

    @property
    def rows(self) -> int:
        """Rows in them."""
        return int(self._lists.ntotal)

    def propose(
        self, queries: Floats, probes: int, candidates: int, allowed: Passing | None = None
    ) -> tuple[Floats, Rows]:
        """Rows whose codes promise most.

        Args:
            queries: float32 [q, d].
            probes: lists looked into; with a filter, as many of the nearest as have :data:`SPREAD` times so
                many rows that pass it.
            candidates: rows wanted.
            allowed: rows that may be proposed; None for all that are in the lists.

        Returns:
            Estimated scores float32 [q, candidates] and rows int64, best first, -1 where there are no more; none at all
            for a query that would have to look into too many lists.
        """
        projected = np.ascontiguousarray(queries @ self._basis)
        enough = SPREAD * probes * self.rows / self.count
        if allowed is not None:
            probes = int(np.ceil(REACH * SPREAD * probes * self.rows / allowed.count))
        probes = min(probes, self.count)
        reach, parameters = self._parameters(probes)
        pointer = faiss.swig_ptr
        distances = np.empty((len(queries), probes), np.float32)
        nearest = np.empty((len(queries), probes), np.int64)
        self._lists.quantizer.search_c(
            len(queries), pointer(projected), probes, pointer(distances), pointer(nearest), reach
        )
        # Lists are those of the nearest centroids; what codes add to is the inner product with a centroid.
        offset = np.square(projected).sum(axis=1)[:, None] + self._squares[nearest] - distances
        offset = np.ascontiguousarray(offset / 2, np.float32)
        reached = np.ones(len(queries), np.bool_)
        if allowed is not None:
            found = np.cumsum(self._rows_passing(allowed)[nearest], axis=1)
            nearest[:, 1:][found[:, :-1] >= enough] = -1
            reached = (found[:, -1] >= enough) | (probes == self.count)
            selector = faiss.IDSelectorBitmap(allowed.bits)
            parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        scores = np.empty((len(queries), candidates), np.float32)
        rows = np.empty((len(queries), candidates), np.int64)
        self._lists.search_preassigned_c(
            len(queries),
            pointer(projected),
            candidates,
            pointer(nearest),
            pointer(offset),
            pointer(scores),
            pointer(rows),
            False,
            parameters,
        )
        rows[~reached] = -1
        return scores, rows

    def _rows_passing(self, allowed: Passing) -> Rows:
        """Rows of each list that pass a filter, int64 [lists]."""
        if self._list_of_row is None:
            lists = self._lists.invlists
            self._list_of_row = np.zeros(len(allowed.bitmap), np.int32)
            for number in range(self.count):
                size = lists.list_size(number)
                if size:
                    self._list_of_row[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        counts = self._passing.get(allowed)
        if counts is None:
            counts = np.bincount(self._list_of_row[allowed.bitmap], minlength=self.count)
            self._passing[allowed] = counts
        return counts

    def _parameters(self, probes: int) -> tuple[faiss.SearchParametersHNSW, faiss.SearchParametersIVF]:
        """How centroids and lists are searched; made once, since that takes as long as a tenth of a search."""
        found = self._made.get(probes)
        if found is None:
            reach = faiss.SearchParametersHNSW(efSearch=probes + probes // 2)
            found = self._made[probes] = reach, faiss.SearchParametersIVF(nprobe=probes)
        return found

    def save(self, path: Path) -> None:
        """Write a file that :func:`load_approximate` reads."""
        with path.open("wb") as file:
            np.save(file, self._basis, allow_pickle=False)
            np.save(file, faiss.serialize_index(self._lists), allow_pickle=False)


def load_approximate(path: Path, where: str) -> ApproximateIndex:
    """Read what :meth:`ApproximateIndex.save` wrote.

    Args:
        path: a local file.
        where: its name in messages.

    Raises:
        IntegrityError: it is not a whole file of an approximate index.
    """
    try:
        with path.open("rb") as file:
            basis = np.load(file, allow_pickle=False)
            data = np.load(file, allow_pickle=False)
        return ApproximateIndex(faiss.deserialize_index(data), basis)
    except (ValueError, EOFError, OSError, RuntimeError, AttributeError) as error:
        raise IntegrityError(
            f"{where} is not a whole approximate index ({error}); restore it, or run `sscm index` again"
        ) from error


def build_lists(vectors: Floats, form: ScanForm, present: Bitmap, cores: int = 1) -> ApproximateIndex:
    """Deal rows to inverted lists.

    Args:
        vectors: float32 [n, d]; may be memory-mapped.
        form: their scan form, whose directions are used.
        present: bool [n], the rows that lists are to hold.
        cores: CPU threads.
    """
    with threads(cores):
        return _dealt(vectors, form, present)


def _dealt(vectors: Floats, form: ScanForm, present: Bitmap) -> ApproximateIndex:
    rows = np.flatnonzero(present)
    kept = form.basis.shape[1]
    basis = np.zeros((vectors.shape[1], kept + kept % 2), np.float32)
    basis[:, :kept] = form.basis
    width = basis.shape[1]
    lists = lists_of(len(rows))
    sample = vectors[rows[:: max(1, len(rows) // (LIST_ROWS * lists))]] @ basis
    means = faiss.Kmeans(
        width,
        lists,
        niter=ITERATIONS,
        min_points_per_centroid=1,  # of few rows there are few a list, which FAISS would print a warning about
        max_points_per_centroid=2 * LIST_ROWS,
        seed=SEED + 1,
    )
    means.train(sample)
    coarse = faiss.IndexHNSWFlat(width, LINKS)
    coarse.hnsw.efConstruction = 200
    coarse.hnsw.efSearch = LINKS  # of the nearest centroid
    coarse.add(means.centroids)
    index = faiss.IndexIVFPQFastScan(coarse, width, lists, width, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = True  # codes of what centroids leave are finer
    index.train(sample)
    step = 65_536
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        index.add_with_ids(np.ascontiguousarray(vectors[part] @ basis), part)
    # What is read from a file owns its parts; what was put together here does not.
    return ApproximateIndex(faiss.deserialize_index(faiss.serialize_index(index)), basis)


def lists_of(rows: int) -> int:
    """Inverted lists for so many rows: the power of two next to four times their root."""
    return int(2 ** max(0, round(np.log2(4 * np.sqrt(max(rows, 1))))))


class ApproximateScan:
    """Inner-product search through an approximate index, with the interface of an exact one.

    Args:
        vectors: float32 [n, d], C order; may be memory-mapped.
        index: their approximate index.
        effort: how much of it is looked at.
        exact: what answers where the index would not do: few rows allowed, many answers wanted, lists run dry.
    """

    def __init__(self, vectors: Floats, index: ApproximateIndex, effort: Effort, exact: ExactScan) -> None:
        self.counts = ScanCounts()
        self._vectors, self._index, self._effort, self._exact = vectors, index, effort, exact

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    def search(self, queries: Floats, k: int, allowed: Bitmap | Passing | None = None) -> tuple[Floats, Rows]:
        """Nearly always the k rows of largest inner product with each query; scores are exact.

        Args:
            queries: float32 [q, d].
            k: answers a query, at least 1.
            allowed: bool [n], the rows that may be returned; None for all.

        Returns:
            As :meth:`~sscm.index.exact.ExactScan.search`.

        Raises:
            QueryError: as there.
        """
        queries = check_queries(queries, self.dimension, k)
        allowed = Passing(allowed) if isinstance(allowed, np.ndarray) else allowed
        available = len(self) if allowed is None else allowed.count
        k = min(k, available)
        factor = max(1.0, k / TUNED_K)
        wanted = int(self._effort.candidates * factor)
        share = available / self._index.rows
        few = share <= EXACT_SHARE or (share < 0.5 and available <= EXACT_ROWS)
        if few or wanted > MOST_SHARE * available or not len(queries):
            return self._exact.search(queries, max(k, 1), allowed)
        self._exact.require_range(queries)
        restricted = allowed if available < self._index.rows else None
        probes = int(np.ceil(self._effort.probes * np.sqrt(factor)))
        with threads(self._exact.threads):
            owners, rows, known = self._proposed(queries, k, probes, wanted, restricted)
        return self._ranked(queries, k, owners, rows, known, allowed)

    def _proposed(
        self, queries: Floats, k: int, probes: int, wanted: int, allowed: Passing | None
    ) -> tuple[Rows, Rows, Bitmap]:
        """Pairs of query and row that may answer, more of queries that need more, and which queries have enough."""
        owners, rows, known, gap = self._candidates(queries, k, probes, wanted, allowed)
        short = ~(gap > self._effort.margin)
        again = np.flatnonzero(short)
        if len(again):
            most = int(min(max(self._effort.widest * wanted / self._effort.candidates, 2 * wanted), len(self)))
            found = self._candidates(queries[again], k, 2 * probes, most, allowed)
            kept = ~short[owners]
            owners = np.concatenate((owners[kept], again[found[0]]))
            rows = np.concatenate((rows[kept], found[1]))
            # Where even so many are too alike for their codes, all rows are scanned.
            known[again] = found[2] & (found[3] > self._effort.crowded)
            kept = known[owners]
            owners, rows = owners[kept], rows[kept]
        return owners, rows, known

    def _candidates(
        self, queries: Floats, k: int, probes: int, wanted: int, allowed: Passing | None
    ) -> tuple[Rows, Rows, Bitmap, Floats]:
        """Pairs of query and row that may answer; which queries have k; how far the k-th is above the last code."""
        estimates, rows = self._index.propose(queries, probes, wanted, allowed)
        scores = inner_products(self._vectors, queries, rows)
        kth = np.partition(scores, wanted - k, axis=1)[:, wanted - k]
        known = np.isfinite(kth)
        last = np.where(rows[:, -1] >= 0, estimates[:, -1], -np.inf)
        with np.errstate(invalid="ignore"):  # of no candidate at all: not above any margin
            gap = kth - last
        least = kth - 2 * rounding(queries, self._exact.longest)
        owners, places = np.nonzero((scores >= least[:, None]) & known[:, None])
        self.counts.scored += rows.size
        return owners, rows[owners, places], known, gap

    def _ranked(
        self, queries: Floats, k: int, owners: Rows, rows: Rows, known: Bitmap, allowed: Passing | None
    ) -> tuple[Floats, Rows]:
        """Rank candidates; queries that are not known to have k good ones are answered exactly."""
        self.counts.queries += len(queries)
        if known.all():
            return rank(self._vectors, queries, owners, rows, k)
        scores, answers = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        dry = np.flatnonzero(~known)
        scores[dry], answers[dry] = self._exact.search(queries[dry], k, allowed)
        self.counts.widened += len(dry)
        full = np.flatnonzero(known)
        if len(full):
            place = np.cumsum(known) - 1
            scores[full], answers[full] = rank(self._vectors, queries[full], place[owners], rows, k)
        return scores, answers

"""Exact search: an integer scan of every row bounds its score from above; rows that may still answer are looked at.

For a batch of queries, int8 codes of all rows are multiplied with the queries' (:mod:`sscm.index.scan_form`), and of
every 64 rows the largest product is kept. The groups that promise most yield the first rows to score in float32; the
k-th best of them is a score that any answer must reach. Every group, then every row, whose bound does not reach it is
out, proven; the others are scored in float32, and those within rounding of the k-th best in float64, which alone
decides (:mod:`sscm.index.ranking`). So the answer is that of a float64 scan of everything, for any batch, block and
thread count.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sscm.errors import IntegrityError, QueryError
from sscm.index.openmp import threads
from sscm.index.product import int8_product
from sscm.index.ranking import check_queries, inner_products, rank, rounding
from sscm.index.scan_form import QueryCodes, ScanForm, make_scan_form

QUERY_ROWS = 32
"""Queries scanned at a time: the int8 product is fastest there."""
BLOCK_SCORES = 2**18
"""Integer products made at a time: they are still in a core's cache when their maxima are taken."""
HELD_SCORES = 2**23
"""Integer products held until rows are chosen: 32 MB."""
THREAD_SCORES = 2**16
"""Integer products that are worth a thread: less is done sooner than a thread is woken."""
GROUP_ROWS = 64
"""Rows of which only the largest product is looked at first."""
SEED_GROUPS = 16
"""Groups that the first rows to be scored come from, at least."""
FIRST_ROWS = 64
"""Rows of a query scored before anything is proven; a query that needs more is counted as widened."""
DIRECT_ROWS = 4_096
"""So few rows are all scored in float32: a scan of codes would save nothing."""
COLUMNS = 1_024
"""Rows of a query scored together with those of others; of queries with more, the best are found first."""
SPARSE = 16
"""Where a filter passes less than one row in so many, its rows' codes are gathered at once."""
DENSE = 0.75
"""Where it passes no larger share, they are gathered once :data:`GATHER_QUERIES` were asked with it; else it masks."""
GATHER_QUERIES = 8

_NEVER = torch.iinfo(torch.int32).min

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Bitmap = npt.NDArray[np.bool_]


@dataclass
class ScanCounts:
    """What searches did.

    Args:
        queries: queries answered by a scan of codes.
        widened: queries that had to look at more rows than :data:`FIRST_ROWS` before the answer was proven.
        scored: rows scored in float32, over all queries.
    """

    queries: int = 0
    widened: int = 0
    scored: int = 0


@dataclass
class Scratch:
    """Memory that searches write integer products to; one search at a time has it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    _memory: Tensor | None = None

    def scores(self, count: int, device: torch.device) -> Tensor:
        """int32 [count], kept for the next search: fresh pages cost as much as filling them."""
        if self._memory is None or len(self._memory) < count or self._memory.device != device:
            self._memory = torch.empty(count, dtype=torch.int32, device=device)
        return self._memory[:count]


class Passing:
    """Rows that may answer, with their codes once that pays: kept with a filter that many queries share.

    Args:
        bitmap: bool [n], not changed afterwards.
    """

    def __init__(self, bitmap: Bitmap) -> None:
        self.bitmap = bitmap
        self.count = int(np.count_nonzero(bitmap))
        self._asked = 0
        self._places: Tensor | None = None
        self._codes: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        held = self.bitmap.nbytes
        return held + sum(t.numel() * t.element_size() for t in (self._places, self._codes) if t is not None)

    def places(self, device: torch.device) -> Tensor:
        """The rows, int64 [count]."""
        if self._places is None:
            self._places = torch.from_numpy(np.flatnonzero(self.bitmap)).to(device)
        return self._places

    def gathered(self, codes: Tensor, queries: int) -> Tensor | None:
        """Codes of the rows; None while a mask is cheaper, which so many queries more may change."""
        self._asked += queries
        few = self.count * SPARSE < len(codes)
        if self._codes is None and (few or (self.count <= DENSE * len(codes) and self._asked >= GATHER_QUERIES)):
            self._codes = codes.index_select(0, self.places(codes.device))
        return self._codes


class ExactScan:
    """Inner-product search over a matrix.

    Args:
        vectors: float32 [n, d], C order; may be memory-mapped, is never copied as a whole.
        threads: CPU threads of a search.
        form: the vectors' scan form; made if not given.
        scratch: memory shared with other scans; searches that share it wait for one another.
        device: where codes and vectors are scanned; on another device than the CPU they are copied to it.

    Raises:
        IntegrityError: the vectors are of another dtype or shape, one is not finite, or the form is of other vectors.
    """

    def __init__(
        self,
        vectors: Floats,
        threads: int = 1,
        *,
        form: ScanForm | None = None,
        scratch: Scratch | None = None,
        device: str = "cpu",
    ) -> None:
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.flags.c_contiguous:
            raise IntegrityError(
                f"vectors: {vectors.dtype} {vectors.shape}; expected float32 [rows, dimension] in C order"
            )
        self.threads = max(1, threads)
        self.counts = ScanCounts()
        self._form = make_scan_form(vectors) if form is None else form
        if len(self._form) != len(vectors) or self._form.basis.shape[0] != vectors.shape[1]:
            raise IntegrityError(
                f"scan form of {len(self._form)} rows and {self._form.basis.shape[0]} dimensions for vectors "
                f"{vectors.shape}; expected one of the same rows"
            )
        self._scratch = scratch or Scratch()
        self._device = torch.device(device)
        self._vectors = vectors
        self._tensor = _tensor(vectors).to(self._device)
        self._codes = _tensor(self._form.codes).to(self._device)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    @property
    def form(self) -> ScanForm:
        """The vectors' scan form."""
        return self._form

    @property
    def longest(self) -> float:
        """Length of the longest vector, or a little more."""
        return self._form.longest

    def search(self, queries: Floats, k: int, allowed: Bitmap | Passing | None = None) -> tuple[Floats, Rows]:
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
        self.require_range(queries)
        passing = Passing(allowed) if isinstance(allowed, np.ndarray) else allowed
        if passing is not None and passing.bitmap.shape != (len(self),):
            raise QueryError(f"allowed has shape {passing.bitmap.shape}; expected ({len(self)},), one a row")
        available = len(self) if passing is None else passing.count
        k = min(k, available)
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        if k == 0 or not len(queries):
            return scores, rows
        direct = available <= max(DIRECT_ROWS, 8 * k)
        step = max(1, min(QUERY_ROWS, HELD_SCORES // (available if direct else GROUP_ROWS * 2 * k)))
        with torch.inference_mode(), self._scratch.lock, threads(1):
            mask, places, codes = None, None, self._codes
            if passing is not None and available < len(self):
                gathered = None if direct else passing.gathered(codes, len(queries))
                if direct or gathered is not None:
                    places = passing.places(self._device)
                    codes = codes if gathered is None else gathered
                else:
                    mask = torch.from_numpy(passing.bitmap).to(self._device)
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                if direct:
                    found = self._all(queries[part], k, places)
                else:
                    found = self._scan(queries[part], k, codes, places, mask)
                scores[part], rows[part] = rank(self._vectors, queries[part], *found, k)
        return scores, rows

    def _all(self, queries: Floats, k: int, places: Tensor | None) -> tuple[Rows, Rows]:
        """Candidates (query, row) by a float32 product with every row, or with those at ``places``."""
        block = self._tensor if places is None else self._tensor[places]
        scores = torch.from_numpy(queries).to(self._device) @ block.T
        margin = torch.from_numpy(2 * rounding(queries, self._form.longest)).to(self._device)
        least = _at_most(scores.topk(k, 1, sorted=False).values.amin(1), margin)
        owner, row = _true(scores >= least[:, None])
        return owner.cpu().numpy(), (row if places is None else places[row]).cpu().numpy()

    def _scan(
        self, queries: Floats, k: int, codes: Tensor, places: Tensor | None, mask: Tensor | None
    ) -> tuple[Rows, Rows]:
        """Candidates (query, row) by a scan of codes."""
        coded = self._form.queries(queries)
        held = max(GROUP_ROWS, HELD_SCORES // len(queries) // GROUP_ROWS * GROUP_ROWS)
        alone = len(queries) == 1 and self._device.type == "cpu"
        chooser = (_SingleChooser if alone else _Chooser)(self, queries, coded, k, places, mask)
        asked = torch.from_numpy(coded.codes).to(self._device)
        count = min(self.threads, max(1, len(queries) * len(codes) // THREAD_SCORES))
        with threads(count):
            for start in range(0, len(codes), held):
                chooser.choose(self._products(asked, codes[start : start + held], count), start)
        self.counts.queries += len(queries)
        self.counts.scored += chooser.scored
        self.counts.widened += chooser.widened
        return chooser.candidates()

    def _products(self, queries: Tensor, codes: Tensor, threads: int) -> _Products:
        """Integer products of all queries and these rows, and the largest of each group of rows."""
        rows = max(GROUP_ROWS, threads * BLOCK_SCORES // len(queries) // GROUP_ROWS * GROUP_ROWS)
        rows = min(rows, -(-len(codes) // GROUP_ROWS) * GROUP_ROWS)
        blocks = -(-len(codes) // rows)
        scores = self._scratch.scores(blocks * len(queries) * rows, self._device).view(blocks, len(queries), rows)
        maxima = torch.empty(blocks, len(queries), rows // GROUP_ROWS, dtype=torch.int32, device=self._device)
        for block in range(blocks):
            part = codes[block * rows : (block + 1) * rows]
            if len(part) == rows:
                int8_product(queries, part, scores[block])
            else:
                last = torch.empty(len(queries), len(part), dtype=torch.int32, device=self._device)
                int8_product(queries, part, last)
                scores[block].fill_(_NEVER)
                scores[block, :, : len(part)] = last
            torch.amax(scores[block].view(len(queries), -1, GROUP_ROWS), 2, out=maxima[block])
        return _Products(scores.view(blocks, len(queries), -1, GROUP_ROWS), maxima)

    def score(self, queries: Tensor, rows: Tensor) -> Tensor:
        """float32 scores [q, c] of each query with its rows int64 [q, c]; -inf where a row is -1."""
        if self._device.type == "cpu":
            return torch.from_numpy(inner_products(self._vectors, queries.numpy(), rows.numpy()))
        parts = rows.chunk(-(-rows.shape[1] // COLUMNS) or 1, 1)
        found = [torch.bmm(self._tensor[part.clamp(min=0)], queries[:, :, None])[:, :, 0] for part in parts]
        return torch.cat(found, 1).masked_fill_(rows < 0, -torch.inf)

    def require_range(self, queries: Floats) -> None:
        """Refuse queries so long that scores do not fit into float32.

        Raises:
            QueryError: one is; its norm is named.
        """
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        if len(norms) and norms.max() * self._form.longest > 2.0**126:
            raise QueryError(f"query {int(norms.argmax())} has norm {norms.max():.3g}; expected a unit vector")


@dataclass(frozen=True)
class _Products:
    """Integer products int32 [blocks, q, groups, 64] and their maxima int32 [blocks, q, groups]."""

    scores: Tensor
    maxima: Tensor

    def of(self, owners: Tensor, groups: Tensor) -> Tensor:
        """Products int32 [c, 64] of pairs of a query and a group, the latter counted over all blocks."""
        _, queries, inner, _ = self.scores.shape
        block = torch.div(groups, inner, rounding_mode="floor")
        return self.scores.view(-1, GROUP_ROWS).index_select(0, (block * (queries - 1) + owners) * inner + groups)


class _Chooser:
    """Chooses the rows of some queries that may answer, chunk of rows by chunk."""

    def __init__(
        self,
        scan: ExactScan,
        queries: Floats,
        coded: QueryCodes,
        k: int,
        places: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        self._scan, self._k, self._places, self._mask = scan, k, places, mask
        device = scan._device
        self._queries = torch.from_numpy(queries).to(device)
        error = rounding(queries, scan._form.longest)
        self._error = torch.from_numpy(error).to(device)
        # What a bound may fall short of a score: what codes leave open, and what rounding does to both.
        self._slack = torch.from_numpy(coded.slack + 2 * error).to(device)
        self._unit = torch.from_numpy(coded.unit).to(device)
        self._least = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=device)
        # What may answer, query by query, padded with rows -1 of score -inf.
        self._rows = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
        self._scores = torch.empty(len(queries), 0, device=device)
        self._looked = torch.zeros(len(queries), dtype=torch.int64, device=device)

    @property
    def scored(self) -> int:
        """Rows scored in float32."""
        return int(self._looked.sum())

    @property
    def widened(self) -> int:
        """Queries that needed more than the first rows."""
        return int((self._looked > max(FIRST_ROWS, 2 * self._k)).sum())

    def choose(self, products: _Products, start: int) -> None:
        """Look at the rows of a chunk, the first of which is ``start``, that may still answer."""
        maxima = products.maxima.transpose(0, 1).reshape(len(self._queries), -1)
        if not bool(torch.isfinite(self._least).all()):
            self._seed(products, maxima, start)
        threshold = self._threshold()
        owner, group = _true(maxima >= threshold[:, None])
        inside = products.of(owner, group)
        hit, place = _true(inside >= threshold[owner][:, None])
        owners, rows = owner[hit], group[hit] * GROUP_ROWS + place + start
        if self._mask is not None:
            passing = self._mask[rows]
            owners, rows = owners[passing], rows[passing]
        rows = rows if self._places is None else self._places[rows]
        counts = torch.bincount(owners, minlength=len(self._queries))
        self._looked += counts
        if int(counts.max()) > COLUMNS:
            owners, rows = self._thinned(rows, counts)
            counts = torch.bincount(owners, minlength=len(self._queries))
        place = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
        for first in range(0, int(counts.max()), COLUMNS):
            width = min(COLUMNS, int(counts.max()) - first)
            table = torch.full((len(counts), width), -1, dtype=torch.int64, device=owners.device)
            part = (place >= first) & (place < first + width) if int(counts.max()) > COLUMNS else slice(None)
            table[owners[part], place[part] - first] = rows[part]
            self._keep(table, self._scan.score(self._queries, table))

    def _thinned(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of each query [c], one query after the other, less those of crowded ones that cannot answer."""
        parts = list(torch.split_with_sizes(rows, counts.tolist()))
        for query in torch.nonzero(counts > COLUMNS)[:, 0].tolist():
            scores = self._scan.score(self._queries[query : query + 1], parts[query][None])[0]
            kth = scores.topk(min(self._k, len(scores)), sorted=False).values.min()
            parts[query] = parts[query][scores >= _at_most(kth, 2 * self._error[query])]
        counts = torch.tensor([len(part) for part in parts], device=rows.device)
        return torch.arange(len(counts), device=rows.device).repeat_interleave(counts), torch.cat(parts)

    def _seed(self, products: _Products, maxima: Tensor, start: int) -> None:
        """Find a score that k rows reach, from the groups that promise most."""
        k, count = self._k, len(self._queries)
        wanted = max(SEED_GROUPS, -(-2 * k // GROUP_ROWS))
        queries = torch.arange(count, device=maxima.device)[:, None]
        while True:
            groups = maxima.topk(min(wanted, maxima.shape[1]), 1, sorted=False).indices
            owners = queries.expand_as(groups)
            inside = products.of(owners.reshape(-1), groups.view(-1)).view(count, -1)
            rows = (groups[:, :, None] * GROUP_ROWS + torch.arange(GROUP_ROWS, device=groups.device)).reshape(count, -1)
            if self._mask is not None:
                passing = self._mask[(rows + start).clamp_(max=len(self._mask) - 1)]
                inside = inside.masked_fill(~passing, _NEVER)
            first = min(max(FIRST_ROWS, 2 * k), inside.shape[1])
            values, best = inside.topk(first, 1, sorted=False)
            full = first >= k and bool(((values > _NEVER).sum(1) >= k).all())
            if full or wanted >= maxima.shape[1]:
                break
            wanted *= 4
        if not full:
            return  # Too few rows in this chunk: nothing is known to be out.
        chosen = (rows.gather(1, best) + start).reshape(-1)
        chosen = chosen.clamp_(max=len(self._scan._codes) - 1) if self._places is None else chosen
        if self._places is not None:
            chosen = self._places[chosen.clamp_(max=len(self._places) - 1)]
        seeds = self._scan.score(self._queries, chosen.view(count, first))
        seeds = seeds.masked_fill(values == _NEVER, -torch.inf)
        self._least = seeds.topk(k, 1, sorted=False).values.amin(1).double() - self._error

    def _threshold(self) -> Tensor:
        """Least integer product int32 [q] of a row that may answer."""
        least = torch.ceil((self._least - self._slack) / self._unit - 1e-6)
        return least.clamp_(_NEVER + 1, 2**31 - 129).to(torch.int32)

    def _keep(self, rows: Tensor, scores: Tensor) -> None:
        """Add rows [q, c] to the candidates, and leave those that cannot answer any more."""
        if self._rows.shape[1]:
            rows, scores = torch.cat((self._rows, rows), 1), torch.cat((self._scores, scores), 1)
        if scores.shape[1] > self._k:
            kth = scores.topk(self._k, 1, sorted=False).values.amin(1)
            self._least = torch.maximum(self._least, kth.double() - self._error)
            kept = (scores >= _at_most(kth, 2 * self._error)[:, None]) & (rows >= 0)
            width = int(kept.sum(1).max())
            if width < scores.shape[1]:
                # What is kept has the largest scores: no more than these are left.
                scores, places = scores.topk(width, 1, sorted=False)
                rows = rows.gather(1, places)
        self._rows, self._scores = rows, scores

    def candidates(self) -> tuple[Rows, Rows]:
        """Pairs (query of the batch, row) that hold every answer."""
        owners, places = _true(self._rows >= 0)
        return owners.cpu().numpy(), self._rows[owners, places].cpu().numpy()


class _SingleChooser:
    """The same for one query on the CPU: NumPy, since steps so small cost their start, which torch has more of."""

    def __init__(
        self,
        scan: ExactScan,
        queries: Floats,
        coded: QueryCodes,
        k: int,
        places: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        self._vectors, self._length, self._query, self._k = scan._vectors, len(scan._codes), queries, k
        self._places = None if places is None else places.numpy()
        self._mask = None if mask is None else mask.numpy()
        self._error = float(rounding(queries, scan.longest)[0])
        self._slack = float(coded.slack[0]) + 2 * self._error
        self._unit = float(coded.unit[0])
        self._least = -np.inf
        self._rows = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)
        self.scored = 0

    @property
    def widened(self) -> int:
        """Whether the query needed more than the first rows."""
        return int(self.scored > max(FIRST_ROWS, 2 * self._k))

    def choose(self, products: _Products, start: int) -> None:
        """Look at the rows of a chunk, the first of which is ``start``, that may still answer."""
        maxima = products.maxima.view(-1).numpy()
        scores = products.scores.view(-1, GROUP_ROWS).numpy()
        if self._least == -np.inf:
            self._seed(scores, maxima, start)
        threshold = _NEVER + 1
        if self._least > -np.inf:
            least = np.ceil((self._least - self._slack) / self._unit - 1e-6)
            threshold = int(min(max(least, threshold), 2**31 - 129))
        groups = np.flatnonzero(maxima >= threshold)
        hit, place = np.divmod(np.flatnonzero(scores[groups] >= threshold), GROUP_ROWS)
        rows = groups[hit] * GROUP_ROWS + place + start
        if self._mask is not None:
            rows = rows[self._mask[rows]]
        rows = rows if self._places is None else self._places[rows]
        self.scored += len(rows)
        self._rows = np.concatenate((self._rows, rows))
        self._scores = np.concatenate((self._scores, self._score(rows)))
        if len(self._rows) > self._k:
            kth = np.partition(self._scores, -self._k)[-self._k]
            self._least = max(self._least, float(kth) - self._error)
            kept = self._scores >= np.nextafter(np.float32(float(kth) - 2 * self._error), np.float32(-np.inf))
            self._rows, self._scores = self._rows[kept], self._scores[kept]

    def candidates(self) -> tuple[Rows, Rows]:
        """Pairs (query of the batch, row) that hold every answer."""
        return np.zeros(len(self._rows), np.int64), self._rows

    def _seed(self, scores: npt.NDArray[np.int32], maxima: npt.NDArray[np.int32], start: int) -> None:
        """Find a score that k rows reach, from the groups that promise most."""
        wanted = max(SEED_GROUPS, -(-2 * self._k // GROUP_ROWS))
        first = max(FIRST_ROWS, 2 * self._k)
        while True:
            wanted = min(wanted, len(maxima))
            groups = np.argpartition(maxima, -wanted)[-wanted:]
            inside = scores[groups].reshape(-1)
            rows = (groups[:, None] * GROUP_ROWS + np.arange(GROUP_ROWS)).reshape(-1) + start
            passing = inside > _NEVER
            if self._mask is not None:
                passing &= self._mask[np.minimum(rows, self._length - 1)]
            inside, rows = inside[passing], rows[passing]
            if len(rows) >= self._k or wanted == len(maxima):
                break
            wanted *= 4
        if len(rows) < self._k:
            return  # Too few rows in this chunk: nothing is known to be out.
        if len(rows) > first:
            rows = rows[np.argpartition(inside, -first)[-first:]]
        rows = rows if self._places is None else self._places[rows]
        self._least = float(np.partition(self._score(rows), -self._k)[-self._k]) - self._error

    def _score(self, rows: Rows) -> Floats:
        return np.asarray(inner_products(self._vectors, self._query, rows[None])[0])


def _true(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of what is true in a matrix, in order; NumPy finds the few in many several times faster."""
    if mask.device.type != "cpu":
        owners, places = torch.nonzero(mask, as_tuple=True)
        return owners, places
    row, column = np.divmod(np.flatnonzero(mask.numpy()), max(1, mask.shape[1]))
    return torch.from_numpy(row), torch.from_numpy(column)


def _at_most(scores: Tensor, margin: Tensor) -> Tensor:
    """Float32 no larger than float32 scores less a float64 margin."""
    lowered = (scores.double() - margin).float()
    return torch.nextafter(lowered, torch.full_like(lowered, -torch.inf))


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        # A memory-mapped file is read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)

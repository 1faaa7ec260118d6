"""Exact search: an integer scan of every row bounds its score from above; rows that may still answer are looked at.

For a batch of queries, int8 codes of all rows are multiplied with the queries' (:mod:`sscm.index.scan_form`), and of
every 64 rows the largest product is kept. The groups that promise most yield the first rows to score in float32; the
k-th best of them is a score that any answer must reach. Every group, then every row, whose bound does not reach it is
out, proven; the others are scored in float32, and those within rounding of the k-th best in float64, which alone
decides (:mod:`sscm.index.ranking`). So the answer is that of a float64 scan of everything, for any batch, block and
thread count.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sscm.errors import IntegrityError, QueryError
from sscm.index.choosing import COLUMNS, NEVER, Asked, Chooser, Products, SingleChooser, at_most, true_places
from sscm.index.openmp import threads
from sscm.index.passing import Bitmap, Passing
from sscm.index.product import int8_product
from sscm.index.ranking import Floats, Rows, check_queries, inner_products, rank, rounding
from sscm.index.scan_form import ScanForm, make_scan_form

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
DIRECT_ROWS = 4_096
"""So few rows are all scored in float32: a scan of codes would save nothing."""


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

    def __add__(self, other: ScanCounts) -> ScanCounts:
        return ScanCounts(self.queries + other.queries, self.widened + other.widened, self.scored + other.scored)


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
        # PyTorch brings Triton along where it brings CUDA; its integer products want a GPU of 2020 or later.
        self._has_kernels = _has_kernels(self._device)
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
                    mask = passing.mask(self._device)
            if self._has_kernels and not direct:
                self._scan_on_gpu(queries, k, codes, places, mask, (scores, rows))
                return scores, rows
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                if direct:
                    found = self._all(queries[part], k, places)
                else:
                    found = self._scan(self._asked(queries[part], k, codes, places, mask), codes)
                scores[part], rows[part] = rank(self._vectors, queries[part], *found, k)
        return scores, rows

    def _all(self, queries: Floats, k: int, places: Tensor | None) -> tuple[Rows, Rows]:
        """Candidates (query, row) by a float32 product with every row, or with those at ``places``."""
        block = self._tensor if places is None else self._tensor[places]
        asked = torch.from_numpy(queries).to(self._device)
        # On a GPU in float64: whoever allows TF32 in this process must not change answers.
        scores = asked @ block.T if self._device.type == "cpu" else (asked.double() @ block.double().T).float()
        margin = torch.from_numpy(2 * rounding(queries, self._form.longest)).to(self._device)
        least = at_most(scores.topk(k, 1, sorted=False).values.amin(1), margin)
        owner, row = true_places(scores >= least[:, None])
        return owner.cpu().numpy(), (row if places is None else places[row]).cpu().numpy()

    def _asked(self, queries: Floats, k: int, codes: Tensor, places: Tensor | None, mask: Tensor | None) -> Asked:
        coded = self._form.queries(queries)
        return Asked(queries=queries, coded=coded, k=k, rows=len(codes), longest=self.longest, places=places, mask=mask)

    def _scan_on_gpu(
        self,
        queries: Floats,
        k: int,
        codes: Tensor,
        places: Tensor | None,
        mask: Tensor | None,
        answer: tuple[Floats, Rows],
    ) -> None:
        """Fill in scores and rows by :mod:`sscm.index.gpu_scan`, and by a scan like the CPU's what that leaves open."""
        from sscm.index import gpu_scan

        scores, rows = answer
        step = gpu_scan.queries_at_a_time(len(codes), k)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            found = gpu_scan.search(self._asked(queries[part], k, codes, places, mask), codes, self._tensor)
            scores[part], rows[part] = found.scores, found.rows
            left = start + np.flatnonzero(~found.proven)
            self.counts.queries += len(found.proven) - len(left)
            self.counts.widened += found.widened - len(left)
            self.counts.scored += found.scored
            for first in range(0, len(left), QUERY_ROWS):
                few = left[first : first + QUERY_ROWS]
                candidates = self._scan(self._asked(queries[few], k, codes, places, mask), codes)
                scores[few], rows[few] = rank(self._vectors, queries[few], *candidates, k)

    def _scan(self, asked: Asked, codes: Tensor) -> tuple[Rows, Rows]:
        """Candidates (query, row) by a scan of codes."""
        queries = asked.queries
        held = max(GROUP_ROWS, HELD_SCORES // len(queries) // GROUP_ROWS * GROUP_ROWS)
        alone = len(queries) == 1 and self._device.type == "cpu"
        chooser = SingleChooser(asked, self._vectors) if alone else Chooser(asked, self.score, self._device)
        coded = torch.from_numpy(asked.coded.codes).to(self._device)
        count = min(self.threads, max(1, len(queries) * len(codes) // THREAD_SCORES))
        with threads(count):
            for start in range(0, len(codes), held):
                chooser.choose(self._products(coded, codes[start : start + held], count), start)
        self.counts.queries += len(queries)
        self.counts.scored += chooser.scored
        self.counts.widened += chooser.widened
        return chooser.candidates()

    def _products(self, queries: Tensor, codes: Tensor, threads: int) -> Products:
        """Integer products of all queries and these rows, and the largest of each group of rows."""
        rows = max(GROUP_ROWS, threads * BLOCK_SCORES // len(queries) // GROUP_ROWS * GROUP_ROWS)
        whole = -(-len(codes) // GROUP_ROWS) * GROUP_ROWS
        rows = min(rows, whole) if self._device.type == "cpu" else whole  # a GPU has no use for small products
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
                scores[block].fill_(NEVER)
                scores[block, :, : len(part)] = last
            torch.amax(scores[block].view(len(queries), -1, GROUP_ROWS), 2, out=maxima[block])
        return Products(scores.view(blocks, len(queries), -1, GROUP_ROWS), maxima)

    def score(self, queries: Tensor, rows: Tensor) -> Tensor:
        """float32 scores [q, c] of each query with its rows int64 [q, c]; -inf where a row is -1."""
        if self._device.type == "cpu":
            return torch.from_numpy(inner_products(self._vectors, queries.numpy(), rows.numpy()))
        parts = rows.chunk(-(-rows.shape[1] // COLUMNS) or 1, 1)
        asked = queries.double()[:, None]  # no float32 product: whoever allows TF32 must not change answers
        found = [(self._tensor[part.clamp(min=0)] * asked).sum(2).float() for part in parts]
        return torch.cat(found, 1).masked_fill_(rows < 0, -torch.inf)

    def require_range(self, queries: Floats) -> None:
        """Refuse queries so long that scores do not fit into float32.

        Raises:
            QueryError: one is; its norm is named.
        """
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        if len(norms) and norms.max() * self._form.longest > 2.0**126:
            raise QueryError(f"query {int(norms.argmax())} has norm {norms.max():.3g}; expected a unit vector")


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        # A memory-mapped file is read-only, and nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def _has_kernels(device: torch.device) -> bool:
    """Whether :mod:`sscm.index.gpu_scan` runs on a device."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)

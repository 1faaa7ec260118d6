"""Choosing the rows that may answer, from integer products that bound their scores.

The groups of rows that promise most yield the first rows to be scored; the k-th best of them is a score that any answer
must reach. Every group, then every row, whose bound does not reach it is out; the others are scored, which raises what
must be reached. What is left at the end holds every answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sscm.index.ranking import Floats, Rows, inner_products, rounding
from sscm.index.scan_form import QueryCodes

SEED_GROUPS = 16
"""Groups that the first rows to be scored come from, at least."""
FIRST_ROWS = 64
"""Rows of a query scored before anything is proven; a query that needs more is counted as widened."""
COLUMNS = 1_024
"""Rows of a query scored together with those of others; of queries with more, the best are found first."""
NEVER = torch.iinfo(torch.int32).min
"""Product of a row that is not there."""

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """Integer products int32 [blocks, q, groups, rows of a group] and the largest of each group [blocks, q, groups].

    Rows that are not there have :data:`NEVER`.
    """

    scores: Tensor
    maxima: Tensor

    @property
    def group_rows(self) -> int:
        """Rows of a group."""
        return int(self.scores.shape[-1])

    def of(self, owners: Tensor, groups: Tensor) -> Tensor:
        """Products int32 [c, rows of a group] of pairs of a query and a group, the latter counted over all blocks."""
        _, queries, inner, _ = self.scores.shape
        block = torch.div(groups, inner, rounding_mode="floor")
        return self.scores.view(-1, self.group_rows).index_select(0, (block * (queries - 1) + owners) * inner + groups)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Queries that are scanned for together.

    Args:
        queries: float32 [q, d].
        coded: the same in scan form.
        k: answers a query.
        rows: rows that are scanned.
        longest: length of the longest row.
        places: int64 [rows], which rows they are; None for all.
        mask: bool [rows], which of them may answer; None for all.
    """

    queries: Floats
    coded: QueryCodes
    k: int
    rows: int
    longest: float
    places: Tensor | None
    mask: Tensor | None


class Chooser:
    """Chooses the rows of some queries that may answer, chunk of rows by chunk.

    Args:
        asked: the queries.
        score: float32 scores [q, c] of queries [q, d] with rows int64 [q, c], -inf where a row is -1.
        device: where all of it is.
    """

    def __init__(self, asked: Asked, score: Score, device: torch.device) -> None:
        self._score, self._k, self._places, self._mask = score, asked.k, asked.places, asked.mask
        self._length, count = asked.rows, len(asked.queries)
        self._queries = torch.from_numpy(asked.queries).to(device)
        error = rounding(asked.queries, asked.longest)
        self._error = torch.from_numpy(error).to(device)
        # What a bound may fall short of a score: what codes leave open, and what rounding does to both.
        self._slack = torch.from_numpy(asked.coded.slack + 2 * error).to(device)
        self._unit = torch.from_numpy(asked.coded.unit).to(device)
        self._least = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        # What may answer, query by query, padded with rows -1 of score -inf.
        self._rows = torch.empty(count, 0, dtype=torch.int64, device=device)
        self._scores = torch.empty(count, 0, device=device)
        self._looked = torch.zeros(count, dtype=torch.int64, device=device)

    @property
    def scored(self) -> int:
        """Rows scored in float32."""
        return int(self._looked.sum())

    @property
    def widened(self) -> int:
        """Queries that needed more than the first rows."""
        return int((self._looked > max(FIRST_ROWS, 2 * self._k)).sum())

    def choose(self, products: Products, start: int) -> None:
        """Look at the rows of a chunk, the first of which is ``start``, that may still answer."""
        maxima = products.maxima.transpose(0, 1).reshape(len(self._queries), -1)
        if not bool(torch.isfinite(self._least).all()):
            self._seed(products, maxima, start)
        threshold = self._threshold()
        owner, group = true_places(maxima >= threshold[:, None])
        inside = products.of(owner, group)
        hit, place = true_places(inside >= threshold[owner][:, None])
        owners, rows = owner[hit], group[hit] * products.group_rows + place + start
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
            self._keep(table, self._score(self._queries, table))

    def _thinned(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of each query [c], one query after the other, less those of crowded ones that cannot answer."""
        parts = list(torch.split_with_sizes(rows, counts.tolist()))
        for query in torch.nonzero(counts > COLUMNS)[:, 0].tolist():
            scores = self._score(self._queries[query : query + 1], parts[query][None])[0]
            kth = scores.topk(min(self._k, len(scores)), sorted=False).values.min()
            parts[query] = parts[query][scores >= at_most(kth, 2 * self._error[query])]
        counts = torch.tensor([len(part) for part in parts], device=rows.device)
        return torch.arange(len(counts), device=rows.device).repeat_interleave(counts), torch.cat(parts)

    def _seed(self, products: Products, maxima: Tensor, start: int) -> None:
        """Find a score that k rows reach, from the groups that promise most."""
        k, count, size = self._k, len(self._queries), products.group_rows
        wanted = max(SEED_GROUPS, -(-2 * k // size))
        queries = torch.arange(count, device=maxima.device)[:, None]
        while True:
            groups = maxima.topk(min(wanted, maxima.shape[1]), 1, sorted=False).indices
            owners = queries.expand_as(groups)
            inside = products.of(owners.reshape(-1), groups.view(-1)).view(count, -1)
            rows = (groups[:, :, None] * size + torch.arange(size, device=groups.device)).reshape(count, -1)
            if self._mask is not None:
                passing = self._mask[(rows + start).clamp_(max=len(self._mask) - 1)]
                inside = inside.masked_fill(~passing, NEVER)
            first = min(max(FIRST_ROWS, 2 * k), inside.shape[1])
            values, best = inside.topk(first, 1, sorted=False)
            full = first >= k and bool(((values > NEVER).sum(1) >= k).all())
            if full or wanted >= maxima.shape[1]:
                break
            wanted *= 4
        if not full:
            return  # Too few rows in this chunk: nothing is known to be out.
        chosen = (rows.gather(1, best) + start).reshape(-1)
        chosen = chosen.clamp_(max=self._length - 1) if self._places is None else chosen
        if self._places is not None:
            chosen = self._places[chosen.clamp_(max=len(self._places) - 1)]
        seeds = self._score(self._queries, chosen.view(count, first))
        seeds = seeds.masked_fill(values == NEVER, -torch.inf)
        self._least = seeds.topk(k, 1, sorted=False).values.amin(1).double() - self._error

    def _threshold(self) -> Tensor:
        """Least integer product int32 [q] of a row that may answer."""
        least = torch.ceil((self._least - self._slack) / self._unit - 1e-6)
        return least.clamp_(NEVER + 1, 2**31 - 129).to(torch.int32)

    def _keep(self, rows: Tensor, scores: Tensor) -> None:
        """Add rows [q, c] to the candidates, and leave those that cannot answer any more."""
        if self._rows.shape[1]:
            rows, scores = torch.cat((self._rows, rows), 1), torch.cat((self._scores, scores), 1)
        if scores.shape[1] > self._k:
            kth = scores.topk(self._k, 1, sorted=False).values.amin(1)
            self._least = torch.maximum(self._least, kth.double() - self._error)
            kept = (scores >= at_most(kth, 2 * self._error)[:, None]) & (rows >= 0)
            width = int(kept.sum(1).max())
            if width < scores.shape[1]:
                # What is kept has the largest scores: no more than these are left.
                scores, places = scores.topk(width, 1, sorted=False)
                rows = rows.gather(1, places)
        self._rows, self._scores = rows, scores

    def candidates(self) -> tuple[Rows, Rows]:
        """Pairs (query of the batch, row) that hold every answer."""
        owners, places = true_places(self._rows >= 0)
        return owners.cpu().numpy(), self._rows[owners, places].cpu().numpy()


class SingleChooser:
    """The same for one query on the CPU: NumPy, since steps so small cost their start, which torch has more of.

    Args:
        asked: the query.
        vectors: float32 [n, d], what is searched.
    """

    def __init__(self, asked: Asked, vectors: Floats) -> None:
        self._vectors, self._length, self._query, self._k = vectors, asked.rows, asked.queries, asked.k
        self._places = None if asked.places is None else asked.places.numpy()
        self._mask = None if asked.mask is None else asked.mask.numpy()
        self._error = float(rounding(asked.queries, asked.longest)[0])
        self._slack = float(asked.coded.slack[0]) + 2 * self._error
        self._unit = float(asked.coded.unit[0])
        self._least = -np.inf
        self._rows = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)
        self.scored = 0

    @property
    def widened(self) -> int:
        """Whether the query needed more than the first rows."""
        return int(self.scored > max(FIRST_ROWS, 2 * self._k))

    def choose(self, products: Products, start: int) -> None:
        """Look at the rows of a chunk, the first of which is ``start``, that may still answer."""
        maxima = products.maxima.view(-1).numpy()
        scores = products.scores.view(-1, products.group_rows).numpy()
        if self._least == -np.inf:
            self._seed(scores, maxima, start)
        threshold = NEVER + 1
        if self._least > -np.inf:
            least = np.ceil((self._least - self._slack) / self._unit - 1e-6)
            threshold = int(min(max(least, threshold), 2**31 - 129))
        groups = np.flatnonzero(maxima >= threshold)
        hit, place = np.divmod(np.flatnonzero(scores[groups] >= threshold), products.group_rows)
        rows = groups[hit] * products.group_rows + place + start
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
        size = scores.shape[1]
        wanted = max(SEED_GROUPS, -(-2 * self._k // size))
        first = max(FIRST_ROWS, 2 * self._k)
        while True:
            wanted = min(wanted, len(maxima))
            groups = np.argpartition(maxima, -wanted)[-wanted:]
            inside = scores[groups].reshape(-1)
            rows = (groups[:, None] * size + np.arange(size)).reshape(-1) + start
            passing = inside > NEVER
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


def true_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of what is true in a matrix, in order; NumPy finds the few in many several times faster."""
    if mask.device.type != "cpu":
        owners, places = torch.nonzero(mask, as_tuple=True)
        return owners, places
    row, column = np.divmod(np.flatnonzero(mask.numpy()), max(1, mask.shape[1]))
    return torch.from_numpy(row), torch.from_numpy(column)


def at_most(scores: Tensor, margin: Tensor) -> Tensor:
    """Float32 no larger than float32 scores less a float64 margin."""
    lowered = (scores.double() - margin).float()
    return torch.nextafter(lowered, torch.full_like(lowered, -torch.inf))

"""Exact search on a GPU in steps of fixed shape: the host waits once a batch.

As on the CPU, integer products bound scores from above (:mod:`sscm.index.scan_form`), and the k-th best of some scores
proves most rows out. But how many rows must be looked at is not asked in between: so many are looked at that this is
enough for most queries, and at the end each query knows whether it was. Those for which it was not look at more, and
those for which that is not enough either are left to the caller.

Scores are made in float64. The GPU sums in another order than :func:`sscm.index.ranking.rank`, so a query is proven
only where both must round to the same float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sscm.index.choosing import Asked
from sscm.index.gpu_kernels import GROUP_ROWS, NEVER, exact_scores, group_maxima, group_products
from sscm.index.ranking import Floats, Rows, rounding

FIRST, MORE = 128, 4
"""Groups looked at, and as many rows scored: so many, and some more an answer."""
SPARE = 16
"""Answers looked at beyond k: so many may tie with the last."""
WIDER = 8
"""Times as much for queries that are not proven at first."""
HELD_MAXIMA = 2**28
"""Largest products of groups held: 1 GB."""
HELD_PRODUCTS = 2**27
"""Products of the groups looked at that are held: 512 MB."""
_UNIT = 2.0**-53
"""Unit roundoff of float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a batch of queries found.

    Args:
        scores: float32 [q, k], as :meth:`sscm.index.exact.ExactScan.search` gives them.
        rows: int64 [q, k].
        proven: bool [q], whether that is the answer; if not, its scores and rows mean nothing.
        widened: queries that were not proven at first.
        scored: rows scored, over all queries.
    """

    scores: Floats
    rows: Rows
    proven: npt.NDArray[np.bool_]
    widened: int
    scored: int


def queries_at_a_time(rows: int, k: int) -> int:
    """How many queries :func:`search` should get together, for its memory."""
    return max(1, min(1_024, HELD_MAXIMA // -(-rows // GROUP_ROWS), HELD_PRODUCTS // (_looked(k) * GROUP_ROWS)))


def search(asked: Asked, codes: Tensor, vectors: Tensor) -> Found:
    """Scan for queries.

    Args:
        asked: the queries; ``k`` at most the rows that may answer.
        codes: int8 [n, w] of the rows that are scanned.
        vectors: float32 [m, d], on the same device.
    """
    with torch.cuda.device_of(codes):  # type: ignore[no-untyped-call]  # kernels start on the current one
        return _search(asked, codes, vectors)


def _search(asked: Asked, codes: Tensor, vectors: Tensor) -> Found:
    count, k, device = len(asked.queries), asked.k, codes.device
    error = rounding(asked.queries, asked.longest)
    # How far apart sums of float64 products can be that are made in different order.
    apart = (
        4 * asked.queries.shape[1] * _UNIT * asked.longest * np.linalg.norm(asked.queries.astype(np.float64), axis=1)
    )
    numbers = torch.from_numpy(np.stack((asked.coded.slack + 3 * error, asked.coded.unit, apart))).to(device)
    queries, coded = torch.from_numpy(asked.queries).to(device), torch.from_numpy(asked.coded.codes).to(device)
    batch = _Batch(asked, codes, vectors, queries, coded, numbers, group_maxima(coded, codes, asked.mask))
    looked = _looked(k)
    answer = batch.look(looked, k + SPARE).cpu().numpy()
    left = np.flatnonzero(answer[:, -1] == 0)
    scored, widened = count * looked, len(left)
    step = max(1, HELD_PRODUCTS // (WIDER * looked * GROUP_ROWS))
    for start in range(0, len(left), step):
        part = left[start : start + step]
        answer[part] = batch.of(part).look(WIDER * looked, WIDER * (k + SPARE)).cpu().numpy()
        scored += len(part) * WIDER * looked
    return Found(
        scores=np.ascontiguousarray(answer[:, k : 2 * k]).astype(np.int32).view(np.float32),
        rows=np.ascontiguousarray(answer[:, :k]),
        proven=answer[:, -1] != 0,
        widened=widened,
        scored=scored,
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Queries on the device, with the largest products of all groups int32 [q, groups].

    ``numbers`` float64 [3, q]: what a score may be above its bound, one integer product, what sums may differ by.
    """

    asked: Asked
    codes: Tensor
    vectors: Tensor
    queries: Tensor
    coded: Tensor
    numbers: Tensor
    maxima: Tensor

    def of(self, places: Rows) -> _Batch:
        """Some of the queries."""
        chosen = torch.from_numpy(places).to(self.codes.device)
        parts = (self.queries[chosen], self.coded[chosen], self.numbers[:, chosen].contiguous(), self.maxima[chosen])
        return _Batch(self.asked, self.codes, self.vectors, *parts)

    def look(self, looked: int, kept: int) -> Tensor:
        """Look at so many groups, score as many rows, and order the best ``kept`` of them.

        Returns:
            int64 [q, 2k + 1]: rows, the bits of their float32 scores, and 1 where that is proven.
        """
        k = self.asked.k
        slack, unit, apart = self.numbers[:, :, None].unbind(0)  # float64 [q, 1] each
        maxima, groups = self.maxima.topk(min(looked, self.maxima.shape[1]), 1, sorted=False)
        inside = group_products(self.coded, self.codes, self.asked.mask, groups)
        products, place = inside.topk(min(looked, inside.shape[1]), 1, sorted=False)
        rows = groups.gather(1, place // GROUP_ROWS) * GROUP_ROWS + place % GROUP_ROWS
        rows = rows if self.asked.places is None else self.asked.places[rows.clamp_(max=self.asked.rows - 1)]
        exact = exact_scores(self.queries, self.vectors, torch.where(products > NEVER, rows, -1))
        highest = (exact + apart).float()
        scores, best = highest.topk(min(kept, highest.shape[1]), 1)
        # Other rows, in groups that were looked at or not, are all below the k-th score.
        kth = scores[:, k - 1 : k]
        reached = torch.ceil((kth.double() - slack) / unit - 1e-6)
        proven = torch.isfinite(kth[:, 0])
        if groups.shape[1] < self.maxima.shape[1]:
            proven &= maxima.amin(1) < reached[:, 0]
        if products.shape[1] < inside.shape[1]:
            proven &= products.amin(1) < reached[:, 0]
        if scores.shape[1] < highest.shape[1]:
            proven &= scores[:, -1] < kth[:, 0]
        proven &= (scores == (exact.gather(1, best) - apart).float()).all(1)
        # Equal scores come in the order of their rows.
        rows, order = rows.gather(1, best).sort(1)
        scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        rows, bits = rows.gather(1, order)[:, :k], scores[:, :k].contiguous().view(torch.int32).long()
        return torch.cat((rows, bits, proven[:, None]), 1)


def _looked(k: int) -> int:
    return FIRST + MORE * k

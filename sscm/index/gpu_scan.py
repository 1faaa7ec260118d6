"""Exact search on a GPU in steps of fixed shape: the host waits once a batch.

As on the CPU, integer products bound scores from above (:mod:`sscm.index.scan_form`), and the k-th best score proves
most rows out. But how many rows must be looked at is not asked in between: the groups of rows that promise most are
looked at, so many that this is enough for most queries, and of their rows those that promise no less than the last of
these groups. At the end each query knows whether that was enough. Queries for which it was not look at more, and
what even that leaves open is left to the caller.

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
from sscm.index.gpu_kernels import GROUP_ROWS, NEVER, group_maxima, rows_from, score_keys, scores_of
from sscm.index.ranking import Floats, Rows, rounding

MANY = 64
"""More queries than this share the work of a look; fewer share the wait."""
FIRST_OF_FEW, FIRST_OF_MANY, MORE = 1_024, 256, 4
"""Groups looked at: so many, and some more an answer. A second look costs few queries more than a larger first one."""
WIDER = (4, 16)
"""Times as many for queries that are not proven at first, and for those that are not proven then."""
ROOM = 4
"""Rows that there is room for, a group looked at: about one is needed where rows lie in no order."""
SPARE = 16
"""Answers looked at beyond k: so many may tie with the last."""
HELD_MAXIMA = 2**28
"""Largest products of groups held: 1 GB."""
HELD_ROWS = 2**26
"""Rows held of all queries, with their scores: 1 GB."""
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
    held = ROOM * _looked(MANY + 1, k)
    return max(1, min(1_024, HELD_MAXIMA // -(-rows // GROUP_ROWS), HELD_ROWS // held))


def search(asked: Asked, codes: Tensor, vectors: Tensor) -> Found:
    """Scan for queries.

    Args:
        asked: the queries; ``k`` at most the rows that may answer.
        codes: int8 [n, w] of the rows that are scanned.
        vectors: float32 [m, d], on the same device, m below 2³¹.
    """
    with torch.cuda.device_of(codes):  # type: ignore[no-untyped-call]  # kernels start on the current one
        batch = _Batch.of_all(asked, codes, vectors)
        looked, kept = _looked(len(asked.queries), asked.k), asked.k + SPARE
        found = batch.look(looked, kept)
        left = np.flatnonzero(~found.proven)
        widened, scored = len(left), found.scored
        for wider in WIDER:
            step = max(1, HELD_ROWS // (ROOM * wider * looked))
            for start in range(0, len(left), step):
                part = left[start : start + step]
                more = batch.of(part).look(wider * looked, wider * kept)
                found.scores[part], found.rows[part], found.proven[part] = more.scores, more.rows, more.proven
                scored += more.scored
            left = left[~found.proven[left]]
    return Found(scores=found.scores, rows=found.rows, proven=found.proven, widened=widened, scored=scored)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Queries float32 and their codes int8 on the device, with the largest products of all groups int32 [q, groups].

    ``slack`` and ``unit`` float64 [q] stay on the host: what a score may be above its bound, and one integer product.
    """

    asked: Asked
    codes: Tensor
    vectors: Tensor
    queries: Tensor
    coded: Tensor
    maxima: Tensor
    slack: npt.NDArray[np.float64]
    unit: npt.NDArray[np.float64]

    @classmethod
    def of_all(cls, asked: Asked, codes: Tensor, vectors: Tensor) -> _Batch:
        queries, coded = (torch.from_numpy(a).to(codes.device) for a in (asked.queries, asked.coded.codes))
        maxima = group_maxima(coded, codes, asked.mask)  # started before the host goes on
        slack = asked.coded.slack + 3 * rounding(asked.queries, asked.longest)
        return cls(asked, codes, vectors, queries, coded, maxima, slack, asked.coded.unit)

    def of(self, places: Rows) -> _Batch:
        """Some of the queries."""
        chosen = torch.from_numpy(places).to(self.codes.device)
        parts = (self.queries[chosen], self.coded[chosen], self.maxima[chosen])
        return _Batch(self.asked, self.codes, self.vectors, *parts, self.slack[places], self.unit[places])

    def look(self, looked: int, kept: int) -> Found:
        """Look at so many groups, and order the best ``kept`` of their rows."""
        k = self.asked.k
        maxima, groups = self.maxima.topk(min(looked, self.maxima.shape[1]), 1, sorted=False)
        # A row that is not looked at has no larger product than this, whether its group is or not.
        last = maxima.amin(1) if groups.shape[1] < self.maxima.shape[1] else maxima.new_full((len(maxima),), NEVER)
        rows, count = rows_from(self.coded, self.codes, self.asked.mask, groups, last, ROOM * looked)
        # Both sums err by d u |x| |y| at most, in any order.
        doubt = 4 * self.queries.shape[1] * _UNIT * self.asked.longest
        keys = score_keys(self.queries, self.vectors, self.asked.places, rows, count, doubt)
        best = keys.topk(min(kept, keys.shape[1]), 1).values.cpu().numpy()
        highest, listed = torch.stack((last, count)).cpu().numpy().astype(np.int64)
        scores, found, doubtful = scores_of(best)
        kth = scores[:, k - 1]
        reached = np.ceil((kth.astype(np.float64) - self.slack) / self.unit - 1e-6)
        proven = (listed >= k) & (listed <= keys.shape[1]) & ((highest < reached) | (highest == NEVER))
        # Whatever ties with the last answer is among those kept, and none of them is in doubt.
        proven &= (listed <= best.shape[1]) | (scores[:, -1] < kth)
        proven &= ~(doubtful & (np.arange(best.shape[1]) < listed[:, None])).any(axis=1)
        return Found(
            scores=np.ascontiguousarray(scores[:, :k]),
            rows=np.ascontiguousarray(found[:, :k]),
            proven=proven,
            widened=0,
            scored=int(np.minimum(listed, keys.shape[1]).sum()),
        )


def _looked(queries: int, k: int) -> int:
    return (FIRST_OF_MANY if queries > MANY else FIRST_OF_FEW) + MORE * k

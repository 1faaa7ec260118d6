"""Tuning an approximate index: as little effort as reaches the recall asked for, measured on held-out queries.

Queries are embeddings of rows of the segment itself: of the other modalities, as cross-modal queries come, and of the
same one, where the row that the query is does not count as an answer. The truth is an exact search. Half of them choose
the effort, the other half measures what it reaches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sscm.index.approximate import ApproximateIndex, ApproximateScan
from sscm.index.effort import TUNED_K, Effort
from sscm.index.exact import ExactScan
from sscm.index.ranking import Floats, Rows, inner_products

QUERIES = 2_000
"""Queries of a modality, half to tune on and half to measure with."""
WIDEST = 2_000
"""Candidates of queries that need many."""
PROBES = (4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)
CANDIDATES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of queries that may need more, tried out."""
SCANNED = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Shares of queries of which all rows may be scanned, tried out."""
MOST_SCANNED = 0.5
"""An index most of whose queries are scanned exactly all the same is none. Queries that codes tell nothing about have
equal limits, so that those of a small share may be those of all."""
ROW_COST, CANDIDATE_COST, QUERY_COST, SCAN_COST = 0.0065, 0.17, 15.0, 0.002
"""Microseconds of a core for a row in a list, a candidate, a query beside, and a row of an exact scan: what decides
between two efforts that reach the same. Only their ratios matter."""

Bitmap = npt.NDArray[np.bool_]
BATCH = 250


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Queries of one modality and their answers.

    Args:
        queries: float32 [q, d].
        answers: int64 [q, 10], rows.
        own: int64 [q], the row that each query is itself, which is no answer; -1 for none.
    """

    queries: Floats
    answers: Rows
    own: Rows

    def half(self, number: int) -> HeldOut:
        """Every other query, beginning with the first or the second."""
        part = slice(number, None, 2)
        return HeldOut(queries=self.queries[part], answers=self.answers[part], own=self.own[part])


def held_out(
    exact: ExactScan, vectors: Mapping[str, Floats], present: Mapping[str, Bitmap], target: str
) -> dict[str, HeldOut]:
    """Queries of every modality that a segment has rows enough of.

    Args:
        exact: search of the target modality.
        vectors: modality → float32 [n, d].
        present: modality → bool [n].
        target: modality that is searched.
    """
    found = {}
    for name, values in vectors.items():
        rows = np.flatnonzero(present[name] & present[target])
        if len(rows) < 10 * TUNED_K:
            continue
        rows = rows[np.linspace(0, len(rows) - 1, min(QUERIES, len(rows)), dtype=np.int64)]
        own = rows if name == target else np.full(len(rows), -1)
        answers = exact.search(values[rows], TUNED_K + (name == target), present[target])[1]
        found[name] = HeldOut(queries=values[rows], answers=_without(answers, own), own=own)
    return found


def tune(index: ApproximateIndex, vectors: Floats, asked: float, kinds: Mapping[str, HeldOut]) -> Effort | None:
    """The least effort that reaches a recall for every kind of queries; None where none does.

    Args:
        index: what is tuned.
        vectors: float32 [n, d], what it indexes.
        asked: recall@10, which the effort exceeds by two standard errors.
        kinds: queries to tune on.
    """
    best: tuple[float, Effort] | None = None
    length = index.rows / index.count
    for probes in PROBES:
        fixed = QUERY_COST + probes * length * ROW_COST
        if probes > index.count or (best is not None and fixed + CANDIDATES[0] * CANDIDATE_COST > best[0]):
            break
        seen = [_Seen(index, vectors, kind, probes) for kind in kinds.values()]
        wider = QUERY_COST + 2 * probes * length * ROW_COST + WIDEST * CANDIDATE_COST
        limits = sorted({one.crowding(share) for one in seen for share in SCANNED})
        for candidates in CANDIDATES:
            for margin in sorted({one.margin(candidates, share) for one in seen for share in SHARES}):
                reach = functools.partial(_all_reach, seen, asked, candidates, margin)
                crowded = next(filter(reach, limits), None)
                if crowded is None:
                    continue
                spent = float(np.mean([one.share(candidates, margin) for one in seen]))
                scanned = float(np.mean([one.scanned(candidates, margin, crowded) for one in seen]))
                if scanned > MOST_SCANNED:
                    continue
                cost = fixed + candidates * CANDIDATE_COST + spent * wider + scanned * index.rows * SCAN_COST
                if best is None or cost < best[0]:
                    best = (
                        cost,
                        Effort(probes=probes, candidates=candidates, widest=WIDEST, margin=margin, crowded=crowded),
                    )
    return None if best is None else best[1]


def _all_reach(seen: Sequence[_Seen], asked: float, candidates: int, margin: float, crowded: float) -> bool:
    return all(one.reaches(one.widened(candidates, margin, crowded), asked) for one in seen)


def measure(scan: ApproximateScan, kinds: Mapping[str, HeldOut], present: Bitmap) -> dict[str, float]:
    """Recall@10 of a search, by modality of the query.

    Args:
        scan: the search.
        kinds: queries that it was not tuned on.
        present: bool [n], rows of the modality that is searched.
    """
    measured = {}
    for name, kind in kinds.items():
        more = TUNED_K + int((kind.own >= 0).any())
        rows = [
            scan.search(kind.queries[start : start + BATCH], more, present)[1]
            for start in range(0, len(kind.queries), BATCH)
        ]
        found = _without(np.concatenate(rows), kind.own)
        measured[name] = float((found[:, :, None] == kind.answers[:, None, :]).any(axis=1).mean())
    return measured


class _Seen:
    """What queries of a kind find with so many probes, however many candidates they take."""

    def __init__(self, index: ApproximateIndex, vectors: Floats, kind: HeldOut, probes: int) -> None:
        self._answers = kind.answers.shape[1]
        count = len(kind.queries)
        self._found = np.empty((count, len(CANDIDATES) + 1))
        self._gap = np.empty((count, len(CANDIDATES)))
        self._crowded = np.empty(count)
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            queries, own = kind.queries[part], kind.own[part]
            estimates, rows = index.propose(queries, probes, WIDEST)
            exact = inner_products(vectors, queries, rows)
            exact[rows == own[:, None]] = -np.inf
            hit = (rows[:, :, None] == kind.answers[part][:, None, :]).any(axis=2)
            for place, most in enumerate(CANDIDATES):
                self._found[part, place] = hit[:, :most].sum(axis=1) / self._answers
                kth = np.partition(exact[:, :most], most - TUNED_K, axis=1)[:, most - TUNED_K]
                last = np.where(rows[:, most - 1] >= 0, estimates[:, most - 1], -np.inf)
                with np.errstate(invalid="ignore"):
                    self._gap[part, place] = np.nan_to_num(kth - last, nan=-np.inf)
            kth = np.partition(exact, WIDEST - TUNED_K, axis=1)[:, WIDEST - TUNED_K]
            with np.errstate(invalid="ignore"):
                self._crowded[part] = np.nan_to_num(
                    kth - np.where(rows[:, -1] >= 0, estimates[:, -1], -np.inf), nan=-np.inf
                )
            # Wider searches look into more lists than these: what they find is at least this.
            self._found[part, -1] = hit.sum(axis=1) / self._answers

    def margin(self, candidates: int, share: float) -> float:
        """What so large a share of the queries does not exceed; what none stays below for a share of 0."""
        return _quantile(self._gap[:, CANDIDATES.index(candidates)], share)

    def crowding(self, share: float) -> float:
        """What so large a share of the queries does not exceed with the widest candidates."""
        return _quantile(self._crowded, share)

    def scanned(self, candidates: int, margin: float, crowded: float) -> float:
        """Share of queries that are scanned exactly in the end."""
        return float(((self._gap[:, CANDIDATES.index(candidates)] <= margin) & (self._crowded <= crowded)).mean())

    def share(self, candidates: int, margin: float) -> float:
        return float((self._gap[:, CANDIDATES.index(candidates)] <= margin).mean())

    def widened(self, candidates: int, margin: float, crowded: float) -> npt.NDArray[np.float64]:
        """Recall of each query."""
        place = CANDIDATES.index(candidates)
        wider = np.where(self._crowded <= crowded, 1.0, self._found[:, -1])
        return np.where(self._gap[:, place] <= margin, wider, self._found[:, place])

    def reaches(self, recalls: npt.NDArray[np.float64], asked: float) -> bool:
        """Whether the mean recall is above what is asked for by two standard errors."""
        return bool(recalls.mean() - 2 * recalls.std() / np.sqrt(len(recalls)) >= asked)


def _quantile(values: npt.NDArray[np.float64], share: float) -> float:
    """What so large a share of values does not exceed; what all exceed for a share of 0."""
    largest = float(np.finfo(np.float32).max)
    if share == 0:
        return -largest
    return float(np.clip(np.quantile(values, share, method="higher"), -largest, largest))


def _without(rows: Rows, own: Rows) -> Rows:
    """Rows [q, 10] without the query's own one."""
    if not (own >= 0).any():
        return rows[:, :TUNED_K]
    kept = rows != own[:, None]
    # Where a query has so many twins that it is not among its own answers, the last one goes.
    kept[kept.all(axis=1), -1] = False
    return np.asarray(rows[kept].reshape(len(rows), -1))

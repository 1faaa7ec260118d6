"""Searching the segments of an index as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sscm.errors import QueryError
from sscm.index.exact import Bitmap, ExactScan, check_queries
from sscm.index.filters import Filter
from sscm.index.segment import Segment


@dataclass(frozen=True)
class Hit:
    """One answer.

    Args:
        pair_id: the pair found.
        score: cosine of query and embedding, rounded to float32.
        segment: name of the segment that it is in.
        row: its row there.
    """

    pair_id: str
    score: float
    segment: str
    row: int


class IndexReader:
    """Searches several segments as one: the answer does not depend on how rows are spread over segments.

    Args:
        segments: open segments of one generation, or slices of them, each pair in one.
        threads: CPU threads of a search.

    Raises:
        IntegrityError: vectors are not float32 [n, d] or not finite.
    """

    def __init__(self, segments: Sequence[Segment], threads: int = 1) -> None:
        self.segments = tuple(segments)
        self._scans = [
            {name: ExactScan(segment.vectors(name), threads) for name in segment.modalities}
            for segment in self.segments
        ]

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    def search(
        self,
        queries: npt.NDArray[np.floating],
        *,
        target: str,
        k: int,
        filter: Filter | None = None,
        exclude: Sequence[set[str]] | None = None,
    ) -> list[list[Hit]]:
        """The k most similar pairs of each query.

        Args:
            queries: float [q, d], of any length but zero: they are scaled to unit norm.
            target: modality whose embeddings are searched; pairs that lack it are never found.
            k: answers a query, at least 1.
            filter: which rows may answer; its ``datetime`` is that of the target modality.
            exclude: for each query, ids of pairs that may not answer it.

        Returns:
            For each query at most k hits, best first, equal scores by pair id.

        Raises:
            QueryError: k < 1, wrong dimension, NaN, norm zero, unknown target, or ``exclude`` of another length.
        """
        if exclude is not None and len(exclude) != len(queries):
            raise QueryError(f"exclude has {len(exclude)} sets for {len(queries)} queries; expected one a query")
        exclusions = [set()] * len(queries) if exclude is None else exclude
        answers: list[list[Hit]] = [[] for _ in range(len(queries))]
        unit = None
        for segment, scans in zip(self.segments, self._scans, strict=True):
            allowed = _allowed(segment, filter, target)
            if unit is None:
                unit = _unit(queries, scans[target].dimension, k)
            dropped = [_rows_of(segment, ids) for ids in exclusions]
            most = max((len(rows) for rows in dropped), default=0)
            scores, rows = scans[target].search(unit, k + most, allowed)
            for query, drop in enumerate(dropped):
                kept = np.flatnonzero(~np.isin(rows[query], drop))[:k]
                ids = segment.rows["pair_id"].take(rows[query, kept]).to_pylist()
                answers[query] += [
                    Hit(pair_id, float(scores[query, place]), segment.name, int(rows[query, place]))
                    for pair_id, place in zip(ids, kept, strict=True)
                ]
        return [sorted(hits, key=lambda hit: (-hit.score, hit.pair_id))[:k] for hits in answers]

    def count(self, filter: Filter | None, target: str) -> int:
        """Pairs that a search with this filter could return.

        Raises:
            QueryError: unknown target.
        """
        return sum(int(np.count_nonzero(_allowed(segment, filter, target))) for segment in self.segments)

    def find(self, pair_id: str) -> tuple[Segment, int] | None:
        """Segment and row of a pair; None where it is not indexed."""
        for segment in self.segments:
            row = segment.find(pair_id)
            if row is not None:
                return segment, row
        return None


def _allowed(segment: Segment, filter: Filter | None, target: str) -> Bitmap:
    present = segment.has(target)
    return present if filter is None else present & filter.bitmap(segment.rows, target)


def _rows_of(segment: Segment, ids: set[str]) -> list[int]:
    rows = (segment.find(pair_id) for pair_id in ids)
    return [row for row in rows if row is not None]


def _unit(queries: npt.NDArray[np.floating], dimension: int, k: int) -> npt.NDArray[np.float32]:
    values = check_queries(queries, dimension, k).astype(np.float64)
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return np.asarray(values / norms, np.float32)

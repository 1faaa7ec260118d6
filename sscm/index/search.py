"""Searching the segments of an index as one."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sscm.errors import QueryError
from sscm.index.exact import ExactScan, ScanCounts, Scratch
from sscm.index.filters import Filter
from sscm.index.passing import Passing
from sscm.index.ranking import check_queries
from sscm.index.segment import Segment, property_names

if TYPE_CHECKING:
    from sscm.index.approximate import ApproximateScan

FILTER_BYTES = 256 * 2**20
"""Most memory of what is kept of filters used last: a byte a row, and the codes of the rows that pass."""


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

    That holds where all are searched exactly. Those with an approximate index miss an answer now and then, as often as
    the recall says that was asked for; scores are exact even there.

    Args:
        segments: open segments of one generation, or slices of them, each pair in one.
        threads: CPU threads of a search.
        exact: search exactly where there is an approximate index, too.

    Raises:
        IntegrityError: vectors are not float32 [n, d] or not finite.
    """

    def __init__(self, segments: Sequence[Segment], threads: int = 1, exact: bool = False) -> None:
        self.segments = tuple(segments)
        scratch = Scratch()
        self._exact = [
            {
                name: ExactScan(segment.vectors(name), threads, form=segment.forms.get(name), scratch=scratch)
                for name in segment.modalities
            }
            for segment in self.segments
        ]
        self._scans = [
            {name: scan if exact else _approximate(segment, name, scan) for name, scan in scans.items()}
            for segment, scans in zip(self.segments, self._exact, strict=True)
        ]
        self._allowed: OrderedDict[tuple[int, str, str], Passing] = OrderedDict()

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
        least: float | None = None,
        offset: int = 0,
    ) -> list[list[Hit]]:
        """The k most similar pairs of each query.

        Args:
            queries: float [q, d], of any length but zero: they are scaled to unit norm.
            target: modality whose embeddings are searched; pairs that lack it are never found.
            k: answers a query, at least 1.
            filter: which rows may answer; its ``datetime`` is that of the target modality.
            exclude: for each query, ids of pairs that may not answer it.
            least: least score of an answer; None for any.
            offset: best answers that are left out: of pages of k, the n-th has offset n × k. Within a generation
                pages neither overlap nor leave anything out.

        Returns:
            For each query at most k hits, best first, equal scores by pair id.

        Raises:
            QueryError: k < 1, wrong dimension, NaN, norm zero, unknown target, ``exclude`` of another length, or
                ``offset`` below 0.
        """
        if offset < 0:
            raise QueryError(f"offset = {offset}; expected 0 or more")
        first, k = offset, offset + k if k > 0 else k
        if exclude is not None and len(exclude) != len(queries):
            raise QueryError(f"exclude has {len(exclude)} sets for {len(queries)} queries; expected one a query")
        exclusions = [set()] * len(queries) if exclude is None else exclude
        answers: list[list[Hit]] = [[] for _ in range(len(queries))]
        unit = None
        for number, (segment, scans) in enumerate(zip(self.segments, self._scans, strict=True)):
            allowed = self._passing(number, filter, target)
            if unit is None:
                unit = _unit(queries, scans[target].dimension, k)
            dropped = [_rows_of(segment, ids) for ids in exclusions]
            most = max((len(rows) for rows in dropped), default=0)
            scores, rows = scans[target].search(unit, k + most, allowed)
            ids = iter(segment.rows["pair_id"].take(rows.ravel()).to_pylist())  # of all at once: each take costs
            for query, drop in enumerate(dropped):
                gone = {int(row) for row in drop}
                found = zip(ids, scores[query].tolist(), rows[query].tolist(), strict=False)
                hits = [
                    Hit(pair_id, score, segment.name, row)
                    for pair_id, score, row in itertools.islice(found, rows.shape[1])
                    if row not in gone
                ]
                answers[query] += hits[:k]
        ordered = (sorted(hits, key=lambda hit: (-hit.score, hit.pair_id)) for hits in answers)
        return [[hit for hit in hits[first:k] if least is None or hit.score >= least] for hits in ordered]

    def count(self, filter: Filter | None, target: str) -> int:
        """Pairs that a search with this filter could return.

        Raises:
            QueryError: unknown target.
        """
        return sum(self._passing(n, filter, target).count for n in range(len(self.segments)))

    @property
    def counts(self) -> ScanCounts:
        """What searches did until now, over all segments.

        Of a segment with an approximate index those queries count as widened, too, that it left to the exact scan.
        """
        total = ScanCounts()
        for exact, scans in zip(self._exact, self._scans, strict=True):
            for name, scan in scans.items():
                total += exact[name].counts
                if scan is not exact[name]:
                    lists = scan.counts
                    total += ScanCounts(lists.queries - lists.widened, lists.widened, lists.scored)
        return total

    def _passing(self, number: int, filter: Filter | None, target: str) -> Passing:
        """Rows of a segment that may answer; kept, since many queries share a filter and a segment never changes."""
        key = (number, target, "" if filter is None else filter.key())
        found = self._allowed.get(key)
        if found is None:
            segment = self.segments[number]
            bitmap = segment.has(target)
            if filter is not None:
                bitmap = bitmap & filter.bitmap(segment.rows, target, self._properties(filter))
            found = self._allowed[key] = Passing(bitmap)
            while len(self._allowed) > 1 and sum(kept.bytes for kept in self._allowed.values()) > FILTER_BYTES:
                self._allowed.popitem(last=False)
        self._allowed.move_to_end(key)
        return found

    def _properties(self, filter: Filter) -> set[str]:
        """Names of the properties of all segments, where a filter refers to any."""
        if not filter.properties():
            return set()
        return {name for segment in self.segments for name in property_names(segment.rows)}

    def find(self, pair_id: str) -> tuple[Segment, int] | None:
        """Segment and row of a pair; None where it is not indexed."""
        for segment in self.segments:
            row = segment.find(pair_id)
            if row is not None:
                return segment, row
        return None


def _approximate(segment: Segment, modality: str, exact: ExactScan) -> ExactScan | ApproximateScan:
    """What searches a modality of a segment."""
    found = segment.approximate.get(modality)
    if found is None:
        return exact
    from sscm.index.approximate import ApproximateScan  # loads FAISS, which most indexes do without

    index, effort = found
    return ApproximateScan(segment.vectors(modality), index, effort, exact)


def _rows_of(segment: Segment, ids: set[str]) -> list[int]:
    rows = (segment.find(pair_id) for pair_id in ids)
    return [row for row in rows if row is not None]


def _unit(queries: npt.NDArray[np.floating], dimension: int, k: int) -> npt.NDArray[np.float32]:
    values = check_queries(queries, dimension, k).astype(np.float64)
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return np.asarray(values / norms, np.float32)

"""One shard of an index: some rows of some segments, answering single queries in batches."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.batcher import Batcher
from serve.items import stac_items
from serve.messages import Found, ShardAnswer, ShardHit, ShardQuery
from sscm.errors import SscmError, WorkspaceError
from sscm.index.filters import Filter
from sscm.index.generation import open_segments, read_generation
from sscm.index.pins import reading
from sscm.index.search import Hit, IndexReader
from sscm.index.segment import Segment
from sscm.index.tombstones import RowNumbers
from sscm.workspace import Workspace

MAX_BATCH = 64
"""Queries searched at a time."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of one segment.

    Args:
        segment: its name.
        start: first row.
        stop: one after the last row.
    """

    segment: str
    start: int
    stop: int


def deal(
    segments: Sequence[tuple[str, int]], shards: int, whole: Collection[str] = frozenset()
) -> list[tuple[Slice, ...]]:
    """Deal the rows of all segments, one after the other, evenly over shards.

    Args:
        segments: name and rows of each.
        shards: how many shards are wanted.
        whole: names of segments that are not to be cut, since an approximate index searches all of one.

    Returns:
        The slices of each shard; where all may be cut, their rows differ by at most one between shards. Fewer shards
        where there are fewer rows, or fewer segments that are not to be cut.
    """
    total = sum(rows for _, rows in segments)
    shards = max(1, min(shards, total))
    bounds = {_edge(segments, total * i // shards, whole) for i in range(shards + 1)}
    dealt: list[tuple[Slice, ...]] = []
    if not total:
        return [()]
    for low, high in itertools.pairwise(sorted(bounds)):
        slices, first = [], 0
        for name, rows in segments:
            start, stop = max(low - first, 0), min(high - first, rows)
            if start < stop:
                slices.append(Slice(segment=name, start=start, stop=stop))
            first += rows
        dealt.append(tuple(slices))
    return dealt


def _edge(segments: Sequence[tuple[str, int]], bound: int, whole: Collection[str]) -> int:
    """A bound between shards; the nearer end of the segment that it would cut where that is not to be cut."""
    first = 0
    for name, rows in segments:
        if first < bound < first + rows:
            return bound if name not in whole else first if 2 * (bound - first) < rows else first + rows
        first += rows
    return bound


def live_rows(slices: Sequence[Slice], deleted: Mapping[str, RowNumbers]) -> int:
    """Rows of some slices that are not deleted.

    Args:
        slices: the slices.
        deleted: segment → numbers of its deleted rows, sorted.
    """
    rows = 0
    for part in slices:
        low, high = np.searchsorted(deleted[part.segment], (part.start, part.stop))
        rows += part.stop - part.start - int(high - low)
    return rows


class IndexShard:
    """Searches its rows. Deleted ones are in its slices, and are neither found, nor counted, nor handed out.

    It pins its generation while it runs: a replica that starts in the place of another finds the same files.

    Args:
        workspace: where the index is.
        generation: number of the generation.
        slices: rows of this shard.
        titles: modality name → what people call it.
        threads: CPU threads of a search.

    Raises:
        GenerationError: there is no such generation.
        IntegrityError: a file of it is not what the manifest says.
    """

    def __init__(
        self,
        workspace: Workspace,
        generation: int,
        slices: Sequence[Slice],
        titles: Mapping[str, str],
        threads: int,
    ) -> None:
        with ExitStack() as if_it_fails:
            self._pin = reading(workspace, generation, "sscm serve")  # pinned first, read then
            if self._pin is not None:
                if_it_fails.enter_context(self._pin)
            whole = read_generation(workspace, generation)
            names = {part.segment for part in slices}
            mine = dataclasses.replace(whole, segments=tuple(s for s in whole.segments if s.name in names))
            opened = {segment.name: segment for segment in open_segments(workspace, mine)}
            self._segments: dict[str, Segment] = {
                part.segment: opened[part.segment].slice(part.start, part.stop) for part in slices
            }
            self._reader = IndexReader(tuple(self._segments.values()), threads)
            if_it_fails.pop_all()
        self._live = {name: _live(segment) for name, segment in self._segments.items()}
        self._properties = {name for info in whole.segments for name in info.properties or ()}
        self._titles = dict(titles)
        self._batcher: Batcher[ShardQuery, ShardAnswer] = Batcher(self.search_batch, MAX_BATCH)

    def __del__(self) -> None:
        """Give the pin back; Ray Serve calls this when it stops a replica."""
        pin = getattr(self, "_pin", None)
        if pin is not None and not sys.is_finalizing():  # threads and files are not to be had any more then
            with suppress(WorkspaceError):  # it runs out by itself
                pin.release()

    async def search(self, query: ShardQuery) -> tuple[ShardAnswer, int]:
        """Answer one query; also tells the size of the batch that it was part of.

        Raises:
            QueryError: the query cannot be answered.
        """
        return await self._batcher(query)

    def search_batch(self, queries: Sequence[ShardQuery]) -> list[ShardAnswer | Exception]:
        """Answer queries at once: those of one target and filter share a scan.

        A query that cannot be answered yields its error and leaves the others alone.
        """
        answers: list[ShardAnswer | Exception] = [ShardAnswer([], 0)] * len(queries)
        kinds: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            kinds.setdefault(repr((query.target, query.filter)), []).append(place)
        for places in kinds.values():
            try:
                found = self._search_alike([queries[place] for place in places])
            except SscmError as error:
                found = [error] * len(places)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _search_alike(self, queries: Sequence[ShardQuery]) -> Sequence[ShardAnswer | Exception]:
        target, restriction = queries[0].target, queries[0].filter
        before = self._reader.counts
        hits = self._reader.search(
            np.stack([query.vector for query in queries]),
            target=target,
            k=max(query.k for query in queries),
            filter=restriction,
            exclude=[set(query.exclude) for query in queries],
        )
        kept = [
            [hit for hit in found[: query.k] if query.least is None or hit.score >= query.least]
            for found, query in zip(hits, queries, strict=True)
        ]
        items = self._items_of([hit for found in kept for hit in found])
        matched = self._reader.count(restriction, target)
        after = self._reader.counts
        scans = (after.queries - before.queries) / len(queries)
        widened = (after.widened - before.widened) / len(queries)
        return [
            ShardAnswer(
                [ShardHit(hit.pair_id, hit.score, items[hit.segment, hit.row]) for hit in found],
                matched - sum(self._matches(pair_id, target, restriction) for pair_id in query.exclude),
                scans,
                widened,
            )
            for found, query in zip(kept, queries, strict=True)
        ]

    def _items_of(self, hits: Sequence[Hit]) -> dict[tuple[str, int], dict[str, Any]]:
        """Each row's item, made once however many queries it answers."""
        items = {}
        for name, segment in self._segments.items():
            rows = sorted({hit.row for hit in hits if hit.segment == name})
            if rows:
                made = stac_items(segment.rows, rows, self._titles)
                items.update({(name, row): item for row, item in zip(rows, made, strict=True)})
        return items

    def _matches(self, pair_id: str, target: str, restriction: Filter | None) -> bool:
        """Whether a pair is here and would have been counted."""
        place = self._reader.find(pair_id)
        if place is None:
            return False
        segment, row = place
        if not segment.rows[f"has_{target}"][row].as_py():
            return False
        return restriction is None or bool(restriction.bitmap(segment.rows.slice(row, 1), target, self._properties)[0])

    def find(self, pair_id: str, modality: str | None = None) -> Found | None:
        """A pair by its id, with the embedding of its image of one modality if asked for; None if it is not here."""
        place = self._reader.find(pair_id)
        return None if place is None else self._found(place[0], place[1], modality)

    def rows(self, numbers: Sequence[int]) -> list[Found]:
        """Pairs by their place among the rows of this shard that are not deleted, counted over its slices."""
        found = []
        for number in numbers:
            place = number
            for name, live in self._live.items():
                if place < len(live):
                    found.append(self._found(self._segments[name], int(live[place]), None))
                    break
                place -= len(live)
        return found

    def _found(self, segment: Segment, row: int, modality: str | None) -> Found:
        vector = None
        if modality is not None and segment.rows[f"has_{modality}"][row].as_py():
            vector = np.array(segment.vectors(modality)[row], np.float32)
        return Found(
            item=stac_items(segment.rows, [row], self._titles)[0],
            archive_file=segment.rows["archive_file"][row].as_py(),
            archive_row=segment.rows["archive_row"][row].as_py(),
            vector=vector,
        )

    def ready(self) -> int:
        """Rows of this shard that are not deleted, which says that it answers."""
        return sum(map(len, self._live.values()))

    def check_health(self) -> None:
        """Raise if a batch is stuck; Serve then starts another replica."""
        self._batcher.check()


def _live(segment: Segment) -> range | npt.NDArray[np.int64]:
    """Numbers of the rows of a segment that are not deleted."""
    return range(len(segment)) if segment.deleted is None else np.flatnonzero(~segment.deleted)

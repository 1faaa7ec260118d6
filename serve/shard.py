"""One shard of an index: some rows of some segments, searched exactly, answering single queries in batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.batcher import Batcher
from serve.items import stac_items
from serve.messages import Found, ShardAnswer, ShardHit, ShardQuery
from sscm.errors import SscmError
from sscm.index.filters import Filter
from sscm.index.generation import open_segments, read_generation
from sscm.index.search import Hit, IndexReader
from sscm.index.segment import Segment
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


def deal(segments: Sequence[tuple[str, int]], shards: int) -> list[tuple[Slice, ...]]:
    """Deal the rows of all segments, one after the other, evenly over shards.

    Args:
        segments: name and rows of each.
        shards: how many shards are wanted.

    Returns:
        The slices of each shard; their rows differ by at most one between shards. Fewer shards where there are fewer
        rows.
    """
    total = sum(rows for _, rows in segments)
    shards = max(1, min(shards, total))
    bounds = [total * i // shards for i in range(shards + 1)]
    dealt = []
    for low, high in itertools.pairwise(bounds):
        slices, first = [], 0
        for name, rows in segments:
            start, stop = max(low - first, 0), min(high - first, rows)
            if start < stop:
                slices.append(Slice(segment=name, start=start, stop=stop))
            first += rows
        dealt.append(tuple(slices))
    return dealt


def sliced(segment: Segment, start: int, stop: int) -> Segment:
    """Rows ``start`` to ``stop`` of a segment, over the same memory."""
    return segment.slice(start, stop)


class IndexShard:
    """Searches its rows.

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
        whole = read_generation(workspace, generation)
        names = {part.segment for part in slices}
        mine = dataclasses.replace(whole, segments=tuple(s for s in whole.segments if s.name in names))
        opened = {segment.name: segment for segment in open_segments(workspace, mine)}
        self._segments: dict[str, Segment] = {
            part.segment: sliced(opened[part.segment], part.start, part.stop) for part in slices
        }
        self._reader = IndexReader(tuple(self._segments.values()), threads)
        self._titles = dict(titles)
        self._batcher: Batcher[ShardQuery, ShardAnswer] = Batcher(self.search_batch, MAX_BATCH)

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
        return [
            ShardAnswer(
                [ShardHit(hit.pair_id, hit.score, items[hit.segment, hit.row]) for hit in found],
                matched - sum(self._matches(pair_id, target, restriction) for pair_id in query.exclude),
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
        return IndexReader((sliced(segment, row, row + 1),)).count(restriction, target) == 1

    def find(self, pair_id: str, modality: str | None = None) -> Found | None:
        """A pair by its id, with the embedding of its image of one modality if asked for; None if it is not here."""
        place = self._reader.find(pair_id)
        return None if place is None else self._found(place[0], place[1], modality)

    def rows(self, numbers: Sequence[int]) -> list[Found]:
        """Pairs by their place in this shard, counted over its slices."""
        found = []
        for number in numbers:
            row = number
            for segment in self._segments.values():
                if row < segment.rows.num_rows:
                    found.append(self._found(segment, row, None))
                    break
                row -= segment.rows.num_rows
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
        """Rows of this shard, which says that it answers."""
        return sum(segment.rows.num_rows for segment in self._segments.values())

    def check_health(self) -> None:
        """Raise if a batch is stuck; Serve then starts another replica."""
        self._batcher.check()

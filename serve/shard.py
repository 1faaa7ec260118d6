"""One shard of an index: some rows of some segments, answering single queries in batches."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import numpy as np
import numpy.typing as npt

from serve.batcher import Batcher
from serve.editions import Slice
from serve.items import scored, stac_items
from serve.messages import Found, Listed, ShardAnswer, ShardHit, ShardQuery
from sscm.errors import SscmError, WorkspaceError
from sscm.index.filters import Filter
from sscm.index.generation import open_segments, read_generation
from sscm.index.pins import reading
from sscm.index.search import IndexReader
from sscm.index.segment import Segment
from sscm.workspace import Workspace

MAX_BATCH = 64
"""Queries searched at a time."""
MAX_WAITING = 1024
"""Queries that wait for their batch; more are sent away."""
KEPT_BYTES = 256 * 2**20
"""Memory for items that are kept as JSON: what answers once often answers again. About 200,000 items."""
_BESIDE_ITEM = 320
"""Bytes that a kept item takes beside its JSON."""
KEPT_LISTS = 16
"""Filters for which the rows that pass are kept while they are browsed."""


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
        self._batcher: Batcher[ShardQuery, ShardAnswer] = Batcher(self.search_batch, MAX_BATCH, MAX_WAITING)
        self._items: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._items_bytes = 0
        self._listed: OrderedDict[str, list[tuple[Segment, npt.NDArray[np.int64]]]] = OrderedDict()
        self._made = 0
        self._random = np.random.default_rng()
        self._lock = threading.Lock()  # of what is kept: batches and single calls run on threads of their own

    def __del__(self) -> None:
        """Give the pin back, when nobody asks this generation any more."""
        pin = getattr(self, "_pin", None)
        if pin is not None and not sys.is_finalizing():  # threads and files are not to be had any more then
            with suppress(WorkspaceError):  # it runs out by itself
                pin.release()

    async def search(self, query: ShardQuery) -> tuple[ShardAnswer, int]:
        """Answer one query; also tells the size of the batch that it was part of.

        Raises:
            QueryError: the query cannot be answered.
            Busy: too many queries wait.
        """
        return await self._batcher(query)

    def search_batch(self, queries: Sequence[ShardQuery]) -> list[ShardAnswer | Exception]:
        """Answer queries at once: those of one target and filter share a scan.

        A query that cannot be answered yields its error and leaves the others alone.
        """
        answers: list[ShardAnswer | Exception] = [ShardAnswer([], 0)] * len(queries)
        kinds: dict[tuple[str, str], list[int]] = {}
        for place, query in enumerate(queries):
            key = "" if query.filter is None else query.filter.key()
            kinds.setdefault((query.target, key), []).append(place)
        for places in kinds.values():
            try:
                found = self._search_alike([queries[place] for place in places])
            except SscmError as error:
                found = [error] * len(places)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _search_alike(self, queries: Sequence[ShardQuery]) -> Sequence[ShardAnswer | Exception]:
        start, made = time.perf_counter(), self._made
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
        items = self._items_of([(hit.segment, hit.row) for found in kept for hit in found])
        matched = self._reader.count(restriction, target)
        after = self._reader.counts
        scans = (after.queries - before.queries) / len(queries)
        widened = (after.widened - before.widened) / len(queries)
        return [
            ShardAnswer(
                [
                    ShardHit(hit.pair_id, hit.score, scored(items[hit.segment, hit.row], hit.score, target))
                    for hit in found
                ],
                matched - sum(self._matches(pair_id, target, restriction) for pair_id in query.exclude),
                scans,
                widened,
                time.perf_counter() - start,
                (self._made - made) / len(queries),
            )
            for found, query in zip(kept, queries, strict=True)
        ]

    def _items_of(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
        """Items of some rows as JSON, each made once however many queries it answers."""
        items: dict[tuple[str, int], bytes] = {}
        missing: dict[str, list[int]] = {}
        with self._lock:
            for place in set(places):
                kept = self._items.get(place)
                if kept is None:
                    missing.setdefault(place[0], []).append(place[1])
                else:
                    items[place] = kept
                    self._items.move_to_end(place)
        if missing:
            self._make(missing, items)
        return items

    def _make(self, missing: Mapping[str, list[int]], items: dict[tuple[str, int], bytes]) -> None:
        """Make items of some rows of each segment, among those that there are, and keep them."""
        new: dict[tuple[str, int], bytes] = {}
        for name, rows in missing.items():
            made = stac_items(self._segments[name].rows, sorted(rows), self._titles)
            new.update(((name, row), item) for row, item in zip(sorted(rows), made, strict=True))
        items.update(new)
        with self._lock:
            self._made += len(new)
            for place, item in new.items():
                if place not in self._items:  # another thread may have made it meanwhile
                    self._items_bytes += len(item) + _BESIDE_ITEM
                self._items[place] = item
            while self._items_bytes > KEPT_BYTES:
                self._items_bytes -= len(self._items.popitem(last=False)[1]) + _BESIDE_ITEM

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

    def browse(self, restriction: Filter | None, first: int, limit: int) -> Listed:
        """Rows that pass a filter, whatever is in them, in the order of the index.

        Args:
            restriction: the filter, or None.
            first: number of the first row, among all rows of this shard.
            limit: most rows wanted.

        Raises:
            QueryError: the filter cannot be answered.
        """
        places: list[tuple[str, int]] = []
        matched, start, following = 0, 0, None
        numbers: list[int] = []
        for segment, rows in self._passing(restriction):
            matched += len(rows)
            later = rows[np.searchsorted(rows, first - start) :]
            taken = later[: limit - len(places)]
            places += [(segment.name, int(row)) for row in taken]
            numbers += [start + int(row) for row in taken]
            if following is None and len(taken) < len(later):
                following = start + int(later[len(taken)])
            start += len(segment)
        items = self._items_of(places)
        return Listed(matched, [items[place] for place in places], numbers, following)

    def sample(self, restriction: Filter | None, count: int) -> Listed:
        """Rows that pass a filter, drawn at random, each as likely as any other, in no order.

        Args:
            restriction: the filter, or None.
            count: most rows wanted.

        Raises:
            QueryError: the filter cannot be answered.
        """
        passing = self._passing(restriction)
        sizes = np.cumsum([0, *(len(rows) for _, rows in passing)])
        drawn = self._random.choice(int(sizes[-1]), min(count, int(sizes[-1])), replace=False)
        places = []
        for number in drawn:
            part = int(np.searchsorted(sizes, number, "right")) - 1
            segment, rows = passing[part]
            places.append((segment.name, int(rows[number - sizes[part]])))
        items = self._items_of(places)
        return Listed(int(sizes[-1]), [items[place] for place in places], [int(number) for number in drawn])

    def _passing(self, restriction: Filter | None) -> list[tuple[Segment, npt.NDArray[np.int64]]]:
        """Rows of each segment that pass a filter and are not deleted."""
        key = "" if restriction is None else restriction.key()
        with self._lock:
            found = self._listed.get(key)
        if found is None:
            found = []
            for name, segment in self._segments.items():
                rows = np.asarray(self._live[name], np.int64)
                if restriction is not None:
                    rows = rows[restriction.bitmap(segment.rows, None, self._properties)[rows]]
                found.append((segment, rows))
        with self._lock:
            self._listed[key] = found
            self._listed.move_to_end(key)
            while len(self._listed) > KEPT_LISTS:
                self._listed.popitem(last=False)
        return found

    def _found(self, segment: Segment, row: int, modality: str | None) -> Found:
        vector = None
        if modality is not None and segment.rows[f"has_{modality}"][row].as_py():
            vector = np.array(segment.vectors(modality)[row], np.float32)
        return Found(
            item=self._items_of([(segment.name, row)])[segment.name, row],
            archive_file=segment.rows["archive_file"][row].as_py(),
            archive_row=segment.rows["archive_row"][row].as_py(),
            vector=vector,
        )

    def ready(self) -> int:
        """Rows of this shard that are not deleted, which says that it answers."""
        return sum(map(len, self._live.values()))

    def check(self) -> None:
        """Raise RuntimeError if a batch is stuck."""
        self._batcher.check()


def _live(segment: Segment) -> range | npt.NDArray[np.int64]:
    """Numbers of the rows of a segment that are not deleted."""
    return range(len(segment)) if segment.deleted is None else np.flatnonzero(~segment.deleted)

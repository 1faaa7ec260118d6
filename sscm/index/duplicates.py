"""Pairs that an index has more than once: found by going through the sorted ids of all segments side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.errors import IntegrityError
from sscm.index.generation import Generation, SegmentInfo
from sscm.index.rows import read_ids
from sscm.index.segment import ROWS, SEGMENTS
from sscm.index.tombstones import read_tombstones
from sscm.progress import Advance
from sscm.workspace import INDEX, Workspace

NAMED = 5
"""Pairs that are named."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Pairs that are in an index more than once; deleted rows do not count.

    Args:
        pairs: how many.
        first: ids of the first few.
    """

    pairs: int
    first: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.pairs > 0

    def __str__(self) -> str:
        more = ", …" if self.pairs > len(self.first) else ""
        return f"{self.pairs:,} pairs are in the index more than once ({', '.join(self.first)}{more})"


def find_duplicates(workspace: Workspace, generation: Generation, advance: Advance | None = None) -> Duplicates:
    """Look for pairs that are in a generation more than once.

    Ids are read some at a time from each segment: the memory is that of the segments, not of their rows.

    Args:
        workspace: where ``index/`` is.
        generation: which one.
        advance: called with the rows gone through since the last call.

    Raises:
        IntegrityError: the rows of a segment are not sorted, or a file is not what the manifest says.
    """
    streams = [_Stream(workspace, info) for info in generation.segments]
    count, first = 0, list[str]()
    while streams := [stream for stream in streams if stream.filled(advance)]:
        # Everything up to the least of the last ids is at hand in every segment.
        bound = min(stream.last for stream in streams)
        taken = pa.concat_arrays([stream.take(bound) for stream in streams])
        counts = pc.value_counts(taken)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        twice = twice.take(pc.sort_indices(twice))
        count += len(twice)
        first += twice[: max(0, NAMED - len(first))].to_pylist()
    return Duplicates(pairs=count, first=tuple(first))


class _Stream:
    """Live ids of one segment, in order."""

    def __init__(self, workspace: Workspace, info: SegmentInfo) -> None:
        self._where = workspace.uri_of(INDEX, SEGMENTS, info.name, ROWS)
        self._dead: npt.NDArray[np.uint32] = read_tombstones(workspace, info.name, info.deleted)
        self._batches: Iterator[pa.Array] = read_ids(workspace, info)
        self._ids = pa.array([], pa.string())
        self._row = 0
        self._before: str | None = None

    @property
    def last(self) -> str:
        """The last id at hand."""
        return str(self._ids[-1].as_py())

    def filled(self, advance: Advance | None) -> bool:
        """Have ids at hand; False at the end."""
        while not len(self._ids):
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._require_order(batch)
            low, high = np.searchsorted(self._dead, (self._row, self._row + len(batch)))
            live = np.ones(len(batch), np.bool_)
            live[self._dead[low:high] - self._row] = False
            self._ids = batch.filter(pa.array(live))
            self._row += len(batch)
            if advance is not None:
                advance(len(batch))
        return True

    def take(self, bound: str) -> pa.Array:
        """The ids up to one, that one included."""
        low, high = 0, len(self._ids)
        while low < high:
            middle = (low + high) // 2
            if self._ids[middle].as_py() <= bound:
                low = middle + 1
            else:
                high = middle
        taken, self._ids = self._ids[:low], self._ids[low:]
        return taken

    def _require_order(self, batch: pa.Array) -> None:
        if not len(batch):
            return
        rising = pc.less(batch[:-1], batch[1:])
        misplaced = self._before is not None and self._before >= batch[0].as_py()
        if misplaced or not pc.all(rising, min_count=0).as_py():
            place = 0 if misplaced else 1 + int(np.argmin(rising.to_numpy(zero_copy_only=False)))
            raise IntegrityError(
                f"{self._where}: row {self._row + place}, pair {batch[place].as_py()!r}, is not after the row before; "
                "expected ids in order and each once; run `sscm index` to build anew"
            )
        self._before = batch[-1].as_py()

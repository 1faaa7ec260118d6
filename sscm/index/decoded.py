"""Decoding columns of a table of rows into arrays that filters compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.index.instants import NAT, Times
from sscm.index.texts import Bitmap, Codes, Rows, Texts, coded_texts, flags, small

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True, eq=False)
class LabelLists:
    """A column of lists, turned round: which rows have a label.

    Args:
        places: label → its place.
        starts: int64 [labels + 1], where the rows of each label start.
        rows: rows that have the first label, then those that have the second …
        counts: int32 [n], distinct labels of each row; -1 for null.
    """

    places: dict[str, int]
    starts: Rows
    rows: Places
    counts: Places

    def having(self, label: str) -> Places:
        """Rows that have a label, ascending."""
        place = self.places.get(label)
        return self.rows[:0] if place is None else self.rows[self.starts[place] : self.starts[place + 1]]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Bounding boxes of footprints, degrees; NaN where there is none.

    Args:
        west: float64 [n].
        south: float64 [n].
        east: float64 [n].
        north: float64 [n].
        odd: rows whose box crosses the antimeridian: west > east, or a longitude beyond 180 degrees.
    """

    west: Floats
    south: Floats
    east: Floats
    north: Floats
    odd: Rows


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of a chunk of the properties' column.

    Args:
        names: number of each entry's name.
        offsets: where the entries of each row start, and those of the last end.
        valid: bool [rows], rows whose properties are not null.
        first: row of the table that the chunk starts with.
    """

    names: Codes
    offsets: Places
    valid: Bitmap
    first: int

    def having(self, number: int, chunk: pa.Array) -> tuple[Rows, pa.Array]:
        """Rows of the table that have a name, and their values; the chunk is the one that was read."""
        places = np.flatnonzero(self.names == number)
        rows = np.searchsorted(self.offsets, places, "right") - 1
        places, rows = places[self.valid[rows]], rows[self.valid[rows]]
        return rows + self.first, chunk.items.take(pa.array(places + chunk.offsets[0].as_py()))


def read_entries(column: pa.ChunkedArray) -> tuple[dict[str, int], list[Entries]]:
    """Numbers of the properties' names, and the entries of each chunk of their column."""
    numbers: dict[str, int] = {}
    chunks, first = [], 0
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        start, count = int(offsets[0]), int(offsets[-1] - offsets[0])
        keys = chunk.keys.slice(start, count).dictionary_encode()
        of_chunk = np.array([numbers.setdefault(key, len(numbers)) for key in keys.dictionary.to_pylist()], np.int64)
        names = small(of_chunk, len(numbers))[keys.indices.to_numpy()]
        chunks.append(Entries(names, offsets - offsets[0], flags(chunk.is_valid()), first))
        first += len(chunk)
    return numbers, chunks


def read_ids(column: pa.ChunkedArray) -> Texts:
    """A column of text that is sorted already, as the pair ids of a segment are, or any other."""
    ids = column.combine_chunks()
    if len(ids) < 2 or pc.all(pc.less(ids[:-1], ids[1:])).as_py():
        return Texts(ids, None)
    return coded_texts(ids)


def read_numbers(texts: pa.Array) -> Floats:
    """Texts as numbers: float64, NaN for what is no finite number."""
    numbers = np.full(len(texts), np.nan)
    numeric = flags(pc.match_substring_regex(texts, _NUMBER))
    chosen = pc.utf8_ltrim(pc.utf8_trim_whitespace(texts.filter(pa.array(numeric))), "+")
    numbers[numeric] = chosen.cast(pa.float64()).to_numpy()
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def read_booleans(texts: pa.Array) -> npt.NDArray[np.int8]:
    """Texts as truth: int8, 1 for ``true``, 0 for ``false`` in any case, -1 for anything else."""
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    return np.select([flags(pc.equal(lower, "true")), flags(pc.equal(lower, "false"))], [1, 0], -1).astype(np.int8)


def read_timestamps(column: pa.ChunkedArray) -> Times:
    """A column of timestamps: int64 microseconds since 1970, NAT for null."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), NAT).to_numpy(), np.int64)


def read_labels(column: pa.ChunkedArray) -> LabelLists:
    """A column of lists of text; null elements count for nothing."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    labels = lists.values.slice(offsets[0], offsets[-1] - offsets[0]).dictionary_encode()
    valid = flags(lists.is_valid())
    rows = np.repeat(np.arange(len(lists), dtype=np.int64), np.diff(offsets))
    names = labels.dictionary.to_pylist()
    codes = small(pc.fill_null(labels.indices, -1).to_numpy(), len(names))
    kept = valid[rows] & (codes >= 0)
    order = np.argsort(codes[kept], kind="stable")  # by label, then by row; of small integers a radix sort
    codes, rows = codes[kept][order], rows[kept][order]
    first = np.ones(len(rows), np.bool_)  # a label that a row has twice counts once
    first[1:] = (codes[1:] != codes[:-1]) | (rows[1:] != rows[:-1])
    codes, rows = codes[first], rows[first]
    counts = np.where(valid, np.bincount(rows, minlength=len(lists)), -1)
    starts = np.searchsorted(codes, np.arange(len(names) + 1, dtype=np.int32))
    places = {name: place for place, name in enumerate(names)}
    return LabelLists(places, starts, rows.astype(np.int32), counts.astype(np.int32))


def read_boxes(column: pa.ChunkedArray) -> Boxes:
    """The column of bounding boxes."""
    west, south, east, north = (
        np.asarray(pc.fill_null(pc.struct_field(column, name), np.nan).to_numpy(), np.float64)
        for name in ("xmin", "ymin", "xmax", "ymax")
    )
    return Boxes(west, south, east, north, np.flatnonzero((west > east) | (west < -180) | (east > 180)))

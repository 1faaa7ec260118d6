"""What filters compare, decoded once from a table of rows: texts as codes, numbers, times, label lists, boxes.

Segments are immutable, so what is decoded of one stays right. It is kept as long as the table lives, and the least
recently used goes first where all of it takes more than :data:`CACHE_BYTES`.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.errors import QueryError
from sscm.index.decoded import (
    Boxes,
    Entries,
    Floats,
    LabelLists,
    read_booleans,
    read_boxes,
    read_entries,
    read_ids,
    read_labels,
    read_numbers,
    read_timestamps,
)
from sscm.index.instants import LAST, NAT, Times, parse_times
from sscm.index.texts import Bitmap, Rows, Texts, coded_texts, flags, fold, small

CACHE_BYTES = 512 * 2**20
"""Most that is kept of all tables: some fifty numeric properties of a million rows."""
TIME = "_datetime"
"""How the name of a modality's acquisition time ends."""
FIXED = ("datetime", "geometry", "id", "labels", "pair_id", "split")
"""Names that mean the same in every index."""
SOURCE = "source:"
"""Precedes the name of a source's property where that name means something else here, as in STAC Items."""

T = TypeVar("T")


class Columns:
    """The columns of one table.

    Args:
        rows: table of :func:`~sscm.index.segment.rows_schema`.
    """

    def __init__(self, rows: pa.Table) -> None:
        self.number = next(_NUMBERS)
        self.modalities = tuple(name.removesuffix(TIME) for name in rows.column_names if name.endswith(TIME))
        self._columns = dict(zip(rows.column_names, rows.columns, strict=True))
        self._rows = int(rows.num_rows)

    def __len__(self) -> int:
        return self._rows

    @property
    def properties(self) -> Collection[str]:
        """What the source calls the properties that any row has."""
        return self._entries()[0]

    def texts(self, name: str, folds: tuple[str, ...] = ()) -> Texts:
        """A column of text by its name in filters, folded by ``casei`` or ``accenti`` or both, one after the other."""
        if folds:
            return self._kept((name, folds), lambda: _folded(self.texts(name, folds[:-1]), folds[-1]))
        if name in ("id", "pair_id"):
            return self._kept("id", lambda: read_ids(self._columns["pair_id"]))
        if name == "split":
            return self._kept(name, lambda: coded_texts(self._columns["split"].combine_chunks()))
        return self._kept((name, "texts"), lambda: self._property(name))

    def numbers(self, name: str) -> Floats:
        """A property as numbers: float64 [n], NaN where its value is no finite number."""
        return self._kept((name, "numbers"), lambda: _by_value(self.texts(name), read_numbers, np.nan))

    def booleans(self, name: str) -> npt.NDArray[np.int8]:
        """A property as truth: int8 [n], 1 for ``true``, 0 for ``false`` in any case, -1 for anything else."""
        return self._kept((name, "booleans"), lambda: _by_value(self.texts(name), read_booleans, -1))

    def times(self, name: str, modality: str | None = None) -> Times:
        """Times, microseconds since 1970: int64 [n], NAT for null.

        Args:
            name: ``datetime``, ``<modality>_datetime``, or a property, whose dates are midnights.
            modality: whose time ``datetime`` is; None for the earliest of all modalities.

        Raises:
            QueryError: the rows have no such modality.
        """
        if name == "datetime":
            if modality is None:
                return self._kept(name, self._earliest)
            if modality not in self.modalities:
                known = list(self.modalities)
                raise QueryError(f"modality {modality!r} has no times in this index; those that have: {known}")
            return self.times(f"{modality}{TIME}")
        if is_fixed(name, self.modalities):
            return self._kept(name, lambda: read_timestamps(self._columns[name]))
        return self._kept((name, "times"), lambda: _by_value(self.texts(name), parse_times, NAT))

    def labels(self) -> LabelLists:
        """The labels."""
        return self._kept("labels", lambda: read_labels(self._columns["labels"]))

    def boxes(self) -> Boxes:
        """Bounding boxes of the footprints."""
        return self._kept("bbox", lambda: read_boxes(self._columns["bbox"]))

    def located(self) -> Bitmap:
        """Rows that have a footprint: bool [n]."""
        return self._kept("geometry", lambda: flags(pc.is_valid(self._columns["geometry"])))

    def footprints(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Footprints of some rows, WKB."""
        return cast(npt.NDArray[np.object_], self._columns["geometry"].take(pa.array(rows)).to_numpy())

    def _earliest(self) -> Times:
        earliest = np.full(len(self), LAST, np.int64)
        for modality in self.modalities:
            times = self.times(f"{modality}{TIME}")
            np.minimum(earliest, times, out=earliest, where=times != NAT)
        earliest[earliest == LAST] = NAT
        return earliest

    def _entries(self) -> tuple[dict[str, int], list[Entries]]:
        return self._kept("properties", lambda: read_entries(self._columns["properties"]))

    def _property(self, name: str) -> Texts:
        numbers, entries = self._entries()
        number = numbers.get(property_key(name, self.modalities))
        if number is None:
            return Texts(pa.array([], pa.string()), np.full(len(self), -1, np.int8))
        chunks = self._columns["properties"].chunks
        found = [part.having(number, chunk) for part, chunk in zip(entries, chunks, strict=True)]
        coded = coded_texts(pa.chunked_array([values for _, values in found], pa.string()).combine_chunks())
        codes = np.full(len(self), -1)
        codes[np.concatenate([rows for rows, _ in found])] = coded.codes  # of a name given twice the last counts
        return Texts(coded.values, small(codes, len(coded.values)))

    def _kept(self, name: Hashable, make: Callable[[], T]) -> T:
        return _CACHE.get(self.number, name, make)


def is_fixed(name: str, modalities: Collection[str]) -> bool:
    """Whether a name in a filter is that of a column, not of a source's property."""
    return name in FIXED or (name.endswith(TIME) and name.removesuffix(TIME) in modalities)


def property_key(name: str, modalities: Collection[str]) -> str:
    """What the source calls the property that a filter calls so."""
    own = name.removeprefix(SOURCE)
    return own if own != name and is_fixed(own, modalities) else name


def property_name(key: str, modalities: Collection[str]) -> str:
    """What filters call the property that the source calls so."""
    return f"{SOURCE}{key}" if is_fixed(key, modalities) else key


def columns_of(rows: pa.Table) -> Columns:
    """The columns of a table; the same for the same table, as long as it lives."""
    key = id(rows)
    with _CACHE.lock:
        known = _TABLES.get(key)
        if known is not None and known[0]() is rows:
            return known[1]
        columns = Columns(rows)

        def forget(reference: weakref.ref[pa.Table]) -> None:
            with _CACHE.lock:
                if key in _TABLES and _TABLES[key][0] is reference:
                    del _TABLES[key]
                _CACHE.forget(columns.number)

        _TABLES[key] = (weakref.ref(rows, forget), columns)
        return columns


class _Cache:
    """Values by owner and name, the least recently used dropped first."""

    def __init__(self, most: int) -> None:
        self.lock = threading.RLock()  # a table may die, and be forgotten, in the midst of anything
        self._most = most
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()

    def get(self, owner: int, name: Hashable, make: Callable[[], T]) -> T:
        key = (owner, name)
        with self.lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast(T, self._kept[key][0])
        value = make()  # seldom by two threads at once, which then make the same
        with self.lock:
            self._drop(key)
            self._kept[key] = (value, _size(value))
            self._bytes += self._kept[key][1]
            while self._bytes > self._most:
                self._drop(next(iter(self._kept)))
        return value

    def forget(self, owner: int) -> None:
        for key in [key for key in self._kept if key[0] == owner]:
            self._drop(key)

    def _drop(self, key: tuple[int, Hashable]) -> None:
        if key in self._kept:
            self._bytes -= self._kept.pop(key)[1]


_NUMBERS = itertools.count()
_TABLES: dict[int, tuple[weakref.ref[pa.Table], Columns]] = {}
_CACHE = _Cache(CACHE_BYTES)


def _size(value: Any) -> int:
    """Bytes of an array, or of those in a tuple or a dataclass."""
    if isinstance(value, Texts) and value.codes is None:
        return 0  # the table's own memory
    if isinstance(value, np.ndarray | pa.Array):
        return int(value.nbytes)
    if isinstance(value, tuple | list):
        return sum(_size(part) for part in value)
    return sum(_size(part) for part in vars(value).values()) if hasattr(value, "__dict__") else 0


def _folded(texts: Texts, how: str) -> Texts:
    return texts.changed(pa.array([fold(text, how) for text in texts.values.to_pylist()], pa.string()))


def _by_value(texts: Texts, read: Callable[[pa.Array], npt.NDArray[Any]], of_null: float) -> npt.NDArray[Any]:
    return texts.spread(read(texts.values), of_null)

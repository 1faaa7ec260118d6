"""Columns of text as sorted codes, so that filters compare small integers instead of text.

Source: OGC CQL2 21-065r2, sections 7.2 (LIKE), 7.3 (CASEI) and 7.4 (ACCENTI).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bitmap = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.signedinteger[Any]]
Rows = npt.NDArray[np.int64]

_LIKE = re.compile(r"\\.|.", re.DOTALL)
_WILD = {"%": ".*", "_": "."}
_VECTORISED = 32
"""Texts from which on looking for all at once is quicker than one by one."""


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of text.

    Args:
        values: its distinct values, sorted by code point.
        codes: [n] place of each row's value among them, -1 for null; None where row i has value i.
    """

    values: pa.Array
    codes: Codes | None

    def place(self, text: str) -> int:
        """Where a text is among the values, or would be."""
        return bisect_left(_Lookup(self.values), text)

    def places(self, texts: Sequence[str]) -> Rows:
        """Places of those texts that are among the values, int64."""
        if len(texts) < _VECTORISED:
            found = [(self.place(text), text) for text in texts]
            return np.array(
                [i for i, text in found if i < len(self.values) and self.values[i].as_py() == text], np.int64
            )
        wanted = pa.array(sorted(set(texts)), pa.string())
        low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(self.values), np.int64)
        while (between := low < high).any():
            middle = np.where(between, (low + high) // 2, 0)
            less = between & flags(pc.less(self.values.take(pa.array(middle)), wanted))
            low = np.where(less, middle + 1, low)
            high = np.where(between & ~less, middle, high)
        inside = np.flatnonzero(low < len(self.values))
        same = flags(pc.equal(self.values.take(pa.array(low[inside])), wanted.take(pa.array(inside))))
        return low[inside[same]]

    def within(self, start: int, stop: int) -> Bitmap:
        """Rows whose value is at one of the places from ``start`` to before ``stop``: bool [n]."""
        if self.codes is None:
            bitmap = np.zeros(len(self.values), np.bool_)
            bitmap[start:stop] = True
            return bitmap
        if start >= stop:
            return np.zeros(len(self.codes), np.bool_)
        if stop - start == 1:
            return np.asarray(self.codes == start)
        if stop == len(self.values):
            return np.asarray(self.codes >= start)
        return np.asarray((self.codes >= start) & (self.codes < stop))

    def among(self, places: Rows) -> Bitmap:
        """Rows whose value is at one of some places: bool [n]."""
        if self.codes is not None and len(places) == 1:
            return np.asarray(self.codes == places[0])
        chosen = np.zeros(len(self.values), np.bool_)
        chosen[places] = True
        return self.spread(chosen, False)

    def spread(self, of_values: npt.NDArray[Any], of_null: Any) -> npt.NDArray[Any]:
        """What is said of each value, said of each row: [n]."""
        if self.codes is None:
            return of_values
        return np.append(of_values, np.asarray(of_null, of_values.dtype))[self.codes]

    def valid(self) -> Bitmap:
        """Rows that are not null: bool [n]."""
        return self.within(0, len(self.values))

    def rows(self) -> pa.Array:
        """The column itself: string [n]."""
        if self.codes is None:
            return self.values
        return self.values.take(pa.array(self.codes, mask=self.codes < 0))

    def changed(self, values: pa.Array) -> Texts:
        """The column with other values in the place of these."""
        coded = coded_texts(values)
        if self.codes is None or coded.codes is None:
            return coded
        return Texts(coded.values, np.append(coded.codes, coded.codes.dtype.type(-1))[self.codes])


def coded_texts(column: pa.Array) -> Texts:
    """A column of text, string [n], with codes."""
    encoded = column.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)  # by the bytes of UTF-8, which is by code point
    ranks = np.full(len(order) + 1, -1, np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    codes = small(ranks, len(order))[pc.fill_null(encoded.indices, -1).to_numpy()]
    return Texts(encoded.dictionary.take(order), codes)


def fold(text: str, how: str) -> str:
    """A text with differences of case (``casei``) or of diacritics (``accenti``) taken away."""
    if how == "casei":
        return text.casefold()
    parts = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(part for part in parts if not unicodedata.combining(part)))


def matches(values: pa.Array, pattern: str) -> Bitmap:
    r"""Which texts a LIKE pattern matches: ``%`` any characters, ``_`` one, ``\`` before either makes it itself."""
    # RE2, of which Arrow's regular expressions are, takes any character by its number.
    parts = (_WILD.get(part) or f"\\x{{{ord(part[-1]):x}}}" for part in _LIKE.findall(pattern))
    return flags(pc.match_substring_regex(values, f"(?s)\\A{''.join(parts)}\\z"))


def like(text: str, pattern: str) -> bool:
    """Whether a LIKE pattern matches one text."""
    return bool(matches(pa.array([text], pa.string()), pattern)[0])


def small(codes: npt.NDArray[Any], most: int) -> Codes:
    """Codes in the smallest signed integers that they fit into: comparing them costs what reading them costs."""
    kind = next(kind for kind in (np.int8, np.int16, np.int32) if most <= np.iinfo(kind).max)
    return codes.astype(kind)


def flags(column: pa.ChunkedArray | pa.Array) -> Bitmap:
    """A boolean column without nulls: bool [n]."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)


class _Lookup:
    """An Arrow array for bisection."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: int) -> str:
        return cast(str, self._values[place].as_py())

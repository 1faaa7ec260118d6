"""Comparisons of the texts, numbers and times of rows, whole columns at a time: see :mod:`sscm.index.conditions`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sscm.index.conditions import Scope
from sscm.index.decoded import Floats
from sscm.index.instants import FIRST, NAT, Times
from sscm.index.property_columns import TIME
from sscm.index.texts import Bitmap, Texts, flags, matches


@dataclass(frozen=True)
class Text:
    """A text of each row: a column, folded by ``casei`` or ``accenti`` one after the other."""

    name: str
    folds: tuple[str, ...] = ()

    def of(self, scope: Scope) -> Texts:
        """Its values."""
        return scope.columns.texts(self.name, self.folds)


@dataclass(frozen=True)
class TextComparison:
    """A text against a given one: ``=``, ``<>``, ``<``, ``<=``, ``>`` or ``>=``, by code point."""

    operator: str
    text: Text
    given: str

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        texts = self.text.of(scope)
        count, low = len(texts.values), texts.place(self.given)
        high = low + (low < count and texts.values[low].as_py() == self.given)
        if self.operator == "<>":
            return texts.valid() & ~texts.within(low, high)
        starts = {"=": low, "<": 0, "<=": 0, ">": high, ">=": low}
        stops = {"=": high, "<": low, "<=": high, ">": count, ">=": count}
        return texts.within(starts[self.operator], stops[self.operator])


@dataclass(frozen=True)
class TextPair:
    """Two texts of each row against one another."""

    operator: str
    left: Text
    right: Text

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        compare = {
            "=": pc.equal,
            "<>": pc.not_equal,
            "<": pc.less,
            "<=": pc.less_equal,
            ">": pc.greater,
            ">=": pc.greater_equal,
        }[self.operator]
        return flags(pc.fill_null(compare(self.left.of(scope).rows(), self.right.of(scope).rows()), False))


@dataclass(frozen=True)
class TextIn:
    """A text that is one of some, or with ``negated`` none of them."""

    text: Text
    given: tuple[str, ...]
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        texts = self.text.of(scope)
        among = texts.among(texts.places(self.given))
        return texts.valid() & ~among if self.negated else among


@dataclass(frozen=True)
class Like:
    """A text that a pattern matches, or with ``negated`` does not."""

    text: Text
    pattern: str
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        texts = self.text.of(scope)
        return np.asarray(texts.spread(matches(texts.values, self.pattern) != self.negated, False))


@dataclass(frozen=True)
class Number:
    """A property as a number."""

    name: str

    def of(self, scope: Scope) -> Floats:
        """Its values: float64 [n], NaN for null."""
        return scope.columns.numbers(self.name)


@dataclass(frozen=True)
class Arithmetic:
    """Two numbers made one: ``+``, ``-``, ``*``, ``/``, ``%``, ``div`` or ``^``; null where it is not finite."""

    operator: str
    left: Numeric
    right: Numeric

    def of(self, scope: Scope) -> Floats:
        """Its values: float64 [n], NaN for null."""
        left, right = _floats(self.left, scope), _floats(self.right, scope)
        with np.errstate(all="ignore"):
            value = np.asarray(_ARITHMETIC[self.operator](left, right), np.float64)
        return np.where(np.isfinite(value), value, np.nan)


Numeric = float | Number | Arithmetic

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "div": lambda left, right: np.trunc(np.divide(left, right)),
    "^": np.float_power,
}
ARITHMETIC = tuple(_ARITHMETIC)
"""Operators of :class:`Arithmetic`."""


@dataclass(frozen=True)
class NumberComparison:
    """Two numbers against one another."""

    operator: str
    left: Numeric
    right: Numeric

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        left, right = _floats(self.left, scope), _floats(self.right, scope)
        # NaN is in no relation to anything but <>, which therefore is made of two others.
        compare: dict[str, Callable[[Any, Any], Any]] = {
            "=": np.equal,
            "<>": lambda a, b: np.less(a, b) | np.greater(a, b),
            "<": np.less,
            "<=": np.less_equal,
            ">": np.greater,
            ">=": np.greater_equal,
        }
        return np.broadcast_to(np.asarray(compare[self.operator](left, right)), len(scope.columns))


@dataclass(frozen=True)
class NumberIn:
    """A number that is one of some, or with ``negated`` none of them."""

    number: Numeric
    given: tuple[float, ...]
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        values = np.broadcast_to(_floats(self.number, scope), len(scope.columns))
        among = np.isin(values, np.array(self.given))
        return ~among & ~np.isnan(values) if self.negated else among


@dataclass(frozen=True)
class Moment:
    """A column of times."""

    name: str


@dataclass(frozen=True)
class Period:
    """From one time to another, microseconds or columns of times; both ends belong to it."""

    start: int | Moment
    end: int | Moment


TIME_RELATIONS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "=": lambda start, end, first, last: (start <= last) & (end >= first),
    "<>": lambda start, end, first, last: (start > last) | (end < first),
    "<": lambda start, end, first, last: end < first,
    "<=": lambda start, end, first, last: start <= last,
    ">": lambda start, end, first, last: start > last,
    ">=": lambda start, end, first, last: end >= first,
    "t_after": lambda start, end, first, last: start > last,
    "t_before": lambda start, end, first, last: end < first,
    "t_contains": lambda start, end, first, last: (start < first) & (end > last),
    "t_disjoint": lambda start, end, first, last: (start > last) | (end < first),
    "t_during": lambda start, end, first, last: (start > first) & (end < last),
    "t_equals": lambda start, end, first, last: (start == first) & (end == last),
    "t_finishedby": lambda start, end, first, last: (start < first) & (end == last),
    "t_finishes": lambda start, end, first, last: (start > first) & (end == last),
    "t_intersects": lambda start, end, first, last: (start <= last) & (end >= first),
    "t_meets": lambda start, end, first, last: end == first,
    "t_metby": lambda start, end, first, last: start == last,
    "t_overlappedby": lambda start, end, first, last: (start > first) & (start < last) & (end > last),
    "t_overlaps": lambda start, end, first, last: (start < first) & (end > first) & (end < last),
    "t_startedby": lambda start, end, first, last: (start == first) & (end > last),
    "t_starts": lambda start, end, first, last: (start == first) & (end < last),
}
"""What one period can be to another, given by start and end of the one and first and last instant of the other."""


@dataclass(frozen=True)
class TimeRelation:
    """Two periods in a relation to one another, or with ``negated`` not in it."""

    relation: str
    left: Period
    right: Period
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        ends = [_times(end, scope) for end in (self.left.start, self.left.end, self.right.start, self.right.end)]
        passes = TIME_RELATIONS[self.relation](*ends) != self.negated
        for column in {id(end): end for end in ends if isinstance(end, np.ndarray)}.values():
            passes = passes & (column != NAT)
        return np.broadcast_to(passes, len(scope.columns))


@dataclass(frozen=True)
class Acquired:
    """An acquisition within a period, both ends included: that of the scope's modality, or of any where it has none."""

    first: int
    last: int

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        columns = scope.columns
        names = [f"{name}{TIME}" for name in columns.modalities] if scope.modality is None else ["datetime"]
        passes = np.zeros(len(columns), np.bool_)
        for name in names:
            times = columns.times(name, scope.modality)
            passes |= (times >= max(self.first, FIRST)) & (times <= self.last)
        return passes


@dataclass(frozen=True)
class TimeIn:
    """A time within one of some periods, or with ``negated`` within none of them."""

    moment: Moment
    given: tuple[tuple[int, int], ...]
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`~sscm.index.conditions.Condition`."""
        times = np.asarray(_times(self.moment, scope))
        starts, ends = np.array(sorted(self.given), np.int64).reshape(-1, 2).T
        latest = np.maximum.accumulate(np.concatenate(([NAT], ends)))  # end of what has started before each place
        among = times <= latest[np.searchsorted(starts, times, "right")]
        return np.asarray((among != self.negated) & (times != NAT))


def _floats(value: Numeric, scope: Scope) -> float | Floats:
    return value if isinstance(value, float) else value.of(scope)


def _times(value: int | Moment, scope: Scope) -> int | Times:
    return value if isinstance(value, int) else scope.columns.times(value.name, scope.modality)

"""Conditions on rows, as a filter in CQL2 becomes them: evaluated on whole columns at a time.

A condition is true, false or, where a value that it needs is null, neither. Only rows count for which it is true, so
that false and neither need not be told apart, as long as NOT stands at no condition but at the comparisons themselves:
there it is part of each (``negated``). Whoever makes conditions has moved it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sscm.index.footprints import Place, related
from sscm.index.instants import NAT
from sscm.index.property_columns import Columns, is_fixed
from sscm.index.texts import Bitmap


@dataclass(frozen=True, eq=False)
class Scope:
    """Rows that conditions are about.

    Args:
        columns: their columns.
        modality: whose time ``datetime`` is; None for the earliest of all modalities.
    """

    columns: Columns
    modality: str | None = None


class Condition(Protocol):
    """Something that is true of some rows."""

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """Rows of which it is true: bool [n], anything for rows that are no candidates."""
        ...


@dataclass(frozen=True)
class Constant:
    """True of all rows, or of none."""

    value: bool

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        return np.full(len(scope.columns), self.value)


@dataclass(frozen=True)
class All:
    """True where all its parts are."""

    parts: tuple[Condition, ...]

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        left = candidates.copy()
        for part in sorted(self.parts, key=_spatial):
            left &= part.holds(scope, left)
        return left


@dataclass(frozen=True)
class Some:
    """True where one of its parts is."""

    parts: tuple[Condition, ...]

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        passes = np.zeros(len(scope.columns), np.bool_)
        for part in sorted(self.parts, key=_spatial):
            passes |= candidates & ~passes & part.holds(scope, candidates & ~passes)
        return passes


@dataclass(frozen=True)
class Truth:
    """A property that is ``true``, or one that is ``false``."""

    name: str
    value: bool

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        return np.asarray(scope.columns.booleans(self.name) == self.value)


@dataclass(frozen=True)
class Null:
    """A column that has no value, or with ``negated`` one that has."""

    name: str
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        columns = scope.columns
        if self.name == "geometry":
            valid = columns.located()
        elif self.name == "labels":
            valid = columns.labels().counts >= 0
        elif self.name.endswith("datetime") and is_fixed(self.name, columns.modalities):
            valid = columns.times(self.name, scope.modality) != NAT
        else:
            valid = columns.texts(self.name).valid()
        return valid if self.negated else ~valid


@dataclass(frozen=True)
class Labelled:
    """Labels that in a relation to some are: ``contains`` all, ``containedby``, ``equals`` or ``overlaps``."""

    relation: str
    given: tuple[str, ...]
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        lists = scope.columns.labels()
        wanted = set(self.given)
        if self.relation == "overlaps":
            passes = np.zeros(len(scope.columns), np.bool_)
            for label in wanted:
                passes[lists.having(label)] = True
        else:
            found = np.zeros(len(scope.columns), np.int32)
            for label in wanted:
                found[lists.having(label)] += 1
            passes = {
                "contains": lambda: found == len(wanted),
                "containedby": lambda: found == lists.counts,
                "equals": lambda: (found == lists.counts) & (found == len(wanted)),
            }[self.relation]()
        if self.negated:
            passes = ~passes
        return np.asarray(passes & (lists.counts >= 0) if self.negated or not wanted else passes)


@dataclass(frozen=True)
class Located:
    """A footprint in a relation to a place, or with ``negated`` not in it."""

    relation: str
    place: Place
    negated: bool = False

    def holds(self, scope: Scope, candidates: Bitmap) -> Bitmap:
        """See :class:`Condition`."""
        passes = related(scope.columns, candidates, self.relation, self.place)
        return ~passes & scope.columns.located() if self.negated else passes


def _spatial(condition: Condition) -> bool:
    """Whether a condition may look at footprints: the last to be asked, about the fewest rows."""
    if isinstance(condition, All | Some):
        return any(_spatial(part) for part in condition.parts)
    return isinstance(condition, Located)

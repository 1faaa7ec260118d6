"""Filters of a search: place, time, ids, labels, split and CQL2, named as in STAC Item Search and its extension.

A filter becomes a bitmap over the rows of a segment. Everything is vectorised; footprints are read only where the
bounding-box column cannot decide.

Source: STAC API 1.0.0, Item Search and Filter Extension; OGC API - Features 17-069r4, sections 7.15.3 (bbox) and
7.15.4 (datetime); OGC CQL2 21-065r2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from sscm.archive.schema import SPLITS
from sscm.errors import QueryError
from sscm.index.comparisons import Acquired, Text, TextComparison, TextIn
from sscm.index.conditions import All, Condition, Labelled, Located, Scope
from sscm.index.cql2 import Expression, read_expression
from sscm.index.footprints import box_place, geometry_place
from sscm.index.instants import parse_interval
from sscm.index.property_columns import FIXED, TIME, columns_of, is_fixed, property_key, property_name
from sscm.index.texts import Bitmap

_NAMED = 40
"""Most known properties that a message names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Filter:
    """Which rows of an index may answer; a row must pass everything given.

    Args:
        bbox: west, south, east, north in degrees (EPSG:4326), or west, south, lowest, east, north, highest; west > east
            crosses the antimeridian. A row passes whose footprint touches it.
        intersects: GeoJSON geometry in degrees; a row passes whose footprint touches it.
        datetime: RFC 3339 instant, or an interval ``start/end`` of which one end may be ``..``; both ends belong to it.
        ids: pair ids.
        labels: a row passes that has any of them.
        split: ``train``, ``validation`` or ``test``.
        filter: CQL2, text or JSON object, over ``id``, ``split``, ``labels``, ``datetime``, ``<modality>_datetime``,
            ``geometry`` and the source's properties; of those that are called like one of these, ``source:<name>``.
            :mod:`sscm.index.cql2` says what it means.
        filter_lang: ``cql2-text`` or ``cql2-json``; told by the type of ``filter`` if not given.

    Raises:
        QueryError: a value that cannot be understood; what would be right is said.
    """

    bbox: Sequence[float] | None = None
    intersects: Mapping[str, Any] | None = None
    datetime: str | None = None
    ids: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    split: str | None = None
    filter: str | Mapping[str, Any] | None = None
    filter_lang: str | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None and self.intersects is not None:
            raise QueryError("bbox and intersects are both given; expected one of them")
        for name, values in (("ids", self.ids), ("labels", self.labels)):
            if values is not None and (isinstance(values, str) or not all(isinstance(v, str) for v in values)):
                raise QueryError(f"{name} = {values!r}; expected a list of strings")
        if self.split is not None and self.split not in SPLITS:
            raise QueryError(f"split = {self.split!r}; expected one of {', '.join(SPLITS)}")
        for name in ("ids", "labels"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _ = self._condition  # made now, so that what cannot be understood is refused now

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def key(self) -> str:
        """The same text for filters that let the same rows of any index pass because they say the same."""
        return self._key

    def properties(self) -> tuple[str, ...]:
        """Names that ``filter`` refers to, sorted."""
        return () if self._expression is None else self._expression.names

    def require_known(self, properties: Collection[str], modalities: Collection[str]) -> None:
        """Check that an index has what ``filter`` refers to.

        Args:
            properties: names of the properties that any row of the index has, as its sources call them.
            modalities: names of its modalities.

        Raises:
            QueryError: it has not; the names that there are, are told.
        """
        unknown = [
            name
            for name in self.properties()
            if not is_fixed(name, modalities) and property_key(name, modalities) not in properties
        ]
        if unknown:
            known = sorted(
                {*FIXED, *(f"{name}{TIME}" for name in modalities), *(property_name(p, modalities) for p in properties)}
            )
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            named = f"{', '.join(known[:_NAMED])}{more}"
            raise QueryError(f"filter: property {', '.join(map(repr, unknown))} is unknown; known are {named}")

    def bitmap(self, rows: pa.Table, modality: str | None = None, known: Collection[str] | None = None) -> Bitmap:
        """Which rows pass.

        Args:
            rows: table of :func:`~sscm.index.segment.rows_schema`. What is decoded of it is kept as long as it lives.
            modality: whose acquisition time ``datetime`` is; where None, any modality's time passes, and in ``filter``
                the earliest is meant.
            known: names of properties that other rows of the same index have, so that they are null here where
                these rows lack them, and not unknown.

        Returns:
            bool [n].

        Raises:
            QueryError: the rows have no such modality, or ``filter`` refers to an unknown property.
        """
        columns = columns_of(rows)
        if self.properties():
            self.require_known({*columns.properties, *(known or ())}, columns.modalities)
        return self._condition.holds(Scope(columns, modality), np.ones(len(columns), np.bool_))

    @cached_property
    def _expression(self) -> Expression | None:
        if self.filter is None:
            if self.filter_lang is not None:
                raise QueryError(f"filter-lang = {self.filter_lang!r} is given and no filter")
            return None
        return read_expression(self.filter, self.filter_lang)

    @cached_property
    def _condition(self) -> Condition:
        parts: list[Condition] = []
        if self.split is not None:
            parts.append(TextComparison("=", Text("split"), self.split))
        if self.ids is not None:
            parts.append(TextIn(Text("id"), tuple(self.ids)))
        if self.labels is not None:
            parts.append(Labelled("overlaps", tuple(self.labels)))
        if self.datetime is not None:
            parts.append(Acquired(*parse_interval(self.datetime)))
        if self._expression is not None:
            parts.append(self._expression.condition)
        if self.bbox is not None:
            parts.append(Located("intersects", box_place(self.bbox)))
        if self.intersects is not None:
            parts.append(Located("intersects", geometry_place(self.intersects)))
        return All(tuple(parts))

    @cached_property
    def _key(self) -> str:
        said = {
            "bbox": None if self.bbox is None else list(self.bbox),
            "intersects": self.intersects,
            "datetime": self.datetime,
            "ids": None if self.ids is None else sorted(set(self.ids)),
            "labels": None if self.labels is None else sorted(set(self.labels)),
            "split": self.split,
            "filter": self._expression and self._expression.key,
        }
        text = json.dumps(said, default=dict)
        return hashlib.sha256(json.dumps(json.loads(text, parse_int=float), sort_keys=True).encode()).hexdigest()

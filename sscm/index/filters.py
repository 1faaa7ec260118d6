"""Filters of a search: place, time, ids, labels and split, as STAC Item Search names them.

A filter becomes a bitmap over the rows of a segment. Everything is vectorised; footprints are read only where the
bounding-box column cannot decide.

Source: STAC API 1.0.0, Item Search; OGC API - Features 17-069r4, sections 7.15.3 (bbox) and 7.15.4 (datetime).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime as Instant  # a filter's own field is called datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from sscm.archive.schema import SPLITS
from sscm.errors import QueryError

Bitmap = npt.NDArray[np.bool_]

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_OPEN = ("", "..")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows of an index may answer; a row must pass everything given.

    Args:
        bbox: west, south, east, north in degrees (EPSG:4326); west > east crosses the antimeridian. A row passes whose
            footprint touches it.
        intersects: GeoJSON geometry in degrees; a row passes whose footprint touches it.
        datetime: RFC 3339 instant, or an interval ``start/end`` of which one end may be ``..``; both ends belong to it.
        ids: pair ids.
        labels: a row passes that has any of them.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        QueryError: a value that cannot be understood; what would be right is said.
    """

    bbox: Sequence[float] | None = None
    intersects: Mapping[str, Any] | None = None
    datetime: str | None = None
    ids: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None and self.intersects is not None:
            raise QueryError("bbox and intersects are both given; expected one of them")
        if self.bbox is not None:
            _boxes(self.bbox)
        if self.intersects is not None:
            _geometry(self.intersects)
        if self.datetime is not None:
            _interval(self.datetime)
        for name, values in (("ids", self.ids), ("labels", self.labels)):
            if values is not None and (isinstance(values, str) or not all(isinstance(v, str) for v in values)):
                raise QueryError(f"{name} = {values!r}; expected a list of strings")
        if self.split is not None and self.split not in SPLITS:
            raise QueryError(f"split = {self.split!r}; expected one of {', '.join(SPLITS)}")

    def bitmap(self, rows: pa.Table, modality: str | None = None) -> Bitmap:
        """Which rows pass.

        Args:
            rows: table of :func:`~sscm.index.segment.rows_schema`.
            modality: whose acquisition time ``datetime`` is compared with; where None, any modality's time passes.

        Returns:
            bool [n].

        Raises:
            QueryError: the rows have no such modality.
        """
        passes = np.ones(rows.num_rows, np.bool_)
        if self.split is not None:
            passes &= _bools(pc.equal(rows["split"], self.split))
        if self.ids is not None:
            passes &= _bools(pc.is_in(rows["pair_id"], value_set=pa.array(list(self.ids), pa.string())))
        if self.labels is not None:
            passes &= _any_label(rows["labels"], self.labels)
        if self.datetime is not None:
            passes &= _in_interval(rows, self.datetime, modality)
        if self.bbox is not None:
            passes &= _touches_box(rows, passes, self.bbox)
        if self.intersects is not None:
            passes &= _touches(rows, passes, _geometry(self.intersects))
        return passes


def _bools(column: pa.ChunkedArray | pa.Array) -> Bitmap:
    """A nullable boolean column as bool [n], null as False."""
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), np.bool_)


def _any_label(column: pa.ChunkedArray, labels: Sequence[str]) -> Bitmap:
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    found = pc.is_in(pc.list_flatten(lists), value_set=pa.array(list(labels), pa.string()))
    passes = np.zeros(len(lists), np.bool_)
    passes[pc.list_parent_indices(lists).to_numpy()[_bools(found)]] = True
    return passes


def _in_interval(rows: pa.Table, text: str, modality: str | None) -> Bitmap:
    start, end = _interval(text)
    columns = [name for name in rows.column_names if name.endswith("_datetime")]
    if modality is not None:
        if f"{modality}_datetime" not in columns:
            known = [name.removesuffix("_datetime") for name in columns]
            raise QueryError(f"modality {modality!r} has no times in this index; those that have: {known}")
        columns = [f"{modality}_datetime"]
    passes = np.zeros(rows.num_rows, np.bool_)
    for name in columns:
        inside = _bools(pc.is_valid(rows[name]))
        if start is not None:
            inside &= _bools(pc.greater_equal(rows[name], pa.scalar(start, pa.timestamp("us", tz="UTC"))))
        if end is not None:
            inside &= _bools(pc.less_equal(rows[name], pa.scalar(end, pa.timestamp("us", tz="UTC"))))
        passes |= inside
    return passes


def _interval(text: str) -> tuple[Instant | None, Instant | None]:
    """First and last instant of an interval; None for an open end."""
    expected = "expected an RFC 3339 instant (2018-06-01T00:00:00Z), or start/end with .. for one open end"
    if not isinstance(text, str):
        raise QueryError(f"datetime = {text!r}; {expected}")
    ends = text.strip().upper().split("/")
    if len(ends) > 2 or all(end in _OPEN for end in ends):
        raise QueryError(f"datetime = {text!r}; {expected}")
    instants: list[Instant | None] = []
    for end in ends:
        if len(ends) == 2 and end in _OPEN:
            instants.append(None)
            continue
        try:
            if not _INSTANT.fullmatch(end):
                raise ValueError(end)
            instants.append(Instant.fromisoformat(end).astimezone(UTC))
        except (ValueError, OverflowError) as error:
            raise QueryError(f"datetime = {text!r}: {end!r} cannot be read; {expected}") from error
    start, end_ = instants[0], instants[-1]
    if start is not None and end_ is not None and start > end_:
        raise QueryError(f"datetime = {text!r} ends before it starts; expected start/end")
    return start, end_


def _boxes(bbox: Any) -> list[tuple[float, float, float, float]]:
    """One box, or the two on either side of the antimeridian."""
    expected = "expected [west, south, east, north] in degrees"
    if not isinstance(bbox, Sequence) or len(bbox) != 4:
        raise QueryError(f"bbox = {bbox!r}; {expected}, four numbers")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in bbox):
        raise QueryError(f"bbox = {list(bbox)}; {expected}, all finite")
    west, south, east, north = (float(v) for v in bbox)
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90:
        raise QueryError(f"bbox = {list(bbox)}; {expected}: longitudes from -180 to 180, latitudes from -90 to 90")
    if south > north:
        raise QueryError(f"bbox = {list(bbox)}: south is north of north; {expected}")
    if west > east:
        return [(west, south, 180.0, north), (-180.0, south, east, north)]
    return [(west, south, east, north)]


def _geometry(value: Any) -> Any:
    """A GeoJSON geometry as a shapely one."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in (None, "Feature", "FeatureCollection"):
        raise QueryError(f"intersects is {kind or repr(value)}; expected a GeoJSON geometry (Point, Polygon, …)")
    try:
        geometry = shapely.force_2d(shapely.from_geojson(json.dumps(value)))
    except (TypeError, ValueError, shapely.errors.GEOSException) as error:
        raise QueryError(f"intersects cannot be read as a GeoJSON geometry: {error}") from error
    if geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise QueryError("intersects is empty or has a coordinate that is not finite; expected a geometry with points")
    if not geometry.is_valid:
        raise QueryError(f"intersects is not a valid geometry: {shapely.is_valid_reason(geometry)}")
    return geometry


def _corners(rows: pa.Table) -> list[npt.NDArray[np.float64]]:
    """West, south, east and north of each row's footprint, NaN where it has none: float64 [n] each."""
    boxes = rows["bbox"]
    return [
        np.asarray(pc.fill_null(pc.struct_field(boxes, name), math.nan).to_numpy(), np.float64)
        for name in ("xmin", "ymin", "xmax", "ymax")
    ]


def _touches_box(rows: pa.Table, candidates: Bitmap, bbox: Sequence[float]) -> Bitmap:
    xmin, ymin, xmax, ymax = _corners(rows)
    passes = np.zeros(rows.num_rows, np.bool_)
    for west, south, east, north in _boxes(bbox):
        inside = (xmin >= west) & (xmax <= east) & (ymin >= south) & (ymax <= north)
        passes |= inside
        # A footprint is seldom parallel to the axes: one whose box reaches out of the query's must be looked at.
        unsure = candidates & ~passes & (xmin <= east) & (xmax >= west) & (ymin <= north) & (ymax >= south)
        passes |= _look(rows, unsure, shapely.box(west, south, east, north))
    return passes


def _touches(rows: pa.Table, candidates: Bitmap, geometry: Any) -> Bitmap:
    xmin, ymin, xmax, ymax = _corners(rows)
    west, south, east, north = geometry.bounds
    near = candidates & (xmin <= east) & (xmax >= west) & (ymin <= north) & (ymax >= south)
    return _look(rows, near, geometry)


def _look(rows: pa.Table, candidates: Bitmap, geometry: Any) -> Bitmap:
    """Which candidates' footprints touch a geometry."""
    places = np.flatnonzero(candidates)
    passes = np.zeros(rows.num_rows, np.bool_)
    if len(places):
        shapely.prepare(geometry)
        footprints = shapely.from_wkb(rows["geometry"].take(pa.array(places)).to_numpy(zero_copy_only=False))
        passes[places] = shapely.intersects(geometry, footprints)
    return passes

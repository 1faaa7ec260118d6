"""Footprints against places: bounding boxes decide what they can, geometries the rest.

Geometries are compared as lines and areas on the plane of longitude and latitude. What crosses the antimeridian is cut
there first, query and footprint alike, as GeoJSON asks; a footprint that is not cut is known by its bounding box, whose
west then lies east of its east, or by a longitude beyond 180 degrees.

Source: GeoJSON, RFC 7946, sections 3.1.9 (antimeridian cutting) and 5.2 (its bounding boxes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from sscm.errors import QueryError
from sscm.index.decoded import Boxes
from sscm.index.property_columns import Columns
from sscm.index.texts import Bitmap, Rows

Box = tuple[float, float, float, float]

_PARTS = 16
"""Most parts of a query whose boxes are looked at one by one."""
_FEW = 16
"""Where only one row in so many may pass still, boxes are looked at row by row."""
_TURN = 360.0
"""Degrees once around."""

_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "intersects": lambda place, footprints: shapely.intersects(place, footprints),
    "within": lambda place, footprints: shapely.contains(place, footprints),
    "contains": lambda place, footprints: shapely.within(place, footprints),
    "equals": lambda place, footprints: shapely.equals(place, footprints),
    "touches": lambda place, footprints: shapely.touches(place, footprints),
    "overlaps": lambda place, footprints: shapely.overlaps(place, footprints),
    "crosses": lambda place, footprints: shapely.crosses(footprints, place),
}
RELATIONS = tuple(_RELATIONS)
"""What a footprint can be to a place, named as in OGC Simple Features; one that does not touch it is none of these."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where to look.

    Args:
        geometry: shapely geometry, degrees, cut at the antimeridian.
        boxes: west, south, east, north of its parts, or of all where there are many.
        exact: the boxes are the geometry.
    """

    geometry: Any
    boxes: tuple[Box, ...]
    exact: bool = False


def box_place(bbox: Any, what: str = "bbox") -> Place:
    """A bounding box as a place.

    Args:
        bbox: west, south, east, north in degrees, or with heights west, south, lowest, east, north, highest: footprints
            have no height, so that these do not matter. West > east crosses the antimeridian.
        what: its name in messages.

    Raises:
        QueryError: it is none.
    """
    expected = "expected [west, south, east, north] in degrees"
    if isinstance(bbox, str) or not isinstance(bbox, Sequence) or len(bbox) not in (4, 6):
        raise QueryError(f"{what} = {bbox!r}; {expected}, four numbers, or six with heights")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in bbox):
        raise QueryError(f"{what} = {list(bbox)}; {expected}, all finite")
    west, south, east, north = (float(bbox[i]) for i in ((0, 1, 2, 3) if len(bbox) == 4 else (0, 1, 3, 4)))
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90:
        raise QueryError(f"{what} = {list(bbox)}; {expected}: longitudes from -180 to 180, latitudes from -90 to 90")
    if south > north:
        raise QueryError(f"{what} = {list(bbox)}: south is north of north; {expected}")
    if len(bbox) == 6 and bbox[2] > bbox[5]:
        raise QueryError(
            f"{what} = {list(bbox)}: the lowest height is above the highest; {expected}, heights third, sixth"
        )
    boxes: tuple[Box, ...] = ((west, south, east, north),)
    if west > east:
        boxes = ((west, south, 180.0, north), (-180.0, south, east, north))
    return Place(shapely.union_all([_shape(box) for box in boxes]), boxes, exact=True)


def geometry_place(value: Any, what: str = "intersects") -> Place:
    """A GeoJSON geometry as a place.

    Args:
        value: Point, Polygon, …; degrees. Longitudes up to 360 say where it crosses the antimeridian uncut.
        what: its name in messages.

    Raises:
        QueryError: it is none, or not a valid one.
    """
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in (None, "Feature", "FeatureCollection"):
        raise QueryError(f"{what} is {kind or repr(value)}; expected a GeoJSON geometry (Point, Polygon, …)")
    try:
        geometry = shapely.force_2d(shapely.from_geojson(json.dumps(value)))
    except (TypeError, ValueError, RecursionError, shapely.errors.GEOSException) as error:
        raise QueryError(f"{what} cannot be read as a GeoJSON geometry: {error}") from error
    coordinates = shapely.get_coordinates(geometry)
    if geometry.is_empty or not np.isfinite(coordinates).all():
        raise QueryError(f"{what} is empty or has a coordinate that is not finite; expected a geometry with points")
    if np.abs(coordinates[:, 0]).max() > _TURN:
        raise QueryError(
            f"{what} has longitude {coordinates[np.abs(coordinates[:, 0]).argmax(), 0]:g}; expected degrees"
        )
    if not geometry.is_valid:
        raise QueryError(f"{what} is not a valid geometry: {shapely.is_valid_reason(geometry)}")
    geometry = _cut(geometry)
    parts = shapely.get_parts(geometry)
    boxes = shapely.bounds(parts if len(parts) <= _PARTS else np.array([geometry]))
    return Place(geometry, tuple((float(w), float(s), float(e), float(n)) for w, s, e, n in boxes))


def related(columns: Columns, candidates: Bitmap, relation: str, place: Place) -> Bitmap:
    """Which rows' footprints are so related to a place.

    Args:
        columns: the rows.
        candidates: bool [n], rows that matter; others may get any answer.
        relation: one of :data:`RELATIONS`: what the footprint is to the place.
        place: the place.

    Returns:
        bool [n], False where there is no footprint.

    Raises:
        QueryError: there is no such relation between such geometries.
    """
    boxes = columns.boxes()
    passes = np.zeros(len(columns), np.bool_)
    few = np.flatnonzero(candidates) if np.count_nonzero(candidates) * _FEW < len(candidates) else None
    look: list[Rows] = []
    for box in place.boxes:
        near = _near(boxes, box, few)
        if place.exact and relation in ("intersects", "within"):
            # A footprint is seldom parallel to the axes: one whose box reaches out of the query's must be looked at.
            inside = _inside(boxes, box, near)
            passes[near[inside]] = True
            near = near[~inside]
        look.append(near)
    passes[boxes.odd] = False
    look.append(boxes.odd)
    places = np.unique(np.concatenate(look)) if len(look) > 1 else look[0]
    places = places[candidates[places] & ~passes[places]]
    passes[places] = _compare(columns, places, relation, place)
    return passes


def _shape(box: Box) -> Any:
    """A box as a geometry: without area it is a line or a point, since no polygon may be so thin."""
    corners = sorted({(box[i], box[j]) for i in (0, 2) for j in (1, 3)})
    if len(corners) == 1:
        return shapely.Point(corners[0])
    return shapely.LineString(corners) if len(corners) == 2 else shapely.box(*box)


def _near(boxes: Boxes, box: Box, few: Rows | None) -> Rows:
    """Rows, or those of a few rows, whose box touches another."""
    west, south, east, north = box
    if few is None:
        touch = boxes.west <= east
        touch &= boxes.east >= west
        touch &= boxes.south <= north
        touch &= boxes.north >= south
        return np.flatnonzero(touch)
    touch = (boxes.west[few] <= east) & (boxes.east[few] >= west)
    touch &= (boxes.south[few] <= north) & (boxes.north[few] >= south)
    return few[touch]


def _inside(boxes: Boxes, box: Box, rows: Rows) -> Bitmap:
    """Which rows' boxes lie inside another, away from its edge: bool [rows]."""
    west, south, east, north = box
    inside = (boxes.west[rows] > west) & (boxes.east[rows] < east)
    inside &= (boxes.south[rows] > south) & (boxes.north[rows] < north)
    return inside


def _compare(columns: Columns, rows: Rows, relation: str, place: Place) -> Bitmap:
    footprints = shapely.from_wkb(columns.footprints(rows))
    for i in np.flatnonzero(np.isin(rows, columns.boxes().odd)):
        footprints[i] = _cut(_unwrapped(footprints[i]))
    shapely.prepare(place.geometry)
    try:
        return np.asarray(_RELATIONS[relation](place.geometry, footprints), np.bool_)
    except shapely.errors.GEOSException as error:
        raise QueryError(f"no footprint can be said to be {relation!r} to such a geometry: {error}") from error


def _unwrapped(footprint: Any) -> Any:
    """A footprint that goes from 180 to -180 degrees, going on beyond 180."""
    if footprint is None or max(np.ptp(shapely.bounds(shapely.get_parts(footprint))[:, ::2], axis=1), default=0) <= 180:
        return footprint
    return shapely.transform(footprint, lambda points: points + np.where(points[:, :1] < 0, [_TURN, 0.0], 0.0))


def _cut(geometry: Any) -> Any:
    """A geometry without longitudes beyond 180 degrees: what lies there is cut off and put where it belongs."""
    if geometry is None or geometry.is_empty or np.abs(shapely.bounds(geometry)[::2]).max() <= 180:
        return geometry
    parts: list[Any] = []
    for turn in (-_TURN, 0.0, _TURN):
        world = shapely.box(turn - 180, -1e6, turn + 180, 1e6)
        inside = shapely.intersection(shapely.get_parts(geometry), world)
        parts += shapely.transform(inside, lambda points, turn=turn: points - [turn, 0.0]).tolist()
    return shapely.union_all(parts)

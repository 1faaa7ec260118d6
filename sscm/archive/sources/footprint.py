"""Footprints: where on Earth a window of a georeferenced image lies, as WKB in longitude and latitude."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio._err import CPLE_BaseError  # what GDAL reports; rasterio has no public name for it
from rasterio.errors import RasterioError
from rasterio.warp import transform
from shapely.affinity import translate
from shapely.geometry.polygon import orient

from sscm.archive.sources.image_file import ImageFile
from sscm.errors import PairError

LARGE = 0.1
"""Degrees from which on the edges of an image get points between the corners, since straight lines of a map projection
are bent in degrees; a patch is so small that its corners are enough."""
STEPS = 21
"""Points along an edge of a large image."""


def footprint(
    image: ImageFile, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
) -> bytes:
    """The outline of a window of an image.

    Args:
        image: an open, georeferenced file.
        row: first row of the window.
        col: first column of the window.
        height: rows of the window; by default all that follow.
        width: columns of the window; by default all that follow.

    Returns:
        WKB of a polygon in EPSG:4326, longitude first, counter-clockwise; of a multipolygon cut at longitude 180 where
        the window lies on both sides of it (RFC 7946, section 3.1.9).

    Raises:
        PairError: the image has no georeference, or one that has no place on Earth.
    """
    if image.crs is None or image.transform is None:
        raise PairError(image.path, "no georeference", "a coordinate reference system and a transform")
    bottom = image.height if height is None else row + height
    right = image.width if width is None else col + width
    corners = [(col, row), (col, bottom), (right, bottom), (right, row)]
    ring = _to_degrees(image, corners, 1)
    if max(np.ptp(ring[:, 0]), np.ptp(ring[:, 1])) > LARGE:
        ring = _to_degrees(image, corners, STEPS)
    if np.ptp(ring[:, 0]) <= 180:
        return bytes(shapely.to_wkb(orient(shapely.Polygon(ring))))
    ring[:, 0] %= 360  # in one piece across longitude 180
    whole = shapely.Polygon(ring)
    east = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
    west = translate(shapely.intersection(whole, shapely.box(180, -90, 360, 90)), xoff=-360)
    return bytes(shapely.to_wkb(shapely.MultiPolygon([orient(east), orient(west)])))


def _to_degrees(image: ImageFile, corners: list[tuple[int, int]], steps: int) -> npt.NDArray[Any]:
    """Closed ring [points, 2] of longitude and latitude, ``steps`` points an edge."""
    closed = np.array([*corners, corners[0]], float)
    share = np.arange(steps)[:, np.newaxis] / steps
    edges = [start + share * (end - start) for start, end in itertools.pairwise(closed)]
    pixels = np.concatenate([*edges, closed[:1]])
    t = image.transform
    xs = t.a * pixels[:, 0] + t.b * pixels[:, 1] + t.c
    ys = t.d * pixels[:, 0] + t.e * pixels[:, 1] + t.f
    try:
        ring = np.column_stack(transform(image.crs, "EPSG:4326", xs, ys))
    except (RasterioError, CPLE_BaseError) as error:
        raise PairError(image.path, f"a georeference without a place on Earth ({error})", "a valid one") from error
    if not np.isfinite(ring).all():
        raise PairError(image.path, f"a georeference without a place on Earth ({image.crs})", "a valid one")
    return ring

"""Footprints against rasterio's own bounds, closed forms, and longitude 180."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from sscm.archive.sources.footprint import footprint
from sscm.errors import PairError


def image(epsg, left, top, metres, height, width):
    return SimpleNamespace(
        path="a.tif",
        crs=CRS.from_epsg(epsg),
        transform=Affine(metres, 0, left, 0, -metres, top),
        height=height,
        width=width,
    )


@pytest.mark.parametrize(("epsg", "top"), [(32633, 5_400_000), (32635, 7_100_000), (32720, 7_000_000), (32630, 40_000)])
def test_a_patch_has_the_bounds_that_rasterio_finds(epsg, top):
    patch = image(epsg, 300_000, top, 10, 120, 120)
    bounds = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", 300_000, top - 1200, 301_200, top)
    shape = shapely.from_wkb(footprint(patch))
    np.testing.assert_allclose(shape.bounds, bounds, atol=1e-6)
    assert len(shape.exterior.coords) == 5 and shape.exterior.is_ccw and shape.is_valid


def test_windows():
    whole = image(32633, 300_000, 5_400_000, 10, 100, 100)
    part = footprint(whole, 20, 40, 30, 50)
    assert part == footprint(image(32633, 300_400, 5_399_800, 10, 30, 50))
    rest = footprint(whole, 20, 40)
    assert rest == footprint(image(32633, 300_400, 5_399_800, 10, 80, 60))


def test_a_large_scene_bends():
    scene = image(32633, 445_000, 6_700_000, 10, 10980, 10980)
    bounds = transform_bounds("EPSG:32633", "EPSG:4326", 445_000, 6_700_000 - 109_800, 554_800, 6_700_000)
    shape = shapely.from_wkb(footprint(scene))
    np.testing.assert_allclose(shape.bounds, bounds, atol=1e-5)
    corners = shapely.convex_hull(shapely.MultiPoint(np.array(shape.exterior.coords)[:-1:21])).bounds
    assert abs(corners[3] - bounds[3]) > 1e-3  # the corners alone would miss what lies further north


def test_degrees_are_kept_and_south_up_images_are_turned():
    degrees = image(4326, 10, 50, 0.001, 20, 30)
    assert shapely.from_wkb(footprint(degrees)).equals_exact(shapely.box(10, 49.98, 10.03, 50), 1e-9, normalize=True)
    degrees.transform = Affine(0.001, 0, 10, 0, 0.001, 49.98)
    turned = shapely.from_wkb(footprint(degrees))
    assert turned.exterior.is_ccw
    assert turned.equals_exact(shapely.box(10, 49.98, 10.03, 50), 1e-9, normalize=True)


def test_across_longitude_180():
    # zone 60 ends at 180 degrees: this patch of 24 km lies on both sides, at Fiji
    patch = image(32760, 815_000, 8_100_000, 10, 2400, 2400)
    shape = shapely.from_wkb(footprint(patch))
    assert shape.geom_type == "MultiPolygon" and shape.is_valid
    assert shape.bounds[0] == -180 and shape.bounds[2] == 180
    east, west = sorted(shape.geoms, key=lambda part: -part.bounds[0])
    assert 179 < east.bounds[0] < 180 and -180 < west.bounds[2] < -179
    side = (east.bounds[2] - east.bounds[0]) + (west.bounds[2] - west.bounds[0])
    assert 0.2 < side < 0.25


def test_no_georeference():
    nowhere = SimpleNamespace(path="a.tif", crs=None, transform=None, height=3, width=3)
    with pytest.raises(PairError, match=r"a.tif: no georeference"):
        footprint(nowhere)
    with pytest.raises(PairError, match="without a place on Earth"):
        footprint(image(32633, 1e30, 1e30, 10, 3, 3))

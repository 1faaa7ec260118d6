"""Sizes that are taken, and bands that must show one place."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from serve.extent import require_one_place, require_size
from serve.plane import Grid, Plane
from sscm.errors import QueryError
from sscm.sensors import sentinel1, sentinel2

S1, S2 = sentinel1(), sentinel2()
FINE, COARSE = S2.groups[0], S2.groups[2]


def grid(metres=10.0, pixels=120, west=4e5, north=5e6, crs="UTM", unit=1.0):
    return Grid(crs=crs, unit=unit, transform=(metres, 0, west, 0, -metres, north), height=pixels, width=pixels)


def planes(grids=None, sizes=None):
    """A plane for each band of Sentinel-2; grids and sizes by band group, in order."""
    result = []
    for index, group in enumerate(S2.groups):
        at = grids[index] if grids else None
        size = sizes[index] if sizes else (at.height, at.width) if at else (group.height, group.width)
        result += [
            Plane(band=band, pixels=np.broadcast_to(np.uint16(1), size), where=f"{band}.tif", grid=at)
            for band in group.band_names
        ]
    return result


@pytest.mark.parametrize("size", [(120, 120), (131, 127), (30, 30), (480, 480), (150, 80)])
def test_sizes_within_a_factor_of_four_are_taken(size):
    require_size(size, FINE, S2, "x")


@pytest.mark.parametrize("size", [(29, 30), (481, 480), (0, 120), (120, 0), (480, 200), (200, 480), (10**9, 10**9)])
def test_other_sizes_are_not(size):
    right = "expected 120 × 120 at 10 m, or what can be resampled to that: 30 to 480 rows and 30 to 480 columns"
    with pytest.raises(QueryError, match=rf"x.tif: {size[0]} × {size[1]} pixels; {right}.*; cut or resample"):
        require_size(size, FINE, S2, "x.tif")


def test_coarse_bands_may_come_on_the_finest_grid():
    require_size((480, 480), COARSE, S2, "x")
    require_size((5, 5), COARSE, S2, "x")
    with pytest.raises(QueryError, match="4 × 4 pixels; expected 20 × 20 at 60 m"):
        require_size((4, 4), COARSE, S2, "x")


def test_bands_of_one_place_on_their_own_grids_or_on_one():
    require_one_place(planes(), S2)
    require_one_place(planes([grid(10, 120), grid(20, 60), grid(60, 20)]), S2)
    require_one_place(planes([grid(10, 120)] * 3), S2)
    require_one_place(planes([grid(10, 264), grid(20, 132, west=4e5 - 5), grid(60, 44, west=4e5 - 25)]), S2)  # SSL4EO


def test_footprints_that_differ_are_refused():
    far = [grid(10, 120), grid(20, 60, west=4e5 + 1200), grid(60, 20)]
    with pytest.raises(
        QueryError, match=r"B05.tif and B02.tif: footprints differ by 1200 units.*within a pixel .20.; cut"
    ):
        require_one_place(planes(far), S2)
    turned = dataclasses.replace(grid(20, 60), transform=(20, 0, 4e5, 0, 20, 5e6 - 1200))
    with pytest.raises(QueryError, match="footprints differ"):
        require_one_place(planes([grid(10, 120), turned, grid(60, 20)]), S2)
    with pytest.raises(QueryError, match="coordinate reference systems differ"):
        require_one_place(planes([grid(10, 120), grid(20, 60), grid(60, 20, crs="UTM 33")]), S2)


def test_without_georeference_sizes_must_be_in_proportion():
    require_one_place(planes(sizes=[(131, 127), (66, 63), (22, 21)]), S2)
    require_one_place(planes(sizes=[(131, 127)] * 3), S2)
    with pytest.raises(
        QueryError, match=r"s2_10m 131 × 127, s2_20m 60 × 63, .*one size for all, or sizes in proportion"
    ):
        require_one_place(planes(sizes=[(131, 127), (60, 63), (22, 21)]), S2)
    some = [grid(10, 120), None, grid(60, 20)]
    with pytest.raises(QueryError, match="in proportion to s2_10m 120 × 120, s2_20m 60 × 60, s2_60m 20 × 20"):
        require_one_place(planes(some, sizes=[(120, 120), (30, 30), (20, 20)]), S2)


def test_a_place_of_another_size_than_the_models_patches_is_refused():
    def one(at):
        pixels = np.ones((at.height, at.width), np.float32)
        return [Plane(band=band, pixels=pixels, where=f"{band}.tif", grid=at) for band in ("VV", "VH")]

    for metres in (2.5, 10, 40):
        require_one_place(one(grid(metres)), S1)
    for metres in (2, 50, 1000):
        size = f"{120 * metres:,}"
        with pytest.raises(
            QueryError, match=rf"VV.tif: covers {size} × {size} m by its geo.*about 1,200 × 1,200 m.*cut such"
        ):
            require_one_place(one(grid(metres)), S1)
    require_one_place(one(grid(1000, unit=0.0)), S1)  # nobody knows how long a unit is


def test_degrees_are_shorter_in_the_north():
    at = Grid(crs="4326", unit=math.nan, transform=(0.0001, 0, 20, 0, -0.0001, 60), height=100, width=200)
    height, width = at.metres
    assert height == pytest.approx(1113, rel=0.01) and width == pytest.approx(1113, rel=0.01)


@pytest.mark.parametrize(
    "transform", [(0, 0, 0, 0, 0, 0), (10, 0, math.nan, 0, -10, 0), (10, 0, 0, 0, 0, 0), (1e308,) * 6]
)
def test_georeferences_without_extent_are_refused(transform):
    at = Grid(crs="", unit=0.0, transform=transform, height=120, width=120)
    with pytest.raises(QueryError, match="a georeference without extent"):
        require_one_place(planes([at] * 3), S2)

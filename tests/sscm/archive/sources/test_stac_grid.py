"""Patches and blocks against counting by hand, and grids that cannot be."""

from __future__ import annotations

import pytest
import shapely

from sscm.archive.sources.stac_bands import BandAsset
from sscm.archive.sources.stac_grid import TileGrid, Window, block_footprints, grid_of
from sscm.errors import PairError
from tests.plugins.stac import CRS, TAKEN, make_item

SQUARE = {"type": "Polygon", "coordinates": [[[13, 47], [14, 47], [14, 48], [13, 48], [13, 47]]]}
TILE = TileGrid(CRS, 399_960, 5_300_040, 10_980, 10_980, 120)


def test_patches_lie_at_multiples_of_their_side():
    assert TILE.patches == (90, 90)  # 91.5, less what is cut off before the first
    left, top = TILE.corner(Window(0, 0))
    assert (left, top) == (400_800, 5_299_200)
    assert left % 1200 == 0 and top % 1200 == 0
    assert TILE.corner(Window(2, 3)) == (404_400, 5_296_800)


def test_blocks_hold_every_patch_once():
    patches = [
        (window.row + row, window.col + col)
        for _, window in TILE.blocks()
        for row in range(window.rows)
        for col in range(window.cols)
    ]
    assert sorted(patches) == [(row, col) for row in range(90) for col in range(90)]
    assert max(window.rows for _, window in TILE.blocks()) == 10
    assert len({place for place, _ in TILE.blocks()}) == len(list(TILE.blocks())) == len(block_footprints(TILE))


def test_a_place_has_one_block_in_all_tiles_of_a_zone():
    """The tile to the south-east begins 90 km on, and overlaps by some kilometres."""
    other = TileGrid(CRS, 499_980, 5_200_020, 10_980, 10_980, 120)

    def places(grid):
        return {
            grid.corner(Window(w.row + row, w.col + col)): place
            for place, w in grid.blocks()
            for row in range(w.rows)
            for col in range(w.cols)
        }

    first, second = places(TILE), places(other)
    both = first.keys() & second.keys()
    assert len(both) > 20
    assert all(first[corner] == second[corner] for corner in both)


def test_an_image_smaller_than_a_patch_has_none():
    small = TileGrid(CRS, 399_960, 5_300_040, 100, 100, 120)
    assert small.patches == (0, 0)
    assert not list(small.blocks())


def test_footprint_is_where_the_patches_are():
    outline = shapely.from_wkb(TILE.footprint(Window(0, 0)))
    assert outline.is_valid and outline.exterior.is_ccw
    assert abs(outline.centroid.x - 13.67) < 0.02 and abs(outline.centroid.y - 47.84) < 0.02


def grid_by(properties, pixels=120):
    item = make_item("an-item", SQUARE, TAKEN, "sentinel-2-l2a", properties)
    return grid_of(item, BandAsset(href="/nowhere/B02.tif"), pixels)


def test_grid_by_the_item():
    proj = {"proj:epsg": 32633, "proj:shape": [10_980, 10_980], "proj:transform": [10, 0, 399_960, 0, -10, 5_300_040]}
    assert grid_by(proj) == TILE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj:transform": [20, 0, 399_960, 0, -20, 5_300_040]}, "B02.tif: no such file"),
        ({"proj:shape": None}, "B02.tif: no such file"),
        ({"proj:transform": [10, 0, 399_963, 0, -10, 5_300_040]}, "multiples of 10 m"),
        ({"proj:transform": [10, 0, 399_960, 0, 10, 5_300_040]}, "multiples of 10 m"),
        ({"proj:code": "EPSG:4326"}, "expected the UTM grid of Sentinel-2"),
        ({"proj:code": "EPSG:999999"}, "one that PROJ knows"),
    ],
)
def test_grids_that_cannot_be(changes, message):
    proj = {"proj:code": CRS, "proj:shape": [99, 99], "proj:transform": [10, 0, 399_960, 0, -10, 5_300_040]}
    with pytest.raises(PairError, match=message):
        grid_by(proj | changes)

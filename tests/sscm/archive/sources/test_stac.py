"""The STAC source: patches as direct reading gives them, pairing, splits, and items that cannot be used."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rasterio.warp import transform

from sscm.archive.sources import StacSource, make_source
from sscm.config import StacConfig
from sscm.errors import ArchiveError, ConfigError
from tests.plugins.stac import (
    CRS,
    LEFT,
    METRES,
    PATCH,
    SKIPPED,
    TAKEN,
    TOP,
    add_s1,
    add_s2,
    read_all,
    slow_backscatter,
    source_of,
    write_catalog,
)


def test_patches_are_what_direct_reading_gives(scene, tmp_path):
    folder, s2, s1 = scene
    source = source_of(tmp_path, s2, s1)
    pairs, errors = read_all(source)
    assert not errors
    assert sorted(pairs) == [f"S2A_33TVN_20220601_0_L2A_{row}_{col}" for row in range(3) for col in range(3)]
    pair = pairs["S2A_33TVN_20220601_0_L2A_1_2"]
    first_row, first_col = SKIPPED + PATCH, SKIPPED + 2 * PATCH
    for group in source.modalities[1].groups:
        for plane, band in zip(pair.images[group.name], group.band_names, strict=True):
            factor = METRES[band] // 10
            with rasterio.open(folder / s2.id / f"{band}.tif") as file:
                whole = file.read(1)
            row, col, side = first_row // factor, first_col // factor, PATCH // factor
            np.testing.assert_array_equal(plane, whole[row : row + side, col : col + side])
    for plane, band in zip(pair.images["s1"], ("vv", "vh"), strict=True):
        path = folder / s1.id / f"{band}.tif"
        slow = slow_backscatter(path, LEFT + first_col * 10, TOP - first_row * 10, PATCH, PATCH)
        np.testing.assert_allclose(plane, slow, atol=0.05)  # GDAL places pixels to an eighth
    assert pair.datetimes == {"s1": TAKEN + timedelta(hours=19), "s2": TAKEN}
    assert pair.properties == {
        "s1_item": "S1A_IW_GRDH_1SDV_20220602",
        "s1_platform": "sentinel-1a",
        "orbit_state": "ascending",
        "relative_orbit": "44",
        "s2_item": "S2A_33TVN_20220601_0_L2A",
        "s2_platform": "sentinel-2a",
        "cloud_cover": "12.5",
        "mgrs_tile": "33TVN",
    }
    corner = LEFT + first_col * 10, TOP - first_row * 10
    (lon,), (lat,) = transform(CRS, "EPSG:4326", [corner[0] + 600], [corner[1] - 600])
    outline = shapely.from_wkb(pair.geometry)
    assert outline.centroid.distance(shapely.Point(lon, lat)) < 1e-5
    west, south, east, north = outline.bounds
    assert 1000 < (east - west) * 111_000 * np.cos(np.radians(lat)) < 1400 and 1000 < (north - south) * 111_000 < 1400


def test_patches_outside_the_swath_are_left_out(scene, tmp_path):
    half = add_s1(tmp_path, no_data_east=0.45)
    pairs, errors = read_all(source_of(tmp_path, scene[1], half))
    assert not errors
    assert sorted({key[-1] for key in pairs}) == ["0"]
    some, _ = read_all(source_of(tmp_path / "some", scene[1], half, max_nodata=0.9))
    partly = [pair.images["s1"] for key, pair in some.items() if key.endswith("_1")]
    assert len(partly) == 3 and all(np.isfinite(image).all() for image in partly)
    values, counts = np.unique(partly[0][0], return_counts=True)
    assert counts.max() > PATCH  # the median, where nothing was measured
    assert values.min() < values[counts.argmax()] < values.max()


def test_each_patch_takes_the_nearest_image_that_covers_it(scene, tmp_path):
    near = add_s1(tmp_path, "S1A_near", taken=TAKEN + timedelta(hours=5), no_data_east=0.45)
    far = add_s1(tmp_path, "S1B_far", taken=TAKEN - timedelta(days=2), seed=17)
    pairs, _ = read_all(source_of(tmp_path, scene[1], near, far))
    assert {key[-1]: pair.properties["s1_item"] for key, pair in pairs.items()} == {
        "0": "S1A_near",
        "1": "S1B_far",
        "2": "S1B_far",
    }
    assert {pair.datetimes["s1"] for pair in pairs.values()} == {
        TAKEN + timedelta(hours=5),
        TAKEN - timedelta(days=2),
    }


def test_time_limit(scene, tmp_path):
    late = add_s1(tmp_path, taken=TAKEN + timedelta(days=4))
    with pytest.raises(ArchiveError, match=r"nearest two are 4\.00 days apart.*--max-days 4"):
        source_of(tmp_path, scene[1], late).plan()
    assert len(read_all(source_of(tmp_path / "more", scene[1], late, max_days=4))[0]) == 9


def test_places_apart(scene, tmp_path):
    elsewhere = add_s1(tmp_path, bounds=(LEFT + 20_000, TOP - 2000, LEFT + 22_000, TOP))
    with pytest.raises(ArchiveError, match="none of which overlap"):
        source_of(tmp_path, scene[1], elsewhere).plan()


def test_revisits_and_overlapping_tiles_share_splits(tmp_path):
    """A place has one split, and one patch, whichever image of it is read."""
    first = add_s2(tmp_path, "S2A_a")
    again = add_s2(tmp_path, "S2B_b", taken=TAKEN + timedelta(days=1))
    moved = add_s2(tmp_path, "S2A_c", left=LEFT + 1980, top=TOP - 1020, side=240)
    source = source_of(tmp_path, first, again, moved, add_s1(tmp_path), pixels=24)
    refs = source.plan()
    assert len({ref.key for ref in refs}) == len(refs)
    pairs, errors = read_all(source)
    assert not errors
    assert source.pairs_per_ref == round(len(pairs) / len(refs))
    places = {}
    for key, pair in pairs.items():
        center = shapely.from_wkb(pair.geometry).centroid
        places.setdefault((round(center.x, 5), round(center.y, 5)), {})[key] = pair
    assert max(len(found) for found in places.values()) == 3
    for found in places.values():
        assert len({pair.split for pair in found.values()}) == 1
    assert {pair.split for pair in pairs.values()} > {"train"}
    assert [ref.split for ref in source_of(tmp_path / "x", first, add_s1(tmp_path), pixels=24).plan()] == [
        ref.split for ref in refs if ref.key.startswith("S2A_a_")
    ]


def test_grid_is_read_from_the_file_where_the_item_does_not_tell(scene, tmp_path):
    told = source_of(tmp_path, *scene[1:]).plan()
    untold = source_of(tmp_path / "u", add_s2(tmp_path / "u", proj=False), scene[2]).plan()
    assert [ref.args["grid"][1:] for ref in untold] == [ref.args["grid"][1:] for ref in told]


def test_missing_band_names_item_and_assets(scene, tmp_path):
    s2, s1 = scene[1], scene[2]
    broken = add_s2(tmp_path, "S2B_broken")
    del broken.assets["B8A"]
    deaf = add_s1(tmp_path, "S1A_deaf")
    del deaf.assets["vh"]
    pairs, errors = read_all(source_of(tmp_path, s2, s1, broken, deaf))
    assert len(pairs) == 9
    assert "item S2B_broken: no GeoTIFF or JPEG 2000 asset of B8A; its assets are B01, B02" in str(errors["S2B_broken"])
    assert "item S1A_deaf: no GeoTIFF or JPEG 2000 asset of VH; its assets are vv" in str(errors["S1A_deaf"])


def test_items_of_one_sensor_only(scene, tmp_path):
    with pytest.raises(ArchiveError, match=r"no Sentinel-1 items with VV and VH among 1 items"):
        source_of(tmp_path, scene[1]).plan()
    with pytest.raises(ArchiveError, match=r"no Sentinel-2 items of level 2A among 1 items"):
        source_of(tmp_path / "s1", scene[2]).plan()


def test_item_without_footprint(scene, tmp_path):
    s2, s1 = scene[1], scene[2]
    lost = pystac.Item("S2A_lost", None, None, TAKEN, {"platform": "sentinel-2a"})
    pairs, errors = read_all(source_of(tmp_path, s2, s1, lost))
    assert len(pairs) == 9
    assert "expected a footprint" in str(errors["S2A_lost"])


def test_description_is_what_was_asked_for(scene, tmp_path):
    write_catalog(tmp_path, *scene[1:])
    source = make_source(StacConfig(catalog=str(tmp_path / "catalog.json"), max_days=2))
    assert isinstance(source, StacSource)
    assert source.describe() == {
        "catalog": str(tmp_path / "catalog.json"),
        "pixels": 120,
        "max_days": 2,
        "max_nodata": 0.0,
        "s1_scale": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": 100}, "multiple of 6"),
        ({"pixels": 12}, "from 24"),
        ({"max_days": -1}, "0 or more"),
        ({"max_nodata": 1}, "below 1"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        StacConfig(catalog="c.json", **options)

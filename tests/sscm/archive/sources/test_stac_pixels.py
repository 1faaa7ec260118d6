"""Reflectance and decibels against slow, direct reading; offsets, units, no data, and files that are broken."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from sscm.errors import PairError
from tests.plugins.stac import (
    CRS,
    DECIBEL,
    LEFT,
    PATCH,
    RASTER_10000,
    SKIPPED,
    TOP,
    add_s1,
    add_s2,
    read_all,
    slow_backscatter,
    source_of,
    write_cog,
)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32632"])
def test_decibels_are_resampled_in_power(scene, tmp_path, crs):
    """A radar file in dB gives what the same file in power gives, in its own zone and in the next."""
    _, s2, _ = scene
    linear = add_s1(tmp_path, "S1A_linear", crs=crs)
    decibel = add_s1(tmp_path, "S1A_decibel", crs=crs, decibel=True, raster=DECIBEL)
    by_power, _ = read_all(source_of(tmp_path / "p", s2, linear))
    by_decibel, _ = read_all(source_of(tmp_path / "d", s2, decibel))
    assert len(by_power) == 9
    for key, pair in by_power.items():
        np.testing.assert_allclose(by_decibel[key].images["s1"], pair.images["s1"], atol=1e-3)
    if crs == CRS:
        return
    first = by_power["S2A_33TVN_20220601_0_L2A_0_0"].images["s1"][0]
    slow = slow_backscatter(tmp_path / "S1A_linear" / "vv.tif", LEFT + SKIPPED * 10, TOP - SKIPPED * 10, PATCH, PATCH)
    np.testing.assert_allclose(first, slow, atol=0.05)


@pytest.mark.parametrize(
    ("raster", "properties"),
    [
        (RASTER_10000 | {"offset": -0.1}, {}),
        (None, {"s2:processing_baseline": "04.00"}),
    ],
)
def test_offset_of_newer_baselines_is_taken_off(scene, tmp_path, raster, properties):
    _, s2, s1 = scene
    plain, _ = read_all(source_of(tmp_path, s2, s1))
    newer = add_s2(tmp_path, shift=1000, raster=raster, **properties)
    shifted, errors = read_all(source_of(tmp_path / "newer", newer, s1))
    assert not errors
    for key, pair in plain.items():
        for name in ("s2_10m", "s2_20m", "s2_60m"):
            np.testing.assert_array_equal(shifted[key].images[name], pair.images[name])


def test_dark_pixels_are_not_taken_for_no_data(scene, tmp_path):
    """What the offset brings to 0 or below is data; what was 0 before is none."""
    s2 = add_s2(tmp_path, raster=RASTER_10000 | {"offset": -0.1}, shift=1000)
    path = tmp_path / s2.id / "B02.tif"
    with rasterio.open(path) as file:
        pixels = file.read(1)
    pixels[SKIPPED : SKIPPED + 10, SKIPPED : SKIPPED + 10] = 990
    pixels[SKIPPED, SKIPPED + PATCH] = 0
    write_cog(path, pixels, CRS, Affine(10, 0, LEFT, 0, -10, TOP), 0)
    pairs, _ = read_all(source_of(tmp_path, s2, scene[2]))
    assert (pairs[f"{s2.id}_0_0"].images["s2_10m"][0, :10, :10] == 1).all()
    assert f"{s2.id}_0_1" not in pairs
    assert len(pairs) == 8
    some, _ = read_all(source_of(tmp_path / "some", s2, scene[2], max_nodata=0.01))
    assert some[f"{s2.id}_0_1"].images["s2_10m"][0, 0, 0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "S2A/B05.tif").unlink(), "B05.tif: no such file"),
        (lambda folder: cut(folder / "S2A/B05.tif"), "B05.tif: it cannot be read"),
        (lambda folder: (folder / "S1A/vv.tif").write_bytes(b"not an image"), "vv.tif: it cannot be read"),
        (lambda folder: rewrite(folder / "S2A/B05.tif", crs="EPSG:32632"), "expected 20 m in EPSG:32633"),
        (lambda folder: rewrite(folder / "S2A/B05.tif", transform=Affine(10, 0, LEFT, 0, -10, TOP)), "expected 20 m"),
        (lambda folder: rewrite(folder / "S2A/B05.tif", transform=Affine(20, 0, LEFT + 7, 0, -20, TOP)), "multiples"),
        (lambda folder: rewrite(folder / "S2A/B05.tif", dtype="uint8"), "uint8 pixels"),
        (lambda folder: rewrite(folder / "S1A/vh.tif", crs=None), "no georeference"),
    ],
)
def test_broken_files(tmp_path, change, message):
    source = source_of(tmp_path, add_s2(tmp_path, "S2A"), add_s1(tmp_path, "S1A"))
    change(tmp_path)
    pairs, errors = read_all(source)
    assert not pairs
    assert [message in str(error) for error in errors.values()] == [True], errors


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, **changes):
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    profile |= {"driver": "GTiff", "nodata": None} | changes
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels.clip(0, 250).astype(profile["dtype"]))


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"raster": None}, {}, "no unit of backscatter; expected dB or linear .* --s1-scale"),
        ({"raster": {"unit": "furlong"}}, {}, "unit 'furlong'"),
        ({}, {"s1_scale": "db"}, "no value below 0 .* these are linear power"),
        ({"decibel": True, "raster": DECIBEL}, {"s1_scale": "linear"}, "these are dB"),
    ],
)
def test_units_that_cannot_be(scene, tmp_path, options, settings, message):
    source = source_of(tmp_path, scene[1], add_s1(tmp_path, **options), **settings)
    pairs, errors = read_all(source)
    assert not pairs
    (error,) = errors.values()
    with pytest.raises(PairError, match=message):
        raise error


def test_scale_by_setting(scene, tmp_path):
    s1 = add_s1(tmp_path, raster={"nodata": -32768})
    pairs, errors = read_all(source_of(tmp_path, scene[1], s1, s1_scale="linear"))
    assert len(pairs) == 9 and not errors


def test_reflectance_of_an_impossible_scale(scene, tmp_path):
    s2 = add_s2(tmp_path, raster={"scale": 1, "offset": 0})
    pairs, errors = read_all(source_of(tmp_path, s2, scene[2]))
    assert not pairs
    assert "reflectance above 6.5535 in most pixels, by scale 1" in str(*errors.values())

"""Plain GeoTIFFs: what is read without GDAL is what GDAL reads, and everything else is left to GDAL."""

import struct
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from sscm.archive.sources.footprint import footprint
from sscm.archive.sources.image_file import open_image
from sscm.archive.sources.plain_tiff import read_plain_tiff
from sscm.errors import PairError

PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 404_400, 0, -10, 5_342_400)}


def write(path, pixels, **options):
    """A GeoTIFF as GDAL writes it; pixels [bands, rows, columns]."""
    bands, height, width = pixels.shape
    about = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with warnings.catch_warnings(action="ignore"), rasterio.open(path, "w", **about, **options) as file:
        file.write(pixels)
    return path.read_bytes()


def noise(dtype, bands=1, height=70, width=90):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(-15, 4, (bands, height, width)).astype(dtype)
    return rng.integers(0, 200, (bands, height, width)).astype(dtype)


def require_as_gdal(path):
    """Open both ways and compare everything that a source may ask for."""
    plain = read_plain_tiff(path.read_bytes())
    assert plain is not None
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:
        pixels = file.read()
        assert plain.pixels.dtype == pixels.dtype and np.array_equal(plain.pixels, pixels, equal_nan=True)
        assert plain.nodata == file.nodata or np.isnan([plain.nodata, file.nodata]).all()
        assert (plain.reference is None) == (file.crs is None)
        if file.crs is not None:
            assert plain.transform == file.transform
    for georeference in (True, False, True):  # the second time the reference system is known
        with open_image(str(path), georeference=georeference) as image:
            assert (image.bands, image.height, image.width) == pixels.shape
            assert np.array_equal(image.read(0, image.height), pixels, equal_nan=True)
            assert np.array_equal(image.read(3, 5), pixels[:, 3:5], equal_nan=True)
            assert image.descriptions == (None,) and image.time is None and not image.alpha
            located = georeference and plain.reference is not None
            assert image.crs == (rasterio.open(path).crs if located else None)
            assert (image.transform is not None) == located


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_pixels_of_every_dtype_are_what_gdal_reads(tmp_path, dtype):
    write(tmp_path / "a.tif", noise(dtype), **PLACE)
    require_as_gdal(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint16", 0), ("int16", -9999), ("float32", -9999), ("float32", float("nan"))]
)
def test_no_data_is_what_gdal_says(tmp_path, dtype, nodata):
    write(tmp_path / "a.tif", noise(dtype), nodata=nodata, **PLACE)
    require_as_gdal(tmp_path / "a.tif")


@pytest.mark.parametrize("crs", ["EPSG:32733", "EPSG:3035", "EPSG:4326"])
def test_reference_systems_are_what_gdal_reads(tmp_path, crs):
    write(tmp_path / "a.tif", noise("uint8"), crs=crs, transform=Affine(0.5, 0, 3, 0, -0.5, 40))
    require_as_gdal(tmp_path / "a.tif")


def test_a_file_without_a_place(tmp_path):
    write(tmp_path / "a.tif", noise("uint16"))
    require_as_gdal(tmp_path / "a.tif")


def test_footprints_of_both_ways_are_the_same_bytes(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.tif", noise("uint16"), **PLACE)
    outlines = []
    for number in range(2):  # the first one is opened by GDAL, unless an earlier test has seen this reference system
        with open_image(str(tmp_path / f"{number}.tif")) as image:
            outlines.append(footprint(image))
    with rasterio.open(tmp_path / "0.tif") as file, open_image(str(tmp_path / "0.tif")) as image:
        assert (image.crs, image.transform) == (file.crs, file.transform)
    assert outlines[0] == outlines[1]


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"bigtiff": "YES"},
        {"endianness": "BIG"},
        {"photometric": "MINISWHITE"},
        {"nbits": 12},
        {"sparse_ok": True},
        {"transform": Affine(10, 1, 404_400, 1, -10, 5_342_400), "crs": "EPSG:32633"},
        {"transform": Affine(10, 0, 404_400, 0, 10, 5_342_400), "crs": "EPSG:32633"},
    ],
)
def test_what_is_not_plain_is_left_to_gdal(tmp_path, options):
    pixels = np.zeros((1, 70, 90), "uint16") if "sparse_ok" in options else noise("uint16")
    data = write(tmp_path / "a.tif", pixels, **options)
    assert read_plain_tiff(data) is None
    with open_image(str(tmp_path / "a.tif")) as image:
        assert np.array_equal(image.read(0, 70), pixels)


def test_several_bands_tags_of_meaning_and_points_are_left_to_gdal(tmp_path):
    assert read_plain_tiff(write(tmp_path / "a.tif", noise("uint8", bands=3))) is None
    path = tmp_path / "b.tif"
    write(path, noise("uint8"), **PLACE)
    with rasterio.open(path, "r+") as file:
        file.update_tags(datetime="2017-06-13T10:10:31Z")
    assert read_plain_tiff(path.read_bytes()) is None
    with open_image(str(path)) as image:
        assert image.time is not None
    path = tmp_path / "c.tif"
    write(path, noise("uint8"), **PLACE)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    assert read_plain_tiff(path.read_bytes()) is None


def test_a_cut_file_is_told_of_as_before(tmp_path):
    path = tmp_path / "a.tif"
    data = write(path, noise("uint16"), **PLACE)
    for length in (0, 6, 100, len(data) // 2, len(data) - 1):
        assert read_plain_tiff(data[:length]) is None
        path.write_bytes(data[:length])
        with pytest.raises(PairError, match=r"a\.tif"), open_image(str(path)) as image:
            image.read(0, image.height)


def test_altered_bytes_never_raise_anything_else(tmp_path):
    data = write(tmp_path / "a.tif", noise("uint8", height=10, width=10), nodata=0, **PLACE)
    rng = np.random.default_rng(1)
    (start,) = struct.unpack_from("<I", data, 4)
    for _ in range(3_000):
        altered = bytearray(data)
        for place in rng.integers(0, min(len(data), start + 400), 3):
            altered[place] = rng.integers(256)
        read_plain_tiff(bytes(altered))


@pytest.mark.parametrize("folder", ["bigearthnet-v1", "bigearthnet-v2"])
def test_real_patches_are_plain(shared_data, folder):
    found = sorted((shared_data / folder).rglob("*_[VB]*.tif"))
    assert found
    for path in found:
        require_as_gdal(path)

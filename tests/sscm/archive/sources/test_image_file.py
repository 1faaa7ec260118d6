"""Image files: formats against independent readers, damage, and casts that lose nothing."""

from __future__ import annotations

import struct
import warnings
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from sscm.archive.sources.image_file import as_dtype, open_image, parse_time
from sscm.errors import PairError
from sscm.sensors import DTYPES


def read(path, **options):
    with open_image(str(path), **options) as image:
        return image, image.read(0, image.height)


@pytest.mark.parametrize("dtype", DTYPES)
def test_geotiff(tmp_path, dtype):
    pixels = (np.random.default_rng(0).random((3, 20, 30)) * 200).astype(dtype)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=3,
        height=20,
        width=30,
        dtype=dtype,
        crs="EPSG:32720",
        transform=Affine(10, 0, 500_000, 0, -10, 7_000_000),
        nodata=7,
    ) as file:
        file.write(pixels)
        file.set_band_description(2, "B03")
        file.update_tags(datetime="2017-10-30T05:32:30.000000000")
    image, found = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == dtype and (image.bands, image.size) == (3, (20, 30))
    assert image.descriptions == (None, "B03", None) and image.nodata == 7
    assert image.crs.to_epsg() == 32720 and image.transform.a == 10
    assert image.time == datetime(2017, 10, 30, 5, 32, 30, tzinfo=UTC)
    with open_image(str(tmp_path / "a.tif")) as opened:
        np.testing.assert_array_equal(opened.read(3, 9), pixels[:, 3:9])
    image, found = read(tmp_path / "a.tif", georeference=False)
    np.testing.assert_array_equal(found, pixels)
    assert image.crs is None and image.nodata == 7


def test_geotiff_without_georeference(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=1, height=4, width=4, dtype="uint8") as file:
            file.write(np.ones((1, 4, 4), "uint8"))
    image, _ = read(tmp_path / "a.tif")
    assert image.crs is None and image.transform is None and image.time is None


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
def test_png_of_8_bits(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    PilImage.fromarray(pixels).save(tmp_path / "a.png")
    image, found = read(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.png") as file:
            np.testing.assert_array_equal(found, file.read())
    assert image.alpha == (len(shape) == 3 and shape[2] in (2, 4))


def test_png_with_palette_and_of_one_bit(tmp_path):
    colours = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype="uint8") * 255
    PilImage.fromarray(colours).convert("P", palette=PilImage.Palette.ADAPTIVE).save(tmp_path / "p.png")
    np.testing.assert_array_equal(read(tmp_path / "p.png")[1], np.moveaxis(colours, -1, 0))
    mask = colours[..., 0] > 0
    PilImage.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png")[1][0], mask * np.uint8(255))


def test_png_of_16_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7), dtype="uint16")
    PilImage.fromarray(pixels).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")[1]
    np.testing.assert_array_equal(as_dtype(found, "uint16", "a.png")[0], pixels)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)  # one pixel, 16 bits, RGB
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    (tmp_path / "colour.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with PilImage.open(tmp_path / "colour.png") as picture:
        assert picture.mode == "RGB"  # eight bits of the sixteen
    with pytest.raises(PairError, match="colour PNG of 16 bits"):
        read(tmp_path / "colour.png")


@pytest.mark.parametrize("dtype", ["uint8", "<f4", ">f4", ">u2", "float64"])
def test_npy(tmp_path, dtype):
    pixels = (np.random.default_rng(0).random((2, 6, 5)) * 200).astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    found = read(tmp_path / "a.npy")[1]
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype.isnative
    np.save(tmp_path / "b.npy", pixels[0])
    np.testing.assert_array_equal(read(tmp_path / "b.npy")[1], pixels[:1])
    np.save(tmp_path / "c.npy", pixels[0, 0])
    with pytest.raises(PairError, match=r"shape \(5,\); expected \(rows, columns\)"):
        read(tmp_path / "c.npy")


@pytest.mark.parametrize("ending", ["tif", "png", "npy"])
def test_files_cut_short_anywhere(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(1, 255, (40, 40), dtype="uint8")
    whole = tmp_path / f"whole.{ending}"
    if ending == "npy":
        np.save(whole, pixels)
    elif ending == "png":
        PilImage.fromarray(pixels).save(whole)
    else:
        with rasterio.open(
            whole,
            "w",
            driver="GTiff",
            count=1,
            height=40,
            width=40,
            dtype="uint8",
            crs="EPSG:4326",
            transform=Affine(1, 0, 5, 0, -1, 7),
        ) as file:
            file.write(pixels, 1)
    data = whole.read_bytes()
    lengths = range(0, len(data) - 20, 61)  # 20: an end marker of a PNG may go without harm
    cut = tmp_path / f"cut.{ending}"
    for length in lengths:
        cut.write_bytes(data[:length])
        with pytest.raises(PairError, match="it cannot be read") as caught:
            read(cut)
        assert caught.value.where == str(cut)


def test_wrong_content_and_missing_files(tmp_path):
    for ending in ("tif", "png", "npy"):
        (tmp_path / f"a.{ending}").write_text("<html>503 try again</html>")
        with pytest.raises(PairError, match="it cannot be read"):
            read(tmp_path / f"a.{ending}")
        with pytest.raises(PairError, match="no such file"):
            read(tmp_path / f"b.{ending}")
        with pytest.raises(PairError, match="no such file"):
            read(f"memory://nothing/b.{ending}")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(PairError, match=r"cannot be read .*Python objects"):
        read(tmp_path / "o.npy")
    (tmp_path / "a.vrt").write_text("<VRTDataset/>")
    with pytest.raises(PairError, match=r"ends in '\.vrt'; expected GeoTIFF"):
        read(tmp_path / "a.vrt")


@given(
    st.lists(st.integers(-70_000, 70_000), min_size=1, max_size=8),
    st.sampled_from(["int16", "uint16", "int32", "float32", "float64"]),
    st.sampled_from(DTYPES),
)
def test_a_cast_keeps_every_value_or_is_refused(values, source, target):
    fits = [v for v in values if source[0] == "f" or np.iinfo(source).min <= v <= np.iinfo(source).max]
    pixels = np.array(fits or [0], source)
    in_range = target[0] == "f" or all(np.iinfo(target).min <= v <= np.iinfo(target).max for v in pixels.tolist())
    if in_range:
        result = as_dtype(pixels, target, "x")
        assert result.dtype == target and result.tolist() == pixels.tolist()
    else:
        with pytest.raises(PairError, match="without an equal in"):
            as_dtype(pixels, target, "x")


def test_casts_of_fractions():
    decibels = np.array([-12.3456789012345, 0.1, np.nan])
    result = as_dtype(decibels, "float32", "x")
    np.testing.assert_array_equal(result, decibels.astype("float32"))
    with pytest.raises(PairError, match=r"first: 1e\+300"):
        as_dtype(np.array([1e300]), "float32", "x")
    with pytest.raises(PairError, match=r"float32 pixels, 1 of them without an equal in uint16 \(first: 0.5\)"):
        as_dtype(np.array([1, 0.5], "float32"), "uint16", "x")
    with pytest.raises(PairError, match=r"first: nan"):
        as_dtype(np.array([np.nan], "float32"), "uint16", "x")
    with pytest.raises(PairError, match="complex64 pixels; expected float32"):
        as_dtype(np.zeros(2, "complex64"), "float32", "x")
    same = np.zeros(3, "uint16")
    assert as_dtype(same, "uint16", "x") is same


def test_times():
    noon = datetime(2020, 1, 2, 12, tzinfo=UTC)
    for text in ("2020-01-02T12:00:00", "2020-01-02 12:00:00Z", "2020-01-02T13:00:00+01:00", "20200102T120000"):
        assert parse_time(text, "x") == noon
    with pytest.raises(PairError, match="time 'noon'; expected ISO 8601"):
        parse_time("noon", "x")

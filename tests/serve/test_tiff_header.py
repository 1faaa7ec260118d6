"""Headers of TIFFs: read as GDAL reads them, and bounded before GDAL does."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import rasterio

from serve.tiff_header import MAX_BLOCK, MAX_DIRECTORIES, MAX_HEADER, TiffLayout, read_layout
from sscm.errors import QueryError
from tests.plugins.images import tiff

PLACE = rasterio.Affine(10, 0, 4e5, 0, -10, 5e6)
ONES = np.ones((2, 24, 20), np.float32)


def entries(data):
    """Tag → where its entry lies in a little-endian classic TIFF."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    return {struct.unpack_from("<H", data, at + 2 + 12 * i)[0]: at + 2 + 12 * i for i in range(count)}


def with_tag(data, tag, kind, count, value, name=None):
    """The same file, with another entry in a tag's place."""
    broken = bytearray(data)
    struct.pack_into("<HHII", broken, entries(data)[tag], name or tag, kind, count, value)
    return bytes(broken)


def with_next(data, following):
    """The same file, with another directory after the first."""
    last = max(entries(data).values()) + 12
    return data[:last] + struct.pack("<I", following) + data[last + 4 :]


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"interleave": "band"},
        {"interleave": "pixel", "compress": "lzw", "predictor": 2},
        {"blockysize": 5},
        {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "packbits"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_layouts_are_those_that_gdal_reads(storage, dtype):
    data = tiff(ONES.astype(dtype), ("VV", "VH"), **storage)
    layout = read_layout(data, "x.tif")
    with rasterio.MemoryFile(data) as memory, memory.open() as image:
        seen = TiffLayout(
            height=image.height,
            width=image.width,
            bands=image.count,
            dtype=image.dtypes[0],
            block=image.block_shapes[0],
            decoded=layout.decoded,
        )
        blocks = len(list(image.block_windows(1)))
    assert layout == seen
    assert layout.decoded == blocks * layout.block[0] * layout.block[1] * 2 * np.dtype(dtype).itemsize


def test_overviews_are_no_images_of_their_own():
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", transform=PLACE, count=1, height=64, width=64, dtype="uint8", tiled=True
        ) as image:
            image.write(np.ones((1, 64, 64), np.uint8))
            image.build_overviews([2, 4])
        assert read_layout(bytes(memory.getbuffer()), "x.tif").height == 64


PLAIN = tiff(ONES[:1], compress="deflate")
TILED = tiff(ONES[:1], tiled=True, blockxsize=16, blockysize=16)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (with_tag(TILED, 322, 4, 1, 65536), "blocks of 16 × 65536 pixels, 4194304 bytes|other than"),
        (
            with_tag(with_tag(TILED, 322, 4, 1, 65536), 323, 4, 1, 65536),
            f"17179869184 bytes; expected at most {MAX_BLOCK}",
        ),
        (with_tag(PLAIN, 259, 3, 1, 7), "x.tif: compression 7; expected none, LZW, deflate, PackBits, ZSTD"),
        (with_tag(PLAIN, 262, 3, 1, 3), "photometric interpretation 3; expected pixel values"),
        (with_tag(PLAIN, 339, 3, 1, 6), "pixels of complex32; expected one of uint8"),
        (with_tag(PLAIN, 258, 3, 1, 12), "pixels of float12"),
        (with_tag(PLAIN, 284, 3, 1, 4, name=254), "x.tif: holds a mask; mark pixels without data by a value"),
        (
            tiff(ONES, ("VV", "VH"), tags={"a": "x" * (MAX_HEADER + 1)}),
            f"expected at most {MAX_HEADER}: leave its metadata",
        ),
    ],
)
def test_what_is_not_taken_is_refused_with_the_remedy(data, match):
    with pytest.raises((QueryError, ValueError), match=match):
        read_layout(data, "x.tif")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (with_tag(PLAIN, 256, 4, 1, 0), "24 × 0 pixels in 1 bands"),
        (with_tag(PLAIN, 257, 4, 1, 2**31), "other than"),
        (with_tag(PLAIN, 257, 2, 1, 24), "type 2 where a whole number belongs"),
        (with_tag(PLAIN, 257, 4, 2, 8), "tag 257 with 2 values"),
        (with_tag(PLAIN, 257, 4, 1, 24, name=1), "no tag 257"),
        (with_tag(PLAIN, 257, 4, 1, 24, name=256), "tag 256 .* twice"),
        (with_tag(PLAIN, 257, 99, 1, 24), "tag 257 of type 99"),
        (with_tag(PLAIN, 258, 3, 2**31, 8), "not in the file"),
        (with_tag(PLAIN, 279, 4, 1, 2**32 - 1), "blocks that end after its"),
        (with_tag(PLAIN, 273, 4, 1, 2**32 - 1), "blocks that end after its"),
        (PLAIN[: len(PLAIN) - 1], "blocks that end after its"),
        (with_next(PLAIN, 8), "in a circle with others"),
        (b"II*\0\0\0\0\0", "no directory"),
        (b"II*\0\x08\0\0\0\0\0", "a directory of 0 tags"),
        (b"II*\0\x08\0\0\0\xff\xff", "a directory of 65535 tags"),
        (b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", "a directory outside the file"),
        (b"II+\0\x07\0\0\0" + bytes(8), "no BigTIFF"),
    ],
)
def test_damage_is_told(data, match):
    with pytest.raises((ValueError, struct.error), match=match):
        read_layout(data, "x.tif")


def test_a_long_chain_of_directories_is_refused():
    entry = struct.pack("<HHHII", 1, 254, 4, 1, 1)
    chain = b"".join(entry + struct.pack("<I", 8 + 18 * (i + 1)) for i in range(MAX_DIRECTORIES + 1))
    with pytest.raises(ValueError, match=f"more than {MAX_DIRECTORIES}"):
        read_layout(b"II*\0\x08\0\0\0" + chain, "x.tif")


def test_several_images_are_refused():
    second = len(PLAIN)
    pages = with_next(PLAIN, second) + struct.pack("<HHHIII", 1, 256, 4, 1, 24, 0)
    with pytest.raises(QueryError, match=r"x.tif: holds 2 images; expected one, and its overviews at most"):
        read_layout(pages, "x.tif")

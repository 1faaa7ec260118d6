"""What a TIFF says about itself, read and bounded before a decoder sees it.

A decoder believes the tags of a file: it makes room for a tile of 65,536 × 65,536 pixels, or walks a million
directories, because a few bytes say so. Here only those directories are read, by the TIFF 6.0 and BigTIFF
specifications; what is refused here never reaches GDAL.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sscm.errors import QueryError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of classic TIFF and of BigTIFF, in either byte order."""

MAX_DIRECTORIES = 32
"""Directories of a file: an image and its overviews, each half as large as the one before."""
MAX_TAGS = 256
"""Tags of a directory; GeoTIFFs have about twenty."""
MAX_HEADER = 1 << 20
"""Bytes of all tags of an image together, without those that list its blocks: names, georeference, metadata."""
MAX_BLOCK = 1 << 25
"""Bytes of a decoded strip or tile: a decoder has room for a whole one, whatever the image's size."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_SIZES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _FORMAT, _METADATA = 322, 323, 324, 325, 339, 42112

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_REDUCED, _MASK = 1, 4
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "ZSTD"}
_KINDS = {1: "uint", 2: "int", 3: "float"}
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Size and storage of the image in a TIFF.

    Args:
        height: rows.
        width: columns.
        bands: bands.
        dtype: numpy name of the pixel type.
        block: rows and columns of a strip or tile.
        decoded: bytes of all its blocks together, decoded.
    """

    height: int
    width: int
    bands: int
    dtype: str
    block: tuple[int, int]
    decoded: int


@dataclass(frozen=True)
class _Tag:
    """Type, number of values and their bytes as they lie in the file."""

    type: int
    count: int
    data: bytes


def read_layout(data: bytes, where: str) -> TiffLayout:
    """Read and check the directories of a TIFF.

    Args:
        data: the whole file.
        where: its name, for messages.

    Raises:
        QueryError: several images or a mask, a compression or pixel type that is not taken, tags or blocks that are too
            large, blocks that lie outside the file.
        ValueError: the file is damaged; says how.
        struct.error: the file is cut short.
    """
    order = "<" if data[:2] == b"II" else ">"
    first, *others = _directories(data, order)
    for tags in (first, *others):
        kind = _number(tags, _SUBFILE, order, 0)
        if kind & _MASK:
            raise QueryError(f"{where}: holds a mask; mark pixels without data by a value (gdal_translate -mask none)")
        if tags is not first and not kind & _REDUCED:
            raise QueryError(f"{where}: holds {1 + len(others)} images; expected one, and its overviews at most")
    lists = (_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES)
    if (size := sum(len(tag.data) for name, tag in first.items() if name not in lists)) > MAX_HEADER:
        raise QueryError(f"{where}: tags of {size} bytes; expected at most {MAX_HEADER}: leave its metadata out")
    if _METADATA in first:
        first[_METADATA].data.decode()  # GDAL quotes it in messages, and rasterio takes them for text
    return _layout(first, order, len(data), where)


def _layout(tags: Mapping[int, _Tag], order: str, size: int, where: str) -> TiffLayout:
    width, height = _number(tags, _WIDTH, order), _number(tags, _HEIGHT, order)
    bands = _number(tags, _SAMPLES, order, 1)
    compression = _number(tags, _COMPRESSION, order, 1)
    if compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise QueryError(f"{where}: compression {compression}; expected {known} (gdal_translate -co COMPRESS=DEFLATE)")
    if (photometric := _number(tags, _PHOTOMETRIC, order, 1)) not in (1, 2):
        raise QueryError(f"{where}: photometric interpretation {photometric}; expected pixel values, 1 or 2")
    dtype = _dtype(tags, order, bands, where)
    if not (width and height and bands):
        raise ValueError(f"{height} × {width} pixels in {bands} bands")
    tiled = _TILE_WIDTH in tags
    rows = _number(tags, _TILE_HEIGHT, order) if tiled else min(_number(tags, _STRIP_ROWS, order, height), height)
    columns = _number(tags, _TILE_WIDTH, order) if tiled else width
    if not (rows and columns):
        raise ValueError(f"blocks of {rows} × {columns} pixels")
    interleaved = _number(tags, _PLANAR, order, 1)
    if interleaved not in (1, 2):
        raise ValueError(f"planar configuration {interleaved}")
    block = rows * columns * np.dtype(dtype).itemsize * (bands if interleaved == 1 else 1)
    if block > MAX_BLOCK:
        raise QueryError(
            f"{where}: blocks of {rows} × {columns} pixels, {block} bytes; expected at most {MAX_BLOCK} "
            "(gdal_translate -co TILED=YES)"
        )
    blocks = -(-height // rows) * -(-width // columns) * (1 if interleaved == 1 else bands)
    _require_inside(tags, order, tiled, blocks, size)
    return TiffLayout(
        height=height, width=width, bands=bands, dtype=dtype, block=(rows, columns), decoded=block * blocks
    )


def _dtype(tags: Mapping[int, _Tag], order: str, bands: int, where: str) -> str:
    bits = set(_numbers(tags[_BITS], order)) if _BITS in tags else {1}
    formats = set(_numbers(tags[_FORMAT], order)) if _FORMAT in tags else {1}
    if any(tags[tag].count > bands for tag in (_BITS, _FORMAT) if tag in tags):
        raise ValueError("more pixel types than bands")
    names = [f"{_KINDS.get(kind, 'complex')}{depth}" for kind in formats for depth in bits]
    if len(names) != 1 or names[0] not in _DTYPES:
        raise QueryError(f"{where}: pixels of {' and '.join(sorted(names)[:4])}; expected one of {', '.join(_DTYPES)}")
    return names[0]


def _require_inside(tags: Mapping[int, _Tag], order: str, tiled: bool, blocks: int, size: int) -> None:
    """Check that every block lies in the file; one of no bytes is sparse, and holds no data."""
    names = (_TILES, _TILE_SIZES) if tiled else (_STRIPS, _STRIP_SIZES)
    if any(name not in tags or tags[name].count != blocks for name in names):
        raise ValueError(f"other than {blocks} blocks listed")
    starts, sizes = (np.frombuffer(tags[name].data, order + _unsigned(tags[name])) for name in names)
    if bool((starts > size).any() or (sizes > size).any() or (starts.astype("i8") + sizes.astype("i8") > size).any()):
        raise ValueError(f"blocks that end after its {size} bytes")


def _directories(data: bytes, order: str) -> list[dict[int, _Tag]]:
    big = data[2:4] in (b"+\0", b"\0+")
    if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
        raise ValueError("a header that is no BigTIFF's")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    seen: set[int] = set()
    found = []
    while at:
        if at > len(data) or at in seen or len(seen) == MAX_DIRECTORIES:
            raise ValueError(f"a directory outside the file, in a circle with others, or more than {MAX_DIRECTORIES}")
        seen.add(at)
        tags, at = _directory(data, at, order, big)
        found.append(tags)
    if not found:
        raise ValueError("no directory")
    return found


def _directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, _Tag], int]:
    head, entry, word = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    (count,) = struct.unpack_from(order + head, data, at)
    if not 0 < count <= MAX_TAGS:
        raise ValueError(f"a directory of {count} tags")
    at += struct.calcsize(order + head)
    room = struct.calcsize(order + word)
    tags: dict[int, _Tag] = {}
    for _ in range(count):
        name, kind, values = struct.unpack_from(order + entry, data, at)
        at += struct.calcsize(order + entry)
        length = _SIZES.get(kind, 0) * values
        start = at if length <= room else struct.unpack_from(order + word, data, at)[0]
        if kind not in _SIZES or start + length > len(data) or name in tags:
            raise ValueError(f"tag {name} of type {kind} with {values} values at {start}, twice or not in the file")
        tags[name] = _Tag(kind, values, data[start : start + length])
        at += room
    (following,) = struct.unpack_from(order + word, data, at)
    return tags, following


def _unsigned(tag: _Tag) -> str:
    if tag.type not in _UNSIGNED:
        raise ValueError(f"a tag of type {tag.type} where a whole number belongs")
    return _UNSIGNED[tag.type]


def _numbers(tag: _Tag, order: str) -> list[int]:
    if not tag.count:
        raise ValueError("a tag without a value")
    return [int(value) for value in np.frombuffer(tag.data, order + _unsigned(tag))]


def _number(tags: Mapping[int, _Tag], name: int, order: str, default: int | None = None) -> int:
    if name not in tags:
        if default is None:
            raise ValueError(f"no tag {name}")
        return default
    if tags[name].count != 1:
        raise ValueError(f"tag {name} with {tags[name].count} values")
    return _numbers(tags[name], order)[0]

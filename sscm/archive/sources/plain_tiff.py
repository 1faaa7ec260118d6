"""Plain GeoTIFFs read without GDAL: one grey band, uncompressed, in one piece, as patch archives are made of.

Opening such a file with GDAL takes twenty times as long as reading it. What is not exactly of this kind (compressed,
tiled, several bands or images, a tag that means something else, cut short) is left to GDAL, which also tells what is
wrong with it.

Format: TIFF 6.0; OGC 19-008r4 (GeoTIFF 1.1) for the georeference; GDAL's tag 42113 for no data.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.transform import Affine

from sscm.archive.schema import Image

LARGEST = 2_000_000
"""Bytes of a file from which on it is left to GDAL, which reads a strip of a large image without the rest."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _STRIP_ROWS, _COUNTS, _PLANAR, _FORMAT = 273, 277, 278, 279, 284, 339
_SCALE, _TIEPOINT, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXT, _NODATA = 33550, 33922, 34735, 34736, 34737, 42113
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _STRIP_ROWS, _COUNTS}
_KNOWN = _NEEDED | {_PLANAR, _FORMAT, _SCALE, _TIEPOINT, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXT, _NODATA}
_TYPES = {2: ("s", 1), 3: ("H", 2), 4: ("I", 4), 12: ("d", 8)}
"""TIFF's number of a field type → character of :mod:`struct`, and bytes."""
_DTYPES = {
    (1, 8): "uint8",
    (1, 16): "uint16",
    (1, 32): "uint32",
    (2, 16): "int16",
    (2, 32): "int32",
    (3, 32): "float32",
    (3, 64): "float64",
}
"""TIFF's sample format and bits → numpy name."""
_RASTER_TYPE, _AREA = 1025, 1


@dataclass(frozen=True)
class PlainTiff:
    """A plain GeoTIFF.

    Args:
        pixels: [1, height, width], read-only.
        nodata: the value that the file marks as no data, or None.
        transform: affine transform from (column, row) to the reference system, or None.
        reference: bytes that name the coordinate reference system, the same in all files of one system; None where
            there is none.
    """

    pixels: Image
    nodata: float | None
    transform: Any
    reference: bytes | None


def read_plain_tiff(data: bytes, georeference: bool = True) -> PlainTiff | None:
    """Read a plain GeoTIFF, exactly as GDAL reads it.

    Args:
        data: the file.
        georeference: whether its place on Earth is wanted.

    Returns:
        Pixels and georeference; None where the file is not plain, or not whole.
    """
    try:
        tags = _tags(data)
        return None if tags is None else _decode(data, tags, georeference)
    except (struct.error, ValueError, KeyError, IndexError):
        return None  # not whole: GDAL says what is wrong


def _tags(data: bytes) -> dict[int, Any] | None:
    """Tag → tuple of numbers, or text; None where a tag is not known here, or another image follows."""
    if data[:4] != b"II*\0":
        return None
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * count
    if struct.unpack_from("<I", data, end) != (0,):
        return None
    tags: dict[int, Any] = {}
    for tag, kind, length, value in struct.iter_unpack("<HHI4s", data[start + 2 : end]):
        if tag not in _KNOWN or kind not in _TYPES:
            return None
        letter, size = _TYPES[kind]
        if length * size <= 4:
            found = struct.unpack_from(f"<{length}{letter}", value)
        else:
            found = struct.unpack_from(f"<{length}{letter}", data, *struct.unpack("<I", value))
        tags[tag] = found[0] if letter == "s" else found
    return tags if tags.keys() >= _NEEDED else None


def _decode(data: bytes, tags: dict[int, Any], georeference: bool) -> PlainTiff | None:
    (width,), (height,), (bits,), (strip_rows,) = (tags[tag] for tag in (_WIDTH, _HEIGHT, _BITS, _STRIP_ROWS))
    grey = (tags[_COMPRESSION], tags[_PHOTOMETRIC], tags[_SAMPLES]) == ((1,), (1,), (1,))
    (sample_format,) = tags.get(_FORMAT, (1,))
    name = _DTYPES.get((sample_format, bits))
    if not grey or tags.get(_PLANAR, (1,)) != (1,) or name is None or not width or not height:
        return None
    dtype = np.dtype(name)
    offsets, counts = tags[_OFFSETS], tags[_COUNTS]
    row_bytes = width * dtype.itemsize
    if height * row_bytes > len(data):
        return None
    rows = [min(strip_rows, height - first) for first in range(0, height, strip_rows)]
    follows = all(offset + count == after for offset, count, after in zip(offsets, counts, offsets[1:], strict=False))
    if list(counts) != [row_bytes * each for each in rows] or len(offsets) != len(counts) or not follows:
        return None
    if not 8 <= offsets[0] <= len(data) - height * row_bytes:
        return None
    nodata = None
    if _NODATA in tags:
        nodata = float(tags[_NODATA].rstrip(b"\0 ").decode("ascii"))
        with np.errstate(invalid="ignore", over="ignore"):
            if not (math.isnan(nodata) and dtype.kind == "f") and float(dtype.type(nodata)) != nodata:
                return None  # a value that no pixel can have
    pixels = np.frombuffer(data, dtype.newbyteorder("<"), width * height, offsets[0]).astype(dtype, copy=False)
    placed = _placed(tags) if georeference else (None, None)
    if placed is None:
        return None
    return PlainTiff(pixels.reshape(1, height, width), nodata, *placed)


def _placed(tags: dict[int, Any]) -> tuple[Any, bytes | None] | None:
    """Transform and reference system, both None where the file has no place; None where GDAL has to find it out."""
    geo = [tag for tag in (_SCALE, _TIEPOINT, _GEO_KEYS) if tag in tags]
    if not geo:
        return None, None
    if len(geo) < 3 or len(tags[_TIEPOINT]) != 6 or any(tags[_TIEPOINT][:3]):
        return None
    across, down, *_ = tags[_SCALE]
    keys = tags[_GEO_KEYS]
    # Each key is its number, the tag that has its value (0: itself), a count and the value.
    raster = [keys[place + 3] for place in range(4, len(keys), 4) if keys[place : place + 2] == (_RASTER_TYPE, 0)]
    if raster != [_AREA] or across <= 0 or down <= 0:
        return None
    x, y = tags[_TIEPOINT][3:5]
    reference = repr((keys, tags.get(_GEO_DOUBLES), tags.get(_GEO_TEXT))).encode()
    return Affine(across, 0.0, x, 0.0, -down, y), reference

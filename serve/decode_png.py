"""PNG → planes, for modalities of 8 bits a pixel."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image as PilImage

from serve.extent import require_size
from serve.plane import Pixels, Plane, decoded
from sscm.errors import QueryError
from sscm.sensors import BandGroup, Modality

PNG = b"\x89PNG\r\n\x1a\n"

_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}
_BANDS = {0: 1, 2: 3}
_PIXELS = (b"IHDR", b"IDAT", b"IEND")
"""Chunks that the pixels need. Others (text, profiles, frames) may unpack to anything and are left out."""


def read_png(name: str, data: bytes, group: BandGroup, modality: Modality) -> list[Plane]:
    """Read a band group from a PNG, whose channels are the group's bands in order.

    Args:
        name: the file's name, for messages.
        data: its content.
        group: the band group, of dtype uint8.
        modality: what the image is of.

    Raises:
        QueryError: damaged, of other channels or depth, or of a size that is not taken.
    """
    channels = decoded(name, "PNG", lambda: _channels(name, data, group, modality))
    return [
        Plane(band=band, pixels=plane, where=f"{name}, band {band}")
        for band, plane in zip(group.band_names, channels, strict=True)
    ]


def _channels(name: str, data: bytes, group: BandGroup, modality: Modality) -> Pixels:
    """Pixels uint8 [bands, height, width]."""
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, len(PNG))
    if kind != b"IHDR" or length != 13:
        raise ValueError("no header chunk")
    if depth != 8 or _BANDS.get(colour) != len(group.bands):
        raise QueryError(
            f"{name}: {_KINDS.get(colour, f'colour type {colour}')} of {depth} bits; expected {len(group.bands)} "
            f"channels of 8 bits: {', '.join(group.band_names)}"
        )
    require_size((height, width), group, modality, name)
    with PilImage.open(io.BytesIO(_only_pixels(data)), formats=["PNG"]) as picture:
        pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.shape[:2] != (height, width):
        raise ValueError(f"decoded as {pixels.dtype} {list(pixels.shape)}")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _only_pixels(data: bytes) -> bytes:
    """The same PNG with nothing but its pixels."""
    kept = [PNG]
    at = len(PNG)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError(f"cut short in chunk {kind!r}")
        if kind in _PIXELS:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise ValueError("no end chunk")

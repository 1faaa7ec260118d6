"""Small pictures for people: radar as a VV/VH/ratio composite, optical as stretched true colour, the rest in grey."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from sscm.sensors import Modality

PIXELS = 120
"""Longest side of a preview, pixels."""

_VV_DB = (-20.0, 0.0)
_VH_DB = (-26.0, -5.0)
_RATIO_DB = (2.0, 14.0)
"""Backscatter ranges of the composite, dB: dark water to bright towns."""
_STRETCH = (1, 98)
"""Percentiles that become black and white."""


def render(images: Mapping[str, npt.NDArray[Any]], modality: Modality) -> npt.NDArray[np.uint8]:
    """A colour picture of one image.

    Args:
        images: band-group name → pixels [bands, height, width], native dtype and unit.
        modality: what the image is of. Bands with the common names ``vv`` and ``vh`` in dB become a composite of VV, VH
            and their ratio on fixed ranges; ``red``, ``green``, ``blue`` are stretched together; otherwise the first
            three bands of the first group, or its first in grey, are stretched.

    Returns:
        uint8 [height, width, 3]; no-data pixels are black.
    """
    planes: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]] = {}
    units = {}
    for group in modality.groups:
        for row, band in enumerate(group.bands):
            pixels = images[group.name][row].astype(np.float32)
            valid = np.isfinite(pixels) if group.nodata is None else pixels != group.nodata
            planes[band.common_name or band.name] = (pixels, valid)
            units[band.common_name or band.name] = group.unit
    if {"vv", "vh"} <= planes.keys() and units["vv"] == "dB":
        (vv, ok), (vh, _) = planes["vv"], planes["vh"]
        channels = [_scale(vv, *_VV_DB), _scale(vh, *_VH_DB), _scale(vv - vh, *_RATIO_DB)]
    else:
        names = ["red", "green", "blue"]
        if not set(names) <= planes.keys():
            first = [band.common_name or band.name for band in modality.groups[0].bands]
            names = first[:3] if len(first) >= 3 else first[:1] * 3
        ok = np.logical_and.reduce([planes[name][1] for name in names])
        low, high = _stretch([planes[name][0][ok] for name in names], modality.groups[0].dtype)
        channels = [_scale(planes[name][0], low, high) for name in names]
    picture = np.stack(channels, axis=-1)
    picture[~ok] = 0
    return np.asarray(np.rint(picture * 255), np.uint8)


def preview_jpeg(images: Mapping[str, npt.NDArray[Any]], modality: Modality) -> bytes:
    """The picture of :func:`render` as JPEG, its longest side at most :data:`PIXELS` pixels."""
    picture = PilImage.fromarray(render(images, modality))
    picture.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _scale(pixels: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    scaled = np.clip((np.nan_to_num(pixels) - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(scaled, np.float32)


def _stretch(valid: list[npt.NDArray[np.float32]], dtype: str) -> tuple[float, float]:
    """Common black and white points of the channels, so that colours stay true; 8-bit images are shown as they are."""
    if dtype == "uint8":
        return 0.0, 255.0
    pixels = np.concatenate(valid)
    if pixels.size == 0:
        return 0.0, 1.0
    low, high = _percentiles(pixels) if dtype == "uint16" else np.percentile(pixels, _STRETCH)
    return float(low), float(max(high, low + 0.1 * abs(float(low)) + 1e-3))


def _percentiles(pixels: npt.NDArray[np.float32]) -> tuple[float, float]:
    """What ``np.percentile`` gives, of values from 0 to 65,535: counting them takes a tenth of the time."""
    upto = np.cumsum(np.bincount(pixels.astype(np.int64)))

    def value(percent: float) -> float:
        place = percent / 100 * (pixels.size - 1)
        first = int(place)
        below, above = (float(v) for v in np.searchsorted(upto, [first, min(first + 1, pixels.size - 1)], "right"))
        share = place - first
        # as NumPy interpolates, to the last bit
        return below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)

    low, high = _STRETCH
    return value(low), value(high)

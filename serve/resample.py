"""Planes → the array of a band group: its dtype, its rows and columns, its value for no data.

Resampled as the encoder resamples band groups to its own image size: bilinear, with the kernel widened over all pixels
that fall into a new one when shrinking (antialiased), in the native unit, so dB stay dB. Where whole pixels make up a
new one it is their mean, which gives back a band of 20 m that was written out at 10 m. Pixels without data have no
weight; a new pixel more than half of whose weight they are has no data either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from serve.plane import Pixels, Plane
from sscm.errors import QueryError
from sscm.sensors import BandGroup, Modality

Mask = npt.NDArray[np.bool_]


def as_group(planes: Sequence[Plane], group: BandGroup, modality: Modality) -> Pixels:
    """The band group of an image.

    Args:
        planes: its bands, in the group's order. A pixel has no data where it is NaN, or has the value that its file or
            the group marks no data by.
        group: what they should be.
        modality: what the image is of.

    Returns:
        [bands, height, width] of the group's shape and dtype.

    Raises:
        QueryError: values that the dtype cannot hold, no data where the modality knows no such thing, infinite pixels,
            or no data at all.
    """
    where = f"image of {modality.name}, {group.name}"
    for plane in planes:
        _require_numbers(plane, group)
    missing = [_without_data(plane, group) for plane in planes]
    infinite = [_infinite(plane, group) for plane in planes]
    known = group.nodata is not None
    bad = [inf & ~none if known else inf | none for inf, none in zip(infinite, missing, strict=True)]
    if count := sum(int(np.count_nonzero(mask)) for mask in bad):
        marked = next((p.nodata for p in planes if p.nodata is not None and p.nodata == p.nodata), None)
        kinds = "NaN or infinite" if marked is None else f"NaN, infinite or {marked:g}, which the file marks no data by"
        total = sum(mask.size for mask in bad)
        raise QueryError(f"{where}: {count} of {total} pixels are {kinds}; fill them before asking, or cut them off")
    result = np.empty(group.shape, group.numpy_dtype)
    for band, (plane, mask) in enumerate(zip(planes, missing, strict=True)):
        _require_fitting(plane, mask, group)
        result[band] = _fitted(plane.pixels, mask, group)
    if group.nodata is not None and bool((result == group.nodata).all()):
        raise QueryError(f"{where}: every pixel is {group.nodata:g}, no data; there is nothing to search by")
    return result


def _fitted(pixels: Pixels, missing: Mask, group: BandGroup) -> Pixels:
    """One band [height, width] of the group's size and dtype."""
    size, dtype = (group.height, group.width), group.numpy_dtype
    if pixels.shape == size:
        filled = pixels if group.nodata is None else np.where(missing, group.nodata, pixels)
        return filled.astype(dtype)
    values = resampled(np.where(missing, 0, pixels), size)
    empty = np.zeros(size, bool)
    if missing.any():
        weight = resampled(~missing, size)
        empty = weight < 0.5
        values = np.divide(values, weight, out=np.zeros_like(values), where=~empty)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)
    result = values.astype(dtype)
    if group.nodata is not None:
        mistaken = ~empty & (result == group.nodata)  # a mean of −1 and 1, say, where 0 is no data
        if dtype.kind in "iu":
            result[mistaken] += 1 if group.nodata < limits.max else -1
        else:
            result[mistaken] = np.nextafter(result[mistaken], np.array(np.inf, dtype))
        result[empty] = group.nodata
    return result


def resampled(pixels: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resample one band as above; a pixel is a square, and edges are repeated.

    Args:
        pixels: [height, width], any real dtype.
        size: rows and columns wanted.
    """
    picture = PilImage.fromarray(np.ascontiguousarray(pixels, np.float32))
    whole = pixels.shape[0] % size[0] == 0 and pixels.shape[1] % size[1] == 0
    how = PilImage.Resampling.BOX if whole else PilImage.Resampling.BILINEAR
    return np.asarray(picture.resize((size[1], size[0]), how))


def _without_data(plane: Plane, group: BandGroup) -> Mask:
    pixels = plane.pixels
    missing = np.zeros(pixels.shape, bool)
    if pixels.dtype.kind == "f":
        missing |= np.isnan(pixels)
    with np.errstate(over="ignore"):  # a file may mark by 1e300 what float32 cannot be
        for value in (group.nodata, plane.nodata):
            if value is not None:
                missing |= pixels == value
    return np.asarray(missing, bool)


def _infinite(plane: Plane, group: BandGroup) -> Mask:
    """Pixels that are infinite, or would be in the group's dtype."""
    with np.errstate(over="ignore"):
        values = plane.pixels.astype(group.numpy_dtype) if group.numpy_dtype.kind == "f" else plane.pixels
    return np.asarray(np.isinf(values), bool)


def _require_numbers(plane: Plane, group: BandGroup) -> None:
    if plane.pixels.dtype.kind not in "iuf":
        raise QueryError(f"{plane.where}: dtype {plane.pixels.dtype}; expected {group.unit} as {group.dtype}")


def _require_fitting(plane: Plane, missing: Mask, group: BandGroup) -> None:
    """Check that the group's dtype holds every value: whole numbers in its range, where it is of whole numbers."""
    if group.numpy_dtype.kind == "f" or plane.pixels.dtype == group.numpy_dtype or missing.all():
        return
    pixels = plane.pixels[~missing]
    limits = np.iinfo(group.numpy_dtype)
    whole = pixels.dtype.kind in "iu" or bool((pixels == np.rint(pixels)).all())
    if not whole or float(pixels.min()) < limits.min or float(pixels.max()) > limits.max:
        raise QueryError(
            f"{plane.where}: dtype {pixels.dtype} with values {pixels.min()} to {pixels.max()} is not {group.dtype}; "
            f"expected {group.unit} as {group.dtype}"
        )

"""GeoTIFFs → planes. GDAL decodes, from memory, with its GeoTIFF driver alone, and opens no other file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import rasterio
import rasterio.errors
from rasterio.session import DummySession

from serve.band_names import BandNames, last_word
from serve.extent import require_size
from serve.plane import Grid, Plane, decoded
from serve.tiff_header import TiffLayout, read_layout
from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import Modality

MAX_DECODED = 1 << 27
"""Bytes of an image's decoded blocks, or four times what the modality declares where that is more."""

_ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "PROJ_NETWORK": "OFF"}
"""No look at neighbouring files (``.aux.xml``, ``.ovr``, ``.msk``, ``.tfw``), none written, no grids fetched."""

_NAME_TAGS = ("name", "band", "bandname", "band_name", "long_name", "description", "common_name")
"""Tags of a band that tell its name, in lower case, besides its description."""


def read_tiffs(files: Sequence[tuple[str, bytes]], modality: Modality) -> list[Plane]:
    """Read the bands of one image.

    Args:
        files: names and contents of GeoTIFFs that together hold each band once.
        modality: what the image is of.

    Returns:
        A plane for each band, in no order.

    Raises:
        BandMismatchError: bands are missing or unknown; given and known ones are named.
        QueryError: a file is damaged, too large, or of a size or kind that is not taken.
    """
    names = BandNames(modality)
    layouts = [decoded(name, "GeoTIFF", partial(read_layout, data, name)) for name, data in files]
    room = max(MAX_DECODED, 4 * sum(group.nbytes for group in modality.groups))
    if (total := sum(layout.decoded for layout in layouts)) > room:
        raise QueryError(f"{len(files)} files: {total} bytes of decoded pixels; expected at most {room}: cut the image")
    planes: dict[str, Plane] = {}
    for (name, data), layout in zip(files, layouts, strict=True):
        for plane in decoded(name, "GeoTIFF", partial(_read, name, data, layout, names, modality)):
            if plane.band in planes:
                raise QueryError(f"{name}: band {plane.band} was given before; expected each band once")
            planes[plane.band] = plane
    if missing := [band for band in modality.band_names if band not in planes]:
        raise BandMismatchError(planes, modality.band_names, f"image of {modality.name}, bands {missing} missing")
    return list(planes.values())


def _read(name: str, data: bytes, layout: TiffLayout, names: BandNames, modality: Modality) -> list[Plane]:
    if layout.bands > len(modality.band_names):
        raise _unknown([f"{layout.bands} bands"], name, modality)
    with warnings.catch_warnings(), rasterio.Env(session=DummySession(), **_ALONE), rasterio.MemoryFile(data) as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with memory.open(driver="GTiff", GEOREF_SOURCES="INTERNAL", NUM_THREADS="1") as image:
            seen = (image.height, image.width, image.count, set(image.dtypes), set(image.block_shapes))
            if seen != (layout.height, layout.width, layout.bands, {layout.dtype}, {layout.block}):
                raise ValueError(f"read as {seen}")  # two readers of one header differ: trust neither
            bands = _bands(image, name, names, modality)
            group_of = {band: group for group in modality.groups for band in group.band_names}
            for band in bands:
                require_size((image.height, image.width), group_of[band], modality, f"{name}, band {band}")
            grid = _grid(image)
            return [
                Plane(
                    band=band,
                    pixels=image.read(index),
                    where=f"{name}, band {band}",
                    nodata=image.nodatavals[index - 1],
                    grid=grid,
                )
                for index, band in enumerate(bands, start=1)
            ]


def _bands(image: Any, name: str, names: BandNames, modality: Modality) -> list[str]:
    """The name of each band of a file."""
    texts = [_texts(image, index) for index in range(1, image.count + 1)]
    found = [names.find(told, f"{name}, band {index}: its name") for index, told in enumerate(texts, start=1)]
    if image.count == 1:
        by_file = names.of_file(name)
        if by_file and found[0] and by_file != found[0]:
            raise QueryError(f"{name}: band {by_file} by its file name, {found[0]} by its description; correct one")
        found = [by_file or found[0]]
        if found == [None] and not texts[0] and len(modality.band_names) == 1:
            found = list(modality.band_names)
    bands = [band for band in found if band is not None]
    if len(bands) < len(found):
        unnamed = (last_word(name) if image.count == 1 else "") or "without a name"
        raise _unknown([(told[0] if told else unnamed)[:40] for told in texts], name, modality)
    if len(set(bands)) < len(bands):
        twice = next(band for band in bands if bands.count(band) > 1)
        raise QueryError(f"{name}: band {twice} occurs twice; expected each band once")
    return bands


def _unknown(shown: Sequence[str], name: str, modality: Modality) -> BandMismatchError:
    return BandMismatchError(
        shown,
        modality.band_names,
        f"{name} (give each band of a GeoTIFF its name as description and leave others out, or send one file a band, "
        "its name ending in _BAND.tif)",
    )


def _texts(image: Any, index: int) -> list[str]:
    """What a file says a band is, the surest first."""
    tags = {key.casefold(): value for key, value in image.tags(index).items()}
    of_file = {key.casefold(): value for key, value in image.tags().items()}
    told = [image.descriptions[index - 1], *(tags.get(key) for key in _NAME_TAGS), of_file.get(f"band_{index}")]
    if image.count == 1:
        told += [of_file.get(key) for key in _NAME_TAGS if key not in ("long_name", "description")]
    return [text for text in told if text]


def _grid(image: Any) -> Grid | None:
    """Where an image lies, or None where it does not say."""
    if image.transform.is_identity:
        return None
    crs, unit = image.crs, 0.0
    if crs is not None and crs.is_projected:
        unit = float(crs.linear_units_factor[1])
    elif crs is not None and crs.is_geographic:
        unit = math.nan
    transform = tuple(float(value) for value in np.array(image.transform[:6]))
    text = "" if crs is None else crs.to_wkt()
    return Grid(crs=text, unit=unit, transform=transform, height=image.height, width=image.width)  # type: ignore[arg-type]

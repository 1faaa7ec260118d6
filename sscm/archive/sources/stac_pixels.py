"""Windows of Sentinel bands in the archive's units: reflectance × 10⁴, and backscatter in dB on the grid of 10 m."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject, transform
from rasterio.windows import Window as Pixels

from sscm.archive.schema import Image
from sscm.archive.sources.stac_bands import BandAsset
from sscm.archive.sources.stac_grid import METRES, TileGrid, Window
from sscm.archive.sources.stac_raster import open_raster, shown
from sscm.errors import PairError

Scale = Literal["db", "linear"]

QUANTUM = 10_000
"""Stored number of reflectance 1."""
MARGIN = 3
"""Pixels read around a window that is resampled, so that its edges have neighbours."""
_EDGE = 21
"""Points along an edge of a window when it is looked for in another reference system, where edges are bent."""
_TELLING = 1000
"""Pixels from which on their signs tell power from decibels; fewer may all lie in a town, which is above 0 dB."""
_DB = {"db", "decibel", "decibels"}
_LINEAR = {"1", "linear", "power", "linear power", "linear_power", "natural", "m2/m2", "m^2/m^2"}


def read_reflectance(band: BandAsset, grid: TileGrid, window: Window, metres: int) -> npt.NDArray[np.uint16]:
    """A window of a Sentinel-2 band at its own resolution.

    Args:
        band: with scale and offset; where no scale is told, integers are reflectance × 10⁴ and floats reflectance.
        grid: the 10 m grid.
        window: patches of it.
        metres: the band's resolution.

    Returns:
        uint16 [rows, columns], reflectance × 10⁴; 0 where the file has no data or does not reach. Data below the
        smallest number that is not 0 are stored as 1.

    Raises:
        PairError: the file cannot be read, is of another grid, or holds no reflectance.
    """
    left, top = grid.corner(window)
    side = grid.pixels * METRES // metres
    height, width = window.rows * side, window.cols * side
    result = np.zeros((height, width), np.uint16)
    with open_raster(band.href) as file:
        t = file.transform
        if file.crs != grid.crs or max(abs(t.a - metres), abs(t.e + metres), abs(t.b), abs(t.d)) > 1e-6:
            seen = f"pixels of {t.a:g} × {-t.e:g} in {file.crs}"
            raise PairError(shown(band.href), seen, f"{metres} m in {grid.crs}, as the item's other bands")
        row, col = (t.f - top) / metres, (left - t.c) / metres
        if abs(row - round(row)) > 1e-3 or abs(col - round(col)) > 1e-3:
            seen = f"pixels of {metres} m from ({t.c:g}, {t.f:g})"
            raise PairError(shown(band.href), seen, f"the grid of Sentinel-2: a corner at multiples of {metres} m")
        row, col = round(row), round(col)
        first_row, first_col = max(row, 0), max(col, 0)
        last_row, last_col = min(row + height, file.height), min(col + width, file.width)
        if first_row >= last_row or first_col >= last_col:
            return result
        stored = _read(file, band, Pixels(first_col, first_row, last_col - first_col, last_row - first_row))
        nodata = 0 if band.nodata is None and file.nodata is None else _nodata(file, band)
    if stored.dtype.itemsize < 2:
        raise PairError(shown(band.href), f"{stored.dtype} pixels", "reflectance of 16 bits or more, not a picture")
    valid = np.isfinite(stored) & (stored != nodata)
    scale = band.scale if band.scale is not None else (1.0 if stored.dtype.kind == "f" else 1 / QUANTUM)
    values = np.rint(stored * np.float32(scale * QUANTUM) + np.float32((band.offset or 0.0) * QUANTUM))
    limit = np.iinfo(np.uint16).max
    if valid.any() and (values[valid] > limit).mean() > 0.5:
        seen = f"reflectance above {limit / QUANTUM:g} in most pixels, by scale {scale:g}"
        raise PairError(shown(band.href), seen, "a scale that makes reflectance, such as 0.0001, in raster:bands")
    inside = np.where(valid, np.clip(np.nan_to_num(values), 1, limit), 0)
    result[first_row - row : last_row - row, first_col - col : last_col - col] = inside
    return result


@dataclass(frozen=True, kw_only=True)
class Power:
    """Part of a radar image.

    Args:
        values: float32 [rows, columns], linear power; NaN where there is none.
        crs: reference system.
        transform: from (column, row) to it.
    """

    values: npt.NDArray[np.float32]
    crs: Any
    transform: Affine


def read_power(band: BandAsset, grid: TileGrid, window: Window, scale: Scale | None) -> Power | None:
    """What a Sentinel-1 band holds around a window of a Sentinel-2 image, on its own grid.

    Args:
        band: the band, in any reference system.
        grid: the 10 m grid.
        window: patches of it.
        scale: what the files hold; by default what band or file tell as the unit.

    Returns:
        The power; None where the file does not reach.

    Raises:
        PairError: the file cannot be read, tells no unit, or holds what its unit cannot be.
    """
    left, top = grid.corner(window)
    right, bottom = left + window.cols * grid.pixels * METRES, top - window.rows * grid.pixels * METRES
    with open_raster(band.href) as file:
        scale = scale or _scale(band, file)
        source = _source_window(file, grid.crs, (left, top, right, bottom))
        if source is None:
            return None
        stored = _read(file, band, source)
        nodata = _nodata(file, band)
        crs, place = file.crs, _moved(file.transform, source.col_off, source.row_off)
    values = stored.astype(np.float32)
    values[(stored == nodata) | ~np.isfinite(values)] = np.nan
    values = values * np.float32(1 if band.scale is None else band.scale) + np.float32(band.offset or 0)
    return Power(values=_power(values, scale, band.href), crs=crs, transform=place)


def backscatter(power: Power | None, grid: TileGrid, window: Window) -> npt.NDArray[np.float32]:
    """Power on the 10 m grid of a Sentinel-2 image, in dB.

    Resampled bilinearly, and in power whatever the file holds: a mean of decibels is no mean of power. Finer pixels are
    averaged. Not to be called by several threads at once: rasterio silences a warning of its own for the whole process.

    Args:
        power: as read; None for none.
        grid: the 10 m grid.
        window: patches of it.

    Returns:
        float32 [rows, columns], dB; NaN where there is no data, or no power.
    """
    result = np.full((window.rows * grid.pixels, window.cols * grid.pixels), np.nan, np.float32)
    if power is None:
        return result
    left, top = grid.corner(window)
    reproject(
        power.values,
        result,
        src_transform=power.transform,
        src_crs=power.crs,
        src_nodata=np.nan,
        dst_transform=Affine(METRES, 0, left, 0, -METRES, top),
        dst_crs=grid.crs,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    return np.asarray(10 * np.log10(result), np.float32)


def _read(file: Any, band: BandAsset, window: Pixels) -> Image:
    if band.index > file.count:
        raise PairError(shown(band.href), f"{file.count} bands", f"a band {band.index}, as the item says")
    pixels: Image = file.read(band.index, window=window)
    return pixels


def _nodata(file: Any, band: BandAsset) -> float | None:
    """The number that marks no data: by the item, else by the file."""
    return band.nodata if band.nodata is not None else file.nodata


def _scale(band: BandAsset, file: Any) -> Scale:
    unit = band.unit or (file.units[band.index - 1] if band.index <= file.count else None)
    if unit is not None and unit.strip().lower() in _DB:
        return "db"
    if unit is not None and unit.strip().lower() in _LINEAR:
        return "linear"
    raise PairError(
        shown(band.href),
        "no unit of backscatter" if unit is None else f"unit {unit!r}",
        "dB or linear as unit in raster:bands; where the files are right, say which by --s1-scale db or linear",
    )


def _power(values: npt.NDArray[np.float32], scale: Scale, href: str) -> npt.NDArray[np.float32]:
    """Linear power, NaN where there is none. Raises PairError where the numbers cannot be of the scale."""
    valid = values[~np.isnan(values)]
    telling = valid.size >= _TELLING
    if scale == "db":
        if telling and valid.min() >= 0:
            raise PairError(
                href, f"no value below 0 in a window, from {valid.min():g} on", "dB; these are linear power"
            )
        return np.asarray(10 ** (values / 10), np.float32)
    if telling and (valid < 0).mean() > 0.5:
        raise PairError(shown(href), f"values below 0, down to {valid.min():g}", "linear power; these are dB")
    values[values <= 0] = np.nan  # the logarithm of nothing
    return values


def _moved(t: Affine, col: int, row: int) -> Affine:
    """The transform of a window that begins at a pixel."""
    return Affine(t.a, t.b, t.a * col + t.b * row + t.c, t.d, t.e, t.d * col + t.e * row + t.f)


def _source_window(file: Any, crs: str, bounds: tuple[float, float, float, float]) -> Pixels | None:
    """Pixels of a file that a rectangle ``(left, top, right, bottom)`` in another reference system is made from."""
    left, top, right, bottom = bounds
    share = np.linspace(0, 1, _EDGE)
    xs = left + share * (right - left)
    ys = top + share * (bottom - top)
    ring_x = np.concatenate([xs, xs, np.full(_EDGE, left), np.full(_EDGE, right)])
    ring_y = np.concatenate([np.full(_EDGE, top), np.full(_EDGE, bottom), ys, ys])
    there_x, there_y = (np.asarray(values) for values in transform(crs, file.crs, ring_x, ring_y))
    known = np.isfinite(there_x) & np.isfinite(there_y)
    if not known.all():
        return None
    t = ~file.transform
    cols, rows = t.a * there_x + t.b * there_y + t.c, t.d * there_x + t.e * there_y + t.f
    first_col, last_col = max(0, int(np.floor(cols.min())) - MARGIN), min(file.width, int(np.ceil(cols.max())) + MARGIN)
    first_row, last_row = (
        max(0, int(np.floor(rows.min())) - MARGIN),
        min(file.height, int(np.ceil(rows.max())) + MARGIN),
    )
    if first_col >= last_col or first_row >= last_row:
        return None
    return Pixels(first_col, first_row, last_col - first_col, last_row - first_row)

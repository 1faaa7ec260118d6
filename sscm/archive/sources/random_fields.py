"""Random fields and patterns on a pixel grid: the strokes with which simulated land cover is drawn.

Small float32 arrays and elementwise arithmetic, so that a patch takes milliseconds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Cells = npt.NDArray[np.int32]

_UNIT_STD = 2.086
"""Brings a cubic B-spline of independent unit normals back to unit deviation: 315/151, both axes."""


_ONE_THREAD = 4 * 65536
"""Multiplications up to which OpenBLAS stays on one thread."""


@lru_cache(maxsize=8)
def grid(side: int) -> tuple[Field, Field]:
    """Column and row coordinates of a patch, float32 [side, side], pixels from its centre."""
    axis = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    columns.flags.writeable = rows.flags.writeable = False
    return columns, rows


@lru_cache(maxsize=256)
def _spline(side: int, cell: float) -> npt.NDArray[np.float64]:
    """Weights of a cubic B-spline's knots at every pixel of one axis: float64 [side, knots], rows sum to 1."""
    place = np.arange(side) / cell
    first = np.floor(place).astype(np.intp)
    t = place - first
    weights = np.zeros((side, int(first[-1]) + 4))
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for tap, weight in enumerate(taps):
        weights[np.arange(side), first + tap] = weight / 6
    weights.flags.writeable = False
    return weights


def smooth_noise(rng: np.random.Generator, side: int, cell: float) -> Field:
    """Smooth noise of zero mean and unit deviation.

    Args:
        rng: source of randomness.
        side: rows and columns, pixels.
        cell: distance of the knots between which a cubic B-spline runs, pixels.

    Returns:
        float32 [side, side].
    """
    return _octaves(rng, side, ((float(cell), 1.0),))


def fractal_noise(rng: np.random.Generator, side: int, cell: float) -> Field:
    """Octaves of :func:`smooth_noise` from ``cell`` pixels down to 4: float32 [side, side], about unit deviation."""
    octaves = ((float(cell), 0.85), (cell / 2, 0.45), (cell / 4, 0.27))
    return _octaves(rng, side, tuple((c, w) for c, w in octaves if c >= 4 or c == cell))


@lru_cache(maxsize=256)
def _stacked(side: int, cells: tuple[float, ...]) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(np.hstack([_spline(side, cell) for cell in cells]).T)


def _octaves(rng: np.random.Generator, side: int, octaves: tuple[tuple[float, float], ...]) -> Field:
    """Splines of several cells (cell, weight), summed in one product; float64 inside, so that rounding is alike."""
    across = _stacked(side, tuple(cell for cell, _ in octaves))
    along = np.empty((side, len(across)))
    first = 0
    for cell, weight in octaves:
        spline = _spline(side, cell)
        knots = spline.shape[1]
        coarse = rng.standard_normal((knots, knots)) * (weight * _UNIT_STD)
        along[:, first : first + knots] = _product(spline, coarse)
        first += knots
    return _product(along, across).astype(np.float32)


def _product(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Matrix product in parts too small for BLAS to spread over threads: many workers share a machine's cores."""
    result = np.empty((len(left), right.shape[1]))
    rows = max(1, _ONE_THREAD // right.size)
    for start in range(0, len(left), rows):
        np.matmul(left[start : start + rows], right, out=result[start : start + rows])
    return result


def sum_of(terms: list[Field]) -> Field:
    """Sum of arrays in their order, in place of the first."""
    total = terms[0]
    for term in terms[1:]:
        total += term
    return total


def blur(image: Field, neighbour: float) -> Field:
    """Weigh each pixel with its neighbours along both axes: a small point-spread function.

    Args:
        image: float32 [..., height, width].
        neighbour: weight of the pixel on either side; the pixel itself has 1 − 2·neighbour.

    Returns:
        float32 [..., height − 2, width − 2]: the rim has no neighbours and falls away.
    """
    centre, side = np.float32(1 - 2 * neighbour), np.float32(neighbour)
    rows: Field = image[..., :-2, :] + image[..., 2:, :]
    rows *= side
    rows += image[..., 1:-1, :] * centre
    result: Field = rows[..., :-2] + rows[..., 2:]
    result *= side
    result += rows[..., 1:-1] * centre
    return result


def block_mean(image: Field, factor: int) -> Field:
    """Means of blocks of factor × factor pixels: float32 [..., h, w] → [..., h / factor, w / factor]."""
    rows = sum_of([image[..., ::factor, :].copy(), *(image[..., k::factor, :] for k in range(1, factor))])
    total = sum_of([rows[..., ::factor].copy(), *(rows[..., k::factor] for k in range(1, factor))])
    total *= np.float32(1 / factor**2)
    return total


def turned(side: int, angle: float) -> tuple[Field, Field]:
    """Coordinates along and across a direction: float32 [side, side] each, pixels; angle in radians."""
    columns, rows = grid(side)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return columns * cos + rows * sin, rows * cos - columns * sin


def parcels(
    rng: np.random.Generator, side: int, angle: float, width: float, length: float, bend: Field | None = None
) -> Cells:
    """Parcels in strips: strips of uneven width lie side by side, each cut into lengths of its own.

    Args:
        rng: source of randomness.
        side: rows and columns, pixels.
        angle: direction of the strips, radians.
        width: mean width of a strip, pixels.
        length: mean length of a parcel, pixels.
        bend: pixels by which edges are displaced, so that they are not quite straight.

    Returns:
        int32 [side, side]: number of the parcel, unlike that of its neighbours.
    """
    along, across = turned(side, angle)
    if bend is not None:
        across = across + bend
        along = along - bend
    reach = side + 8
    strips = int(2 * reach / width) + 2
    edges = np.cumsum(rng.uniform(0.55, 1.45, strips) * width) - reach
    strip_of = np.searchsorted(edges, np.arange(-reach, reach, 0.5)).astype(np.int32)
    strip = np.take(strip_of, ((across + np.float32(reach)) * np.float32(2)).astype(np.int32), mode="clip")
    count = strips + 2
    pitch = (1 / (length * rng.uniform(0.6, 1.7, count))).astype(np.float32)
    phase = (reach * pitch + rng.uniform(0, 1, count).astype(np.float32)).astype(np.float32)
    cell = (along * np.take(pitch, strip, mode="clip") + np.take(phase, strip, mode="clip")).astype(np.int32)
    return np.asarray(strip * np.int32(61) + cell, np.int32)


def edges_of(cells: Cells) -> Mask:
    """Pixels whose upper or left neighbour lies in another cell: bool, the shape of cells."""
    found = np.zeros(cells.shape, np.bool_)
    found[1:] = cells[1:] != cells[:-1]
    found[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    return found


def rows_of_plants(rng: np.random.Generator, cells: Cells, period: float) -> Field:
    """Planted rows whose direction changes from parcel to parcel.

    Args:
        rng: source of randomness.
        cells: number of the parcel at each pixel, [side, side].
        period: distance of the rows, pixels.

    Returns:
        float32 [side, side] from 0 (between the rows) to 1 (on a row).
    """
    columns, rows = grid(cells.shape[0])
    angles = rng.uniform(0, math.pi, 31)
    steps = 1 / (period * rng.uniform(0.8, 1.25, 31))
    kind = cells % 31
    place = columns * np.take((np.cos(angles) * steps).astype(np.float32), kind)
    place += rows * np.take((np.sin(angles) * steps).astype(np.float32), kind)
    place -= np.floor(place)
    return np.asarray(np.abs(place * 2 - 1), np.float32)


def scattered(rng: np.random.Generator, side: int, density: float) -> Mask:
    """Crowns of three pixels strewn at random: bool [side, side]; density is the share of pixels where one begins."""
    seeds = rng.random((side, side), np.float32) < density
    found = seeds.copy()
    found[:, 1:] |= seeds[:, :-1]
    found[1:] |= seeds[:-1]
    return found


def course(rng: np.random.Generator, side: int, angle: float, sway: float, cell: float) -> Field:
    """Distance across from a winding line that goes through the patch in one direction.

    Args:
        rng: source of randomness.
        side: rows and columns, pixels.
        angle: direction of the line, radians.
        sway: deviation of the line from straight, pixels.
        cell: length over which it winds, pixels.

    Returns:
        float32 [side, side], pixels, signed.
    """
    along, across = turned(side, angle)
    reach = side + 8
    spline = _spline(2 * reach, 2.0 * round(cell / 2))  # even cells only: few splines to keep
    line = (spline @ rng.standard_normal(spline.shape[1])) * (math.sqrt(_UNIT_STD) * sway)
    line = (line + rng.uniform(-0.35, 0.35) * side).astype(np.float32)
    return np.asarray(across - np.take(line, (along + np.float32(reach)).astype(np.int32), mode="clip"), np.float32)

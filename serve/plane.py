"""Planes: the single bands that an uploaded file turns into, whatever its format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sscm.errors import BandMismatchError, QueryError

Pixels = npt.NDArray[Any]
T = TypeVar("T")

_METRES_OF_DEGREE = 111_320.0
"""Of latitude, and of longitude at the equator: near enough to tell a patch from a country."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where on Earth the pixels of an image lie.

    Args:
        crs: coordinate reference system as text, ``""`` where the file names none.
        unit: metres a unit of the CRS; 0 where that is unknown, NaN where the unit is a degree.
        transform: ``(a, b, c, d, e, f)``: x = a·column + b·row + c, y = d·column + e·row + f.
        height: rows.
        width: columns.
    """

    crs: str
    unit: float
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @property
    def corners(self) -> Pixels:
        """Upper left, upper right, lower left and lower right corner: float64 [4, 2], in the CRS."""
        a, b, c, d, e, f = self.transform
        columns, rows = np.array([0, self.width, 0, self.width]), np.array([0, 0, self.height, self.height])
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by who asks
            return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=1)

    @property
    def pixel(self) -> float:
        """The longer side of a pixel, in units of the CRS."""
        a, b, _, d, e, _ = self.transform
        return max(math.hypot(a, d), math.hypot(b, e))

    @property
    def metres(self) -> tuple[float, float] | None:
        """Height and width on the ground, or None where that cannot be known."""
        left_top, right_top, left_bottom, _ = self.corners
        down, across = left_bottom - left_top, right_top - left_top
        if math.isnan(self.unit):
            latitude = float(self.corners[:, 1].mean())
            scale = _METRES_OF_DEGREE * np.array([math.cos(math.radians(latitude)), 1.0])
        elif self.unit:
            scale = np.array([self.unit, self.unit])
        else:
            return None
        return math.hypot(*(down * scale)), math.hypot(*(across * scale))


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One band as a file has it.

    Args:
        band: the band's name, as the modality declares it.
        pixels: [height, width] in the file's own dtype.
        where: file and band, for messages.
        nodata: the value that the file marks as no data, or None.
        grid: where the pixels lie, or None where the file does not say.
    """

    band: str
    pixels: Pixels
    where: str
    nodata: float | None = None
    grid: Grid | None = None


def decoded(where: str, kind: str, read: Callable[[], T]) -> T:
    """What a reader returns; whatever it trips over is a damaged file.

    Raises:
        QueryError: the reader raised something.
    """
    try:
        return read()
    except (QueryError, BandMismatchError, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like on hostile bytes: struct.error, zlib.error, SyntaxError
        cause = error.__cause__ or error  # of GDAL, which says in its last message only that there are others
        raise QueryError(f"{where}: not a whole {kind} ({str(cause)[:200]}); send the file again") from error

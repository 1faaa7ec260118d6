"""The ground of a simulated patch: the 19 classes of BigEarthNet, and units of ground that count for them.

A patch is a mosaic of *units*: a parcel, a stand of trees, the streets of a town. A unit is of one surface and counts
for one class, so a town's gardens are urban fabric, and the hedge of a pasture is pasture.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sscm.archive.sources.bigearthnet_labels import CORINE_OF_CLASS
from sscm.archive.sources.random_fields import Mask
from sscm.archive.sources.surfaces import Surface

MARGIN = 6
"""Pixels drawn beyond each edge of a patch: room for blurs, a shifted radar image and the shadows of clouds."""


class LandCover(enum.IntEnum):
    """The 19 classes of BigEarthNet; :data:`CLASSES` has their names."""

    URBAN = 0
    INDUSTRY = enum.auto()
    ARABLE = enum.auto()
    PERMANENT_CROPS = enum.auto()
    PASTURES = enum.auto()
    COMPLEX = enum.auto()
    AGRI_NATURAL = enum.auto()
    AGRO_FORESTRY = enum.auto()
    BROADLEAVED = enum.auto()
    CONIFEROUS = enum.auto()
    MIXED_FOREST = enum.auto()
    NATURAL_GRASS = enum.auto()
    MOORS = enum.auto()
    TRANSITIONAL = enum.auto()
    BEACHES = enum.auto()
    INLAND_WETLANDS = enum.auto()
    COASTAL_WETLANDS = enum.auto()
    INLAND_WATERS = enum.auto()
    MARINE_WATERS = enum.auto()


CLASSES = tuple(CORINE_OF_CLASS)
"""Names of the classes, in the order of :class:`LandCover`."""


@dataclass
class Ground:
    """What lies on the ground, drawn stroke by stroke.

    Args:
        side: rows and columns, pixels, both margins included.
        unit: intp [side, side], number of the unit at each pixel: it indexes tables of units.
        surfaces: surface of each unit.
        classes: class that each unit counts for.
        bounce_db: backscatter that walls facing the radar add to each unit, dB.
    """

    side: int
    unit: npt.NDArray[np.intp] = field(init=False)
    surfaces: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    bounce_db: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unit = np.zeros((self.side, self.side), np.intp)

    def units(self, cover: LandCover, surfaces: list[Surface], bounce_db: float = 0.0) -> int:
        """Add units of one class, one a surface; returns the number of the first."""
        first = len(self.surfaces)
        self.surfaces += surfaces
        self.classes += [cover] * len(surfaces)
        self.bounce_db += [bounce_db] * len(surfaces)
        return first

    def paint(self, where: Mask, number: int | npt.NDArray[np.intp]) -> None:
        """Put a unit, or units pixel by pixel, where a mask holds."""
        np.copyto(self.unit, number, where=where)

    def fill(self, where: Mask, cover: LandCover, surface: Surface, bounce_db: float = 0.0) -> None:
        """Put a new unit of one surface where a mask holds."""
        self.paint(where, self.units(cover, [surface], bounce_db))

    def fill_across(self, where: Mask, surface: Surface) -> None:
        """Put a surface over what is there, each pixel counting for the class that is there: a road, a row of trees."""
        classes = np.asarray(self.classes)[self.unit[where]]
        under = np.unique(classes)
        first = len(self.surfaces)
        for cover in under:
            self.units(LandCover(cover), [surface])
        self.unit[where] = first + np.searchsorted(under, classes)

    def cover_shares(self) -> npt.NDArray[np.float64]:
        """Share of each class inside the margins: float64 [19], sums to 1."""
        inside = self.unit[MARGIN:-MARGIN, MARGIN:-MARGIN]
        pixels = np.bincount(inside.ravel(), minlength=len(self.classes))
        return np.bincount(self.classes, weights=pixels, minlength=len(CLASSES)) / inside.size

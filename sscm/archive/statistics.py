"""Per-band statistics that are gathered shard by shard and merged, in any order, to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.sensors import BandGroup

RESAMPLING = "none: native pixels, no-data left out"
"""What the statistics assume; written beside them, since resampled bands have other deviations."""


_COUNTED = ("uint8", "uint16")
"""Dtypes whose values are few enough to be counted each."""


@dataclass(frozen=True)
class BandStatistics:
    """Moments and range of one band's valid pixels, in the band's own unit.

    Args:
        count: valid pixels.
        mean: their mean.
        m2: sum of squared differences from the mean.
        minimum: smallest value.
        maximum: largest value.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    @property
    def std(self) -> float:
        """Standard deviation of the population; 0 where there is no pixel."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0

    def merged(self, other: BandStatistics) -> BandStatistics:
        """Statistics of both sets of pixels together (Chan, Golub, LeVeque 1979)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        return BandStatistics(
            count=count,
            mean=self.mean + delta * other.count / count,
            m2=self.m2 + other.m2 + delta * delta * self.count * other.count / count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back; carries ``std`` for people and ``m2`` for merging."""
        empty = not self.count
        return {
            "count": self.count,
            "mean": self.mean,
            "std": self.std,
            "m2": self.m2,
            "min": None if empty else self.minimum,
            "max": None if empty else self.maximum,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BandStatistics:
        """Read what :meth:`to_json` wrote."""
        if not value["count"]:
            return cls()
        return cls(
            int(value["count"]), float(value["mean"]), float(value["m2"]), float(value["min"]), float(value["max"])
        )


def group_statistics(images: npt.NDArray[Any], group: BandGroup) -> dict[str, BandStatistics]:
    """Statistics of each band of a stack of images.

    Args:
        images: pixels [N, bands, height, width] of the group.
        group: the band group; its no-data value is left out.

    Returns:
        Band name → statistics.
    """
    of_band = _of_histogram if group.dtype in _COUNTED else _of_pixels
    return {name: of_band(images[:, band].ravel(), group.nodata) for band, name in enumerate(group.band_names)}


def _of_pixels(pixels: npt.NDArray[Any], nodata: float | None) -> BandStatistics:
    values = pixels.astype(np.float64)
    if nodata is not None:
        values = values[values != nodata]
    if values.size == 0:
        return BandStatistics()
    mean = float(values.mean())
    m2 = float(np.square(values - mean).sum())
    return BandStatistics(values.size, mean, m2, float(values.min()), float(values.max()))


def _of_histogram(pixels: npt.NDArray[Any], nodata: float | None) -> BandStatistics:
    """The same of small whole numbers, by how often each occurs: one pass over the pixels, sums without rounding."""
    counts = np.bincount(pixels)
    if nodata is not None and 0 <= nodata < len(counts) and nodata == int(nodata):
        counts[int(nodata)] = 0
    values = np.flatnonzero(counts)
    if values.size == 0:
        return BandStatistics()
    often = counts[values]
    count, total, squares = (int((values**power * often).sum()) for power in (0, 1, 2))
    m2 = (count * squares - total * total) / count
    return BandStatistics(count, total / count, m2, float(values[0]), float(values[-1]))


def merge_statistics(
    first: Mapping[str, BandStatistics], second: Mapping[str, BandStatistics]
) -> dict[str, BandStatistics]:
    """Band by band, the statistics of both."""
    names = list(dict.fromkeys([*first, *second]))
    return {name: first.get(name, BandStatistics()).merged(second.get(name, BandStatistics())) for name in names}

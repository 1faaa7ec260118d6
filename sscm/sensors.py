"""Bands, band groups and modalities: what an image is made of, by name.

A *modality* (``s1``, ``s2``, or whatever an archive declares) is made of *band groups*; a band group is a stack of
bands of one native pixel grid and one dtype, stored as one column of an archive shard. Band order travels by name,
never by count: orders in the wild differ, and a mismatch is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.errors import BandMismatchError, ConfigError

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
"""The pixel dtypes that a band group may have."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = {"pair_id", "geometry", "bbox", "labels", "split", "properties"}


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band.

    Args:
        name: the sensor's own name, e.g. ``B04`` or ``VV``.
        common_name: the STAC name of what it sees (``red``, ``green``, ``blue``, ``nir``, ``vv``, ``vh``, …); previews
            are composed by it. None where it has none.
    """

    name: str
    common_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class BandGroup:
    """Bands that share a pixel grid and a dtype: one column of a shard.

    Args:
        name: column name, lower case, e.g. ``s2_10m``.
        bands: the bands, in storage order.
        height: native rows, pixels.
        width: native columns, pixels.
        dtype: numpy name of the pixel type, little-endian in storage.
        unit: physical unit of a pixel value, e.g. ``dB`` or ``reflectance x 10000``.
        nodata: the value that marks a pixel without data, or None.
        metres: ground sampling distance, or None where unknown.
    """

    name: str
    bands: tuple[Band, ...]
    height: int
    width: int
    dtype: str
    unit: str
    nodata: float | None = None
    metres: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED or self.name.startswith("preview_"):
            raise ConfigError(
                f"band group name {self.name!r}: expected lower-case letters, digits and _, not a reserved name"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"band group {self.name}: dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if not self.bands or self.height < 1 or self.width < 1:
            raise ConfigError(f"band group {self.name}: shape {self.shape}; expected at least one band and one pixel")
        if len(set(self.band_names)) != len(self.bands):
            raise ConfigError(f"band group {self.name}: bands {list(self.band_names)}; each name may occur once")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Band names in storage order."""
        return tuple(band.name for band in self.bands)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, height, width)`` of one image."""
        return (len(self.bands), self.height, self.width)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Pixel dtype in storage: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        return {
            "name": self.name,
            "bands": [{"name": b.name, "common_name": b.common_name} for b in self.bands],
            "height": self.height,
            "width": self.width,
            "dtype": self.dtype,
            "unit": self.unit,
            "nodata": self.nodata,
            "metres": self.metres,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BandGroup:
        """Read what :meth:`to_json` wrote."""
        fields = dict(value)
        fields["bands"] = tuple(Band(**band) for band in fields["bands"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One way of seeing a place: a sensor and its band groups.

    Args:
        name: lower case, e.g. ``s1``.
        title: what people read, e.g. ``Sentinel-1``.
        groups: its band groups, in the order in which their bands are stacked for the encoder.
    """

    name: str
    title: str
    groups: tuple[BandGroup, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"modality name {self.name!r}: expected lower-case letters, digits and _")
        if not self.groups:
            raise ConfigError(f"modality {self.name}: no band groups; expected at least one")
        names = [name for group in self.groups for name in group.band_names]
        if len(set(names)) != len(names):
            raise ConfigError(f"modality {self.name}: bands {names}; each name may occur once")

    @property
    def band_names(self) -> tuple[str, ...]:
        """All band names, group by group, in the encoder's order."""
        return tuple(name for group in self.groups for name in group.band_names)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the band groups, in order."""
        return tuple(group.name for group in self.groups)

    @property
    def height(self) -> int:
        """Rows of the finest band group, pixels."""
        return max(group.height for group in self.groups)

    @property
    def width(self) -> int:
        """Columns of the finest band group, pixels."""
        return max(group.width for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        return {"name": self.name, "title": self.title, "groups": [group.to_json() for group in self.groups]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Modality:
        """Read what :meth:`to_json` wrote."""
        groups = tuple(BandGroup.from_json(group) for group in value["groups"])
        return cls(name=value["name"], title=value["title"], groups=groups)

    def require_same_bands(self, other: Modality, where: str) -> None:
        """Check that another declaration of this modality has the same bands in the same order and units.

        Args:
            other: the modality as declared elsewhere; pixel counts may differ, bands and groups may not.
            where: what was being read, for the message.

        Raises:
            BandMismatchError: bands or their grouping differ; both lists are named.
        """
        mine = [f"{g.name}:{name}" for g in self.groups for name in g.band_names]
        theirs = [f"{g.name}:{name}" for g in other.groups for name in g.band_names]
        if mine != theirs:
            raise BandMismatchError(theirs, mine, where)


def stack_by_name(planes: Mapping[str, npt.NDArray[Any]], group: BandGroup, where: str) -> npt.NDArray[Any]:
    """Stack single-band images into a band group by name.

    Args:
        planes: band name → array [height, width]; bands of other groups may be present.
        group: the band group wanted.
        where: what was being read, for the message.

    Returns:
        Array [bands, height, width] in the group's order, dtype of the planes.

    Raises:
        BandMismatchError: a band of the group is missing; given and known bands are named.
    """
    if any(name not in planes for name in group.band_names):
        raise BandMismatchError(planes, group.band_names, where)
    return np.stack([planes[name] for name in group.band_names])


def _bands(*names: tuple[str, str | None]) -> tuple[Band, ...]:
    return tuple(Band(name=name, common_name=common) for name, common in names)


def sentinel1(pixels: int = 120) -> Modality:
    """Sentinel-1 IW GRD: VV and VH backscatter in dB, float32, 10 m.

    Args:
        pixels: rows and columns of a patch at 10 m.

    Source: BigEarthNet-MM (Sumbul et al. 2021); band order VV, VH as in reBEN.
    """
    group = BandGroup(
        name="s1",
        bands=_bands(("VV", "vv"), ("VH", "vh")),
        height=pixels,
        width=pixels,
        dtype="float32",
        unit="dB",
        metres=10.0,
    )
    return Modality(name="s1", title="Sentinel-1", groups=(group,))


def sentinel2(pixels: int = 120) -> Modality:
    """Sentinel-2 L2A: 12 bands, reflectance × 10⁴, uint16, 0 = no data, each at its native 10, 20 or 60 m.

    Args:
        pixels: rows and columns of a patch at 10 m; a multiple of 6, so that 60 m pixels are whole.

    Raises:
        ConfigError: pixels is not a multiple of 6.

    Source: Sentinel-2 L2A product specification; patch sizes measured on BigEarthNet (B01 and B09 are 20 × 20).
    """
    if pixels % 6:
        raise ConfigError(f"Sentinel-2 patch of {pixels} pixels at 10 m; expected a multiple of 6 (120, 264, …)")

    def group(name: str, metres: int, bands: Sequence[tuple[str, str | None]]) -> BandGroup:
        side = pixels * 10 // metres
        return BandGroup(
            name=name,
            bands=_bands(*bands),
            height=side,
            width=side,
            dtype="uint16",
            unit="reflectance x 10000",
            nodata=0.0,
            metres=float(metres),
        )

    fine = group("s2_10m", 10, [("B02", "blue"), ("B03", "green"), ("B04", "red"), ("B08", "nir")])
    medium = group(
        "s2_20m",
        20,
        [
            ("B05", "rededge071"),
            ("B06", "rededge075"),
            ("B07", "rededge078"),
            ("B8A", "nir08"),
            ("B11", "swir16"),
            ("B12", "swir22"),
        ],
    )
    coarse = group("s2_60m", 60, [("B01", "coastal"), ("B09", "nir09")])
    return Modality(name="s2", title="Sentinel-2", groups=(fine, medium, coarse))

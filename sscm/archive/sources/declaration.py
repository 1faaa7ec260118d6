"""Modalities declared in a TOML file: what the images of a table are made of.

::

    [s1]                          # a modality: lower case
    title = "Sentinel-1"          # what people read; optional
    [s1.groups.s1]                # a band group: the table's column of that name holds its files
    bands = ["VV", "VH"]          # in the order in which they are stored
    dtype = "float32"             # uint8, uint16, int16, int32, float32 or float64
    unit = "dB"
    # all that follows is optional
    common_names = ["vv", "vh"]   # STAC names of the bands, "" for none; previews are composed by them
    file_bands = ["VH", "VV"]     # the bands in the order of the files, if another; more than are wanted may be in them
    pixels = 264                  # rows and columns of the files, or [rows, columns]; else as in the first that opens
    nodata = 0                    # the value of a pixel without data
    metres = 10                   # side of a pixel on the ground
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sscm.archive.sources.folders import read_bytes
from sscm.errors import ConfigError
from sscm.sensors import Band, BandGroup, Modality

_REQUIRED = ("bands", "dtype", "unit")
_OPTIONAL = ("common_names", "file_bands", "pixels", "nodata", "metres")


@dataclass(frozen=True, kw_only=True)
class GroupDeclaration:
    """A band group as declared, and how its files are laid out.

    Args:
        group: the band group; its height and width are 1 where none are declared.
        file_bands: bands in the order of the files; all of the group's, and perhaps more.
        pixels: rows and columns of the files, or None where the files are to tell.
    """

    group: BandGroup
    file_bands: tuple[str, ...]
    pixels: tuple[int, int] | None

    def sized(self, height: int, width: int) -> BandGroup:
        """The band group with images of a size."""
        return dataclasses.replace(self.group, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class ModalityDeclaration:
    """A modality as declared.

    Args:
        name: lower case.
        title: what people read.
        groups: its band groups, in the file's order.
    """

    name: str
    title: str
    groups: tuple[GroupDeclaration, ...]

    def sized(self, sizes: Mapping[str, tuple[int, int]]) -> Modality:
        """The modality with images of these sizes, band-group name → rows and columns."""
        return Modality(
            name=self.name, title=self.title, groups=tuple(g.sized(*sizes[g.group.name]) for g in self.groups)
        )


def read_declaration(path: str) -> tuple[ModalityDeclaration, ...]:
    """Read a TOML file of modalities, in the form shown above.

    Args:
        path: local path or URI.

    Raises:
        ConfigError: no such file, no TOML, or a key missing, unknown or of a value that cannot be; names it.
    """
    try:
        value = tomllib.loads(read_bytes(path).decode())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; expected a TOML file that declares the modalities") from error
    except ValueError as error:  # also UnicodeDecodeError and TOMLDecodeError
        raise ConfigError(f"{path}: not a TOML file ({error})") from error
    if not value:
        raise ConfigError(f"{path}: it declares no modality; expected a table such as [s1] with [s1.groups.s1]")
    modalities = tuple(_modality(name, table, path) for name, table in value.items())
    names = [group.group.name for modality in modalities for group in modality.groups]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: band groups {names}; expected each name once, also across modalities")
    times = {f"{modality.name}_datetime" for modality in modalities}
    if clash := sorted(times & set(names)):
        raise ConfigError(f"{path}: band groups {clash} have the names of columns of times; choose others")
    return modalities


def _modality(name: str, table: Any, path: str) -> ModalityDeclaration:
    where = f"{path}, [{name}]"
    if not isinstance(table, dict) or not isinstance(table.get("groups"), dict) or not table["groups"]:
        raise ConfigError(f"{where}: no band groups; expected [{name}.groups.NAME] with {', '.join(_REQUIRED)}")
    _only(table, ("title", "groups"), where)
    groups = tuple(_group(group, value, f"{path}, [{name}.groups.{group}]") for group, value in table["groups"].items())
    declaration = ModalityDeclaration(name=name, title=str(table.get("title", name)), groups=groups)
    try:
        declaration.sized({g.group.name: (g.group.height, g.group.width) for g in groups})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return declaration


def _group(name: str, table: Any, where: str) -> GroupDeclaration:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {table!r}; expected a table with {', '.join(_REQUIRED)}")
    _only(table, _REQUIRED + _OPTIONAL, where)
    if missing := [key for key in _REQUIRED if key not in table]:
        raise ConfigError(f"{where}: no {', '.join(missing)}; expected {', '.join(_REQUIRED)}")
    bands = _names(table, "bands", where)
    common = _names(table, "common_names", where) if "common_names" in table else ("",) * len(bands)
    if len(common) != len(bands):
        raise ConfigError(f"{where}: {len(common)} common_names for {len(bands)} bands; expected one each, or ''")
    file_bands = _names(table, "file_bands", where) if "file_bands" in table else bands
    if not set(bands) <= set(file_bands) or len(set(file_bands)) != len(file_bands):
        raise ConfigError(f"{where}: file_bands {list(file_bands)}; expected each of {list(bands)} once")
    pixels = _pixels(table["pixels"], where) if "pixels" in table else None
    height, width = pixels or (1, 1)
    try:
        group = BandGroup(
            name=name,
            bands=tuple(Band(name=b, common_name=c or None) for b, c in zip(bands, common, strict=True)),
            height=height,
            width=width,
            dtype=str(table["dtype"]),
            unit=str(table["unit"]),
            nodata=_number(table, "nodata", where),
            metres=_number(table, "metres", where),
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return GroupDeclaration(group=group, file_bands=file_bands, pixels=pixels)


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where}: unknown keys {unknown}; known ones are {', '.join(known)}")


def _names(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table[key]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}: {key} = {value!r}; expected a list of names")
    return tuple(value)


def _pixels(value: Any, where: str) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(s) is int and s > 0 for s in sides):
        raise ConfigError(f"{where}: pixels = {value!r}; expected a whole number, or [rows, columns]")
    return sides[0], sides[1]


def _number(table: Mapping[str, Any], key: str, where: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where}: {key} = {value!r}; expected a number (NaN is never data and needs no declaration)")
    return float(value)

"""Pairs from a table of image files: any sensors, any number of bands, declared in a small TOML file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import shapely

from sscm.archive.schema import Image, Pair
from sscm.archive.sources.band_files import BandFiles
from sscm.archive.sources.base import PairRef
from sscm.archive.sources.declaration import GroupDeclaration, read_declaration
from sscm.archive.sources.folders import absolute, join
from sscm.archive.sources.footprint import footprint
from sscm.archive.sources.image_file import open_image, parse_time
from sscm.archive.sources.table import plan_rows, read_rows
from sscm.config import PairsConfig
from sscm.errors import ArchiveError, ConfigError, PairError
from sscm.sensors import Modality


class PairsSource:
    """Pairs of a CSV or Parquet table.

    Columns of the table:

    * ``pair_id``: unique; of two rows with one id the second is refused.
    * one a band group, by its name in the TOML file: the path of a GeoTIFF, PNG or ``.npy`` file, absolute, a URI, or
      relative to ``root``. Several files separated by ``;`` (a list in Parquet) are stacked in that order, so a group
      may be one file of many bands, or a file a band. All groups of a modality empty: the pair lacks that modality.
    * ``split`` (optional): train, validation (or val), test; where empty, a hash of the id deals 80 / 10 / 10.
    * ``labels`` (optional): text separated by ``;`` or ``|``, or a list in Parquet.
    * ``<modality>_datetime`` (optional): ISO 8601, UTC where it names no zone; else the GeoTIFF tag ``datetime``.
    * ``geometry`` (optional): footprint in longitude and latitude as WKT, or WKB in Parquet; else, and for tiles, that
      of the first georeferenced file.
    * every other column becomes a property, as text.

    Files and declaration must agree: the number of bands, their names where the file names its bands by declared
    names, rows and columns, and every pixel value must fit the declared dtype. A grey band may come as a colour picture
    of three equal channels, and a picture with an opaque alpha channel counts without it.

    With ``tile`` every image is cut into squares of that many pixels of the finest band group, coarser groups in
    proportion, read a row of tiles at a time; edges that fill none are dropped. Tiles are named ``<pair_id>_r0c1`` by
    row and column, and each has a footprint of its own where a file is georeferenced. A tile in which some band group
    has no data at all is left out without a word, since large scenes have empty corners; an image without any tile left
    is refused. Without ``pixels`` in the declaration images may differ in size, not in the proportions of their groups.

    Args:
        config: table, declaration, root and tile.
    """

    name = "pairs"
    simulated = False

    def __init__(self, config: PairsConfig) -> None:
        self.config = config
        self.table = absolute(config.table)
        self.root = absolute(config.root) if config.root else self.table.rpartition("/")[0]
        self.declaration = read_declaration(absolute(config.modalities))
        self._groups = {g.group.name: g for modality in self.declaration for g in modality.groups}
        self._known = {band.casefold() for g in self._groups.values() for band in g.file_bands}

    @cached_property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities as declared, with the rows and columns of an image, or of a tile where images are cut."""
        return tuple(modality.sized(self._stored_sizes) for modality in self.declaration)

    @property
    def pairs_per_ref(self) -> int:
        """Tiles that an image of the size declared, or of the first one found, is cut into."""
        if self.config.tile is None:
            return 1
        name = self._finest
        (height, width), (rows, cols) = self._file_sizes[name], self._stored_sizes[name]
        return (height // rows) * (width // cols)

    def describe(self) -> Mapping[str, Any]:
        """The table, where its files are, the size of tiles, and the order of the bands in the files."""
        file_bands = {name: list(declared.file_bands) for name, declared in self._groups.items()}
        return {"table": self.table, "root": self.root, "tile": self.config.tile, "file_bands": file_bands}

    def plan(self) -> Sequence[PairRef]:
        """One reference a row.

        Raises:
            ArchiveError: no such table, no rows, a column missing, an unknown split, no image that opens.
            ConfigError: tiles that are not whole pixels in some band group.
        """
        refs = self._refs
        _ = self.modalities  # so that workers are handed the sizes, and a tile that cannot be is known now
        return refs

    def read(self, ref: PairRef) -> Iterator[Pair]:
        """Read a row's images: one pair, or its tiles row by row.

        Raises:
            PairError: a file is missing, truncated, of other bands, size or dtype than declared, or the row is bad.
        """
        try:
            with contextlib.ExitStack() as files:
                yield from self._read(ref, files)
        except PairError as error:
            raise PairError(error.where, error.seen, error.expected, pair_id=ref.key) from error

    @cached_property
    def _refs(self) -> list[PairRef]:
        return plan_rows(self.table, read_rows(self.table), self.declaration)

    def __getstate__(self) -> dict[str, Any]:
        """What workers need: not the whole table."""
        return {name: value for name, value in self.__dict__.items() if name != "_refs"}

    @property
    def _finest(self) -> str:
        return max(self._file_sizes, key=lambda name: self._file_sizes[name][0])

    @cached_property
    def _file_sizes(self) -> dict[str, tuple[int, int]]:
        """Band group → rows and columns of its files, as declared or as of the first file that opens."""
        sizes = {name: declared.pixels for name, declared in self._groups.items() if declared.pixels is not None}
        last: PairError | None = None
        for ref in self._refs:
            for name in [name for name in ref.args.get("files", {}) if name not in sizes]:
                try:
                    with open_image(join(self.root, ref.args["files"][name][0]), georeference=False) as image:
                        sizes[name] = image.size
                except PairError as error:
                    last = error
            if len(sizes) == len(self._groups):
                return sizes
        missing = [name for name in self._groups if name not in sizes]
        raise ArchiveError(
            f"{self.table}: no image of band groups {missing} opens{f' ({last})' if last else ''}"
        ) from last

    @cached_property
    def _stored_sizes(self) -> dict[str, tuple[int, int]]:
        """Band group → rows and columns of what is stored: of an image, or of a tile."""
        tile = self.config.tile
        sizes = self._file_sizes
        if tile is None:
            return sizes
        height, width = sizes[self._finest]
        if tile > min(height, width):
            raise ConfigError(f"tile = {tile}: images have {height} × {width} pixels; expected no more than those")
        result = {}
        for name, (rows, cols) in sizes.items():
            if (tile * rows) % height or (tile * cols) % width:
                raise ConfigError(
                    f"tile = {tile}: band group {name} has {rows} × {cols} pixels where {self._finest} has "
                    f"{height} × {width}, so a tile would be {tile * rows / height:g} × {tile * cols / width:g} of its "
                    "pixels; expected whole ones"
                )
            result[name] = (tile * rows // height, tile * cols // width)
        return result

    def _read(self, ref: PairRef, files: contextlib.ExitStack) -> Iterator[Pair]:
        args = ref.args
        if "fault" in args:
            raise PairError(*args["fault"])
        if not args["files"]:
            raise PairError(args["where"], "no image of any modality", f"a file in one of {list(self._groups)}")
        groups = {name: self._open(name, paths, files) for name, paths in args["files"].items()}
        located = self._located(groups)
        whole = Pair(
            pair_id=ref.key,
            split=ref.split,
            images={},
            datetimes=self._times(args, groups),
            labels=args["labels"],
            properties=args["properties"],
        )
        if self.config.tile is None:
            images = {name: band_files.read(0, band_files.size[0]) for name, band_files in groups.items()}
            outline = _geometry(args) or (footprint(groups[located].files[0]) if located else None)
            yield replace(whole, images=images, geometry=outline)
            return
        sizes = self._stored_sizes
        rows, cols = self._tile_counts(groups)
        left_out = 0
        for row in range(rows):
            strips = {}
            for name, band_files in groups.items():
                height = sizes[name][0]
                strips[name] = band_files.read(row * height, (row + 1) * height)
            for col in range(cols):
                images = {
                    name: s[:, :, col * sizes[name][1] : (col + 1) * sizes[name][1]] for name, s in strips.items()
                }
                if any(_no_data(image, self._groups[name]) for name, image in images.items()):
                    left_out += 1
                    continue
                outline = None
                if located is not None:
                    height, width = sizes[located]
                    outline = footprint(groups[located].files[0], row * height, col * width, height, width)
                yield replace(whole, pair_id=f"{ref.key}_r{row}c{col}", images=images, geometry=outline)
        if left_out == rows * cols:
            raise PairError(args["where"], f"no data in any of {rows} × {cols} tiles", "a tile with data in each group")

    def _open(self, name: str, paths: Sequence[str], files: contextlib.ExitStack) -> BandFiles:
        """Open a band group's files: of the declared size, else of any to be cut, else of the size of the first one."""
        declared = self._groups[name]
        size = declared.pixels or (None if self.config.tile else self._file_sizes[name])
        opened = [files.enter_context(open_image(join(self.root, path))) for path in paths]
        return BandFiles.of(opened, declared, size, self._known)

    def _located(self, groups: Mapping[str, BandFiles]) -> str | None:
        """The finest georeferenced band group of the first modality that has one."""
        for modality in self.declaration:
            names = [declared.group.name for declared in modality.groups]
            placed = [name for name in names if name in groups and groups[name].files[0].crs is not None]
            if placed:
                return max(placed, key=lambda name: groups[name].size[0])
        return None

    def _times(self, args: Mapping[str, Any], groups: Mapping[str, BandFiles]) -> dict[str, datetime]:
        """Acquisition times by the table, else by the first file of a modality."""
        times = {}
        for modality in self.declaration:
            names = [declared.group.name for declared in modality.groups if declared.group.name in groups]
            text = args["times"].get(modality.name)
            told = groups[names[0]].files[0].time if names else None
            if text is not None:
                times[modality.name] = parse_time(text, f"{args['where']}, column {modality.name}_datetime")
            elif told is not None:
                times[modality.name] = told
        return times

    def _tile_counts(self, groups: Mapping[str, BandFiles]) -> tuple[int, int]:
        """Rows and columns of tiles, the same in all band groups."""
        sizes = self._stored_sizes
        counts = {n: (f.size[0] // sizes[n][0], f.size[1] // sizes[n][1]) for n, f in groups.items()}
        if len(set(counts.values())) > 1 or 0 in next(iter(counts.values())):
            seen = "; ".join(f"{n}: {f.size[0]} × {f.size[1]} pixels" for n, f in groups.items())
            tiles = "; ".join(f"{n}: {sizes[n][0]} × {sizes[n][1]}" for n in groups)
            first = next(iter(groups.values())).files[0].path
            raise PairError(first, seen, f"at least one tile, and as many in each band group (a tile is {tiles})")
        return next(iter(counts.values()))


def _no_data(image: Image, declared: GroupDeclaration) -> bool:
    """Whether no pixel of a tile holds data: all no-data as declared, or all NaN."""
    nodata = declared.group.nodata
    if nodata is not None and bool((image == nodata).all()):
        return True
    return image.dtype.kind == "f" and bool(np.isnan(image).all())


def _geometry(args: Mapping[str, Any]) -> bytes | None:
    """Footprint of the table, WKB."""
    text = args["geometry"]
    if text is None:
        return None
    try:
        shape = shapely.from_wkt(text) if " " in text else shapely.from_wkb(bytes.fromhex(text))
        return bytes(shapely.to_wkb(shape))
    except (shapely.errors.ShapelyError, ValueError) as error:
        raise PairError(args["where"], f"geometry {text[:60]!r} ({error})", "WKT or WKB, longitude first") from error

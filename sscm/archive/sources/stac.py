"""Pairs from a STAC catalogue of Sentinel-1 and Sentinel-2 images, cut into patches on the grid of Sentinel-2."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import shapely

from sscm.archive.schema import Image, Pair
from sscm.archive.sources.base import PairRef, split_by_hash
from sscm.archive.sources.folders import absolute
from sscm.archive.sources.image_file import parse_time
from sscm.archive.sources.stac_bands import BandAsset, find_bands, sensor_of, with_reflectance
from sscm.archive.sources.stac_catalog import read_items
from sscm.archive.sources.stac_grid import TileGrid, Window, grid_of
from sscm.archive.sources.stac_pairing import Sighting, pair_blocks
from sscm.archive.sources.stac_pixels import backscatter, read_power, read_reflectance
from sscm.config import StacConfig
from sscm.errors import ArchiveError, PairError
from sscm.sensors import Modality, sentinel1, sentinel2

THREADS = 6
"""Band files read at a time: enough to hide a bucket's delay, few enough for the memory of a block each."""

logger = logging.getLogger(__name__)


class StacSource:
    """Pairs of patches of the Sentinel-1 and Sentinel-2 items of a catalogue.

    *Pairing*: a patch of Sentinel-2 is paired with the Sentinel-1 image nearest in time, at most ``max_days`` away,
    that has data in all of it. Sentinel-1 is resampled to the 10 m grid of Sentinel-2; the bands of Sentinel-2 stay as
    they are.

    *Units*: reflectance × 10⁴ and dB, by the scale, offset and unit that items tell; see
    :func:`~sscm.archive.sources.stac_bands.with_reflectance` and
    :func:`~sscm.archive.sources.stac_pixels.read_power`.

    *Ids*: ``<Sentinel-2 item>_<row>_<col>``, counted in whole patches from the image's upper left corner.

    *Splits*: blocks of 10 × 10 patches are dealt 80 / 10 / 10 by a hash of their place in the UTM zone, so that
    neighbours and revisits stay together.

    An item that lacks a band, a time or a footprint is one unusable pair; patches without data are left out.

    Args:
        config: catalogue and settings.
    """

    name = "stac"
    simulated = False

    def __init__(self, config: StacConfig) -> None:
        self.config = config
        self.catalog = absolute(config.catalog)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Sentinel-1 and Sentinel-2."""
        return sentinel1(self.config.pixels), sentinel2(self.config.pixels)

    @cached_property
    def pairs_per_ref(self) -> int:
        """Patches of a block on average; blocks at the edges of an image have fewer."""
        counts = [int(np.prod(ref.args["window"][2:])) for ref in self._refs if "window" in ref.args]
        return max(1, round(float(np.mean(counts)))) if counts else 1

    def describe(self) -> Mapping[str, Any]:
        """The catalogue and the settings."""
        return {**asdict(self.config), "catalog": self.catalog}

    def plan(self) -> Sequence[PairRef]:
        """One reference a block that both sensors saw, and one an item that cannot be used.

        Raises:
            ArchiveError: no catalogue, no items of one of the sensors, no two that overlap within the time.
        """
        refs = self._refs
        _ = self.pairs_per_ref  # so that it is known without the references
        return refs

    def read(self, ref: PairRef) -> Iterator[Pair]:
        """Read a block and cut it, row by row; no pairs where no patch has data of both sensors.

        Raises:
            PairError: an item lacks a band, a file is missing, damaged, of another grid or unit.
        """
        try:
            if "fault" in ref.args:
                raise PairError(*ref.args["fault"])
            with ThreadPoolExecutor(THREADS) as pool:
                yield from self._cut(ref, pool)
        except PairError as error:
            raise PairError(error.where, error.seen, error.expected, pair_id=ref.key) from error

    def __getstate__(self) -> dict[str, Any]:
        """What workers need: not all references."""
        return {name: value for name, value in self.__dict__.items() if name != "_refs"}

    @cached_property
    def _refs(self) -> list[PairRef]:
        items = read_items(self.catalog)
        sensors = [sensor_of(item) for item in items]
        for sensor, title in (("s1", "Sentinel-1 items with VV and VH"), ("s2", "Sentinel-2 items of level 2A")):
            if sensor not in sensors:
                raise ArchiveError(
                    f"{self.catalog}: no {title} among {len(items)} items (e.g. {items[0].id}, collection "
                    f"{items[0].collection_id}); expected some, told by platform, collection or band names"
                )
        sightings: dict[str, list[Sighting]] = {"s1": [], "s2": []}
        faults: list[PairRef] = []
        used = [(sensor, item) for sensor, item in zip(sensors, items, strict=True) if sensor is not None]
        with ThreadPoolExecutor(THREADS) as pool:
            for (sensor, _), found in zip(used, pool.map(lambda pair: self._sighting(*pair), used), strict=True):
                if isinstance(found, PairRef):
                    faults.append(found)
                else:
                    sightings[sensor].append(found)
        if len(used) < len(items):
            logger.warning(
                "%d of %d items are neither Sentinel-1 with VV and VH nor Sentinel-2 of level 2A",
                len(items) - len(used),
                len(items),
            )
        if not sightings["s1"] or not sightings["s2"]:
            return faults  # reading them tells what is wrong
        return pair_blocks(sightings["s2"], sightings["s1"], self.config.max_days) + faults

    def _sighting(self, sensor: str, item: pystac.Item) -> Sighting | PairRef:
        """An item as far as it is needed; a reference that fails with what is wrong where it cannot be used."""
        try:
            time, outline = _time(item), _outline(item)
            s1, s2 = self.modalities
            bands = find_bands(item, s1 if sensor == "s1" else s2)
            grid = None
            if sensor == "s2":
                bands = with_reflectance(item, bands)
                grid = grid_of(item, bands["B02"], self.config.pixels)
        except PairError as error:
            fault = [error.where, error.seen, error.expected]
            return PairRef(key=item.id, split=split_by_hash(item.id), args={"fault": fault})
        record = {
            "id": item.id,
            "time": time.isoformat(),
            "bands": {name: _compact(band) for name, band in bands.items()},
            "properties": _properties(sensor, item),
        }
        return Sighting(item_id=item.id, time=time, outline=outline, record=record, grid=grid)

    def _cut(self, ref: PairRef, pool: ThreadPoolExecutor) -> Iterator[Pair]:
        s2, candidates = ref.args["s2"], ref.args["s1"]
        grid, block = TileGrid(*ref.args["grid"]), Window(*ref.args["window"])
        optical = self._optical(s2, grid, block, pool)
        radar: list[npt.NDArray[np.float32]] = []  # one a candidate, read when the first patch needs it
        for row in range(block.rows):
            for col in range(block.cols):
                images: dict[str, Image] = {name: _patch(pixels, block, row, col) for name, pixels in optical.items()}
                if any(self._lacks(image == 0) for image in images.values()):
                    continue
                for index, s1 in enumerate(candidates):
                    if index == len(radar):
                        radar.append(self._radar(s1, grid, block, pool))
                    patch = _patch(radar[index], block, row, col)
                    if not self._lacks(np.isnan(patch)):
                        break
                else:
                    continue
                window = Window(block.row + row, block.col + col)
                yield Pair(
                    pair_id=f"{s2['id']}_{window.row}_{window.col}",
                    split=ref.split,
                    images={"s1": _filled(patch), **images},
                    datetimes={"s1": parse_time(s1["time"], s1["id"]), "s2": parse_time(s2["time"], s2["id"])},
                    geometry=grid.footprint(window),
                    properties={**s1["properties"], **s2["properties"]},
                )

    def _optical(self, s2: Any, grid: TileGrid, block: Window, pool: ThreadPoolExecutor) -> dict[str, Image]:
        """Band group → uint16 [bands, rows, columns] of a block, reflectance × 10⁴."""
        groups = self.modalities[1].groups
        reads = {
            name: pool.submit(read_reflectance, BandAsset(**s2["bands"][name]), grid, block, int(group.metres or 0))
            for group in groups
            for name in group.band_names
        }
        return {group.name: np.stack([reads[name].result() for name in group.band_names]) for group in groups}

    def _radar(self, s1: Any, grid: TileGrid, block: Window, pool: ThreadPoolExecutor) -> npt.NDArray[np.float32]:
        """float32 [bands, rows, columns] of a block, dB; NaN where there is no data."""
        bands = [BandAsset(**s1["bands"][name]) for name in self.modalities[0].band_names]
        read = list(pool.map(lambda band: read_power(band, grid, block, self.config.s1_scale), bands))
        return np.stack([backscatter(power, grid, block) for power in read])

    def _lacks(self, missing: npt.NDArray[np.bool_]) -> bool:
        """Whether too many pixels lack data in any band; ``missing`` is [bands, height, width]."""
        return float(np.mean(missing.any(axis=0))) > self.config.max_nodata


def _patch(pixels: Image, block: Window, row: int, col: int) -> Image:
    """A patch [bands, height, width] of a block's pixels."""
    height, width = pixels.shape[1] // block.rows, pixels.shape[2] // block.cols
    patch = pixels[:, row * height : (row + 1) * height, col * width : (col + 1) * width]
    return np.ascontiguousarray(patch)


def _filled(patch: Image) -> Image:
    """Backscatter with the median of its band where there is no data, since the archive knows no such value for dB."""
    missing = np.isnan(patch)
    if not missing.any():
        return patch
    medians = np.nanmedian(patch.reshape(len(patch), -1), axis=1)
    return np.where(missing, medians[:, np.newaxis, np.newaxis], patch).astype(np.float32)


def _time(item: pystac.Item) -> datetime:
    """When an item was taken; the start of an interval."""
    text = item.properties.get("datetime") or item.properties.get("start_datetime")
    if item.datetime is not None:
        return parse_time(item.datetime.isoformat(), f"item {item.id}")
    if not text:
        raise PairError(f"item {item.id}", "no time", "datetime, or start_datetime, in its properties")
    return parse_time(str(text), f"item {item.id}")


def _outline(item: pystac.Item) -> Any:
    """Footprint as a shapely geometry; mended where its rings cross."""
    try:
        outline = shapely.make_valid(shapely.geometry.shape(item.geometry))
    except (shapely.errors.ShapelyError, AttributeError, KeyError, TypeError, ValueError) as error:
        seen = f"geometry {str(item.geometry)[:60]}"
        raise PairError(f"item {item.id}", seen, "a footprint in longitude and latitude") from error
    if outline.is_empty:
        raise PairError(f"item {item.id}", "an empty geometry", "a footprint in longitude and latitude")
    return outline


def _compact(band: BandAsset) -> dict[str, Any]:
    return {name: value for name, value in asdict(band).items() if value is not None}


def _properties(sensor: str, item: pystac.Item) -> dict[str, str]:
    """What the archive keeps of an item, as text."""
    about = item.properties
    if sensor == "s1":
        known = {
            "s1_item": item.id,
            "s1_platform": about.get("platform"),
            "orbit_state": about.get("sat:orbit_state"),
            "relative_orbit": about.get("sat:relative_orbit"),
        }
    else:
        grid = about.get("s2:mgrs_tile") or re.sub("^MGRS-", "", str(about.get("grid:code") or ""))
        zone = "".join(str(about.get(f"mgrs:{part}", "")) for part in ("utm_zone", "latitude_band", "grid_square"))
        known = {
            "s2_item": item.id,
            "s2_platform": about.get("platform"),
            "cloud_cover": about.get("eo:cloud_cover"),
            "mgrs_tile": grid or zone,
        }
    return {name: str(value) for name, value in known.items() if value not in (None, "")}

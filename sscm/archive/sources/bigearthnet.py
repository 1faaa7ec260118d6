"""BigEarthNet, versions 1 and 2: Sentinel-1 and Sentinel-2 patches of 1.2 km with CORINE labels.

Sources: Sumbul et al. 2021 (BigEarthNet-MM, version 1); Clasen et al. 2024 (reBEN, version 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import numpy as np

from sscm.archive.schema import Image, Pair
from sscm.archive.sources.base import PairRef, split_by_hash
from sscm.archive.sources.bigearthnet_labels import classes_19
from sscm.archive.sources.bigearthnet_layout import Layout, block_of, find_layout, name_time, tile_of
from sscm.archive.sources.bigearthnet_metadata import METADATA, plan_by_metadata
from sscm.archive.sources.bigearthnet_splits import read_splits
from sscm.archive.sources.folders import absolute, join, read_bytes
from sscm.archive.sources.footprint import footprint
from sscm.archive.sources.image_file import as_dtype, open_image, parse_time, require_declared_nodata
from sscm.config import BigEarthNetConfig
from sscm.errors import ArchiveError, PairError
from sscm.sensors import BandGroup, Modality, sentinel1, sentinel2

PIXELS = 120
"""Rows and columns of a patch at 10 m."""
MODALITIES = (sentinel1(PIXELS), sentinel2(PIXELS))
_THREADS = 16
"""Small files read at a time while planning: mostly waiting for the storage."""


class BigEarthNetSource:
    """Pairs of a BigEarthNet folder; which version it is shows in what lies in it.

    A pair's id is the name of its Sentinel-2 patch. Its footprint is that of band B02.

    *Version 2*: pairs, splits and labels are read from ``metadata.parquet``; times from the names. Pairs of the
    metadata of which neither patch is in the folder are left out, so that a part of the archive can be used.

    *Version 1*: pairs are what the Sentinel-1 JSON files say (``corresponding_s2_patch``), times and labels are read
    from the JSON files, the 43 CORINE names turned into the 19 classes (the originals are the property ``corine``).
    With ``split_file`` only the patches it lists are taken; it is a CSV of patch and split, or a folder with the lists
    ``train``, ``val`` and ``test``. Without it, blocks of 10 × 10 patches are dealt to the splits by a hash.

    Args:
        config: where the folder is.
    """

    name = "bigearthnet"
    simulated = False
    pairs_per_ref = 1

    def __init__(self, config: BigEarthNetConfig) -> None:
        self.config = config
        self.root = absolute(config.root)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Sentinel-1 and Sentinel-2, 120 pixels at 10 m."""
        return MODALITIES

    def describe(self) -> Mapping[str, Any]:
        """Where the folder is, and what the pairs and splits were read from."""
        return {"root": self.root, "metadata": self.config.metadata, "split_file": self.config.split_file}

    def plan(self) -> Sequence[PairRef]:
        """One reference a pair, sorted by id.

        Raises:
            ArchiveError: no patches, no or wrong metadata, a split file that lists none of the patches.
        """
        layout = find_layout(self.root)
        if layout.version == 1:
            refs = self._plan_v1(layout)
        else:
            where = absolute(self.config.metadata) if self.config.metadata else join(self.root, METADATA)
            refs = plan_by_metadata(self.root, where, layout)
        return sorted(refs, key=lambda ref: ref.key)

    def read(self, ref: PairRef) -> Iterator[Pair]:
        """Read the 14 band files of a pair, and in version 1 its two JSON files.

        Raises:
            PairError: partner or band missing, file truncated, of wrong size or dtype, JSON or label unknown.
        """
        try:
            yield self._read(ref)
        except PairError as error:
            raise PairError(error.where, error.seen, error.expected, pair_id=ref.key) from error

    def _read(self, ref: PairRef) -> Pair:
        args = ref.args
        if "fault" in args:
            raise PairError(*args["fault"])
        s1, s2 = args["s1"], args["s2"]
        s1_name, s2_name = s1.rsplit("/", 1)[-1], s2.rsplit("/", 1)[-1]
        if args["version"] == 1:
            times, labels, properties = self._about_v1(s1, s2)
        else:
            times = {"s1": name_time(s1_name), "s2": name_time(s2_name)}
            labels, properties = args["labels"], dict(args["properties"])
        images: dict[str, Image] = {}
        geometry = None
        for modality, folder in zip(self.modalities, (s1, s2), strict=True):
            for group in modality.groups:
                images[group.name], outline = _read_group(join(self.root, folder), group, locate=group.name == "s2_10m")
                geometry = outline or geometry
        tile = tile_of(s1_name)
        return Pair(
            pair_id=ref.key,
            split=ref.split,
            images=images,
            datetimes={name: time for name, time in times.items() if time is not None},
            geometry=geometry,
            labels=labels,
            properties={"s1_name": s1_name, "s2_name": s2_name, **({"tile": tile} if tile else {}), **properties},
        )

    def _plan_v1(self, layout: Layout) -> list[PairRef]:
        splits = read_splits(absolute(self.config.split_file)) if self.config.split_file else None
        folders = {name: join(folder, name) for name, folder in layout.s1.items()}
        names = sorted(folders)
        with ThreadPoolExecutor(_THREADS) as pool:
            partners = list(pool.map(lambda name: self._partner(folders[name]), names, chunksize=64))
        refs: dict[str, PairRef] = {}
        for s1_name, s2_name in zip(names, partners, strict=True):
            args: dict[str, Any] = {"version": 1, "s1": folders[s1_name]}
            key = s2_name if s2_name is not None and s2_name not in refs else s1_name
            split = split_by_hash(block_of(s1_name))
            if splits is not None:
                listed = splits.get(s2_name or "") or splits.get(s1_name)
                if listed is None:
                    continue
                split = listed
            if s2_name is None:
                args["s2"] = ""  # reading its JSON again tells what is wrong with it
            elif s2_name in refs:
                other = refs[s2_name].args.get("s1", "")
                args["fault"] = [folders[s1_name], f"a second partner of {s2_name}, after {other}", "one each"]
            elif s2_name not in layout.s2:
                args["fault"] = [
                    join(self.root, folders[s1_name]),
                    f"its Sentinel-2 partner {s2_name} is missing",
                    "a folder of that name",
                ]
            else:
                args["s2"] = join(layout.s2[s2_name], s2_name)
            refs[key] = PairRef(key=key, split=split, args=args)
        paired = {name for name in partners if name is not None}
        for s2_name in layout.s2.keys() - paired:
            split_of = splits.get(s2_name) if splits is not None else split_by_hash(s2_name)
            if split_of is not None:
                where = join(self.root, layout.s2[s2_name], s2_name)
                fault = [where, "no Sentinel-1 patch names it as its partner", "its Sentinel-1 partner beside it"]
                refs[s2_name] = PairRef(key=s2_name, split=split_of, args={"version": 1, "fault": fault})
        if not refs:
            raise ArchiveError(
                f"{self.config.split_file}: none of its {len(splits or {})} names is a patch of {self.root} "
                f"(e.g. {names[0]}); expected patch names of version 1"
            )
        return list(refs.values())

    def _partner(self, s1_folder: str) -> str | None:
        """The Sentinel-2 patch that a Sentinel-1 patch of version 1 belongs to; None where its JSON does not tell."""
        try:
            partner = _read_json(_json_path(self.root, s1_folder)).get("corresponding_s2_patch")
        except PairError:
            return None
        return partner if isinstance(partner, str) else None

    def _about_v1(self, s1: str, s2: str) -> tuple[dict[str, datetime | None], list[str], dict[str, str]]:
        """Times, 19-class labels and properties from the two JSON files."""
        s1_path = _json_path(self.root, s1)
        s1_json = _read_json(s1_path)
        if not isinstance(s1_json.get("corresponding_s2_patch"), str):
            raise PairError(s1_path, f"keys {sorted(s1_json)}", "a name under corresponding_s2_patch")
        s2_path = _json_path(self.root, s2)
        s2_json = _read_json(s2_path)
        labels = s2_json.get("labels")
        if not isinstance(labels, list):
            raise PairError(s2_path, f"labels {labels!r}", "a list of CORINE class names")
        times = {"s1": (s1_json.get("acquisition_time"), s1_path), "s2": (s2_json.get("acquisition_date"), s2_path)}
        properties = {"corine": "; ".join(map(str, labels))}
        for source, key in ((s1_json, "scene_source"), (s2_json, "tile_source")):
            if source.get(key):
                properties[key] = str(source[key])
        return (
            {name: parse_time(str(text), path) if text else None for name, (text, path) in times.items()},
            classes_19(labels, s2_path),
            properties,
        )


def _read_group(folder: str, group: BandGroup, locate: bool) -> tuple[Image, bytes | None]:
    """Pixels [bands, height, width] of a group from one file a band, and the footprint of the first if wanted."""
    name = folder.rsplit("/", 1)[-1]
    pixels = np.empty(group.shape, group.dtype)
    outline = None
    for index, band in enumerate(group.band_names):
        path = join(folder, f"{name}_{band}.tif")
        located = locate and index == 0
        with open_image(path, georeference=located) as image:
            if (image.bands, *image.size) != (1, *group.shape[1:]):
                seen = f"{image.bands} band of {image.height} × {image.width} pixels"
                raise PairError(path, seen, f"1 band of {group.height} × {group.width} pixels")
            plane = image.read(0, image.height)
            require_declared_nodata(image, plane, group.nodata)
            pixels[index] = as_dtype(plane, group.dtype, path)[0]
            if located and image.crs is not None:
                outline = footprint(image)
    return pixels, outline


def _json_path(root: str, folder: str) -> str:
    return join(root, folder, f"{folder.rsplit('/', 1)[-1]}_labels_metadata.json")


def _read_json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise PairError(path, "no such file", "the JSON file of the patch") from error
    except OSError as error:
        raise PairError(path, f"it cannot be read ({error})", "the JSON file of the patch") from error
    except ValueError as error:
        raise PairError(path, f"not JSON ({error})", "the JSON file of the patch, whole") from error
    if not isinstance(value, dict):
        raise PairError(path, f"a JSON {type(value).__name__}", "a JSON object")
    return value

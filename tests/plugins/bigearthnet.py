"""BigEarthNet folders made by code, with the real layout, names, dtypes, georeference and JSON of versions 1 and 2."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import Affine

from sscm.archive.schema import Pair
from sscm.archive.sources.bigearthnet_labels import CORINE_OF_CLASS
from sscm.sensors import sentinel1, sentinel2

TILE = "33UUP"
WEST, NORTH = 300_000, 5_400_000  # upper left corner of tile 33UUP in EPSG:32633
METRES = {120: 10, 60: 20, 20: 60}
S1_TIME = datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC)
S2_TIME = datetime(2017, 6, 13, 9, 5, 31, tzinfo=UTC)

FolderWriter = Callable[[Path, Sequence[Pair] | int], list[str]]


def random_pairs(count: int) -> list[Pair]:
    """Pairs of 120 pixels of noise, the same for the same count."""
    rng = np.random.default_rng(count)
    pairs = []
    for number in range(count):
        images = {
            group.name: rng.normal(-15, 4, group.shape).astype("float32")
            if group.dtype == "float32"
            else rng.integers(1, 10_000, group.shape, dtype="uint16")
            for modality in (sentinel1(), sentinel2())
            for group in modality.groups
        }
        split = ("train", "train", "validation", "test")[number % 4]
        labels = ["Arable land", "Inland waters"] if number % 2 else ["Mixed forest"]
        pairs.append(Pair(pair_id=str(number), split=split, images=images, labels=labels))
    return pairs


def place(number: int) -> tuple[int, int]:
    """Row and column of a patch in its tile: each number another one of 8,100, neighbours in number far apart."""
    return divmod(number * 3571 % 8100, 90)


def write_band(path: Path, pixels: np.ndarray, number: int, nodata: float | None = None) -> None:
    """One band as BigEarthNet stores it: an uncompressed GeoTIFF in UTM, where its patch lies in the tile."""
    height, width = pixels.shape
    row, col = place(number)
    metres = METRES.get(height, 10)
    transform = Affine(metres, 0, WEST + 1200 * row, 0, -metres, NORTH - 1200 * col)
    options = {"driver": "GTiff", "count": 1, "dtype": pixels.dtype.name, "crs": "EPSG:32633", "transform": transform}
    with (
        warnings.catch_warnings(),
        rasterio.open(path, "w", height=height, width=width, nodata=nodata, **options) as file,
    ):
        file.write(pixels, 1)


def write_v1(root: Path, pairs: Sequence[Pair] | int) -> list[str]:
    """A version 1 archive: patches side by side, a JSON file each; ``splits.csv`` holds the pairs' splits.

    Args:
        root: folder to make.
        pairs: pairs of 120 pixels at 10 m, or how many pairs of noise.

    Returns:
        Names of the Sentinel-2 patches, in order.
    """
    pairs = random_pairs(pairs) if isinstance(pairs, int) else pairs
    names = []
    for number, pair in enumerate(pairs):
        s1_time, s2_time = pair.datetimes.get("s1", S1_TIME), pair.datetimes.get("s2", S2_TIME)
        row, col = place(number)
        # version 1 drops the zeros of hours, minutes and seconds from Sentinel-2 names
        moment = f"{s2_time:%Y%m%d}T{s2_time.hour}{s2_time.minute}{s2_time.second}"
        s2_name = f"S2A_MSIL2A_{moment}_{row}_{col}"
        s1_name = f"S1A_IW_GRDH_1SDV_{s1_time:%Y%m%dT%H%M%S}_{TILE}_{row}_{col}"
        s1_folder = root / "BigEarthNet-S1-v1.0" / s1_name
        s2_folder = root / "BigEarthNet-v1.0" / s2_name
        _write_images(pair, s1_folder, s2_folder, number, None)
        left, top = WEST + 1200 * row, NORTH - 1200 * col
        corine = [CORINE_OF_CLASS[label][0] for label in pair.labels or ()]
        projection = 'PROJCS["WGS 84 / UTM zone 33N",AUTHORITY["EPSG","32633"]]'
        about = {
            "labels": corine,
            "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lly": top - 1200},
            "projection": projection,
            "corresponding_s2_patch": s2_name,
            "scene_source": f"S1A_IW_GRDH_1SDV_{s1_time:%Y%m%dT%H%M%S}_017018_01C579_7EEC",
            "acquisition_time": f"{s1_time:%Y-%m-%dT%H:%M:%S}",
        }
        (s1_folder / f"{s1_name}_labels_metadata.json").write_text(json.dumps(about))
        about = {
            "labels": corine,
            "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lry": top - 1200},
            "projection": projection,
            "tile_source": f"S2A_MSIL1C_{s2_time:%Y%m%dT%H%M%S}_N0205_R022_T{TILE}_20170613T101608.SAFE",
            "acquisition_date": f"{s2_time:%Y-%m-%d %H:%M:%S}",
        }
        (s2_folder / f"{s2_name}_labels_metadata.json").write_text(json.dumps(about))
        names.append(s2_name)
    with (root / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patch", "split"), *zip(names, (p.split for p in pairs), strict=True)])
    return names


def write_v2(root: Path, pairs: Sequence[Pair] | int) -> list[str]:
    """A version 2 archive: patches by tile and scene, reference maps beside them, and ``metadata.parquet``.

    Args:
        root: folder to make.
        pairs: pairs of 120 pixels at 10 m, or how many pairs of noise.

    Returns:
        Names of the Sentinel-2 patches, in order.
    """
    pairs = random_pairs(pairs) if isinstance(pairs, int) else pairs
    rows = []
    for number, pair in enumerate(pairs):
        s1_time, s2_time = pair.datetimes.get("s1", S1_TIME), pair.datetimes.get("s2", S2_TIME)
        row, col = place(number)
        tile = f"S2A_MSIL2A_{s2_time:%Y%m%dT%H%M%S}_N9999_R022_T{TILE}"
        scene = f"S1A_IW_GRDH_1SDV_{s1_time:%Y%m%dT%H%M%S}"
        s2_name, s1_name = f"{tile}_{row:02}_{col:02}", f"{scene}_{TILE}_{row}_{col}"
        _write_images(
            pair, root / "BigEarthNet-S1" / scene / s1_name, root / "BigEarthNet-S2" / tile / s2_name, number, 0
        )
        reference = root / "Reference_Maps" / tile / s2_name
        reference.mkdir(parents=True)
        write_band(reference / f"{s2_name}_reference_map.tif", np.full((120, 120), 211, "uint16"), number)
        rows.append(
            {
                "patch_id": s2_name,
                "labels": list(pair.labels or ()),
                "split": pair.split,
                "country": "Austria",
                "s1_name": s1_name,
                "s2v1_name": f"S2A_MSIL2A_{s2_time:%Y%m%dT%H%M%S}_{row}_{col}",
                "contains_seasonal_snow": False,
                "contains_cloud_or_shadow": number % 2 == 1,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")
    return [row["patch_id"] for row in rows]


def _write_images(pair: Pair, s1_folder: Path, s2_folder: Path, number: int, s2_nodata: float | None) -> None:
    for folder, modality, nodata in ((s1_folder, sentinel1(), None), (s2_folder, sentinel2(), s2_nodata)):
        folder.mkdir(parents=True)
        for group in modality.groups:
            for band, pixels in zip(group.band_names, pair.images[group.name], strict=True):
                write_band(folder / f"{folder.name}_{band}.tif", pixels, number, nodata)


@pytest.fixture(scope="session")
def bigearthnet_v1() -> FolderWriter:
    """:func:`write_v1`: make a version 1 folder of pairs."""
    return write_v1


@pytest.fixture(scope="session")
def bigearthnet_v2() -> FolderWriter:
    """:func:`write_v2`: make a version 2 folder of pairs."""
    return write_v2


@pytest.fixture(scope="session")
def noise_pairs() -> Callable[[int], list[Pair]]:
    """:func:`random_pairs`: pairs of noise, 120 pixels at 10 m."""
    return random_pairs


@pytest.fixture(scope="session")
def band_writer() -> Callable[..., None]:
    """:func:`write_band`: one band as a GeoTIFF."""
    return write_band

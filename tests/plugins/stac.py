"""Small STAC catalogues as providers lay them out: cloud-optimised GeoTIFFs, and items written by pystac."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds, transform_geom

from sscm.archive.schema import Pair
from sscm.archive.sources.stac import StacSource
from sscm.archive.validate import validate_pair
from sscm.config import StacConfig
from sscm.errors import PairError

CRS = "EPSG:32633"
LEFT, TOP = 399_960, 5_300_040
"""Corner of tile 33TVN: on the 60 m grid of Sentinel-2, not on that of patches."""
SIDE = 480
"""Pixels of 10 m."""
PATCH = 120
"""Pixels of 10 m of the patches that most tests cut."""
SKIPPED = 84
"""Pixels before the first multiple of 1,200 m, both ways."""
METRES = {"B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10}
METRES |= {"B8A": 20, "B09": 60, "B11": 20, "B12": 20}
TAKEN = datetime(2022, 6, 1, 10, 0, tzinfo=UTC)
RASTER_10000 = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": 0}
LINEAR = {"nodata": -32768, "data_type": "float32", "unit": "linear"}
DECIBEL = {"data_type": "float32", "unit": "dB", "nodata": "nan"}


def smooth(seed: int, height: int, width: int, step: int = 12) -> np.ndarray[Any, Any]:
    """float64 [height, width] around 0, of about unit spread, that changes over ``step`` pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(height // step + 3, width // step + 3))
    rows, cols = np.arange(height) / step, np.arange(width) / step
    r, c = rows.astype(int), cols.astype(int)
    fr, fc = (rows - r)[:, None], (cols - c)[None]
    upper = coarse[r][:, c] * (1 - fc) + coarse[r][:, c + 1] * fc
    lower = coarse[r + 1][:, c] * (1 - fc) + coarse[r + 1][:, c + 1] * fc
    return np.asarray(upper * (1 - fr) + lower * fr)


def write_cog(path: Path, pixels: np.ndarray[Any, Any], crs: str, transform: Affine, nodata: float | None) -> None:
    """Write pixels [height, width] or [bands, height, width] as a cloud-optimised GeoTIFF."""
    bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype,
        crs=crs, transform=transform, nodata=nodata, blocksize=128, compress="deflate",
    ) as file:  # fmt: skip
        file.write(bands)


def make_item(item_id: str, geometry: Any, taken: datetime, collection: str, properties: dict[str, Any]) -> pystac.Item:
    """An item without assets."""
    outline = shapely.geometry.shape(geometry)
    return pystac.Item(item_id, geometry, list(outline.bounds), taken, properties, collection=collection)


def add_s2(
    folder: Path,
    item_id: str = "S2A_33TVN_20220601_0_L2A",
    *,
    taken: datetime = TAKEN,
    left: float = LEFT,
    top: float = TOP,
    side: int = SIDE,
    seed: int = 1,
    raster: dict[str, Any] | None = RASTER_10000,
    proj: bool = True,
    shift: int = 0,
    **properties: Any,
) -> pystac.Item:
    """Write the twelve bands of a Sentinel-2 image; pixels are reflectance × 10⁴ plus ``shift``."""
    bounds = (left, top - side * 10, left + side * 10, top)
    geometry = transform_geom(CRS, "EPSG:4326", shapely.geometry.mapping(shapely.box(*bounds)))
    about = {"platform": "sentinel-2a", "eo:cloud_cover": 12.5, "grid:code": "MGRS-33TVN"}
    item = make_item(item_id, geometry, taken, "sentinel-2-l2a", about | properties)
    for number, (band, metres) in enumerate(METRES.items()):
        size = side * 10 // metres
        values = 1500 + 400 * smooth(seed * 100 + number, size, size) + shift
        transform = Affine(metres, 0, left, 0, -metres, top)
        path = folder / item_id / f"{band}.tif"
        write_cog(path, np.clip(values, 1, 10000).astype(np.uint16), CRS, transform, 0)
        fields: dict[str, Any] = {} if raster is None else {"raster:bands": [raster]}
        if proj:
            fields |= {"proj:code": CRS, "proj:shape": [size, size], "proj:transform": list(transform)[:6]}
        item.add_asset(band, pystac.Asset(str(path), media_type=pystac.MediaType.COG, extra_fields=fields))
    return item


def add_s1(
    folder: Path,
    item_id: str = "S1A_IW_GRDH_1SDV_20220602",
    *,
    taken: datetime = TAKEN + timedelta(hours=19),
    crs: str = "EPSG:4326",
    bounds: tuple[float, float, float, float] = (LEFT - 500, TOP - 5300, LEFT + 5300, TOP + 500),
    seed: int = 7,
    raster: dict[str, Any] | None = LINEAR,
    decibel: bool = False,
    no_data_east: float = 0.0,
    **properties: Any,
) -> pystac.Item:
    """Write VV and VH of a Sentinel-1 image that covers a rectangle of zone 33, in any reference system."""
    left, bottom, right, top = transform_bounds(CRS, crs, *bounds)
    step, across = (9e-5, 1.34e-4) if crs == "EPSG:4326" else (10.0, 10.0)  # about 10 m
    height, width = int((top - bottom) / step), int((right - left) / across)
    transform = Affine(across, 0, left, 0, -step, top)
    outline = shapely.geometry.mapping(shapely.box(*bounds))
    geometry = transform_geom(CRS, "EPSG:4326", outline)
    about = {"platform": "sentinel-1a", "sat:orbit_state": "ascending", "sat:relative_orbit": 44}
    item = make_item(item_id, geometry, taken, "sentinel-1-rtc", about | properties)
    for number, band in enumerate(("VV", "VH")):
        values = -11 - 6 * number + 2 * smooth(seed + number, height, width)
        values = values if decibel else 10 ** (values / 10)
        nodata = np.nan if decibel else -32768.0
        values[:, width - int(width * no_data_east) :] = nodata
        path = folder / item_id / f"{band.lower()}.tif"
        write_cog(path, values.astype(np.float32), crs, transform, nodata)
        fields: dict[str, Any] = {} if raster is None else {"raster:bands": [raster]}
        item.add_asset(band.lower(), pystac.Asset(str(path), media_type=pystac.MediaType.COG, extra_fields=fields))
    return item


def write_catalog(folder: Path, *items: pystac.Item) -> str:
    """A self-contained catalogue with relative links and hrefs; the path of its root."""
    catalog = pystac.Catalog("test", "A catalogue of tests")
    copies = [item.clone() for item in items]
    catalog.add_items(copies)
    catalog.normalize_hrefs(str(folder))
    for item in copies:
        item.make_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
    return str(folder / "catalog.json")


def source_of(folder: Path, *items: pystac.Item, **options: Any) -> StacSource:
    """The source of a catalogue of items, written to a folder."""
    return StacSource(StacConfig(catalog=write_catalog(folder, *items), **options))


def read_all(source: StacSource) -> tuple[dict[str, Pair], dict[str, PairError]]:
    """All pairs by id, as a worker reads them, and the errors of references that cannot be read, by key."""
    pairs: dict[str, Pair] = {}
    errors: dict[str, PairError] = {}
    refs = source.plan()
    source = pickle.loads(pickle.dumps(source))
    for ref in refs:
        try:
            for pair in source.read(ref):
                validate_pair(pair, source.modalities, pair.pair_id)
                assert pair.split == ref.split
                assert pair.pair_id not in pairs
                pairs[pair.pair_id] = pair
        except PairError as error:
            assert error.pair_id == ref.key
            errors[ref.key] = error
    return pairs, errors


def slow_backscatter(path: Path, left: float, top: float, rows: int, cols: int) -> np.ndarray[Any, Any]:
    """Decibels by the definition of bilinear interpolation in power, a pixel centre at a time."""
    with rasterio.open(path) as file:
        power, t, crs = file.read(1).astype(float), file.transform, file.crs
    xs = left + 10 * (np.arange(cols) + 0.5)
    ys = top - 10 * (np.arange(rows) + 0.5)
    grid_x, grid_y = np.meshgrid(xs, ys)
    there_x, there_y = transform(CRS, crs, grid_x.ravel(), grid_y.ravel())
    px, py = (np.array(there_x) - t.c) / t.a - 0.5, (np.array(there_y) - t.f) / t.e - 0.5
    c, r = np.floor(px).astype(int), np.floor(py).astype(int)
    fc, fr = px - c, py - r
    upper = power[r, c] * (1 - fc) + power[r, c + 1] * fc
    lower = power[r + 1, c] * (1 - fc) + power[r + 1, c + 1] * fc
    return np.asarray(10 * np.log10(upper * (1 - fr) + lower * fr)).reshape(rows, cols)

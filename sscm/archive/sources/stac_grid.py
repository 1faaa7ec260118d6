"""The grid that patches are cut on: multiples of a patch's side in a UTM zone, the same for every image of a place.

Tiles of one zone overlap, and are seen again and again. Since patches and blocks are counted from the zone's origin and
not from a tile's corner, a place has the same patches and the same block, hence the same split, in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import rasterio
import shapely
from rasterio.errors import CRSError
from rasterio.transform import Affine

from sscm.archive.schema import Image
from sscm.archive.sources.footprint import footprint
from sscm.archive.sources.image_file import ImageFile
from sscm.archive.sources.stac_bands import BandAsset
from sscm.archive.sources.stac_raster import open_raster
from sscm.errors import PairError

METRES = 10
"""Pixel of the grid: that of the finest bands."""
BLOCK = 10
"""Rows and columns of patches in a block: 12 × 12 km at 120 pixels, few enough to hold and many enough for one read."""


@dataclass(frozen=True)
class Window:
    """A rectangle of patches of an image.

    Args:
        row: first row of patches, from the first whole one of the image.
        col: first column.
        rows: rows of patches.
        cols: columns of patches.
    """

    row: int
    col: int
    rows: int = 1
    cols: int = 1


@dataclass(frozen=True)
class TileGrid:
    """The 10 m pixel grid of an image.

    Args:
        crs: coordinate reference system in metres, as ``EPSG:32633`` or WKT.
        left: x of the left edge, metres.
        top: y of the upper edge, metres.
        height: rows, pixels.
        width: columns, pixels.
        pixels: rows and columns of a patch.
    """

    crs: str
    left: float
    top: float
    height: int
    width: int
    pixels: int

    @property
    def _skipped(self) -> tuple[int, int]:
        """Rows and columns of pixels before the first whole patch."""
        return round(self.top / METRES) % self.pixels, round(-self.left / METRES) % self.pixels

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        rows, cols = self._skipped
        return max(0, (self.height - rows) // self.pixels), max(0, (self.width - cols) // self.pixels)

    def corner(self, window: Window) -> tuple[float, float]:
        """``(left, top)`` of a rectangle of patches, metres."""
        rows, cols = self._skipped
        return (
            self.left + (cols + window.col * self.pixels) * METRES,
            self.top - (rows + window.row * self.pixels) * METRES,
        )

    def blocks(self) -> Iterator[tuple[str, Window]]:
        """Name of the place in its zone, the same in every image, and the block's patches in this image."""
        left, top = self.corner(Window(0, 0))
        side = self.pixels * METRES
        first_row, first_col = round(-top / side), round(left / side)
        rows, cols = self.patches
        for block_row, row, row_count in _cuts(first_row, rows):
            for block_col, col, col_count in _cuts(first_col, cols):
                yield f"{self.crs}/{side}/{block_row}/{block_col}", Window(row, col, row_count, col_count)

    def footprint(self, window: Window) -> bytes:
        """WKB in longitude and latitude of a rectangle of patches.

        Raises:
            PairError: the reference system has no place on Earth.
        """
        left, top = self.corner(window)
        image = ImageFile(
            path=self.crs,
            bands=1,
            height=window.rows * self.pixels,
            width=window.cols * self.pixels,
            read=_nothing,
            crs=self.crs,
            transform=Affine(METRES, 0, left, 0, -METRES, top),
        )
        return footprint(image)


@lru_cache(maxsize=4096)
def block_footprints(grid: TileGrid) -> npt.NDArray[Any]:
    """Footprints of a grid's blocks in order, shapely geometries [blocks]; kept, since tiles are seen again and again.

    Raises:
        PairError: the reference system has no place on Earth.
    """
    outlines = [shapely.from_wkb(grid.footprint(window)) for _, window in grid.blocks()]
    return np.array(outlines, object)


def grid_of(item: pystac.Item, band: BandAsset, pixels: int) -> TileGrid:
    """The grid of a Sentinel-2 item: by the proj extension where it tells all, else by the file of a 10 m band.

    Args:
        item: the item.
        band: a band of 10 m, an asset of the item.
        pixels: rows and columns of a patch.

    Raises:
        PairError: the file cannot be read, or has no grid of 10 m in metres.
    """
    told = _told(item, band.href)
    if told is not None:
        crs, transform, (height, width) = told
    else:
        with open_raster(band.href) as file:
            crs, transform, (height, width) = file.crs.to_string(), file.transform, file.shape
    try:
        known = rasterio.CRS.from_user_input(crs)
        crs = known.to_string()  # one spelling, since places are named by it
    except CRSError as error:
        raise PairError(f"item {item.id}", f"reference system {crs!r}", "one that PROJ knows, as EPSG:32633") from error
    square = (abs(transform.a - METRES), abs(transform.e + METRES), abs(transform.b), abs(transform.d))
    if not known.is_projected or max(square) > 1e-6 or transform.c % METRES or transform.f % METRES:
        seen = f"pixels of {transform.a:g} × {-transform.e:g} from ({transform.c:g}, {transform.f:g}) in {crs}"
        raise PairError(f"item {item.id}", seen, "the UTM grid of Sentinel-2: 10 m pixels at multiples of 10 m")
    return TileGrid(crs, transform.c, transform.f, height, width, pixels)


def _told(item: pystac.Item, href: str) -> tuple[str, Affine, Sequence[int]] | None:
    """Reference system, transform and shape by the proj extension, or None where one is not told."""
    asset = next((asset for asset in item.assets.values() if asset.href == href), None)
    fields = {**item.properties, **(asset.extra_fields if asset else {})}
    code = fields.get("proj:code") or (f"EPSG:{fields['proj:epsg']}" if fields.get("proj:epsg") else None)
    transform, shape = fields.get("proj:transform"), fields.get("proj:shape")
    if not code or not transform or not shape:
        return None
    try:
        told = str(code), Affine(*map(float, transform[:6])), [int(side) for side in shape]
    except (TypeError, ValueError):
        return None
    return told if len(told[2]) == 2 and told[1].a == METRES else None


def _cuts(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``count`` patches, numbered from ``first`` in the zone, into blocks: block, first patch here, patches."""
    start = 0
    while start < count:
        block = (first + start) // BLOCK
        stop = min(count, (block + 1) * BLOCK - first)
        yield block, start, stop - start
        start = stop


def _nothing(first: int, last: int) -> Image:
    return np.empty((0, last - first, 0))

"""Which Sentinel-1 images a Sentinel-2 image is paired with: block by block, by place and then by time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from sscm.archive.sources.base import PairRef, split_by_hash
from sscm.archive.sources.stac_grid import TileGrid, block_footprints
from sscm.errors import ArchiveError

CANDIDATES = 4
"""Most images that a block is looked for in: a block at the seam of two frames needs both, a revisit few more."""
_SHOWN = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An item, as far as pairing wants to know it.

    Args:
        item_id: its id.
        time: when it was taken.
        outline: shapely geometry of its footprint, longitude and latitude.
        record: what reading needs, JSON values only.
        grid: Sentinel-2: the grid that patches are cut on.
    """

    item_id: str
    time: datetime
    outline: Any
    record: Mapping[str, Any]
    grid: TileGrid | None = None


def pair_blocks(s2: Sequence[Sighting], s1: Sequence[Sighting], max_days: float) -> list[PairRef]:
    """One reference a block of a Sentinel-2 image that Sentinel-1 saw within the time.

    A block's candidates are ordered by time: each patch is later taken from the first that has data in all of it.

    Args:
        s2: optical images, each with a grid.
        s1: radar images.
        max_days: most days between the two, either way.

    Returns:
        References with ``s2`` and ``s1`` (records), ``grid`` and ``window`` (rectangle of patches); the split depends
        on the block's place alone, so that all images of it are in one.

    Raises:
        ArchiveError: no image of one overlaps one of the other, or none within the time.
        PairError: a grid without a place on Earth.
    """
    tree = shapely.STRtree([image.outline for image in s1])
    refs: list[PairRef] = []
    alone: list[str] = []
    nearest: timedelta | None = None
    for image in s2:
        near = [s1[int(index)] for index in tree.query(image.outline, predicate="intersects")]
        gaps = sorted((abs(other.time - image.time), other.item_id, other) for other in _unique(near))
        if gaps:
            nearest = gaps[0][0] if nearest is None else min(nearest, gaps[0][0])
        usable = [other for gap, _, other in gaps if gap <= timedelta(days=max_days)]
        found = _refs(image, usable) if usable else []
        refs += found
        if not found:
            alone.append(image.item_id)
    if not refs:
        raise ArchiveError(_nothing(s2, s1, nearest, max_days))
    if alone:
        logger.warning(
            "%d of %d Sentinel-2 items have no Sentinel-1 item of their place within %g days (%s%s)",
            *(len(alone), len(s2), max_days, ", ".join(alone[:_SHOWN]), ", …" if len(alone) > _SHOWN else ""),
        )
    return refs


def _refs(image: Sighting, others: Sequence[Sighting]) -> list[PairRef]:
    """References to an image's blocks that any of the others, ordered by time, touches."""
    if image.grid is None:
        return []
    blocks = list(image.grid.blocks())
    outlines = block_footprints(image.grid)
    seen = _touches(outlines, image.outline)
    touched = np.array([_touches(outlines, other.outline) for other in others]) & seen  # [others, blocks]
    grid = list(dataclasses.astuple(image.grid))
    refs = []
    for (place, window), by in zip(blocks, touched.T, strict=True):
        records = [other.record for other, does in zip(others, by, strict=True) if does][:CANDIDATES]
        if records:
            refs.append(
                PairRef(
                    key=f"{image.item_id}_block_{window.row}_{window.col}",
                    split=split_by_hash(place),
                    args={
                        "s2": image.record,
                        "s1": records,
                        "grid": grid,
                        "window": list(dataclasses.astuple(window)),
                    },
                )
            )
    return refs


def _touches(outlines: npt.NDArray[Any], outline: Any) -> npt.NDArray[np.bool_]:
    shapely.prepare(outline)
    return np.asarray(shapely.intersects(outline, outlines), bool)


def _unique(images: Sequence[Sighting]) -> list[Sighting]:
    return list({image.item_id: image for image in images}.values())


def _nothing(s2: Sequence[Sighting], s1: Sequence[Sighting], nearest: timedelta | None, max_days: float) -> str:
    counts = f"{len(s2)} Sentinel-2 and {len(s1)} Sentinel-1 items"
    if nearest is None:
        return f"{counts}, none of which overlap; expected both of the same places"
    days = nearest.total_seconds() / 86400
    if days > max_days:
        return (
            f"{counts}, of which none that overlap were taken within {max_days:g} days: the nearest two are {days:.2f} "
            f"days apart; add items, or allow more by --max-days {np.ceil(days):g}"
        )
    return f"{counts} overlap, but in no whole patch; choose smaller patches by --pixels"

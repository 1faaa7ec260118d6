"""Size and place of an uploaded image: close enough to what the encoder knows, and the same for all of its bands.

A model has seen patches of one size. Images of other sizes are resampled, within limits: beyond a factor of four a
pixel is another thing than what was trained on, and the answers would mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.plane import Grid, Plane
from sscm.errors import QueryError
from sscm.sensors import BandGroup, Modality

FACTOR = 4
"""Rows and columns, and metres on the ground, may be so many times more or fewer than declared."""

ASPECT = 2
"""Rows may be stretched so many times as much as columns: square degrees at 60° north."""


def require_size(size: tuple[int, int], group: BandGroup, modality: Modality, where: str) -> None:
    """Check rows and columns of a band before it is decoded.

    Args:
        size: rows and columns.
        group: the band's group. A band may also come on the grid of the finest group, as bands of one file do.
        modality: what the image is of.
        where: file and band, for the message.

    Raises:
        QueryError: more than ``FACTOR`` times as many as the finest group declares, or as few as its own does.
    """
    (rows, columns), declared = size, (group.height, group.width)
    least = [-(-side // FACTOR) for side in declared]
    most = [side * FACTOR for side in (modality.height, modality.width)]
    stretched = (rows / group.height) / (columns / group.width) if rows and columns else 0.0
    fits = least[0] <= rows <= most[0] and least[1] <= columns <= most[1]
    if not fits or not 1 / ASPECT <= stretched <= ASPECT:
        at = f" at {group.metres:g} m" if group.metres else ""
        raise QueryError(
            f"{where}: {rows} × {columns} pixels; expected {group.height} × {group.width}{at}, or what can be "
            f"resampled to that: {least[0]} to {most[0]} rows and {least[1]} to {most[1]} columns, of about these "
            "proportions; cut or resample the image"
        )


def require_one_place(planes: Sequence[Plane], modality: Modality) -> None:
    """Check that all bands show one place, of about the size that the model knows.

    Footprints, where files have a georeference, may differ by a pixel of the coarser band: that much comes of cutting
    bands of 10 and 60 m by the same outline. Where they have none, the numbers of pixels decide: those of all bands are
    equal, or in proportion to the band groups'.

    Args:
        planes: the bands of the image, each of a size that :func:`require_size` lets pass.
        modality: what the image is of.

    Raises:
        QueryError: bands differ in place or in proportions, or their place is of another size than the model's patches.
    """
    group_of = {name: group for group in modality.groups for name in group.band_names}
    for plane in planes:
        if plane.grid is not None:
            _require_known_scale(plane.grid, group_of[plane.band], plane.where)
    placed = [(plane, plane.grid) for plane in planes if plane.grid is not None]
    if placed:
        finest, reference = min(placed, key=lambda each: each[1].pixel)
        for plane, grid in placed:
            _require_same_footprint(reference, grid, f"{plane.where} and {finest.where}")
    if len(placed) < len(planes):
        _require_proportions(planes, group_of, modality)


def _require_known_scale(grid: Grid, group: BandGroup, where: str) -> None:
    if not np.isfinite(grid.corners).all() or len(np.unique(grid.corners, axis=0)) < 4:
        raise QueryError(
            f"{where}: a georeference without extent, transform {list(grid.transform)}; correct or remove it"
        )
    ground = grid.metres
    if ground is None or group.metres is None:
        return
    known = group.height * group.metres, group.width * group.metres
    shares = [seen / right for seen, right in zip(ground, known, strict=True)]
    if not all(1 / FACTOR <= share <= FACTOR for share in shares):
        raise QueryError(
            f"{where}: covers {ground[0]:,.0f} × {ground[1]:,.0f} m by its georeference; expected about "
            f"{known[0]:,.0f} × {known[1]:,.0f} m, as the model's patches, and at most {FACTOR} times more or less; "
            "cut such a patch out"
        )


def _require_same_footprint(one: Grid, other: Grid, where: str) -> None:
    if one.crs != other.crs:
        raise QueryError(f"{where}: coordinate reference systems differ; expected all bands in one")
    apart = float(np.abs(one.corners - other.corners).max())
    tolerance = max(one.pixel, other.pixel)
    if not apart <= tolerance * (1 + 1e-6):
        raise QueryError(
            f"{where}: footprints differ by {apart:g} units of their coordinates; expected one place in all bands, "
            f"within a pixel ({tolerance:g}); cut all bands by one outline"
        )


def _require_proportions(planes: Sequence[Plane], group_of: dict[str, BandGroup], modality: Modality) -> None:
    if len({plane.pixels.shape for plane in planes}) == 1:
        return  # one grid for all bands
    for axis in (0, 1):
        lows, highs = [], []
        for plane in planes:
            declared = group_of[plane.band].shape[1 + axis]
            lows.append((plane.pixels.shape[axis] - 1) / declared)  # a cut through coarse pixels keeps one more or less
            highs.append((plane.pixels.shape[axis] + 1) / declared)
        if max(lows) >= min(highs):
            seen = {group_of[p.band].name: f"{p.pixels.shape[0]} × {p.pixels.shape[1]}" for p in planes}
            right = {group.name: f"{group.height} × {group.width}" for group in modality.groups}
            raise QueryError(
                f"image of {modality.name}: bands of {_listed(seen)} pixels; expected one size for all, or sizes in "
                f"proportion to {_listed(right)}"
            )


def _listed(sizes: dict[str, str]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())

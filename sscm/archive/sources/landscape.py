"""Landscapes: zones of land cover side by side, then roads, lakes, rivers and the sea across them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sscm.archive.sources import random_fields as fields
from sscm.archive.sources.land_cover import MARGIN, Ground, LandCover
from sscm.archive.sources.land_patterns import PAINTERS
from sscm.archive.sources.random_fields import Field
from sscm.archive.sources.simulated_scene import Scene
from sscm.archive.sources.surfaces import Surface


def draw_ground(rng: np.random.Generator, pixels: int, scene: Scene) -> Ground:
    """Draw the ground of one patch.

    Args:
        rng: source of randomness.
        pixels: rows and columns of the patch at 10 m, without margins.
        scene: the region's style and class mix.
    """
    ground = Ground(pixels + 2 * MARGIN)
    side = ground.side
    scale = pixels / 120
    bend = (fields.fractal_noise(rng, side, 48 * scale), fields.fractal_noise(rng, side, 48 * scale))
    zones, kinds = _zones(rng, side, scale, scene, bend)
    covers = np.take(np.array(kinds, np.int32), zones)
    for kind in dict.fromkeys(kinds):
        PAINTERS[kind](rng, ground, covers == kind, scene)
    if rng.random() < scene.region.roads:
        _road(rng, ground)
    if rng.random() < scene.region.lakes:
        _lake(rng, ground, scale)
    if rng.random() < scene.region.rivers:
        _river(rng, ground, scale)
    if rng.random() < scene.region.coast:
        _coast(rng, ground, scale, scene, bend[0])
    return ground


def _zones(
    rng: np.random.Generator, side: int, scale: float, scene: Scene, bend: tuple[Field, Field]
) -> tuple[npt.NDArray[np.int32], list[LandCover]]:
    """Zones grown around a few points, with winding borders, and the class of each."""
    columns, rows = fields.grid(side)
    count = int(rng.integers(2, 10))
    reach = np.float32(rng.uniform(2, 9) * scale)
    x, y = columns + bend[0] * reach, rows + bend[1] * reach
    at = rng.uniform(-0.55, 0.55, (count, 2)).astype(np.float32) * np.float32(side)
    nearest = (x - at[0, 0]) ** 2 + (y - at[0, 1]) ** 2
    zones = np.zeros((side, side), np.int32)
    for zone in range(1, count):
        distance = (x - at[zone, 0]) ** 2 + (y - at[zone, 1]) ** 2
        closer = distance < nearest
        np.copyto(nearest, distance, where=closer)
        np.copyto(zones, zone, where=closer)
    covers = list(scene.mix)
    # a patch has its own leaning: neighbours in one scene differ
    shares = np.array([scene.mix[cover] for cover in covers]) * rng.gamma(0.7, 1.0, len(covers)) + 1e-9
    return zones, [covers[i] for i in rng.choice(len(covers), count, p=shares / shares.sum())]


def _road(rng: np.random.Generator, ground: Ground) -> None:
    """A road or two of one or two pixels."""
    for _ in range(int(rng.integers(1, 3))):
        off = fields.course(rng, ground.side, rng.uniform(0, math.pi), rng.uniform(1, 6), rng.uniform(40, 90))
        near = np.abs(off) < np.float32(rng.choice((0.6, 0.8, 1.3)))
        ground.fill_across(near, Surface.ASPHALT if rng.random() < 0.6 else Surface.TRACK)


def _river(rng: np.random.Generator, ground: Ground, scale: float) -> None:
    """A river with trees on its banks."""
    sway, cell, half = rng.uniform(2, 14) * scale, rng.uniform(18, 45) * scale, rng.lognormal(1.0, 0.55)
    off = fields.course(rng, ground.side, rng.uniform(0, math.pi), sway, cell)
    off += fields.smooth_noise(rng, ground.side, 8) * np.float32(0.5)
    distance = np.abs(off)
    if rng.random() < 0.6:
        trees = distance < np.float32(half + rng.uniform(1.5, 4))
        trees &= fields.smooth_noise(rng, ground.side, 7) > rng.uniform(-0.8, 0.6)
        ground.fill_across(trees, Surface.BROADLEAF)
    ground.fill(distance < np.float32(half), LandCover.INLAND_WATERS, Surface.RIVER)


def _lake(rng: np.random.Generator, ground: Ground, scale: float) -> None:
    """One to four lakes with ragged shores, perhaps with reeds."""
    columns, rows = fields.grid(ground.side)
    ragged = fields.fractal_noise(rng, ground.side, 24 * scale)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.5, 0.5, 2) * ground.side
        radius = min(rng.lognormal(2.4, 0.6), 45.0) * scale
        stretch = np.float32(rng.uniform(0.5, 2.0))
        distance = np.sqrt((columns - np.float32(x)) ** 2 * stretch + (rows - np.float32(y)) ** 2 / stretch)
        distance += ragged * np.float32(0.35 * radius)
        if rng.random() < 0.4:
            reeds = distance < np.float32(radius + rng.uniform(2, 8) * scale)
            ground.fill(reeds, LandCover.INLAND_WETLANDS, Surface.REED)
        ground.fill(distance < np.float32(radius), LandCover.INLAND_WATERS, Surface.LAKE)


def _coast(rng: np.random.Generator, ground: Ground, scale: float, scene: Scene, ragged: Field) -> None:
    """The sea on one side, behind a beach or a salt marsh."""
    _, across = fields.turned(ground.side, scene.coast_angle + rng.normal(0, 0.25))
    depth = across + ragged * np.float32(rng.uniform(1, 9) * scale)
    depth -= np.float32(rng.uniform(-0.55, 0.45) * ground.side)
    kind = rng.choice(3, p=(0.45, 0.35, 0.2))
    if kind < 2:
        cover = (LandCover.BEACHES, LandCover.COASTAL_WETLANDS)[kind]
        width = (rng.uniform(3, 14), rng.uniform(12, 50))[kind] * scale
        PAINTERS[cover](rng, ground, depth > np.float32(-width), scene)
    ground.fill(depth > 0, LandCover.MARINE_WATERS, Surface.SEA)

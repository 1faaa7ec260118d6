"""How each class of simulated land cover looks from above: parcels, rows of trees, street grids, stands, pools.

Classes share surfaces, and so colours: an orchard, an agro-forestry area and an open wood differ by how their trees
stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sscm.archive.sources import random_fields as fields
from sscm.archive.sources.land_cover import Ground, LandCover
from sscm.archive.sources.random_fields import Cells, Mask
from sscm.archive.sources.simulated_scene import Scene
from sscm.archive.sources.surfaces import Surface

Painter = Callable[[np.random.Generator, Ground, Mask, Scene], None]

_ARABLE_STAGES = (
    Surface.GREEN_CROP,
    Surface.TALL_CROP,
    Surface.RIPE_CROP,
    Surface.STUBBLE,
    Surface.SOIL,
    Surface.GRASS,
)
"""Surfaces of arable land, in the order of ``Scene.crops``."""


def _crops(rng: np.random.Generator, scene: Scene, count: int) -> list[Surface]:
    """Surfaces of some fields in the stage of the scene's season."""
    shares = np.asarray(scene.crops)
    return [_ARABLE_STAGES[i] for i in rng.choice(len(shares), count, p=shares / shares.sum())]


def _pick(rng: np.random.Generator, weights: dict[Surface, float], count: int) -> list[Surface]:
    surfaces = list(weights)
    shares = np.array(list(weights.values()))
    return [surfaces[i] for i in rng.choice(len(surfaces), count, p=shares / shares.sum())]


def _direction(rng: np.random.Generator, scene: Scene) -> float:
    return scene.angle + float(rng.normal(0, scene.angle_spread))


def _cells(rng: np.random.Generator, ground: Ground, scene: Scene, size: float) -> Cells:
    """Parcels in the style of the scene, ``size`` times its usual width."""
    width = max(scene.parcel * size * rng.lognormal(0, 0.2), 3.0)
    bend = fields.smooth_noise(rng, ground.side, 40) * np.float32(rng.uniform(0.3, 3.0))
    return fields.parcels(rng, ground.side, _direction(rng, scene), width, width * scene.stretch, bend)


def _deal(rng: np.random.Generator, cells: Cells, first: int, count: int) -> npt.NDArray[np.intp]:
    """Unit at each pixel: cells are dealt to ``count`` units, from number ``first``."""
    return np.take(rng.integers(first, first + count, 1021, np.intp), cells % 1021)


def _borders(
    rng: np.random.Generator, ground: Ground, where: Mask, cells: Cells, cover: LandCover, hedges: float
) -> None:
    """Hedges, with gaps, on some borders of the cells; now and then a track."""
    edges = fields.edges_of(cells) & where
    chance = fields.smooth_noise(rng, ground.side, 9)
    if hedges > 0.1:
        # a normal deviate exceeds 1.6 − 2.8·h in about a share h of the pixels
        ground.fill(edges & (chance > np.float32(1.6 - 2.8 * hedges)), cover, Surface.BROADLEAF)
    if rng.random() < 0.4:
        ground.fill(edges & (chance < -1.0), cover, Surface.TRACK)


def _farmsteads(rng: np.random.Generator, ground: Ground, where: Mask, cover: LandCover, count: int) -> None:
    """A few houses with their yards and trees."""
    for _ in range(count):
        row, column = rng.integers(2, ground.side - 6, 2)
        if where[row, column]:
            spot = np.zeros_like(where)
            spot[row - 2 : row + 4, column - 2 : column + 4] = rng.random((6, 6)) < 0.6
            ground.fill(spot & where, cover, Surface.GARDEN)
            spot[...] = False
            spot[row : row + int(rng.integers(1, 3)), column : column + int(rng.integers(2, 4))] = True
            ground.fill(spot & where, cover, Surface.GREY_ROOF, float(rng.uniform(0, 5)))


def _arable(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 1.0)
    first = ground.units(LandCover.ARABLE, _crops(rng, scene, 16))
    ground.paint(where, _deal(rng, cells, first, 16))
    _borders(rng, ground, where, cells, LandCover.ARABLE, scene.hedges * 0.6)
    _farmsteads(rng, ground, where, LandCover.ARABLE, int(rng.integers(0, 3)))


def _pastures(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 1.1)
    kinds = _pick(rng, {Surface.GRASS: 8, Surface.DRY_GRASS: 2, Surface.STUBBLE: 0.5}, 8)
    ground.paint(where, _deal(rng, cells, ground.units(LandCover.PASTURES, kinds), 8))
    _borders(rng, ground, where, cells, LandCover.PASTURES, scene.hedges)
    _farmsteads(rng, ground, where, LandCover.PASTURES, int(rng.integers(0, 4)))


def _complex(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 0.38)
    kinds = _crops(rng, scene, 12) + _pick(rng, {Surface.GARDEN: 3, Surface.GRASS: 2, Surface.BROADLEAF: 1}, 6)
    ground.paint(where, _deal(rng, cells, ground.units(LandCover.COMPLEX, kinds), 18))
    _farmsteads(rng, ground, where, LandCover.COMPLEX, int(rng.integers(2, 9)))


def _agri_natural(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 0.7)
    kinds = _crops(rng, scene, 6) + _pick(rng, {Surface.GRASS: 2, Surface.DRY_GRASS: 1}, 5)
    ground.paint(where, _deal(rng, cells, ground.units(LandCover.AGRI_NATURAL, kinds), 11))
    woods = where & (fields.fractal_noise(rng, ground.side, 20) > np.float32(rng.uniform(0.1, 0.7)))
    ground.fill(woods, LandCover.AGRI_NATURAL, Surface.BROADLEAF if rng.random() < 0.6 else Surface.SHRUB)
    _borders(rng, ground, where, cells, LandCover.AGRI_NATURAL, scene.hedges)


def _permanent_crops(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 0.9)
    rows = fields.rows_of_plants(rng, cells, float(rng.uniform(2.8, 4.2)))
    trees = ground.units(LandCover.PERMANENT_CROPS, _pick(rng, {Surface.SHRUB: 2, Surface.BROADLEAF: 3}, 5))
    floor = ground.units(
        LandCover.PERMANENT_CROPS, _pick(rng, {Surface.SOIL: 2, Surface.DRY_GRASS: 1, Surface.GRASS: 2}, 5)
    )
    ground.paint(where, _deal(rng, cells, floor, 5))
    ground.paint(where & (rows > np.float32(rng.uniform(0.4, 0.6))), _deal(rng, cells, trees, 5))
    _farmsteads(rng, ground, where, LandCover.PERMANENT_CROPS, int(rng.integers(0, 3)))


def _agro_forestry(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cells = _cells(rng, ground, scene, 2.0)
    kinds = _crops(rng, scene, 3) + _pick(rng, {Surface.GRASS: 1, Surface.DRY_GRASS: 1}, 3)
    ground.paint(where, _deal(rng, cells, ground.units(LandCover.AGRO_FORESTRY, kinds), 6))
    trees = fields.scattered(rng, ground.side, float(rng.uniform(0.06, 0.16)))
    ground.fill(where & trees, LandCover.AGRO_FORESTRY, Surface.BROADLEAF if rng.random() < 0.6 else Surface.CONIFER)


def _forest(
    rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene, cover: LandCover, kinds: list[Surface]
) -> None:
    """Stands of trees with ragged borders, clear-cuts and glades, and a track."""
    cells = _cells(rng, ground, scene, float(rng.uniform(1.2, 2.2)))
    ground.paint(where, _deal(rng, cells, ground.units(cover, kinds), len(kinds)))
    if rng.random() < 0.5:
        glades = fields.fractal_noise(rng, ground.side, 16) > np.float32(rng.uniform(1.3, 2.0))
        ground.fill(where & glades, cover, _pick(rng, {Surface.GRASS: 1, Surface.SHRUB: 1}, 1)[0])
    if rng.random() < 0.5:
        off = fields.course(rng, ground.side, rng.uniform(0, math.pi), 6.0, 30.0)
        ground.fill(where & (np.abs(off) < 0.6), cover, Surface.TRACK)


def _broadleaved(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    _forest(rng, ground, where, scene, LandCover.BROADLEAVED, [Surface.BROADLEAF] * 4)


def _coniferous(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    cleared = _pick(rng, {Surface.CONIFER: 6, Surface.SHRUB: 2, Surface.STUBBLE: 1}, 4)
    _forest(rng, ground, where, scene, LandCover.CONIFEROUS, [Surface.CONIFER] * 5 + cleared)


def _mixed_forest(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    _forest(rng, ground, where, scene, LandCover.MIXED_FOREST, [Surface.BROADLEAF] * 3)
    conifers = fields.fractal_noise(rng, ground.side, 14) > np.float32(rng.uniform(-0.4, 0.4))
    ground.fill(where & conifers, LandCover.MIXED_FOREST, Surface.CONIFER)


def _mosaic(
    rng: np.random.Generator, ground: Ground, where: Mask, cover: LandCover, grain: float, kinds: list[Surface]
) -> None:
    """Surfaces in winding bands between thresholds of one noise."""
    noise = fields.fractal_noise(rng, ground.side, grain)
    first = ground.units(cover, kinds)
    bounds = np.sort(rng.normal(0, 0.8, len(kinds) - 1)).astype(np.float32)
    ground.paint(where, first)
    for number, bound in enumerate(bounds, 1):
        ground.paint(where & (noise > bound), first + number)


def _natural_grass(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    kinds = [Surface.DRY_GRASS, Surface.GRASS, Surface.GRASS, Surface.DRY_GRASS]
    _mosaic(rng, ground, where, LandCover.NATURAL_GRASS, 30, kinds)
    if rng.random() < 0.3 + 0.5 * scene.relief:
        crags = fields.fractal_noise(rng, ground.side, 12) > np.float32(rng.uniform(0.9, 1.8))
        ground.fill(where & crags, LandCover.NATURAL_GRASS, Surface.ROCK)


def _moors(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    _mosaic(rng, ground, where, LandCover.MOORS, 22, [Surface.HEATH, Surface.DRY_GRASS, Surface.HEATH, Surface.SHRUB])


def _transitional(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    kinds = [Surface.GRASS, Surface.SHRUB, Surface.BROADLEAF, Surface.SHRUB, Surface.CONIFER]
    _mosaic(rng, ground, where, LandCover.TRANSITIONAL, 10, kinds)


def _beaches(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    ground.fill(where, LandCover.BEACHES, Surface.SAND)
    dunes = fields.fractal_noise(rng, ground.side, 9) > np.float32(rng.uniform(0.6, 1.6))
    ground.fill(where & dunes, LandCover.BEACHES, Surface.DRY_GRASS)


def _inland_wetlands(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    kinds = [Surface.GRASS, Surface.REED, Surface.HEATH, Surface.FLOODED_REED, Surface.REED]
    _mosaic(rng, ground, where, LandCover.INLAND_WETLANDS, 20, kinds)
    pools = fields.fractal_noise(rng, ground.side, 9) > np.float32(rng.uniform(1.1, 1.9))
    ground.fill(where & pools, LandCover.INLAND_WETLANDS, Surface.LAKE)


def _coastal_wetlands(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    _mosaic(rng, ground, where, LandCover.COASTAL_WETLANDS, 26, [Surface.MUD, Surface.SALT_MARSH, Surface.SALT_MARSH])
    creeks = np.abs(fields.fractal_noise(rng, ground.side, 26)) < np.float32(rng.uniform(0.05, 0.16))
    ground.fill(where & creeks, LandCover.COASTAL_WETLANDS, Surface.MUD if rng.random() < 0.5 else Surface.SEA)


def _walls_db(angle: float, scene: Scene) -> float:
    """Double bounce of walls along a street grid, dB: strong where they face the radar, gone 20° beside it."""
    off = (angle - scene.look + math.pi / 4) % (math.pi / 2) - math.pi / 4
    return 7.0 * math.exp(-((off / math.radians(12)) ** 2))


def _urban(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    angle = _direction(rng, scene)
    spacing = float(rng.uniform(5, 11))
    bend = fields.smooth_noise(rng, ground.side, 40) * np.float32(rng.choice((0.3, 2.5)))
    blocks = fields.parcels(rng, ground.side, angle, spacing, spacing * rng.uniform(1.2, 2.5), bend)
    walls = _walls_db(angle, scene)
    ground.fill(where, LandCover.URBAN, Surface.GARDEN)
    roofs = _pick(rng, {Surface.RED_ROOF: 3, Surface.GREY_ROOF: 2}, 4)
    # old centres are dense, suburbs are gardens: density from block to block, and falling across the town
    density = np.take(rng.uniform(0.25, 0.9, 1021).astype(np.float32), blocks % 1021)
    density += fields.smooth_noise(rng, ground.side, 40) * np.float32(0.15)
    built = where & (rng.random(where.shape, np.float32) < density)
    ground.paint(built, _deal(rng, blocks, ground.units(LandCover.URBAN, roofs, walls), len(roofs)))
    if rng.random() < 0.6:
        parks = where & (blocks % 17 == 0)
        ground.fill(parks, LandCover.URBAN, Surface.GRASS if rng.random() < 0.5 else Surface.BROADLEAF)
    ground.fill(where & fields.edges_of(blocks), LandCover.URBAN, Surface.ASPHALT)


def _industry(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    angle = _direction(rng, scene)
    plots = fields.parcels(rng, ground.side, angle, float(rng.uniform(11, 20)), float(rng.uniform(14, 28)))
    kinds = _pick(rng, {Surface.YARD: 4, Surface.ASPHALT: 3, Surface.GRASS: 1.5, Surface.SOIL: 1}, 6)
    ground.paint(where, _deal(rng, plots, ground.units(LandCover.INDUSTRY, kinds), 6))
    halls = fields.parcels(rng, ground.side, angle, float(rng.uniform(5, 9)), float(rng.uniform(8, 16)))
    roofs = _pick(rng, {Surface.BRIGHT_ROOF: 2, Surface.GREY_ROOF: 3, Surface.YARD: 1}, 5)
    first = ground.units(LandCover.INDUSTRY, roofs, _walls_db(angle, scene) * 0.7)
    standing = np.take(rng.random(1021) < rng.uniform(0.3, 0.7), halls % 1021) & ~fields.edges_of(halls)
    ground.paint(where & standing, _deal(rng, halls, first, 5))
    ground.fill(where & fields.edges_of(plots), LandCover.INDUSTRY, Surface.ASPHALT)


def _inland_waters(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    ground.fill(where, LandCover.INLAND_WATERS, Surface.LAKE)


def _marine_waters(rng: np.random.Generator, ground: Ground, where: Mask, scene: Scene) -> None:
    ground.fill(where, LandCover.MARINE_WATERS, Surface.SEA)


PAINTERS: dict[LandCover, Painter] = {
    LandCover.URBAN: _urban,
    LandCover.INDUSTRY: _industry,
    LandCover.ARABLE: _arable,
    LandCover.PERMANENT_CROPS: _permanent_crops,
    LandCover.PASTURES: _pastures,
    LandCover.COMPLEX: _complex,
    LandCover.AGRI_NATURAL: _agri_natural,
    LandCover.AGRO_FORESTRY: _agro_forestry,
    LandCover.BROADLEAVED: _broadleaved,
    LandCover.CONIFEROUS: _coniferous,
    LandCover.MIXED_FOREST: _mixed_forest,
    LandCover.NATURAL_GRASS: _natural_grass,
    LandCover.MOORS: _moors,
    LandCover.TRANSITIONAL: _transitional,
    LandCover.BEACHES: _beaches,
    LandCover.INLAND_WETLANDS: _inland_wetlands,
    LandCover.COASTAL_WETLANDS: _coastal_wetlands,
    LandCover.INLAND_WATERS: _inland_waters,
    LandCover.MARINE_WATERS: _marine_waters,
}
"""How each class is drawn into a part of the ground."""

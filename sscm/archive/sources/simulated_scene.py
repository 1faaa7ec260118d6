"""Simulated scenes: what neighbouring patches share — region, season, weather, geometry — and what it does to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from sscm.archive.sources.land_cover import LandCover
from sscm.archive.sources.surfaces import BANDS

SEASONS = ("winter", "spring", "summer", "autumn")

EARTH_RADIUS_M, ECCENTRICITY_2 = 6_378_137.0, 0.006_694_379_990_14
"""WGS 84."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A kind of country.

    Args:
        name: what people call it.
        mix: class → weight among the zones of a patch.
        roads: share of patches with roads.
        rivers: share of patches with a river.
        lakes: share of patches with lakes.
        coast: share of patches that reach the sea.
        relief: steepness of the ground, 0 (plain) to 1 (mountains).
        parcel: typical width of a parcel, pixels.
    """

    name: str
    mix: Mapping[LandCover, float]
    roads: float
    rivers: float
    lakes: float
    relief: float
    parcel: float
    coast: float = 0.0


_C = LandCover
REGIONS = (
    Region(
        name="open farmland", roads=0.6, rivers=0.26, lakes=0.11, relief=0.1, parcel=17,
        mix={_C.ARABLE: 9, _C.PASTURES: 2, _C.COMPLEX: 2, _C.AGRI_NATURAL: 2, _C.BROADLEAVED: 2, _C.URBAN: 2,
             _C.INDUSTRY: 1, _C.PERMANENT_CROPS: 1},
    ),
    Region(
        name="hedgerow country", roads=0.5, rivers=0.26, lakes=0.11, relief=0.3, parcel=11,
        mix={_C.PASTURES: 7, _C.ARABLE: 4, _C.COMPLEX: 3, _C.BROADLEAVED: 2, _C.URBAN: 2, _C.MIXED_FOREST: 2,
             _C.AGRI_NATURAL: 3},
    ),
    Region(
        name="boreal forest", roads=0.4, rivers=0.16, lakes=0.50, relief=0.25, parcel=13,
        mix={_C.CONIFEROUS: 6, _C.MIXED_FOREST: 4, _C.TRANSITIONAL: 3, _C.INLAND_WETLANDS: 2, _C.BROADLEAVED: 1,
             _C.AGRI_NATURAL: 1, _C.MOORS: 1, _C.ARABLE: 1},
    ),
    Region(
        name="wooded hills", roads=0.4, rivers=0.26, lakes=0.07, relief=0.8, parcel=9,
        mix={_C.BROADLEAVED: 5, _C.MIXED_FOREST: 3, _C.NATURAL_GRASS: 3, _C.PASTURES: 3, _C.AGRI_NATURAL: 3,
             _C.CONIFEROUS: 1, _C.URBAN: 1, _C.TRANSITIONAL: 1},
    ),
    Region(
        name="upland", roads=0.25, rivers=0.20, lakes=0.20, relief=1.0, parcel=16,
        mix={_C.MOORS: 4, _C.NATURAL_GRASS: 4, _C.CONIFEROUS: 3, _C.INLAND_WETLANDS: 1, _C.TRANSITIONAL: 2,
             _C.PASTURES: 2},
    ),
    Region(
        name="southern plantations", roads=0.5, rivers=0.13, lakes=0.14, relief=0.4, parcel=13,
        mix={_C.PERMANENT_CROPS: 5, _C.AGRO_FORESTRY: 5, _C.ARABLE: 3, _C.COMPLEX: 2, _C.TRANSITIONAL: 2, _C.URBAN: 1,
             _C.MOORS: 2, _C.BROADLEAVED: 1},
    ),
    Region(
        name="town and suburbs", roads=0.8, rivers=0.26, lakes=0.14, relief=0.15, parcel=13,
        mix={_C.URBAN: 8, _C.INDUSTRY: 5, _C.ARABLE: 3, _C.COMPLEX: 2, _C.PASTURES: 2, _C.BROADLEAVED: 2,
             _C.AGRI_NATURAL: 1},
    ),
    Region(
        name="coast", roads=0.4, rivers=0.13, lakes=0.14, relief=0.2, parcel=12, coast=0.7,
        mix={_C.PASTURES: 3, _C.ARABLE: 3, _C.MOORS: 2, _C.URBAN: 3, _C.COASTAL_WETLANDS: 3, _C.BEACHES: 1,
             _C.NATURAL_GRASS: 2, _C.CONIFEROUS: 1},
    ),
)  # fmt: skip

UNSEEN_REGIONS = ("hedgerow country", "upland")
"""Regions that an archive with ``unseen_test`` keeps for its test split: their mixes of classes are of their own."""
UNSEEN_SEASON = "autumn"
"""Season that it keeps for its test split."""

PLACES = (
    (-8.5, 52.2), (-7.2, 39.0), (-4.5, 40.0), (-3.5, 52.0), (-1.0, 42.0), (0.5, 47.0), (3.0, 48.8), (4.0, 45.0),
    (6.3, 49.6), (9.0, 51.0), (11.0, 48.2), (13.0, 52.4), (14.5, 48.2), (14.0, 57.0), (16.5, 47.0), (17.5, 51.5),
    (19.5, 46.0), (20.5, 43.8), (22.0, 53.0), (23.5, 46.5), (24.5, 55.0), (25.0, 62.0), (24.0, 42.4), (27.0, 63.5),
)  # fmt: skip
"""Corners (longitude, latitude) of 24 boxes of 2.4° × 1.2°, as good as all on European land."""
_LATTICE = (12, 10)
"""Scenes that fit in a box, along longitude and latitude: 0.2° × 0.12°, at least 9 km × 13 km each."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the patches of one scene share.

    Args:
        number: its place in the archive.
        region: kind of country.
        mix: class → weight: the region's, with a leaning of the scene's own.
        corner: longitude and latitude of its south-west corner, degrees.
        s1_time: radar acquisition, UTC.
        s2_time: optical acquisition, UTC.
        season: of the optical acquisition.
        leaf: leaf area from 0 (winter) to 1 (summer).
        parcel: width of a parcel, pixels.
        stretch: length of a parcel in widths.
        angle: prevailing direction of parcels and streets, radians.
        angle_spread: how far directions stray from it, radians.
        hedges: share of parcel borders that are hedges.
        soil: brightness of the soil, 0 to 1.
        crops: stage of arable land → share (see ``land_patterns``).
        coast_angle: direction of the coast, radians.
        relief: steepness, 0 to 1.
        sun: azimuth and elevation, radians.
        haze: path reflectance added at 490 nm, reflectance × 10⁴.
        gain: float64 [12] multiplies reflectance: calibration and atmosphere.
        incidence: at mid-swath of the scene, degrees.
        look: direction in which the radar looks, radians.
        moisture_db: wet soil, added to bare ground, dB.
        wind_db: wind on open water, dB.
        offset_db: float64 [2] added to VV and VH: calibration and wet canopies, dB.
    """

    number: int
    region: Region
    mix: Mapping[LandCover, float]
    corner: tuple[float, float]
    s1_time: datetime
    s2_time: datetime
    season: str
    leaf: float
    parcel: float
    stretch: float
    angle: float
    angle_spread: float
    hedges: float
    soil: float
    crops: tuple[float, ...]
    coast_angle: float
    relief: float
    sun: tuple[float, float]
    haze: float
    gain: npt.NDArray[np.float64]
    incidence: float
    look: float
    moisture_db: float
    wind_db: float
    offset_db: npt.NDArray[np.float64]


# shares of green, tall, ripe, stubble, bare and grass among arable parcels
_CROPS = {
    "winter": (3.0, 0.0, 0.0, 2.0, 4.0, 1.0),
    "spring": (4.0, 1.0, 0.0, 0.5, 3.0, 1.0),
    "summer": (1.5, 3.0, 3.0, 1.5, 1.0, 1.0),
    "autumn": (2.0, 1.0, 0.5, 2.5, 3.0, 1.0),
}


def draw_scene(rng: np.random.Generator, number: int, unseen: bool | None = None) -> Scene:
    """Draw what the patches of a scene share.

    Args:
        rng: source of randomness, of this scene alone.
        number: its place in the archive; decides the place on the map, so that no two scenes overlap until all
            2,880 places are taken.
        unseen: whether region and season are those of :data:`UNSEEN_REGIONS` and :data:`UNSEEN_SEASON`, or none of
            them; None draws from all.
    """
    regions = [r for r in REGIONS if unseen is None or (r.name in UNSEEN_REGIONS) == unseen]
    region = regions[int(rng.integers(len(regions)))]
    day, s2_time = _optical_time(rng)
    while unseen is not None and (_season(s2_time) == UNSEEN_SEASON) != unseen:
        day, s2_time = _optical_time(rng)
    away = int(rng.integers(1, 7)) * (1 if rng.random() < 0.5 else -1)
    evening = rng.random() < 0.5  # ascending orbits pass in the evening and look east, descending ones look west
    s1_time = s2_time.replace(hour=16 if evening else 5, minute=int(rng.integers(0, 60))) + timedelta(days=away)
    season = _season(s2_time)
    summer = 0.5 - 0.5 * math.cos(2 * math.pi * (day - 15) / 365)
    longitude, latitude = PLACES[number % len(PLACES)]
    slot = number // len(PLACES) % (_LATTICE[0] * _LATTICE[1])
    corner = (longitude + 0.2 * (slot % _LATTICE[0]), latitude + 0.12 * (slot // _LATTICE[0]))
    elevation = math.radians(90 - latitude - 23.4 * math.cos(2 * math.pi * (day + 10) / 365) - 4)
    tilt = rng.normal(0, 0.05)
    wavelength = np.linspace(-1, 1, len(BANDS))
    return Scene(
        number=number,
        region=region,
        mix={cover: weight * float(rng.gamma(2.0, 0.5)) for cover, weight in region.mix.items()},
        corner=corner,
        s1_time=s1_time,
        s2_time=s2_time,
        season=season,
        leaf=float(np.clip(1.5 * summer - 0.15 + rng.normal(0, 0.08), 0, 1)),
        parcel=float(region.parcel * rng.lognormal(0, 0.3)),
        stretch=float(rng.uniform(1.1, 4.0)),
        angle=float(rng.uniform(0, math.pi)),
        angle_spread=float(rng.uniform(0.05, 0.8)),
        hedges=float(rng.uniform(0, 0.8) if region.parcel < 14 else rng.uniform(0, 0.2)),
        soil=float(rng.uniform(0, 1)),
        crops=tuple(float(w * rng.gamma(2.0, 0.5)) + 1e-3 for w in _CROPS[season]),
        coast_angle=float(rng.uniform(0, 2 * math.pi)),
        relief=float(region.relief * rng.uniform(0.4, 1.0)),
        sun=(math.radians(rng.uniform(150, 175)), max(elevation, math.radians(12))),
        haze=float(rng.gamma(1.5, 60.0)),
        gain=np.exp(rng.normal(0, 0.07) + tilt * wavelength + rng.normal(0, 0.02, len(BANDS))),
        incidence=float(rng.uniform(30, 45)),
        look=math.radians(80.0 if evening else 280.0) + float(rng.normal(0, 0.03)),
        moisture_db=float(rng.normal(0, 1.2)),
        wind_db=float(rng.normal(0, 2.0)),
        offset_db=rng.normal(0, 0.4) + rng.normal(0, 0.25, 2),
    )


def _optical_time(rng: np.random.Generator) -> tuple[int, datetime]:
    """A day of the year from 0, and a morning hour of it in some year, UTC."""
    day = int(rng.integers(365))
    year = datetime(int(rng.integers(2017, 2024)), 1, 1, 10, tzinfo=UTC)
    return day, year + timedelta(days=day, minutes=int(rng.integers(0, 60)))


def _season(time: datetime) -> str:
    return SEASONS[(time.month % 12) // 3]


def footprint(scene: Scene, slot: int, metres: float) -> tuple[float, float, float, float]:
    """Bounds of a patch of a scene.

    Args:
        scene: the scene.
        slot: number of the patch in it; five fit side by side.
        metres: side of the patch.

    Returns:
        West, south, east, north in degrees on WGS 84; patches of a scene lie half a side apart.
    """
    west, south = scene.corner
    latitude = math.radians(south)
    curvature = 1 - ECCENTRICITY_2 * math.sin(latitude) ** 2
    north_m = math.radians(EARTH_RADIUS_M * (1 - ECCENTRICITY_2) / curvature**1.5)
    south += slot // 5 * 1.5 * metres / north_m
    latitude = math.radians(south)
    east_m = math.radians(EARTH_RADIUS_M / math.sqrt(1 - ECCENTRICITY_2 * math.sin(latitude) ** 2) * math.cos(latitude))
    west += slot % 5 * 1.5 * metres / east_m
    return west, south, west + metres / east_m, south + metres / north_m

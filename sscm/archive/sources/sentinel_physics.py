"""What simulated Sentinel-1 and Sentinel-2 see of the ground: spectra, backscatter, air, optics and speckle.

The two share the ground and little else: each has its own variation from unit to unit, its own weather, geometry and
day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sscm.archive.sources import random_fields as fields
from sscm.archive.sources import surfaces
from sscm.archive.sources.land_cover import MARGIN, Ground
from sscm.archive.sources.random_fields import Field, Mask
from sscm.archive.sources.simulated_scene import Scene
from sscm.archive.sources.surfaces import BANDS, NANOMETRES, Surface
from sscm.sensors import BandGroup

LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD at high resolution (Sentinel-1 product specification)."""
_SPECKLE_BLUR = 0.15
"""Weight of a neighbour in the radar's point-spread function: GRD pixels of 10 m resolve about 20 m."""
_NOISE_DB = (-27.0, -29.0)
"""Noise floor of VV and VH, sigma nought (NESZ of IW mode is −22 dB at worst, mostly below −25)."""
_OPTICAL_BLUR = {10: 0.17, 20: 0.12, 60: 0.06}
"""Weight of a neighbour in the point-spread function, metres of a pixel → weight (MTF at Nyquist of 0.15 to 0.3)."""
_INCIDENCE_DB, _INCIDENCE_PER_PIXEL = 0.13, 0.006
"""Fall of backscatter, dB a degree of incidence; growth of incidence across the swath, degrees a pixel of 10 m."""
_FORESLOPE_DB = 1.2
"""Gain of a slope of unit deviation that faces the radar in the steepest country, dB."""
_HARVESTED = 0.04
"""Share of the fields that were harvested between the two acquisitions."""
_CLOUDY, _CUT = 0.15, 0.03
"""Shares of optical images with clouds, and with pixels beyond the edge of the swath."""

_HAZE = (np.array(NANOMETRES) / 490.0) ** -1.3
_VIGOUR = np.array([-0.6, -0.7, -0.4, -1.0, -0.2, 0.7, 1.0, 1.0, 1.0, 1.0, -0.2, -0.6])
"""How a more vigorous plant differs, band by band: less visible light, more near infrared."""
_CLOUD = np.array([6200, 6300, 6100, 6200, 6250, 6300, 6350, 6400, 6400, 6000, 4800, 3600], np.float64)


@dataclass(frozen=True)
class OpticalImage:
    """What Sentinel-2 saw.

    Args:
        images: band-group name → uint16 [bands, h, w], reflectance × 10⁴, 0 = no data.
        cloud_share: share of the patch under cloud.
    """

    images: dict[str, npt.NDArray[np.uint16]]
    cloud_share: float


def relief(rng: np.random.Generator, side: int) -> tuple[Field, Field]:
    """Slopes of smooth hills to the east and to the south: float32 [side, side] each, unit deviation."""
    height = fields.smooth_noise(rng, side + 2, 26)
    scale = np.float32(10.0)
    return (height[1:-1, 2:] - height[1:-1, :-2]) * scale, (height[2:, 1:-1] - height[:-2, 1:-1]) * scale


def see_optical(
    rng: np.random.Generator, ground: Ground, slopes: tuple[Field, Field], scene: Scene, groups: tuple[BandGroup, ...]
) -> OpticalImage:
    """Simulate Sentinel-2 L2A.

    Args:
        rng: source of randomness.
        ground: what lies on the ground.
        slopes: of :func:`relief`.
        scene: season, sun, air and calibration.
        groups: the band groups wanted, finest first.
    """
    side = ground.side
    spectra = _unit_spectra(rng, ground, scene)
    grain = np.take(surfaces.PIXEL_SPREAD[ground.surfaces, 0].astype(np.float32), ground.unit)
    brightness = rng.standard_normal((side, side), np.float32) + fields.smooth_noise(rng, side, 4)
    brightness *= grain * np.float32(0.7)
    brightness += 1
    azimuth, elevation = scene.sun
    # ground that falls towards the sun is bright
    facing = slopes[1] * np.float32(math.cos(azimuth)) - slopes[0] * np.float32(math.sin(azimuth))
    brightness += facing * np.float32(0.16 * scene.relief / max(math.tan(elevation), 0.4))
    np.maximum(brightness, np.float32(0.25), out=brightness)
    vigour = fields.smooth_noise(rng, side, 6) * grain
    cloud, shadow = _clouds(rng, side, scene)
    haze = scene.haze * float(rng.lognormal(0, 0.2))
    nodata = _swath_edge(rng)
    images = {}
    for group in groups:
        index = [BANDS.index(name) for name in group.band_names]
        rim = (side - 2 * MARGIN) // group.height  # one pixel of the group on each side, for the blur
        seen = (slice(MARGIN - rim, side - MARGIN + rim),) * 2
        planes = np.take(np.ascontiguousarray(spectra[:, index].T, np.float32), ground.unit[seen], axis=1)
        for plane, band in zip(planes, index, strict=True):
            plane *= brightness[seen] + vigour[seen] * np.float32(_VIGOUR[band])
            if cloud is not None and shadow is not None:
                plane *= shadow[seen]
                plane += (np.float32(_CLOUD[band]) - plane) * cloud[seen]
        images[group.name] = _sample(rng, planes, group, haze * _HAZE[index], nodata)
    inside = slice(MARGIN, -MARGIN)
    share = 0.0 if cloud is None else float((cloud[inside, inside] > 0.15).mean())
    return OpticalImage(images, share)


def _unit_spectra(rng: np.random.Generator, ground: Ground, scene: Scene) -> npt.NDArray[np.float64]:
    """Reflectance of each unit on the day, before the air: float64 [units, 12], × 10⁴."""
    kinds = np.asarray(ground.surfaces)
    count = len(kinds)
    spectra = surfaces.REFLECTANCE[kinds]
    leaf = np.clip(scene.leaf + rng.normal(0, 0.12, count), 0, 1)
    leaf = np.where(surfaces.SOWN[kinds], rng.uniform(0.25, 1.0, count), leaf)
    soil = np.clip(scene.soil + rng.normal(0, 0.25, count), 0, 1)[:, None]
    soils = (1 - soil) * surfaces.REFLECTANCE[Surface.SOIL] + soil * surfaces.REFLECTANCE[Surface.PALE_SOIL]
    bare = np.where((surfaces.SOWN[kinds])[:, None], soils, surfaces.REFLECTANCE[surfaces.LEAFLESS[kinds]])
    spectra = leaf[:, None] * spectra + (1 - leaf[:, None]) * bare
    spectra = np.where((kinds == Surface.SOIL)[:, None], soils, spectra)
    spread = surfaces.UNIT_SPREAD[kinds, 0][:, None]
    tint = (
        rng.normal(0, 1, (count, 1)) + 0.6 * rng.normal(0, 1, (count, 1)) * _VIGOUR + rng.normal(0, 0.25, spectra.shape)
    )
    return np.asarray(spectra * np.exp(spread * tint) * scene.gain)


def _clouds(rng: np.random.Generator, side: int, scene: Scene) -> tuple[Field | None, Field | None]:
    """Opacity of cloud and light left in its shadow, each float32 [side, side] from 0 to 1; None under a clear sky."""
    if rng.random() > _CLOUDY:
        return None, None
    reach = 14  # pixels by which a shadow may lie beside its cloud
    noise = fields.fractal_noise(rng, side + 2 * reach, 34)
    thick = np.clip((noise - np.float32(rng.uniform(0.6, 2.2))) * np.float32(rng.uniform(0.6, 2.5)), 0, 1)
    thick *= np.float32(rng.uniform(0.5, 0.95))
    away = rng.uniform(6, reach)
    left, up = round(math.sin(scene.sun[0]) * away), round(-math.cos(scene.sun[0]) * away)
    cloud = thick[reach:-reach, reach:-reach]
    shade = thick[reach + up : reach + up + side, reach + left : reach + left + side]
    return cloud, 1 - np.float32(0.55) * shade


def _swath_edge(rng: np.random.Generator) -> tuple[float, float, float] | None:
    """The line beyond which a few patches have no data: direction east and south, distance in patch sides."""
    if rng.random() > _CUT:
        return None
    angle = math.radians(rng.choice((0.0, 180.0)) + rng.normal(14, 2))  # the inclined orbit
    return math.cos(angle), math.sin(angle), float(rng.uniform(0.12, 0.45))


def _sample(
    rng: np.random.Generator,
    planes: Field,
    group: BandGroup,
    haze: npt.NDArray[np.float64],
    nodata: tuple[float, float, float] | None,
) -> npt.NDArray[np.uint16]:
    """Sample at the band group's own resolution, blur, add air and noise, round.

    Args:
        rng: source of randomness.
        planes: float32 [bands, side, side] at 10 m, with a rim of one pixel of the group; reflectance × 10⁴.
        group: the band group.
        haze: reflectance × 10⁴ that the air adds to each band.
        nodata: of :func:`_swath_edge`.

    Returns:
        uint16 [bands, h, w].
    """
    factor = planes.shape[-1] // (group.height + 2)
    coarse = planes if factor == 1 else fields.block_mean(planes, factor)
    image = fields.blur(coarse, _OPTICAL_BLUR[10 * factor])
    image += haze.astype(np.float32)[:, None, None]
    noise = rng.integers(0, 40, image.shape, np.uint8)  # radiometric noise, deviation 11.5
    image += noise
    image -= np.float32(19)  # 19.5 is the noise's mean, and the conversion below rounds down
    pixels = np.clip(image, 1, 20000, out=image).astype(np.uint16)
    if nodata is not None:
        pixels[:, _beyond(nodata, group)] = 0
    return pixels


def _beyond(edge: tuple[float, float, float], group: BandGroup) -> Mask:
    """Pixels beyond the swath edge, on the group's own grid: bool [h, w]."""
    columns, rows = fields.grid(group.height)
    east, south, distance = edge
    return np.asarray(columns * np.float32(east) + rows * np.float32(south) > np.float32(distance * group.height))


def see_radar(
    rng: np.random.Generator, ground: Ground, slopes: tuple[Field, Field], scene: Scene
) -> npt.NDArray[np.float32]:
    """Simulate Sentinel-1 IW GRD: sigma nought of VV and VH, float32 [2, height, width], dB.

    Args:
        rng: source of randomness.
        ground: what lies on the ground.
        slopes: of :func:`relief`.
        scene: incidence, look direction, moisture, wind and calibration.
    """
    side = ground.side
    table = _unit_backscatter(rng, ground, scene).astype(np.float32)
    db = np.take(np.ascontiguousarray(table.T), ground.unit, axis=1)
    grain = np.take(surfaces.PIXEL_SPREAD[ground.surfaces, 1].astype(np.float32), ground.unit)
    grain *= fields.smooth_noise(rng, side, 4)
    range_east, range_south = math.sin(scene.look), -math.cos(scene.look)
    columns, _ = fields.grid(side)
    # ground that rises away from the radar faces it and is bright
    rising = slopes[0] * np.float32(range_east) + slopes[1] * np.float32(range_south)
    grain += rising * np.float32(_FORESLOPE_DB * scene.relief)
    grain -= columns * np.float32(_INCIDENCE_DB * _INCIDENCE_PER_PIXEL * math.copysign(1, range_east))
    db += grain
    power = np.exp(db * np.float32(math.log(10) / 10))
    east, south = rng.uniform(-0.9, 0.9, 2)  # misregistration, pixels: a shifted resampling
    power = _shifted(power, float(east), float(south))
    power += np.array([10 ** (floor / 10) for floor in _NOISE_DB], np.float32)[:, None, None]
    power *= np.take(_speckle_quantiles(), rng.integers(0, 65536, power.shape, np.uint16))
    image = fields.blur(power, _SPECKLE_BLUR)
    return np.asarray(np.clip(np.log(image) * np.float32(10 / math.log(10)), -30, 5), np.float32)


@lru_cache(maxsize=1)
def _speckle_quantiles() -> Field:
    """Quantiles of multiplicative speckle before the radar's blur: float32 [65536], gamma distributed, of mean 1.

    Blurring averages speckle, so what is drawn has fewer looks than the :data:`LOOKS` that are seen. Looking a random
    16-bit number up is an order faster than drawing from the gamma distribution.
    """
    share = (1 - 2 * _SPECKLE_BLUR) ** 2 + 2 * _SPECKLE_BLUR**2
    looks = LOOKS * share**2
    x = (np.arange(400_000) + 0.5) * 5e-5  # up to 20 times the mean
    density = x ** (looks - 1) * np.exp(-looks * x)
    distribution = np.cumsum(density) / density.sum()
    return np.asarray(np.interp((np.arange(65536) + 0.5) / 65536, distribution, x), np.float32)


def _unit_backscatter(rng: np.random.Generator, ground: Ground, scene: Scene) -> npt.NDArray[np.float64]:
    """Sigma nought of each unit on the radar's day: float64 [units, 2], dB."""
    kinds = np.asarray(ground.surfaces)
    count = len(kinds)
    changed = rng.random(count) < _HARVESTED
    kinds = np.where(changed & surfaces.SOWN[kinds], Surface.STUBBLE, kinds)
    spread = surfaces.UNIT_SPREAD[kinds, 1][:, None]
    db = surfaces.BACKSCATTER_DB[kinds] + spread * (
        0.85 * rng.normal(0, 1, (count, 1)) + 0.5 * rng.normal(0, 1, (count, 2))
    )
    walls = np.asarray(ground.bounce_db)[:, None]
    db += walls * np.array([1.0, 0.5])  # an even bounce keeps the polarisation
    db += np.where(surfaces.BARE[kinds], scene.moisture_db, 0.0)[:, None] * np.array([1.0, 0.8])
    db += np.where(surfaces.WATER[kinds], scene.wind_db, 0.0)[:, None] * np.array([1.0, 0.4])
    db -= _INCIDENCE_DB * (scene.incidence - 38)
    return np.asarray(db + scene.offset_db)


def _shifted(power: Field, east: float, south: float) -> Field:
    """Resample bilinearly at a sub-pixel shift, and keep a rim of one pixel: [2, side, side] → [2, h + 2, w + 2]."""
    result = power
    for axis, shift in ((2, east), (1, south)):
        whole = math.floor(shift)
        part = np.float32(shift - whole)
        start = MARGIN - 1 + whole
        stop = power.shape[axis] - MARGIN + 1 + whole
        near = [slice(None)] * 3
        far = [slice(None)] * 3
        near[axis], far[axis] = slice(start, stop), slice(start + 1, stop + 1)
        result = result[tuple(near)] * (1 - part) + result[tuple(far)] * part
    return np.asarray(result, np.float32)

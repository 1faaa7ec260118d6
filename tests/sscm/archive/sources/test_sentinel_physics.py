"""Sensors of the simulated archive, on ground that is known."""

import dataclasses
import math

import numpy as np
import pytest

from sscm.archive.sources.land_cover import MARGIN, Ground, LandCover
from sscm.archive.sources.sentinel_physics import LOOKS, relief, see_optical, see_radar
from sscm.archive.sources.simulated_scene import draw_scene
from sscm.archive.sources.surfaces import BACKSCATTER_DB, REFLECTANCE, Surface
from sscm.sensors import sentinel2

SIDE = 120


def plain_scene(**changes):
    """A scene without relief or calibration errors."""
    scene = draw_scene(np.random.default_rng(3), 3)
    plain = {
        "relief": 0.0,
        "offset_db": np.zeros(2),
        "moisture_db": 0.0,
        "wind_db": 0.0,
        "incidence": 38.0,
        "haze": 0.0,
        "gain": np.ones(12),
        "leaf": 1.0,
    }
    return dataclasses.replace(scene, **{**plain, **changes})


def ground_of(surface, cover=LandCover.ARABLE, bounce_db=0.0):
    ground = Ground(SIDE + 2 * MARGIN)
    ground.units(cover, [surface], bounce_db)
    return ground


def radar(surface, seed=0, bounce_db=0.0, **changes):
    rng = np.random.default_rng(seed)
    ground = ground_of(surface, bounce_db=bounce_db)
    return see_radar(rng, ground, relief(rng, ground.side), plain_scene(**changes))


def test_speckle_has_the_looks_of_ground_range_products():
    """Equivalent number of looks, mean² / variance of linear intensity, of a homogeneous field."""
    looks = []
    for seed in range(4):
        intensity = 10 ** (radar(Surface.SOIL, seed).astype(np.float64) / 10)
        looks += list(intensity.mean((1, 2)) ** 2 / intensity.var((1, 2)))
    assert np.mean(looks) == pytest.approx(LOOKS, abs=0.4)
    assert all(3.7 < each < 5.2 for each in looks)


def test_speckle_of_the_two_polarisations_is_independent_and_neighbours_are_not():
    vv, vh = radar(Surface.SOIL).astype(np.float64)
    assert abs(np.corrcoef(vv.ravel(), vh.ravel())[0, 1]) < 0.1
    assert 0.2 < np.corrcoef(vv[:, 1:].ravel(), vv[:, :-1].ravel())[0, 1] < 0.6


def test_backscatter_is_that_of_the_surface():
    mean = np.mean([10 * np.log10(np.mean(10 ** (radar(Surface.BROADLEAF, s) / 10), (1, 2))) for s in range(8)], 0)
    assert mean == pytest.approx(BACKSCATTER_DB[Surface.BROADLEAF], abs=1.0)


def test_backscatter_falls_with_incidence_across_images_and_within():
    near, far = radar(Surface.BROADLEAF, incidence=31.0), radar(Surface.BROADLEAF, incidence=44.0)
    assert np.mean(near - far) == pytest.approx(13 * 0.13, abs=0.15)
    east = radar(Surface.BROADLEAF, look=math.radians(80)).mean((0, 1))
    west = radar(Surface.BROADLEAF, look=math.radians(280)).mean((0, 1))
    slope = np.polyfit(np.arange(SIDE), east - west, 1)[0]
    assert slope < 0


def test_walls_that_face_the_radar_are_bright_above_all_in_vv():
    facing, beside = radar(Surface.RED_ROOF, bounce_db=7.0), radar(Surface.RED_ROOF)
    gain = (facing - beside).mean((1, 2))
    assert gain[0] > gain[1] > 2


def test_radar_is_misregistered_by_less_than_two_pixels():
    ground = ground_of(Surface.LAKE, LandCover.INLAND_WATERS)
    ground.units(LandCover.URBAN, [Surface.ROCK])
    ground.unit[:, ground.side // 2 :] = 1
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image = see_radar(rng, ground, relief(rng, ground.side), plain_scene())
        profile = (10 ** (image[0] / 10)).mean(0)
        edge = int(np.argmax(np.diff(profile)))
        assert abs(edge - (SIDE // 2 - 1)) <= 2
        seen.add(round(float(profile[SIDE // 2 - 1] / profile[75:].mean()), 2))
    assert len(seen) > 3  # each pair has its own shift


def optical(surface, seed=0, **changes):
    rng = np.random.default_rng(seed)
    ground = ground_of(surface)
    return see_optical(rng, ground, relief(rng, ground.side), plain_scene(**changes), sentinel2(SIDE).groups)


def clear(surface, **changes):
    """Twelve clear images."""
    images = [optical(surface, seed, **changes) for seed in range(10)]
    return [each.images for each in images if each.cloud_share == 0 and each.images["s2_10m"].min() > 0]


def test_reflectance_is_that_of_the_surface_and_varies_from_field_to_field():
    red = np.array([image["s2_10m"][2].mean() for image in clear(Surface.CONIFER)])
    assert np.median(red) == pytest.approx(REFLECTANCE[Surface.CONIFER, 3], rel=0.15)
    assert red.std() / red.mean() > 0.04


def test_leaves_follow_the_season_and_crops_do_not():
    def infrared(surface, leaf):
        return np.mean([image["s2_10m"][3].mean() for image in clear(surface, leaf=leaf)])

    assert infrared(Surface.BROADLEAF, 1.0) > 1.8 * infrared(Surface.BROADLEAF, 0.0)
    assert infrared(Surface.GREEN_CROP, 1.0) == pytest.approx(infrared(Surface.GREEN_CROP, 0.0))


def test_haze_adds_to_the_blue_more_than_to_the_red_and_not_to_the_infrared():
    hazy, dry = clear(Surface.CONIFER, haze=300.0)[0]["s2_10m"], clear(Surface.CONIFER, haze=0.0)[0]["s2_10m"]
    added = (hazy.astype(float) - dry.astype(float)).mean((1, 2))
    assert added[0] > added[1] > added[2] > added[3] > 0
    assert added[3] < 0.6 * added[0]


def test_relief_brightens_what_faces_the_sun():
    rng = np.random.default_rng(0)
    ground = ground_of(Surface.SOIL)
    rows = np.ones((ground.side, ground.side), np.float32)
    rows[:, ground.side // 2 :] = -1  # the east half falls to the south, towards the sun
    scene = plain_scene(relief=1.0, sun=(math.pi, math.radians(40)))
    image = see_optical(rng, ground, (np.zeros_like(rows), rows), scene, sentinel2(SIDE).groups).images["s2_10m"]
    assert image[2, :, 65:].mean() > 1.1 * image[2, :, :55].mean()

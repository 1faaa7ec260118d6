"""Ground made of units, and how each class is drawn into it."""

import numpy as np
import pytest

from sscm.archive.sources.bigearthnet_labels import CORINE_OF_CLASS
from sscm.archive.sources.land_cover import CLASSES, MARGIN, Ground, LandCover
from sscm.archive.sources.land_patterns import PAINTERS
from sscm.archive.sources.landscape import draw_ground
from sscm.archive.sources.simulated_scene import PLACES, REGIONS, draw_scene, footprint
from sscm.archive.sources.surfaces import BACKSCATTER_DB, LEAFLESS, PIXEL_SPREAD, REFLECTANCE, UNIT_SPREAD, Surface


def scene(number=0):
    return draw_scene(np.random.default_rng(number), number)


def test_classes_are_those_of_bigearthnet_in_the_order_of_the_enumeration():
    assert CLASSES == tuple(CORINE_OF_CLASS)
    assert len(CLASSES) == len(LandCover) == 19
    assert CLASSES[LandCover.AGRO_FORESTRY] == "Agro-forestry areas"
    assert CLASSES[LandCover.INLAND_WETLANDS] == "Inland wetlands"
    assert CLASSES[LandCover.TRANSITIONAL] == "Transitional woodland, shrub"


def test_cover_counts_pixels_inside_the_margins():
    ground = Ground(10 + 2 * MARGIN)
    ground.fill(np.ones((ground.side,) * 2, bool), LandCover.PASTURES, Surface.GRASS)
    corner = np.zeros((ground.side,) * 2, bool)
    corner[: MARGIN + 5, : MARGIN + 10] = True
    ground.fill(corner, LandCover.MARINE_WATERS, Surface.SEA)
    shares = ground.cover_shares()
    assert shares[LandCover.MARINE_WATERS] == pytest.approx(0.5)
    assert shares[LandCover.PASTURES] == pytest.approx(0.5)
    assert shares.sum() == pytest.approx(1)


def test_what_runs_across_counts_for_what_is_under_it():
    ground = Ground(40)
    whole = np.ones((40, 40), bool)
    ground.fill(whole, LandCover.PASTURES, Surface.GRASS)
    left = whole.copy()
    left[:, 20:] = False
    ground.fill(left, LandCover.ARABLE, Surface.SOIL)
    before = np.asarray(ground.classes)[ground.unit]
    road = np.zeros_like(whole)
    road[19:21] = True
    ground.fill_across(road, Surface.ASPHALT)
    assert np.array_equal(np.asarray(ground.classes)[ground.unit], before)
    assert np.array_equal(np.asarray(ground.surfaces)[ground.unit] == Surface.ASPHALT, road)


@pytest.mark.parametrize("cover", list(LandCover), ids=lambda cover: cover.name.lower())
def test_a_class_is_drawn_where_it_should_be_and_nowhere_else(cover):
    rng = np.random.default_rng(int(cover))
    for _ in range(3):
        ground = Ground(120 + 2 * MARGIN)
        untouched = ground.units(LandCover.BEACHES, [Surface.SAND])
        where = np.zeros((ground.side,) * 2, bool)
        where[20:100, 30:110] = True
        PAINTERS[cover](rng, ground, where, scene())
        assert (ground.unit[~where] == untouched).all()
        assert (np.asarray(ground.classes)[ground.unit[where]] == cover).all()
        assert (ground.unit[where] != untouched).all()


def test_ground_is_of_the_size_of_the_patch_and_of_known_units():
    for number in range(20):
        drawn = draw_ground(np.random.default_rng(number), 48, scene(number))
        assert drawn.unit.shape == (48 + 2 * MARGIN,) * 2
        assert drawn.unit.min() >= 0
        assert drawn.unit.max() < len(drawn.surfaces) == len(drawn.classes) == len(drawn.bounce_db)


def test_orchards_and_woods_share_a_surface_and_differ_by_structure():
    """Trees of an orchard stand in rows: crowns change to floor every few pixels, in a wood they seldom do."""

    def changes(cover):
        found = []
        for seed in range(6):
            ground = Ground(120 + 2 * MARGIN)
            PAINTERS[cover](np.random.default_rng(seed), ground, np.ones((ground.side,) * 2, bool), scene(seed))
            trees = np.isin(np.asarray(ground.surfaces)[ground.unit], (Surface.BROADLEAF, Surface.SHRUB))
            assert trees.mean() > 0.2
            found.append(np.mean(trees[:, 1:] != trees[:, :-1]))
        return np.mean(found)

    assert changes(LandCover.PERMANENT_CROPS) > 5 * changes(LandCover.BROADLEAVED)


def test_surfaces_have_plausible_spectra_and_backscatter():
    assert REFLECTANCE.shape == (len(Surface), 12)
    assert BACKSCATTER_DB.shape == UNIT_SPREAD.shape == PIXEL_SPREAD.shape == (len(Surface), 2)
    assert REFLECTANCE.min() > 0
    assert REFLECTANCE.max() < 10_000
    assert (BACKSCATTER_DB[:, 0] > BACKSCATTER_DB[:, 1]).all()  # VV is above VH on all natural ground
    red, infrared = REFLECTANCE[:, 3], REFLECTANCE[:, 7]
    for green in (Surface.GREEN_CROP, Surface.GRASS, Surface.BROADLEAF, Surface.CONIFER):
        assert (infrared[green] - red[green]) / (infrared[green] + red[green]) > 0.6
    for water in (Surface.LAKE, Surface.RIVER, Surface.SEA):
        assert infrared[water] < red[water]
    assert LEAFLESS[Surface.BROADLEAF] == Surface.BARE_TREES
    assert LEAFLESS[Surface.CONIFER] == Surface.CONIFER


def test_every_class_occurs_in_some_region_or_at_its_coast():
    covers = {cover for region in REGIONS for cover in region.mix}
    assert covers | {LandCover.INLAND_WATERS, LandCover.MARINE_WATERS} == set(LandCover)


def test_scenes_lie_apart_until_all_places_are_taken():
    corners = [scene(number).corner for number in range(len(PLACES) * 120)]
    assert len({(round(west, 6), round(south, 6)) for west, south in corners}) == len(corners)
    southmost, northmost = min(corners, key=lambda c: c[1]), max(corners, key=lambda c: c[1])
    for west, south in (southmost, northmost):
        spread = scene(next(i for i, corner in enumerate(corners) if corner == (west, south)))
        assert footprint(spread, 24, 1200.0)[2] < west + 0.2
        assert footprint(spread, 24, 1200.0)[3] < south + 0.12

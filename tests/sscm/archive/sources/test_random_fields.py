"""Random fields and patterns, against slow and obvious versions."""

import math

import numpy as np
import pytest

from sscm.archive.sources import random_fields as fields

SIDE = 132


@pytest.mark.parametrize("cell", [4, 17.3, 48])
def test_smooth_noise_has_unit_deviation_and_is_smooth(cell):
    noise = [fields.smooth_noise(np.random.default_rng(seed), SIDE, cell) for seed in range(40)]
    assert np.std(noise) == pytest.approx(1, abs=0.12)
    assert np.mean(noise) == pytest.approx(0, abs=0.2)
    step = np.std(np.diff(noise, axis=1))
    assert step < 1.6 / cell


def test_smooth_noise_is_a_tensor_spline_of_its_knots():
    rng = np.random.default_rng(0)
    spline = fields._spline(20, 5.0)
    coarse = rng.standard_normal((spline.shape[1],) * 2)
    slow = np.array([[(spline[r] @ coarse @ spline[c]) * fields._UNIT_STD for c in range(20)] for r in range(20)])
    assert fields.smooth_noise(np.random.default_rng(0), 20, 5) == pytest.approx(slow, abs=1e-5)
    assert spline.sum(1) == pytest.approx(1)


def test_fractal_noise_has_about_unit_deviation():
    noise = [fields.fractal_noise(np.random.default_rng(seed), SIDE, 24) for seed in range(30)]
    assert np.std(noise) == pytest.approx(1, abs=0.1)


def test_blur_weighs_neighbours():
    image = np.random.default_rng(0).random((2, 9, 7), np.float32)
    weights = np.array([0.2, 0.6, 0.2])
    kernel = np.outer(weights, weights)
    slow = np.array(
        [[[(plane[r : r + 3, c : c + 3] * kernel).sum() for c in range(5)] for r in range(7)] for plane in image]
    )
    assert fields.blur(image, 0.2) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 6])
def test_block_mean(factor):
    image = np.random.default_rng(0).random((3, 12, 12), np.float32)
    slow = image.reshape(3, 12 // factor, factor, 12 // factor, factor).mean((2, 4))
    before = image.copy()
    assert fields.block_mean(image, factor) == pytest.approx(slow, abs=1e-6)
    assert np.array_equal(image, before)


def test_parcels_have_the_size_and_direction_asked_for():
    areas, runs = [], []
    for seed in range(12):
        cells = fields.parcels(np.random.default_rng(seed), SIDE, 0.0, 10, 30)
        areas.append(SIDE * SIDE / len(np.unique(cells)))
        runs.append(np.mean(cells[:, 1:] != cells[:, :-1]) / np.mean(cells[1:] != cells[:-1]))
    assert 150 < np.mean(areas) < 450
    assert np.mean(runs) == pytest.approx(1 / 3, abs=0.15)  # along the strip, borders are three times as far apart


def test_edges_are_where_the_cell_above_or_on_the_left_is_another():
    cells = np.array([[1, 1, 2], [1, 3, 2]], np.int32)
    assert fields.edges_of(cells).tolist() == [[False, False, True], [False, True, True]]


def test_rows_of_plants_have_their_period():
    cells = np.zeros((SIDE, SIDE), np.int32)
    rows = fields.rows_of_plants(np.random.default_rng(1), cells, 6.0)
    assert rows.min() >= 0
    assert rows.max() <= 1
    power = np.abs(np.fft.fft2(rows - rows.mean())) ** 2
    peak = np.unravel_index(power.argmax(), power.shape)
    frequency = math.hypot(*(np.fft.fftfreq(SIDE)[i] for i in peak))
    assert 6.0 * 0.78 < 1 / frequency < 6.0 * 1.27


def test_a_course_runs_through_and_its_distance_is_metric():
    off = fields.course(np.random.default_rng(0), SIDE, 0.0, 0.0, 30.0)  # along the columns, no sway
    assert np.diff(off, axis=0) == pytest.approx(1, abs=1e-4)
    assert (np.abs(off).min(0) <= 0.5).all()


def test_scattered_crowns_cover_what_is_asked_for():
    crowns = fields.scattered(np.random.default_rng(0), 400, 0.05)
    assert crowns.mean() == pytest.approx(1 - (1 - 0.05) ** 3, abs=0.02)

"""Patch features and canonical correlation."""

import numpy as np
import pytest

from sscm.archive.statistics import BandStatistics
from sscm.experiment.spectrum import BINS, canonical_projections, patch_features, standardise, unit_rows
from sscm.sensors import sentinel1, sentinel2


def statistics(modality):
    return {f"{modality.name}/{band}": BandStatistics(4, 5.0, 16.0, 0.0, 10.0) for band in modality.band_names}


def test_radar_has_means_deviations_and_histograms():
    modality = sentinel1(24)
    pixels = np.random.default_rng(0).normal(5, 2, (3, 2, 24, 24)).astype(np.float32)
    features = patch_features({"s1": pixels}, modality, statistics(modality))
    assert features.shape == (3, 2 * (2 + BINS))
    for patch in range(3):
        for band in range(2):
            mine = features[patch, band * (2 + BINS) :][: 2 + BINS]
            values = pixels[patch, band].astype(np.float64)
            edges = np.linspace(-1, 11, BINS + 1)  # mean ± 3 deviations
            edges[[0, -1]] = -np.inf, np.inf
            assert mine[:2] == pytest.approx([values.mean(), values.std()])
            assert mine[2:] == pytest.approx(np.histogram(values, edges)[0] / values.size)


def test_optical_has_means_and_deviations_of_valid_pixels():
    modality = sentinel2(24)
    images = {g.name: np.full((2, *g.shape), 7, g.dtype) for g in modality.groups}
    images["s2_10m"][0, 1, :12] = 0  # no data
    images["s2_10m"][1, 2] = 0  # none at all: the band's mean, as if nothing were known
    features = patch_features(images, modality, statistics(modality))
    assert features.shape == (2, 24)
    assert features[0].tolist() == [7, 0] * 12
    assert features[1].tolist() == [7, 0, 7, 0, 5, 0] + [7, 0] * 9


def test_standardised_by_the_first():
    train, test = standardise(np.array([[1.0, 4], [3, 4]]), np.array([[5.0, 6]]))
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert test.tolist() == [[3, 2]]


def test_partners_of_a_shared_signal_meet():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(400, 3))
    first, second = (
        np.concatenate([signal @ rng.normal(size=(3, 3)), rng.normal(size=(400, 4))], axis=1) for _ in range(2)
    )
    first, second = standardise(first)[0], standardise(second)[0]
    a, b = canonical_projections(first[:300], second[:300])
    scores = unit_rows(first[300:] @ a) @ unit_rows(second[300:] @ b).T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    assert (ranks < 5).mean() > 0.8  # 0.05 by chance
    assert a.shape == (7, 7)


def test_without_ridge_projections_are_canonical():
    rng = np.random.default_rng(1)
    first, second = standardise(rng.normal(size=(200, 3)))[0], standardise(rng.normal(size=(200, 5)))[0]
    a, b = canonical_projections(first, second, ridge=0)
    crossed = (first @ a).T @ (second @ b) / 200
    assert crossed == pytest.approx(np.diag(np.diag(crossed)), abs=1e-9)

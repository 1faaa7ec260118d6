"""A baseline that learns no image: means, deviations and histograms of a patch's bands.

Within a modality, standardised features are compared as they are. Across two, canonical correlation analysis (Hotelling
1936), fitted without labels on the pairs of the training split, brings both into one space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.archive.statistics import BandStatistics
from sscm.sensors import Modality

BINS = 16
"""Of a band's histogram, between mean ± 3 deviations of the training split."""
SPECTRUM_BANDS = 3
"""Bands from which a modality has a spectrum; with fewer, how values are distributed has to tell, by histograms."""
RIDGE = 1e-2
"""Share of its variance that is added to each feature before whitening."""

Features = npt.NDArray[np.float64]


def patch_features(
    groups: Mapping[str, npt.NDArray[Any]], modality: Modality, statistics: Mapping[str, BandStatistics]
) -> Features:
    """Mean and deviation of each band over valid pixels, and histograms where bands are few.

    Args:
        groups: band group → pixels [N, bands, height, width], native dtype and unit.
        modality: what they are of.
        statistics: ``<modality>/<band>`` → statistics of the training split: the range of the histograms.

    Returns:
        float64 [N, features]; a patch without a valid pixel has the band's mean and no deviation.
    """
    columns: list[Features] = []
    with_histograms = len(modality.band_names) < SPECTRUM_BANDS
    for group in modality.groups:
        for place, band in enumerate(group.band_names):
            known = statistics[f"{modality.name}/{band}"]
            pixels = groups[group.name][:, place].reshape(len(groups[group.name]), -1).astype(np.float64)
            valid = np.isfinite(pixels) & (pixels != group.nodata if group.nodata is not None else True)
            count = np.maximum(valid.sum(axis=1), 1)
            mean = np.where(valid.any(axis=1), np.where(valid, pixels, 0).sum(axis=1) / count, known.mean)
            spread = np.sqrt(np.where(valid, (pixels - mean[:, None]) ** 2, 0).sum(axis=1) / count)
            columns += [mean, spread]
            if with_histograms:
                columns += list(_histograms(pixels, valid, known).T)
    return np.stack(columns, axis=1)


def standardise(train: Features, *others: Features) -> list[Features]:
    """All by mean and deviation of the first; a feature that never varies becomes 0."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    return [(features - mean) / np.where(std > 0, std, 1) for features in (train, *others)]


def canonical_projections(first: Features, second: Features, ridge: float = RIDGE) -> tuple[Features, Features]:
    """Canonical correlation analysis: matrices that take both feature sets into one space.

    Directions are weighted by their correlation, so that what the sensors do not share counts for nothing.

    Args:
        first: float64 [N, p], standardised, of the training pairs.
        second: float64 [N, q], standardised, row by row of the same pairs.
        ridge: see :data:`RIDGE`.

    Returns:
        float64 [p, k] and [q, k], k = min(p, q), to be multiplied by features from the right.
    """
    turns = []
    for features in (first, second):
        covariance = np.atleast_2d(np.cov(features.T)) + ridge * np.eye(features.shape[1])
        turns.append(np.linalg.inv(np.linalg.cholesky(covariance)).T)
    crossed = (first @ turns[0]).T @ (second @ turns[1]) / len(first)
    left, correlations, right = np.linalg.svd(crossed, full_matrices=False)
    return turns[0] @ (left * correlations), turns[1] @ (right.T * correlations)


def unit_rows(features: Features) -> npt.NDArray[np.float32]:
    """Rows scaled to length 1, float32; a row of zeros stays."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(length > 0, length, 1), np.float32)


def _histograms(pixels: Features, valid: npt.NDArray[np.bool_], known: BandStatistics) -> Features:
    """Share of each patch's valid pixels in each bin, float64 [N, BINS]; the outer bins are open."""
    low, high = known.mean - 3 * known.std, known.mean + 3 * known.std
    scaled = (np.where(valid, pixels, known.mean) - low) / max(high - low, 1e-12) * BINS
    bins = np.clip(scaled.astype(np.int64), 0, BINS - 1) + BINS * np.arange(len(pixels))[:, None]
    counts = np.bincount(bins[valid], minlength=BINS * len(pixels)).reshape(len(pixels), BINS)
    return np.asarray(counts / np.maximum(valid.sum(axis=1), 1)[:, None])

import math

import numpy as np
import pytest
import torch

from sscm.errors import EvaluationError
from sscm.evaluation import geometry, metrics
from tests.plugins.embeddings import unit


def test_modality_gap():
    vectors = unit(np.random.default_rng(8), 100, 16)
    assert geometry.modality_gap(vectors, vectors[::-1]) == pytest.approx(0, abs=1e-6)
    north = np.tile(np.array([[1, 0]], np.float32), (5, 1))
    assert geometry.modality_gap(north, -north[:3]) == pytest.approx(2)
    # Means of n random unit vectors lie about sqrt(1/n) from 0, so two of them sqrt(2/n) apart.
    rng = np.random.default_rng(9)
    gap = geometry.modality_gap(unit(rng, 1000, 128), unit(rng, 1000, 128))
    assert gap == pytest.approx(np.sqrt(2 / 1000), rel=0.2)


def test_alignment():
    vectors = unit(np.random.default_rng(1), 50, 16)
    assert geometry.alignment(vectors, vectors) == 0
    assert geometry.alignment(vectors, -vectors) == pytest.approx(4)
    other = unit(np.random.default_rng(2), 50, 16)
    slow = np.mean([sum((a - b) ** 2) for a, b in zip(vectors.astype(float), other.astype(float), strict=True)])
    assert geometry.alignment(vectors, other) == pytest.approx(slow)
    assert geometry.alignment(vectors, other) == geometry.alignment(other, vectors)


@pytest.mark.parametrize("scores", [1 << 22, 100], ids=["one chunk", "many chunks"])
def test_uniformity_equals_the_published_code(scores, monkeypatch):
    monkeypatch.setattr(metrics, "SCORES_PER_CHUNK", scores)
    vectors = unit(np.random.default_rng(3), 60, 16)
    published = torch.pdist(torch.from_numpy(vectors).double()).pow(2).mul(-2).exp().mean().log()
    assert geometry.uniformity(vectors) == pytest.approx(float(published), rel=1e-5)


def test_uniformity_at_its_ends():
    collapsed = np.repeat(unit(np.random.default_rng(4), 1, 16), 20, axis=0)
    assert geometry.uniformity(collapsed) == pytest.approx(0, abs=1e-5)
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert geometry.uniformity(opposite) == pytest.approx(-8)  # d² = 4
    # Distances of random directions in many dimensions concentrate at d² = 2: exp(−4), and a little more by spread.
    assert geometry.uniformity(unit(np.random.default_rng(5), 500, 512)) == pytest.approx(-4, abs=0.05)
    assert math.isfinite(geometry.uniformity(unit(np.random.default_rng(6), 2, 4)))


def test_refusals():
    vectors = unit(np.random.default_rng(7), 3, 4)
    with pytest.raises(EvaluationError, match=r"\(3, 4\) and \(2, 4\)"):
        geometry.alignment(vectors, vectors[:2])
    with pytest.raises(EvaluationError, match="no embeddings"):
        geometry.alignment(vectors[:0], vectors[:0])
    with pytest.raises(EvaluationError, match="uniformity of 1 embeddings"):
        geometry.uniformity(vectors[:1])

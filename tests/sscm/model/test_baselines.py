"""Barlow Twins and VICReg against closed forms and slow versions."""

import math

import numpy as np
import pytest
import torch

from sscm.model.baselines import barlow_twins_loss, covariance_term, variance_term, vicreg_loss


def draw(rows, dimension, seed):
    return torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal_columns(rows, dimension):
    """Columns of mean 0 and variance 1 (biased) without any correlation."""
    centred = draw(rows, dimension, 0) - draw(rows, dimension, 0).mean(dim=0)
    return torch.linalg.qr(centred)[0] * math.sqrt(rows)


def test_barlow_twins_of_white_twins_is_nothing_and_of_opposites_four_a_dimension():
    white = orthogonal_columns(40, 5)
    assert float(barlow_twins_loss(white, white)) == pytest.approx(0.0, abs=1e-8)
    assert float(barlow_twins_loss(white, -white)) == pytest.approx(4 * 5, rel=1e-4)


def test_barlow_twins_of_copies_of_one_dimension_pays_for_redundancy():
    same = orthogonal_columns(40, 1).expand(40, 3)
    assert float(barlow_twins_loss(same, same)) == pytest.approx(0.005 * 6, rel=1e-4)


def test_barlow_twins_against_numpy():
    first, second = draw(30, 4, 1), 2 * draw(30, 4, 2) + 1
    correlation = np.corrcoef(first.numpy().T, second.numpy().T)[:4, 4:]
    off = correlation - np.diag(np.diag(correlation))
    expected = ((1 - np.diag(correlation)) ** 2).sum() + 0.005 * (off**2).sum()
    assert float(barlow_twins_loss(first, second)) == pytest.approx(expected, rel=1e-4)


def test_variance_and_covariance_terms_in_closed_form():
    assert float(variance_term(torch.ones(6, 3, dtype=torch.float64))) == pytest.approx(1 - 0.01)
    assert float(variance_term(3 * draw(100, 3, 0))) == 0.0
    rows = draw(30, 4, 1)
    covariance = np.cov(rows.numpy().T)
    expected = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    assert float(covariance_term(rows)) == pytest.approx(expected / 4)
    assert float(covariance_term(orthogonal_columns(40, 5))) == pytest.approx(0.0, abs=1e-12)
    assert float(variance_term(rows[:1])) == float(covariance_term(rows[:1])) == 0.0


def test_vicreg_is_its_weighted_terms():
    first, second = draw(20, 4, 1), 0.1 * draw(20, 4, 2)
    expected = (
        25 * (first - second).square().mean()
        + 25 * (variance_term(first) + variance_term(second))
        + covariance_term(first)
        + covariance_term(second)
    )
    assert float(vicreg_loss(first, second)) == pytest.approx(float(expected))


@pytest.mark.parametrize("loss", [barlow_twins_loss, vicreg_loss])
def test_gradients_of_identical_images_are_finite(loss):
    first, second = (torch.ones(5, 3, requires_grad=True) for _ in range(2))
    loss(first, second).backward()
    assert torch.isfinite(first.grad).all() and torch.isfinite(second.grad).all()

"""Published objectives on raw projections: Barlow Twins and VICReg across modalities, and what regularises with them.

All take the global batch, gathered with gradient, and give its loss, the same on every worker: their statistics are
those of all pairs, whatever the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

BARLOW_OFF_DIAGONAL = 5e-3
"""Weight of redundancy reduction, λ of the paper."""
VICREG_INVARIANCE, VICREG_VARIANCE, VICREG_COVARIANCE = 25.0, 25.0, 1.0
"""λ, μ, ν of the paper."""
SIGREG_DIRECTIONS = 256
"""Random directions a step; the paper finds that few are enough, since every step draws others."""
SIGREG_REACH, SIGREG_KNOTS = 5.0, 9
"""The integral runs from −5 to 5 over 17 knots; its integrand is even, so that 9 from 0 do."""


def barlow_twins_loss(first: Tensor, second: Tensor, off_diagonal: float = BARLOW_OFF_DIAGONAL) -> Tensor:
    """Barlow Twins with the two modalities as the two views.

    Args:
        first: float [N, d], raw projections of one modality.
        second: float [N, d], of the other, row by row of the same pairs.
        off_diagonal: λ.

    Returns:
        Scalar, ``Σ_i (1 − C_ii)² + λ·Σ_{i≠j} C_ij²``, C [d, d] being the cross-correlation over the batch.

    Source: Zbontar et al. 2021, arXiv 2103.03230; across modalities the common part of DeCUR (arXiv 2309.05300).
    """
    correlation = _standardised(first).T @ _standardised(second) / len(first)
    diagonal = torch.diagonal(correlation)
    redundant = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * redundant


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """VICReg with the two modalities as the two views.

    Args:
        first: float [N, d], raw projections of one modality.
        second: float [N, d], of the other, row by row of the same pairs.

    Returns:
        Scalar, ``λ·mean (z¹ − z²)² + Σ_m [μ·v(z^m) + ν·c(z^m)]``; the squared distance is averaged over dimensions, as
        the authors' code does it.

    Source: Bardes, Ponce, LeCun 2022, arXiv 2105.04906.
    """
    invariance = (first - second).square().mean()
    spread = variance_term(first) + variance_term(second)
    redundant = covariance_term(first) + covariance_term(second)
    return VICREG_INVARIANCE * invariance + VICREG_VARIANCE * spread + VICREG_COVARIANCE * redundant


def vicreg_regulariser(projections: Tensor) -> Tensor:
    """Variance and covariance terms in VICReg's proportion, the variance's weight being 1; see :func:`vicreg_loss`."""
    return variance_term(projections) + VICREG_COVARIANCE / VICREG_VARIANCE * covariance_term(projections)


def variance_term(projections: Tensor) -> Tensor:
    """Mean shortfall of the dimensions' deviations from 1.

    Args:
        projections: float [N, d].

    Returns:
        Scalar, ``mean_j max(0, 1 − √(var_j + 10⁻⁴))``; 0 for a batch of one, which has no variance.
    """
    if len(projections) < 2:
        return projections.sum() * 0
    deviation = (projections.var(dim=0) + 1e-4).sqrt()
    return (1 - deviation).clamp(min=0).mean()


def covariance_term(projections: Tensor) -> Tensor:
    """Squared covariances between dimensions.

    Args:
        projections: float [N, d].

    Returns:
        Scalar, ``1/d·Σ_{i≠j} cov_ij²``; 0 for a batch of one.
    """
    if len(projections) < 2:
        return projections.sum() * 0
    centred = projections - projections.mean(dim=0)
    covariance = centred.T @ centred / (len(centred) - 1)
    return (covariance.square().sum() - torch.diagonal(covariance).square().sum()) / projections.shape[1]


def sigreg(projections: Tensor, step: int, directions: int = SIGREG_DIRECTIONS) -> Tensor:
    """Epps and Pulley's statistic of random one-dimensional projections against a standard normal.

    Args:
        projections: float [N, d].
        step: seeds the directions, alike on every worker.
        directions: how many.

    Returns:
        Scalar, the mean over unit directions a of ``N·∫ |φ_a(t) − e^{−t²/2}|² e^{−t²/2} dt`` from −5 to 5, φ_a being
        the empirical characteristic function of ``z·a``.

    Source: Balestriero, LeCun 2025, LeJEPA (arXiv 2511.08544), its listing of SIGReg; Epps, Pulley 1983.
    """
    if not len(projections):
        return projections.sum()
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randn(projections.shape[1], directions, generator=generator, dtype=torch.float64)
    unit = (drawn / drawn.norm(dim=0)).to(projections)
    along = projections @ unit  # float [N, directions]
    knots = torch.linspace(0, SIGREG_REACH, SIGREG_KNOTS, dtype=projections.dtype, device=projections.device)
    errors = []
    for knot in knots.unbind():
        normal = torch.exp(-knot.square() / 2)
        angle = along * knot
        real, imaginary = angle.cos().mean(dim=0), angle.sin().mean(dim=0)
        errors.append(((real - normal).square() + imaginary.square()) * normal)
    half = torch.trapezoid(torch.stack(errors), knots, dim=0)  # float [directions]
    return len(projections) * 2 * half.mean()


def _standardised(projections: Tensor) -> Tensor:
    """Every dimension with mean 0 and variance 1 over the batch, as a batch norm without gain does it."""
    centred = projections - projections.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + 1e-5).sqrt()

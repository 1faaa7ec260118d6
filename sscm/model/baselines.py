"""Published objectives on raw projections: Barlow Twins and VICReg across modalities.

Both take the global batch, gathered with gradient, and give its loss, the same on every worker: their statistics are
those of all pairs, whatever the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

BARLOW_OFF_DIAGONAL = 5e-3
"""Weight of redundancy reduction, λ of the paper."""
VICREG_INVARIANCE, VICREG_VARIANCE, VICREG_COVARIANCE = 25.0, 25.0, 1.0
"""λ, μ, ν of the paper."""


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


def _standardised(projections: Tensor) -> Tensor:
    """Every dimension with mean 0 and variance 1 over the batch, as a batch norm without gain does it."""
    centred = projections - projections.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + 1e-5).sqrt()

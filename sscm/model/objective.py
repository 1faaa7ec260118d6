"""The joint objective: three losses on the unit-norm embeddings of a global batch of pairs.

``L = w_mim·L_MIM + w_mde·L_MDE + w_isp·L_ISP`` (Sumbul, Müller, Demir, "A Novel Self-Supervised Cross-Modal Image
Retrieval Method In Remote Sensing", ICIP 2022, arXiv 2202.11429). Each worker computes the rows of its own pairs
against the whole batch, gathered with gradient; the mean over workers is the loss of one process on the whole batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from sscm.config import ObjectiveConfig
from sscm.model.neighbours import nearest_other


def mutual_information_loss(
    first: Tensor, second: Tensor, all_first: Tensor, all_second: Tensor, start: int, temperature: float
) -> Tensor:
    """Symmetric NT-Xent between two modalities; lowering it raises a lower bound on their mutual information.

    Args:
        first: float [n, d], unit norm: this worker's embeddings of one modality.
        second: float [n, d], unit norm: those of the other, row by row of the same pairs.
        all_first: float [N, d]: the global batch of the first modality.
        all_second: float [N, d]: the global batch of the second.
        start: row of the global batch at which this worker's pairs start.
        temperature: τ.

    Returns:
        Scalar, ``−½·mean_i [log softmax_j(z¹_i·z²_j/τ)_i + log softmax_j(z²_i·z¹_j/τ)_i]``.

    Source: van den Oord et al. 2018 (arXiv 1807.03748) for the bound; Sohn 2016, Chen et al. 2020 for NT-Xent.
    """
    target = torch.arange(start, start + len(first), device=first.device)
    forward = F.cross_entropy(first @ all_second.T / temperature, target)
    backward = F.cross_entropy(second @ all_first.T / temperature, target)
    return (forward + backward) / 2


def modality_discrepancy_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean angle inside each pair as a share of π.

    Args:
        first: float [n, d], unit norm.
        second: float [n, d], unit norm, row by row of the same pairs.

    Returns:
        Scalar in [0, 1]. Computed as ``2/π·atan2(|a−b|, |a+b|)``, which equals ``arccos(a·b)/π`` for unit vectors and,
        unlike it, has a finite gradient at a·b = ±1 (Kahan, "How Futile are Mindless Assessments of Roundoff", §12).

    Source: Sumbul et al. 2022, modality discrepancy elimination.
    """
    apart = torch.linalg.vector_norm(first - second, dim=1)
    together = torch.linalg.vector_norm(first + second, dim=1)
    return (2 / math.pi) * torch.atan2(apart, together).mean()


def intra_modal_similarity_loss(local: Tensor, batch: Tensor, start: int) -> Tensor:
    """Minus the mean cosine between each image and the most similar other image of its modality.

    Args:
        local: float [n, d], unit norm: this worker's embeddings of one modality.
        batch: float [N, d], unit norm: the global batch, N ≥ 2.
        start: row of the batch at which this worker's images start.

    Returns:
        Scalar in [−1, 1].

    Source: Sumbul et al. 2022, intra-modal similarity preservation; neighbours by :mod:`sscm.model.neighbours`.
    """
    neighbour = batch[nearest_other(local, batch, start)]
    return -(local * neighbour).sum(dim=1).mean()


@dataclass(frozen=True)
class Losses:
    """The joint loss and its terms, scalars; ``total`` carries the gradient."""

    total: Tensor
    mim: Tensor
    mde: Tensor
    isp: Tensor

    def detached(self) -> Tensor:
        """float32 [4]: total, mim, mde, isp, without gradient."""
        return torch.stack([self.total, self.mim, self.mde, self.isp]).detach().float()


def joint_loss(projections: Mapping[str, Tensor], config: ObjectiveConfig, isp_scale: float = 1.0) -> Losses:
    """The joint objective over all modalities, each pair of them alike.

    Args:
        projections: modality → float [n, d], of any norm, this worker's rows; the same pairs in the same order.
        config: weights and temperature.
        isp_scale: factor on ``w_isp``, 0 while neighbours mean nothing yet.

    Returns:
        The losses of this worker's rows; their mean over workers is the loss of the global batch.
    """
    names = list(projections)
    embeddings = {name: F.normalize(projections[name], dim=1) for name in names}
    gathered = {name: gather(embeddings[name]) for name in names}
    start = _rank() * len(embeddings[names[0]])
    pairs = list(itertools.combinations(names, 2))
    mim = _mean(
        mutual_information_loss(embeddings[a], embeddings[b], gathered[a], gathered[b], start, config.temperature)
        for a, b in pairs
    )
    mde = _mean(modality_discrepancy_loss(embeddings[a], embeddings[b]) for a, b in pairs)
    isp = _mean(intra_modal_similarity_loss(embeddings[name], gathered[name], start) for name in names)
    total = config.w_mim * mim + config.w_mde * mde + config.w_isp * isp_scale * isp
    return Losses(total, mim, mde, isp)


def gather(local: Tensor) -> Tensor:
    """The embeddings of all workers, in rank order, with gradient; the input itself where there is one process.

    Args:
        local: float [n, d]; n is the same on every worker.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    result: Tensor = _Gather.apply(local)
    return result


class _Gather(torch.autograd.Function):
    """all_gather whose backward gives each worker the sum over workers of the gradients of its own rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() * ctx.rows : (dist.get_rank() + 1) * ctx.rows]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _mean(values: Any) -> Tensor:
    return torch.stack(list(values)).mean()

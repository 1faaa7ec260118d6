"""The joint objective: three losses on the unit-norm embeddings of a global batch of pairs.

``L = w_mim·L_MIM + w_mde·L_MDE + w_isp·L_ISP`` (Sumbul, Müller, Demir, "A Novel Self-Supervised Cross-Modal Image
Retrieval Method In Remote Sensing", ICIP 2022, arXiv 2202.11429). Each worker computes the rows of its own pairs
against the whole batch, gathered with gradient; the mean over workers is the loss of one process on the whole batch.

Memory grows with the rows of the worker, not with their number times the whole batch: see :func:`partner_nll`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sscm.config import ObjectiveConfig
from sscm.model.baselines import barlow_twins_loss, vicreg_loss
from sscm.model.gather import Layout, gather, layout_of
from sscm.model.neighbours import nearest_other

LOGITS = 2**24
"""Logits held at a time: 64 MB in float32, a batch of 4,096 pairs on one worker."""


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


def joint_loss(
    projections: Mapping[str, Tensor],
    config: ObjectiveConfig,
    isp_scale: float = 1.0,
    *,
    layout: Layout | None = None,
) -> Losses:
    """The objective over all modalities, each pair of them alike.

    A global batch of one pair has nothing to be told apart from and no neighbour: its L_MIM and L_ISP are 0.

    Args:
        projections: modality → float [n, d], of any norm, this worker's rows; the same pairs in the same order.
        config: weights and temperature; or which baseline takes the place of the joint objective.
        isp_scale: factor on ``w_isp``, 0 while neighbours mean nothing yet.
        layout: rows of each worker; asked of the others if not given.

    Returns:
        The losses of this worker's rows; their mean over workers is the loss of the global batch. With a baseline,
        ``total`` is the baseline's loss and the terms are shown for comparison, without gradient.
    """
    names = list(projections)
    first = projections[names[0]]
    layout = layout or layout_of(len(first), first.device)
    # One collective for all modalities: float [n, modalities, d] → [N, modalities, d].
    stacked = gather(torch.stack([projections[name] for name in names], dim=1), layout)
    raw = dict(zip(names, stacked.unbind(dim=1), strict=True))
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.kind == "joint"):
        mim, mde, isp = _terms(raw, layout, config.temperature)
    pairs = list(itertools.combinations(names, 2))
    if config.kind == "barlow":
        total = _mean(barlow_twins_loss(raw[a], raw[b]) for a, b in pairs)
    elif config.kind == "vicreg":
        total = _mean(vicreg_loss(raw[a], raw[b]) for a, b in pairs)
    else:
        total = config.w_mim * mim + config.w_mde * mde + config.w_isp * isp_scale * isp
    return Losses(total, mim, mde, isp)


def mutual_information_loss(
    first: Tensor, second: Tensor, layout: Layout, temperature: float, logits: int = LOGITS
) -> Tensor:
    """Symmetric NT-Xent between two modalities; lowering it raises a lower bound on their mutual information.

    Args:
        first: float [N, d], unit norm: the global batch of one modality.
        second: float [N, d], unit norm: that of the other, row by row of the same pairs.
        layout: which rows are this worker's.
        temperature: τ.
        logits: how many are held at a time.

    Returns:
        float [n], one value an own pair i: ``−½·[log softmax_j(z¹_i·z²_j/τ)_i + log softmax_j(z²_i·z¹_j/τ)_i]``.

    Source: van den Oord et al. 2018 (arXiv 1807.03748) for the bound; Sohn 2016, Chen et al. 2020 (arXiv 2002.05709)
    for NT-Xent.
    """
    forward = partner_nll(layout.own(first), second, layout.start, temperature, logits)
    backward = partner_nll(layout.own(second), first, layout.start, temperature, logits)
    return (forward + backward) / 2


def modality_discrepancy_loss(first: Tensor, second: Tensor) -> Tensor:
    """Angle inside each pair as a share of π.

    Args:
        first: float [n, d], unit norm.
        second: float [n, d], unit norm, row by row of the same pairs.

    Returns:
        float [n] in [0, 1]. Computed as ``2/π·atan2(|a−b|, |a+b|)``, which equals ``arccos(a·b)/π`` for unit vectors
        and, unlike it, has a finite gradient at a·b = ±1 (Kahan, "How Futile are Mindless Assessments of Roundoff",
        §12).

    Source: Sumbul et al. 2022, modality discrepancy elimination.
    """
    apart = torch.linalg.vector_norm(first - second, dim=1)
    together = torch.linalg.vector_norm(first + second, dim=1)
    return (2 / math.pi) * torch.atan2(apart, together)


def intra_modal_similarity_loss(own: Tensor, neighbours: Tensor) -> Tensor:
    """Minus the cosine between each image and its most similar other image of the same modality.

    Args:
        own: float [n, d], unit norm, of one modality.
        neighbours: float [n, d], unit norm: of each image, by :func:`sscm.model.neighbours.nearest_other`.

    Returns:
        float [n] in [−1, 1].

    Source: Sumbul et al. 2022, intra-modal similarity preservation.
    """
    return -(own * neighbours).sum(dim=1)


def partner_nll(queries: Tensor, targets: Tensor, first: int, temperature: float, logits: int = LOGITS) -> Tensor:
    """−log of the softmax share that each query gives to its partner among all targets.

    Where the logits do not fit, they are made for some rows at a time and made again in the backward pass, so that
    memory is that of the inputs and one chunk (Chen et al. 2016, arXiv 1604.06174, for recomputation).

    Args:
        queries: float [n, d].
        targets: float [N, d]; the partner of query i is row ``first + i``.
        first: see there.
        temperature: τ.
        logits: how many are held at a time.

    Returns:
        float [n].
    """
    rows = max(1, logits // max(1, len(targets)))
    if len(queries) <= rows:
        return _partner_nll(queries, targets, first, temperature)
    again = functools.partial(checkpoint, _partner_nll, use_reentrant=False, preserve_rng_state=False)
    starts = range(0, len(queries), rows)
    return torch.cat([again(queries[s : s + rows], targets, first + s, temperature) for s in starts])


def _partner_nll(queries: Tensor, targets: Tensor, first: int, temperature: float) -> Tensor:
    partners = torch.arange(first, first + len(queries), device=queries.device)
    return F.cross_entropy(queries @ targets.T / temperature, partners, reduction="none")


def _terms(raw: Mapping[str, Tensor], layout: Layout, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """L_MIM, L_MDE and L_ISP of the own rows of a global batch of raw projections."""
    batch = {name: F.normalize(rows, dim=1) for name, rows in raw.items()}
    own = {name: layout.own(rows) for name, rows in batch.items()}
    pairs = list(itertools.combinations(batch, 2))
    mim = _mean(layout.mean(mutual_information_loss(batch[a], batch[b], layout, temperature)) for a, b in pairs)
    mde = _mean(layout.mean(modality_discrepancy_loss(own[a], own[b])) for a, b in pairs)
    # The gradient reaches both an image and its neighbour.
    nearest = {name: batch[name][nearest_other(own[name], batch[name], layout.start)] for name in batch}
    isp = _mean(layout.mean(intra_modal_similarity_loss(own[name], nearest[name])) for name in batch)
    return mim, mde, isp * (layout.total > 1)  # a pair alone would be its own neighbour


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()

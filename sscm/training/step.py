"""One training step on prepared images: augment, encode, compare, optimise. Knows no Ray and no archive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sscm.config import TrainConfig
from sscm.model.augment import apply_symmetries, random_symmetries
from sscm.model.objective import Losses, joint_loss


class PairEncoders(nn.Module):
    """All encoders behind one ``forward``, so that one DistributedDataParallel holds them."""

    def __init__(self, encoders: nn.ModuleDict) -> None:
        super().__init__()
        self.encoders = encoders

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality → prepared pixels [N, bands, size, size] to modality → raw projections float32 [N, d]."""
        return {name: self.encoders[name].project(pixels) for name, pixels in images.items()}  # type: ignore[operator]


class TrainingStep:
    """Encoders, their optimiser and the schedule of the learning rate, one call a batch.

    Args:
        encoders: modality → encoder (any module that has ``project``), on the device they are trained on.
        config: settings; learning rate, augmentation and objective count here.
        total_steps: steps of the whole training, which the schedule spans.
        model: DistributedDataParallel over :class:`PairEncoders` of the same encoders, where there are several workers.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self, encoders: nn.ModuleDict, config: TrainConfig, total_steps: int, model: nn.Module | None = None
    ) -> None:
        self.encoders = encoders
        self.config = config
        self.total_steps = total_steps
        self.model = model or PairEncoders(encoders)
        self.device = next(encoders.parameters()).device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(encoders, config.weight_decay), lr=config.lr, fused=self.device.type == "cuda"
        )

    def __call__(
        self, images: Mapping[str, Tensor], pair_ids: Sequence[str], step: int, generator: torch.Generator
    ) -> Losses:
        """Learn from one batch.

        Args:
            images: modality → prepared pixels float32 [n, bands, size, size]; rows of the same pairs.
            pair_ids: n ids of the pairs.
            step: number of the step in the whole training, from 0.
            generator: of the augmentation, on the CPU.

        Returns:
            The losses of this worker's rows, before the update; their mean over workers is that of the global batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.total_steps, self.config)
        if self.config.augment:
            images = apply_symmetries(images, random_symmetries(len(pair_ids), generator))
        images = {name: pixels.contiguous(memory_format=torch.channels_last) for name, pixels in images.items()}
        self.encoders.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            projections = self.model(images)
        scale = float(step >= self.config.objective.isp_warmup * self.total_steps)
        losses = joint_loss(projections, self.config.objective, scale)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up to ``config.lr``, then half a cosine down to zero (Loshchilov, Hutter 2017).

    Args:
        step: from 0.
        total: steps of the whole training.
        config: peak and share of warm-up.
    """
    warmup = max(1, round(config.warmup * total))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases and the gains of normalisation layers do not."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]

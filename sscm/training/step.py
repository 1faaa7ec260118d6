"""One training step on prepared images: augment, encode, compare, optimise. Knows no Ray and no archive."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sscm.config import TrainConfig
from sscm.errors import NonFiniteLossError
from sscm.model.augment import augment
from sscm.model.gather import Layout, distributed, exchange
from sscm.model.gradient_cache import cached_backward
from sscm.model.objective import Losses, joint_loss


class PairEncoders(nn.Module):
    """All encoders behind one ``forward``, so that one DistributedDataParallel holds them."""

    def __init__(self, encoders: nn.ModuleDict, bfloat16: bool) -> None:
        super().__init__()
        self.encoders = encoders
        self.low_precision = bfloat16

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality → prepared pixels [n, bands, size, size] to modality → raw projections float [n, d]."""
        device = next(iter(images.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.low_precision):
            return {name: self.encoders[name].project(pixels) for name, pixels in images.items()}  # type: ignore[operator]


class TrainingStep:
    """Encoders, their optimiser and the schedule of the learning rate, one call a batch.

    A pair with a pixel that is not finite is left out before anything sees it, as if it were not in the batch, and
    counted in ``skipped``. A worker left with fewer than two pairs encodes with running statistics: two is the least
    that batch norm can tell a deviation from.

    Args:
        encoders: modality → encoder (any module that has ``project``), on the device they are trained on.
        config: settings; learning rate, augmentation, micro-batch and objective count here.
        total_steps: steps of the whole training, which the schedule spans.
        model: DistributedDataParallel over :class:`PairEncoders` of the same encoders, where there are several workers.
    """

    optimizer: torch.optim.Optimizer
    skipped: int
    """Pairs of this worker that were left out so far."""
    taken: int
    """Steps taken since it was made."""
    wish: int
    """What this worker wants of all, told with the next step: bits, 0 for nothing."""
    wished: int
    """What any worker wanted as the last step began: the same on all of them."""

    def __init__(
        self, encoders: nn.ModuleDict, config: TrainConfig, total_steps: int, model: nn.Module | None = None
    ) -> None:
        self.encoders = encoders
        self.config = config
        self.total_steps = total_steps
        self.device = next(encoders.parameters()).device
        self.model = model or PairEncoders(encoders, in_bfloat16(config, self.device))
        self.optimizer = torch.optim.AdamW(
            parameter_groups(encoders, config.weight_decay), lr=config.lr, fused=self.device.type == "cuda"
        )
        self.skipped = self.taken = self.wish = self.wished = 0
        self._last: tuple[int, list[str]] = (0, [])
        self._last_is_bad = torch.zeros((), dtype=torch.int64, device=self.device)

    def __call__(
        self, images: Mapping[str, Tensor], pair_ids: Sequence[str], step: int, generator: torch.Generator
    ) -> Losses:
        """Learn from one batch; all workers must call it together, each with its own rows.

        Args:
            images: modality → prepared pixels float32 [n, bands, size, size]; rows of the same pairs.
            pair_ids: n ids of the pairs.
            step: number of the step in the whole training, from 0.
            generator: of the augmentation, on the CPU.

        Returns:
            The losses of this worker's rows, before the update; their mean over workers is that of the global batch.

        Raises:
            NonFiniteLossError: the loss of the step before was not finite; raised on every worker.
        """
        usable = finite_rows(images)
        layout = self._agree(usable.sum())
        ids = list(pair_ids)
        if layout.own_count < len(ids):
            self.skipped += len(ids) - layout.own_count
            images = {name: pixels[usable] for name, pixels in images.items()}
            ids = [pair_id for pair_id, keep in zip(ids, usable.tolist(), strict=True) if keep]
        self._last = (step, ids)
        self.taken += 1
        if layout.total == 0:
            nothing = torch.zeros((), device=self.device)
            return Losses(nothing, nothing, nothing, nothing)
        if self.config.augment and ids:
            images = augment(images, self.config.crop, generator)
        images = {name: pixels.contiguous(memory_format=torch.channels_last) for name, pixels in images.items()}
        objective = self.config.objective
        scale = float(step >= objective.isp_warmup * self.total_steps)

        def loss_of(projections: Mapping[str, Tensor]) -> Losses:
            projections = {name: rows[: len(ids)] for name, rows in projections.items()}
            return joint_loss(projections, objective, scale, layout=layout)

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.total_steps, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(images, layout, loss_of)
        self._last_is_bad = (~torch.isfinite(losses.total.detach())).to(torch.int64)
        self.optimizer.step()
        return losses

    def check(self) -> None:
        """Look at the last step's loss, as the next step would, and at the weights; all workers must call it together.

        Raises:
            NonFiniteLossError: one of them is not finite: a finite loss may have a gradient that is not.
        """
        weights = torch.stack([torch.isfinite(p.detach()).all() for p in self.encoders.parameters()])
        self._last_is_bad = self._last_is_bad | (~weights.all()).to(torch.int64)
        self._agree(torch.zeros((), dtype=torch.int64, device=self.device))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser, the same on every worker: what a checkpoint holds beside the encoders."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])

    def _agree(self, rows: Tensor) -> Layout:
        """Tell all workers how many rows this one has; hear whether anyone's last loss was not finite, and all wishes.

        All in one small message and one wait for the device a step; what the last step left there is done by then.
        """
        wish = torch.tensor(self.wish, device=self.device)
        told = exchange(torch.stack([rows, self._last_is_bad, wish]))
        self.wished = functools.reduce(operator.or_, (wish for _, _, wish in told))
        if any(bad for _, bad, _ in told):
            step, ids = self._last
            everyone: list[Any] = [ids]
            if distributed():
                everyone = [None] * dist.get_world_size()
                dist.all_gather_object(everyone, ids)
            raise NonFiniteLossError(step, [pair_id for part in everyone for pair_id in part])
        return Layout(tuple(count for count, _, _ in told), dist.get_rank() if distributed() else 0)

    def _backward(
        self, images: Mapping[str, Tensor], layout: Layout, loss_of: Callable[[Mapping[str, Tensor]], Losses]
    ) -> Losses:
        self.encoders.train(layout.own_count >= 2)
        if layout.own_count == 0:  # the others wait for this worker's part of every collective: it adds nothing
            images = {name: pixels.new_zeros((1, *pixels.shape[1:])) for name, pixels in images.items()}
        # All or none cache: the two ways talk to other workers in unlike order.
        if self.config.micro_batch is not None and max(layout.counts) > self.config.micro_batch:
            return cached_backward(self.model, images, loss_of, self.config.micro_batch)
        losses = loss_of(self.model(images))
        losses.total.backward()  # type: ignore[no-untyped-call]
        return losses


def in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether encoders are trained in bfloat16 on a device: by default where its matrix units have that format."""
    return device.type == "cuda" if config.bfloat16 is None else config.bfloat16


def finite_rows(images: Mapping[str, Tensor]) -> Tensor:
    """Which pairs have only finite pixels, in every modality: bool [n]."""
    # A sum is finite only where all its terms are: prepared pixels are a few deviations, so that it cannot overflow.
    return torch.stack([torch.isfinite(pixels.sum(dim=(1, 2, 3))) for pixels in images.values()]).all(dim=0)


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

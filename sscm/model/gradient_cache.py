"""Gradient caching: contrastive batches that do not fit memory, with the gradient of the whole batch.

Source: Gao, Zhang, Han, Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(GradCache, arXiv 2101.06983).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from sscm.model.objective import Losses

Images = Mapping[str, Tensor]


def cached_backward(
    model: nn.Module, images: Images, loss_of: Callable[[Mapping[str, Tensor]], Losses], micro_batch: int
) -> Losses:
    """Add the gradient of a loss over the whole batch to the parameters' ``grad``, some rows in memory at a time.

    First all rows are projected without a graph; the loss gives a gradient on the projections; then every micro-batch
    is projected again, with a graph, and takes its part of that gradient back to the parameters. Both passes draw the
    same random numbers. Batch-norm layers normalise by the statistics of a micro-batch, in both passes, and update
    their running statistics in the second only.

    Args:
        model: images → modality → projections float [n, d]; DistributedDataParallel talks once, at the last
            micro-batch, so workers may have different numbers of them; but all must cache, or none.
        images: modality → float [n, bands, size, size], n at least 1.
        loss_of: modality → projections [n, d] to losses; may talk to other workers.
        micro_batch: rows projected at a time.

    Returns:
        The losses.
    """
    parts = micro_batches(images, micro_batch)
    local = model.module if isinstance(model, DistributedDataParallel) else model
    device = next(iter(images.values())).device
    states, projected = [], []
    with torch.no_grad(), _frozen_statistics(local):
        for part in parts:
            states.append(_random_state(device))
            projected.append(local(part))
    leaves = {name: torch.cat([part[name] for part in projected]).requires_grad_() for name in projected[0]}
    del projected
    losses = loss_of(leaves)
    losses.total.backward()  # type: ignore[no-untyped-call]
    begin = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True), 1):
        silent = isinstance(model, DistributedDataParallel) and number < len(parts)
        with model.no_sync() if silent else contextlib.nullcontext():  # type: ignore[operator]
            with _with_random_state(state, device):
                again = model(part)
            end = begin + len(next(iter(again.values())))
            gradients = [_gradient(leaves[name])[begin:end] for name in again]
            torch.autograd.backward(list(again.values()), gradients)
            begin = end
    return losses


def micro_batches(images: Images, micro_batch: int) -> list[dict[str, Tensor]]:
    """Cut a batch into parts of about equal size: at most ``micro_batch`` rows, but never one alone, if it can be."""
    rows = len(next(iter(images.values())))
    count = max(1, min(-(-rows // micro_batch), rows // 2))
    cut = {name: pixels.tensor_split(count) for name, pixels in images.items()}
    return [{name: pieces[i] for name, pieces in cut.items()} for i in range(count)]


@contextlib.contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch-norm layers in training mode leave their running statistics alone."""
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextlib.contextmanager
def _with_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    cpu, cuda = state
    with torch.random.fork_rng(devices=[device] if cuda is not None else []):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        yield


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

"""Rows of all workers' batches, gathered with gradient, however many rows each worker has.

Every worker computes the losses of its own rows against the whole batch. What is averaged over workers afterwards (the
losses by us, the gradients by DistributedDataParallel) is then exactly the loss and the gradient of one process on the
whole batch: :meth:`Layout.mean` weighs rows, not workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the rows of a global batch lie on the workers.

    Args:
        counts: rows of each worker, in rank order; some may be 0.
        rank: which worker this is.
    """

    counts: tuple[int, ...]
    rank: int = 0

    @property
    def total(self) -> int:
        """Rows of the global batch."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """Row of the global batch at which this worker's rows start."""
        return sum(self.counts[: self.rank])

    @property
    def own_count(self) -> int:
        """Rows of this worker."""
        return self.counts[self.rank]

    def own(self, rows: Tensor) -> Tensor:
        """This worker's rows [n, …] of a global batch [N, …]."""
        return rows[self.start : self.start + self.own_count]

    def mean(self, values: Tensor) -> Tensor:
        """One value for each own row, float [n] → scalar; the mean of it over workers is that over all N rows."""
        return values.sum() * (len(self.counts) / max(1, self.total))


def exchange(numbers: Tensor) -> list[list[int]]:
    """The numbers of every worker, in rank order; where there is one process, only its own.

    Args:
        numbers: int64 [k], on the device that the process group talks from. The host waits for it.
    """
    if not distributed():
        return [[int(value) for value in numbers.tolist()]]
    parts = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, numbers)
    return [[int(value) for value in row] for row in torch.stack(parts).tolist()]


def layout_of(rows: int, device: torch.device) -> Layout:
    """The layout of a batch of which this worker has some rows; all workers must ask together."""
    counts = exchange(torch.tensor([rows], device=device))
    return Layout(tuple(count for (count,) in counts), dist.get_rank() if distributed() else 0)


def gather(local: Tensor, layout: Layout) -> Tensor:
    """The rows of all workers, in rank order, with gradient; the input itself where there is one process.

    Args:
        local: float [n, …], this worker's rows.
        layout: rows of each worker.

    Returns:
        float [N, …]. Its backward sums, for each row, the gradients that all workers have for it.
    """
    if not distributed():
        return local
    result: Tensor = _Gather.apply(local, layout)
    return result


def distributed() -> bool:
    """Whether there is a process group of more than one worker."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        most = max(layout.counts)
        padded = local.new_zeros((most, *local.shape[1:]))  # collectives want the same shape on every worker
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in layout.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, layout.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous().clone()  # autograd may hold the same memory for another branch
        dist.all_reduce(gradient)
        return ctx.layout.own(gradient), None

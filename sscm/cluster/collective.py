"""A node's part in what nodes do together: connections to each other, and an all-reduce over a process group."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

MEGABYTE = 1_000_000
FIRST_BYTES = MEGABYTE
"""Bytes of the first all-reduce that is timed; by it the second is sized."""
ABOUT_S = 0.5
"""Seconds that the second all-reduce may take: a slow network is measured as well, and soon."""
MOST_BYTES = 64 * MEGABYTE
"""Bytes of the second all-reduce at most: about the gradients of a ResNet-50's encoder, half of them."""
ROUNDS = 3
"""All-reduces of a size; the fastest counts."""


def reach(others: Mapping[str, tuple[str, int]], seconds: float) -> dict[str, str | None]:
    """Connect to others.

    Args:
        others: name → address and port that it listens on.
        seconds: how long each may take.

    Returns:
        By name what went wrong, None where nothing did.
    """

    def connect(where: tuple[str, int]) -> str | None:
        try:
            with socket.create_connection(where, timeout=seconds):
                return None
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(max_workers=32) as pool:
        return dict(zip(others, pool.map(connect, others.values()), strict=True))


def all_reduce(backend: str, store: Any, rank: int, world: int, seconds: float) -> dict[str, float]:
    """Sum over a process group, and time it.

    Args:
        backend: ``gloo``, or ``nccl`` for this process's first GPU.
        store: a ``torch.distributed.Store`` by which the ranks meet.
        rank: of this process.
        world: processes in the group.
        seconds: after which whatever waits gives up.

    Returns:
        ``bytes`` of the largest sum, ``seconds`` it took, and ``bytes_per_s`` that each rank sent, which is as much as
        it received.

    Raises:
        RuntimeError: the group was not made in time, a rank was lost, or a sum is wrong.
    """
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=seconds))
    try:
        device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")

        def fastest(size: int) -> float:
            """Seconds of the fastest sum of so many bytes, of its slowest rank."""
            best = float("inf")
            for _ in range(ROUNDS):
                values = torch.full((size // 4,), float(rank + 1), device=device)
                dist.barrier()
                began = time.perf_counter()
                dist.all_reduce(values)
                found = values[-1].item()  # waits for the device
                if found != world * (world + 1) / 2:
                    raise RuntimeError(f"a sum over {world} ranks is {found:g}: data was altered on its way")
                best = min(best, time.perf_counter() - began)
            slowest = torch.tensor([best], dtype=torch.float64, device=device)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            return float(slowest.item())

        first = fastest(FIRST_BYTES)
        size = int(min(max(ABOUT_S / ROUNDS / first, 1.0), MOST_BYTES / FIRST_BYTES)) * FIRST_BYTES
        taken = first if size == FIRST_BYTES else fastest(size)
        # A ring sends, and receives, each element 2 (n - 1) / n times.
        return {"bytes": size, "seconds": taken, "bytes_per_s": 2 * (world - 1) / world * size / taken}
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()

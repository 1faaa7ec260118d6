"""Exact products of small integers: by the processor's or the GPU's int8 instructions where PyTorch reaches them.

``torch._int_mm`` is not public API, so it is tried once a device and its answer compared. Where it is missing or wrong,
float32 takes its place: products of int8 and their sums of up to 1,040 terms are integers below 2²⁴, which float32
holds exactly in any order of summation; longer rows take float64. All give the same integers.

On processors without int8 instructions of their own (no AVX-512 VNNI or AMX) it works, too, but takes many times as
long as float32 does: there which of the two is faster is measured, once a process.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

MOST_TERMS = 2**24 // 127**2
"""Longest rows whose products float32 sums exactly."""
FLOAT_ROWS = 4_096
"""Rows that are made floats at a time."""
_memory = threading.local()
_CUDA_QUERIES, _CUDA_ROWS = 32, 8
"""cuBLAS wants more than 16 queries, and multiples of 8: both sides are padded to multiples of these."""


def int8_product(queries: Tensor, codes: Tensor, out: Tensor) -> None:
    """Inner products of int8 vectors.

    Args:
        queries: int8 [q, w], values from -127 to 127, w a multiple of 16.
        codes: int8 [n, w].
        out: int32 [q, n], contiguous; overwritten with the products.
    """
    if not (int8_pays() if queries.device.type == "cpu" else int8_works(str(queries.device))):
        float_product(queries, codes, out)
    elif queries.is_cuda:
        left, right = _padded(queries, _CUDA_QUERIES), _padded(codes, _CUDA_ROWS)
        out.copy_(torch._int_mm(left, right.T)[: len(queries), : len(codes)])
    else:
        torch._int_mm(queries, codes.T, out=out)


def float_product(queries: Tensor, codes: Tensor, out: Tensor) -> None:
    """The same by floats, some rows at a time: they are still in a core's cache when they are multiplied."""
    # Integers that the floats hold exactly, so that rounding to int32 changes nothing.
    kind = torch.float32 if queries.shape[1] <= MOST_TERMS else torch.float64
    asked = queries.to(kind)
    if queries.device.type != "cpu":
        out.copy_(asked @ codes.to(kind).T)
        return
    for start in range(0, len(codes), FLOAT_ROWS):
        part = codes[start : start + FLOAT_ROWS]
        rows = _held("rows", part.shape, kind).copy_(part)
        products = _held("products", (len(queries), len(part)), kind)
        out[:, start : start + FLOAT_ROWS] = torch.mm(asked, rows.T, out=products)


def _held(name: str, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    """Memory of this thread that products are made in: fresh memory each time costs as much as they do."""
    count = torch.Size(shape).numel()
    memory = getattr(_memory, name, None)
    if memory is None or memory.dtype != kind or memory.numel() < count:
        with torch.inference_mode(False):  # it is written to within that mode and outside of it
            memory = torch.empty(count, dtype=kind)
        setattr(_memory, name, memory)
    return memory[:count].view(shape)


@functools.cache
def int8_pays() -> bool:
    """Whether ``torch._int_mm`` is there, right, and faster than floats on this machine's processor."""
    if not int8_works("cpu"):
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-127, 128, (n, 128), generator=generator, dtype=torch.int8) for n in (16, FLOAT_ROWS))
    out = torch.empty((len(left), len(right)), dtype=torch.int32)
    by_floats = _seconds(lambda: float_product(left, right, out))
    return _seconds(lambda: torch._int_mm(left, right.T, out=out)) <= by_floats


def _seconds(work: Callable[[], object]) -> float:
    """The shortest time of three, after one that makes ready."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


@functools.cache
def int8_works(device: str) -> bool:
    """Whether ``torch._int_mm`` is there and right on a device."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-127, 128, (32, 64), generator=generator, dtype=torch.int8) for _ in range(2))
    expected = left.int() @ right.int().T
    out = torch.empty_like(expected, device=device)
    try:
        torch._int_mm(left.to(device), right.to(device).T, out=out)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool(torch.equal(out.cpu(), expected))


def _padded(values: Tensor, multiple: int) -> Tensor:
    """The same with rows of zeros, so that there are a multiple of so many."""
    lacking = -len(values) % multiple
    return torch.nn.functional.pad(values, (0, 0, 0, lacking)) if lacking else values

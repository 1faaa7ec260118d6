"""Exact products of small integers: by the processor's or the GPU's int8 instructions where PyTorch reaches them.

``torch._int_mm`` is not public API, so it is tried once a device and its answer compared. Where it is missing or wrong,
float32 takes its place: products of int8 and their sums of up to 1,040 terms are integers below 2²⁴, which float32
holds exactly in any order of summation; longer rows take float64. All give the same integers.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MOST_TERMS = 2**24 // 127**2
"""Longest rows whose products float32 sums exactly."""
_CUDA_QUERIES, _CUDA_ROWS = 32, 8
"""cuBLAS wants more than 16 queries, and multiples of 8: both sides are padded to multiples of these."""


def int8_product(queries: Tensor, codes: Tensor, out: Tensor) -> None:
    """Inner products of int8 vectors.

    Args:
        queries: int8 [q, w], values from -127 to 127, w a multiple of 16.
        codes: int8 [n, w].
        out: int32 [q, n], contiguous; overwritten with the products.
    """
    if not int8_works(str(queries.device)):
        # Integers that the floats hold exactly, so that rounding to int32 changes nothing.
        kind = torch.float32 if queries.shape[1] <= MOST_TERMS else torch.float64
        out.copy_(queries.to(kind) @ codes.to(kind).T)
    elif queries.is_cuda:
        left, right = _padded(queries, _CUDA_QUERIES), _padded(codes, _CUDA_ROWS)
        out.copy_(torch._int_mm(left, right.T)[: len(queries), : len(codes)])
    else:
        torch._int_mm(queries, codes.T, out=out)


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

# ruff: noqa: ANN001, ANN202
# Arguments of kernels have types that Python does not know.
"""Kernels of the exact search on a GPU, in Triton: products of codes that never leave the chip, and float64 scores.

PyTorch brings Triton along where it brings CUDA. With ``TRITON_INTERPRET=1`` the kernels run on the CPU, slowly.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

GROUP_ROWS = 64
"""Rows of which only the largest product is kept."""
NEVER = torch.iinfo(torch.int32).min
"""Product of a row that is not there."""
_BLOCK_ROWS = 256
_SCORE_VALUES = 4_096
"""Values of rows that one program of :func:`exact_scores` holds."""


def group_maxima(queries: Tensor, codes: Tensor, mask: Tensor | None) -> Tensor:
    """The largest integer product of each group of rows.

    Args:
        queries: int8 [q, w], w a multiple of 16.
        codes: int8 [n, w].
        mask: bool [n], rows that count; None for all.

    Returns:
        int32 [q, groups]; :data:`NEVER` where no row of a group counts.
    """
    count, width = queries.shape
    groups = -(-len(codes) // GROUP_ROWS)
    out = torch.empty(count, groups, dtype=torch.int32, device=codes.device)
    block = min(128, max(16, triton.next_power_of_2(count)))
    grid = (triton.cdiv(len(codes), _BLOCK_ROWS) * triton.cdiv(count, block),)
    _group_maxima[grid](
        queries,
        codes,
        codes if mask is None else mask.view(torch.int8),
        out,
        count,
        len(codes),
        groups,
        WIDTH=width,
        STEP=64 if width > 32 else 32,
        QUERIES=block,
        ROWS=_BLOCK_ROWS,
        GROUP=GROUP_ROWS,
        MASKED=mask is not None,
        ABSENT=NEVER,
        num_warps=8 if block == 128 else 4,
    )
    return out


def group_products(queries: Tensor, codes: Tensor, mask: Tensor | None, groups: Tensor) -> Tensor:
    """Integer products of each query with the rows of some groups.

    Args:
        queries: int8 [q, w], w a multiple of 16.
        codes: int8 [n, w].
        mask: bool [n], rows that count; None for all.
        groups: int64 [q, g].

    Returns:
        int32 [q, g × :data:`GROUP_ROWS`]; :data:`NEVER` for rows that do not count.
    """
    count, chosen = groups.shape
    out = torch.empty(count, chosen * GROUP_ROWS, dtype=torch.int32, device=codes.device)
    _group_products[(chosen, count)](
        queries,
        codes,
        codes if mask is None else mask.view(torch.int8),
        groups,
        out,
        len(codes),
        chosen,
        WIDTH=queries.shape[1],
        PADDED=triton.next_power_of_2(queries.shape[1]),
        GROUP=GROUP_ROWS,
        MASKED=mask is not None,
        ABSENT=NEVER,
    )
    return out


def exact_scores(queries: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Inner products in double precision.

    Args:
        queries: float32 [q, d].
        vectors: float32 [n, d].
        rows: int64 [q, c].

    Returns:
        float64 [q, c] of each query with its rows; -inf where a row is -1.
    """
    count, chosen = rows.shape
    out = torch.empty(count, chosen, dtype=torch.float64, device=vectors.device)
    padded = triton.next_power_of_2(vectors.shape[1])
    block = max(1, _SCORE_VALUES // padded)
    _exact_scores[(triton.cdiv(chosen, block), count)](
        queries, vectors, rows, out, chosen, WIDTH=vectors.shape[1], PADDED=padded, ROWS=block
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _group_maxima(  # type: ignore[no-untyped-def]
    queries,
    codes,
    mask,
    out,
    count,
    rows,
    groups,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    ABSENT: tl.constexpr,
):
    # Blocks of queries lie next to each other, so that those of the same rows find them in the cache.
    blocks = tl.cdiv(count, QUERIES)
    program = tl.program_id(0)
    first = program // blocks
    query = ((program % blocks) * QUERIES + tl.arange(0, QUERIES)).to(tl.int64)
    row = first.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    product = tl.zeros((QUERIES, ROWS), tl.int32)
    for start in tl.static_range(0, WIDTH, STEP):
        column = start + tl.arange(0, STEP)
        inside = column[None, :] < WIDTH
        asked = tl.load(
            queries + query[:, None] * WIDTH + column[None, :], mask=(query[:, None] < count) & inside, other=0
        )
        coded = tl.load(codes + row[:, None] * WIDTH + column[None, :], mask=there[:, None] & inside, other=0)
        product = tl.dot(asked, tl.trans(coded), product, out_dtype=tl.int32)
    if MASKED:
        there = there & (tl.load(mask + row, mask=there, other=0) != 0)
    product = tl.where(there[None, :], product, ABSENT)
    best = tl.max(tl.reshape(product, (QUERIES, ROWS // GROUP, GROUP)), axis=2)
    group = first * (ROWS // GROUP) + tl.arange(0, ROWS // GROUP)
    tl.store(
        out + query[:, None] * groups + group[None, :], best, mask=(query[:, None] < count) & (group[None, :] < groups)
    )


@triton.jit  # type: ignore[untyped-decorator]
def _group_products(  # type: ignore[no-untyped-def]
    queries,
    codes,
    mask,
    chosen,
    out,
    rows,
    slots,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    ABSENT: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64)
    place = query * slots + tl.program_id(0)
    row = tl.load(chosen + place) * GROUP + tl.arange(0, GROUP)
    there = row < rows
    column = tl.arange(0, PADDED)
    asked = tl.load(queries + query * WIDTH + column, mask=column < WIDTH, other=0).to(tl.int32)
    coded = tl.load(
        codes + row[:, None] * WIDTH + column[None, :], mask=there[:, None] & (column[None, :] < WIDTH), other=0
    )
    product = tl.sum(coded.to(tl.int32) * asked[None, :], axis=1)
    if MASKED:
        there = there & (tl.load(mask + row, mask=there, other=0) != 0)
    tl.store(out + place * GROUP + tl.arange(0, GROUP), tl.where(there, product, ABSENT))


@triton.jit  # type: ignore[untyped-decorator]
def _exact_scores(  # type: ignore[no-untyped-def]
    queries,
    vectors,
    rows,
    out,
    slots,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.load(rows + query * slots + slot, mask=slot < slots, other=-1)
    column = tl.arange(0, PADDED)
    asked = tl.load(queries + query * WIDTH + column, mask=column < WIDTH, other=0).to(tl.float64)
    values = tl.load(
        vectors + row[:, None] * WIDTH + column[None, :],
        mask=(row[:, None] >= 0) & (column[None, :] < WIDTH),
        other=0,
    )
    score = tl.sum(values.to(tl.float64) * asked[None, :], axis=1)
    tl.store(out + query * slots + slot, tl.where(row >= 0, score, float("-inf")), mask=slot < slots)

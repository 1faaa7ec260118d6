# ruff: noqa: ANN001, ANN202
# Arguments of kernels have types that Python does not know.
"""Kernels of the exact search on a GPU, in Triton: integer products that never leave the chip, and float64 scores.

All tensors given are contiguous. PyTorch brings Triton along where it brings CUDA. With ``TRITON_INTERPRET=1`` the
kernels run on the CPU, slowly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

GROUP_ROWS = 64
"""Rows of which only the largest product is kept."""
NEVER = torch.iinfo(torch.int32).min
"""Product of a row that is not there."""
NOTHING = torch.iinfo(torch.int64).min
"""Key of no row."""
_LAST_ROW = 2**31 - 1
_BLOCK_ROWS, _BLOCK_QUERIES = 256, 128
_SCORE_VALUES = 4_096
"""Values of rows that one program of :func:`score_keys` holds."""

Keys = npt.NDArray[np.int64]


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
    block = min(_BLOCK_QUERIES, max(16, triton.next_power_of_2(count)))
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
        STEP=32 if width <= 32 else 128 if (width - 1) % 128 >= 64 else 64,
        QUERIES=block,
        ROWS=_BLOCK_ROWS,
        GROUP=GROUP_ROWS,
        MASKED=mask is not None,
        ABSENT=NEVER,
    )
    return out


def rows_from(
    queries: Tensor, codes: Tensor, mask: Tensor | None, groups: Tensor, least: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Rows of some groups whose integer product with a query is not below what is asked for.

    Args:
        queries: int8 [q, w], w a multiple of 16.
        codes: int8 [n, w].
        mask: bool [n], rows that count; None for all.
        groups: int64 [q, g], none twice for a query.
        least: int32 [q]; :data:`NEVER` for all rows that count.
        most: rows of a query that there is room for.

    Returns:
        int32 [q, most], in any order, and how many there are, int32 [q]: as many as were found, also where there was
        no room for all. What is beyond them is not written.
    """
    count, chosen = groups.shape
    out = torch.empty(count, most, dtype=torch.int32, device=codes.device)
    found = torch.zeros(count, dtype=torch.int32, device=codes.device)
    _rows_from[(chosen, count)](
        queries,
        codes,
        codes if mask is None else mask.view(torch.int8),
        groups,
        least,
        out,
        found,
        len(codes),
        chosen,
        most,
        WIDTH=queries.shape[1],
        PADDED=triton.next_power_of_2(queries.shape[1]),
        GROUP=GROUP_ROWS,
        MASKED=mask is not None,
    )
    return out, found


def score_keys(
    queries: Tensor, vectors: Tensor, places: Tensor | None, rows: Tensor, found: Tensor, doubt: float
) -> Tensor:
    """Scores of rows as integers: of two, the larger is that of the better answer; see :func:`scores_of`.

    Args:
        queries: float32 [q, d].
        vectors: float32 [n, d], n below 2³¹.
        places: int64 [rows], which vectors the rows are; None where they are their own numbers.
        rows: int32 [q, c].
        found: int32 [q], how many of them there are; what is beyond gets :data:`NOTHING`.
        doubt: float64 sums of two orders differ by no more than this times the length of the query.

    Returns:
        int64 [q, c].
    """
    count, most = rows.shape
    out = torch.empty(count, most, dtype=torch.int64, device=vectors.device)
    padded = triton.next_power_of_2(vectors.shape[1])
    block = max(1, _SCORE_VALUES // padded)
    _score_keys[(triton.cdiv(most, block), count)](
        queries,
        vectors,
        rows if places is None else places,
        rows,
        found,
        out,
        most,
        doubt,
        WIDTH=vectors.shape[1],
        PADDED=padded,
        ROWS=block,
        PLACED=places is not None,
        LAST=_LAST_ROW,
        ABSENT=NOTHING,
    )
    return out


def scores_of(keys: Keys) -> tuple[npt.NDArray[np.float32], Keys, npt.NDArray[np.bool_]]:
    """What :func:`score_keys` put into keys.

    From the top: the float32 score, its bits changed so that they are ordered as integers; the row, the first one
    largest; and one bit.

    Returns:
        Scores float32, NaN of no row; rows int64; and whether another order of summation may round to another score.
    """
    ordered = (keys >> 32).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(np.float32), _LAST_ROW - ((keys & 0xFFFFFFFF) >> 1), (keys & 1) != 0


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
def _rows_from(  # type: ignore[no-untyped-def]
    queries,
    codes,
    mask,
    groups,
    least,
    out,
    found,
    rows,
    chosen,
    most,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64)
    row = tl.load(groups + query * chosen + tl.program_id(0)) * GROUP + tl.arange(0, GROUP)
    there = row < rows
    column = tl.arange(0, PADDED)
    asked = tl.load(queries + query * WIDTH + column, mask=column < WIDTH, other=0).to(tl.int32)
    coded = tl.load(
        codes + row[:, None] * WIDTH + column[None, :], mask=there[:, None] & (column[None, :] < WIDTH), other=0
    )
    product = tl.sum(coded.to(tl.int32) * asked[None, :], axis=1)
    if MASKED:
        there = there & (tl.load(mask + row, mask=there, other=0) != 0)
    kept = (there & (product >= tl.load(least + query))).to(tl.int32)
    place = tl.atomic_add(found + query, tl.sum(kept, axis=0)) + tl.cumsum(kept, axis=0) - 1
    tl.store(out + query * most + place, row.to(tl.int32), mask=(kept != 0) & (place < most))


@triton.jit  # type: ignore[untyped-decorator]
def _score_keys(  # type: ignore[no-untyped-def]
    queries,
    vectors,
    places,
    rows,
    found,
    out,
    most,
    doubt,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    PLACED: tl.constexpr,
    LAST: tl.constexpr,
    ABSENT: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = slot < tl.minimum(tl.load(found + query), most)
    row = tl.load(rows + query * most + slot, mask=there, other=0).to(tl.int64)
    if PLACED:
        row = tl.load(places + row, mask=there, other=0)
    column = tl.arange(0, PADDED)
    asked = tl.load(queries + query * WIDTH + column, mask=column < WIDTH, other=0).to(tl.float64)
    values = tl.load(
        vectors + row[:, None] * WIDTH + column[None, :], mask=there[:, None] & (column[None, :] < WIDTH), other=0
    )
    score = tl.sum(values.to(tl.float64) * asked[None, :], axis=1)
    apart = doubt * tl.sqrt(tl.sum(asked * asked, axis=0))
    high = (score + apart).to(tl.float32)
    low = (score - apart).to(tl.float32)
    bits = tl.where(high == 0, 0.0, high).to(tl.int32, bitcast=True)  # both zeros are equal
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = (ordered << 32) | ((LAST - row) << 1) | (high != low).to(tl.int64)
    tl.store(out + query * most + slot, tl.where(there, key, ABSENT), mask=slot < most)

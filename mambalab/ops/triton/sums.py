# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Triton kernels that add up partial gradients, in a fixed order, and their launches.

One launch each takes the place of PyTorch's sums, transpositions and conversions.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from mambalab.ops.triton.shapes import COMPILED

_MATRICES: dict[str, Any] = {"BLOCK_K": 8, "BLOCK": 128, "num_warps": 4}
_CHANNELS: dict[str, Any] = {"BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4}


@triton.jit
def matrix_sums_kernel(
    parts_B_ptr,  # (blocks, b, steps, m) float32
    parts_C_ptr,
    sum_B_ptr,  # (b, l, m), contiguous
    sum_C_ptr,
    blocks,
    batches,
    steps,
    low,  # the first of the steps
    length,
    width,  # m
    BLOCK_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the gradients of B and C over blocks of channels, for some of the steps."""
    rows = steps * width  # of a sequence
    tiles = tl.cdiv(rows, BLOCK)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    i = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, BLOCK_K)
    real = i < rows
    total_B = tl.zeros([BLOCK_K, BLOCK], tl.float32)
    total_C = tl.zeros([BLOCK_K, BLOCK], tl.float32)
    for first in tl.range(0, blocks, BLOCK_K):
        block = (first + k).to(tl.int64)[:, None]
        at = (block * batches + batch) * rows + i[None, :]
        inside = (first + k < blocks)[:, None] & real[None, :]
        total_B += tl.load(parts_B_ptr + at, mask=inside, other=0.0)
        total_C += tl.load(parts_C_ptr + at, mask=inside, other=0.0)
    to = (batch * length + low) * width + i
    total = tl.sum(total_B, axis=0)
    tl.store(sum_B_ptr + to, total.to(sum_B_ptr.dtype.element_ty), mask=real)
    total = tl.sum(total_C, axis=0)
    tl.store(sum_C_ptr + to, total.to(sum_C_ptr.dtype.element_ty), mask=real)


@triton.jit
def channel_sums_kernel(
    parts_ptr,  # (k, n + ROWS, d) float32
    matrix_ptr,  # (d, n) float32, contiguous
    first_ptr,  # (d,) float32
    second_ptr,
    count,  # k
    d_inner,
    N: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add up one row of the parts: of a matrix, transposed, or of one of two vectors after it."""
    row = tl.program_id(1)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    k = tl.arange(0, BLOCK_K)
    real = d < d_inner
    total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for first in tl.range(0, count, BLOCK_K):
        part = (first + k).to(tl.int64)[:, None]
        at = (part * (N + ROWS) + row) * d_inner + d[None, :]
        total += tl.load(parts_ptr + at, mask=(first + k < count)[:, None] & real[None, :], other=0)
    total = tl.sum(total, axis=0)
    tl.store(matrix_ptr + d * N + row, total, mask=real & (row < N))
    if FIRST:
        tl.store(first_ptr + d, total, mask=real & (row == N))
    if SECOND:
        tl.store(second_ptr + d, total, mask=real & (row == N + 1))


def add_matrices(
    parts_B: Tensor, parts_C: Tensor, into: tuple[Tensor, Tensor], low: int, steps: int
) -> None:
    """Add up parts (blocks, b, steps, g, n) into two tensors (b, l, g, n) from step `low` on."""
    blocks, batches = parts_B.shape[:2]
    length, width = into[0].shape[1], into[0].shape[2] * into[0].shape[3]
    grid = (batches * triton.cdiv(steps * width, _MATRICES["BLOCK"]),)
    matrix_sums_kernel[grid](
        parts_B, parts_C, *into, blocks, batches, steps, low, length, width,
        **_MATRICES, **COMPILED,
    )  # fmt: skip


def add_channels(
    parts: Tensor, width: int, first: bool, second: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Add up parts (k, rows, d): `width` rows of a matrix, transposed, and vectors after them.

    Returns:
        The matrix (d, width), and the sums of the next two rows (d,); None for one not wanted.
    """
    count, rows, d_inner = parts.shape
    matrix = parts.new_empty(d_inner, width)
    one, two = (parts.new_empty(d_inner) if wanted else None for wanted in (first, second))
    used = width + (2 if second else 1 if first else 0)
    channel_sums_kernel[(triton.cdiv(d_inner, _CHANNELS["BLOCK_D"]), used)](
        parts, matrix, matrix if one is None else one, matrix if two is None else two,
        count, d_inner, N=width, FIRST=first, SECOND=second, ROWS=rows - width,
        **_CHANNELS, **COMPILED,
    )  # fmt: skip
    return matrix, one, two

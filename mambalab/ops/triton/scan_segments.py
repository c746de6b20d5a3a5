# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Triton kernels that string the segments of a sequence together, forward and backward.

Segments run side by side (`scan_forward`). The forward's own kernel finds the state that a segment
ends with when it begins at zero; `carry_kernel` finds what a segment hands back to the one before
it when nothing is handed to it; `combine_kernel` makes the true values of both.
"""

import triton
import triton.language as tl

from mambalab.ops.triton.common import LOG2E, carry_on, sigmoid, softplus


@triton.jit
def carry_kernel(
    grad_y_ptr,  # (b, l, d)
    delta_ptr,
    z_ptr,
    A_ptr,  # (d, n) float32, contiguous
    C_ptr,  # (b, l, g, n)
    bias_ptr,  # (d,) float32
    local_ptr,  # (b, segments, d, n) float32
    total_ptr,  # (b, segments, d) float32
    low,  # first step of the round
    high,  # first step after it
    d_inner,
    groups,
    channels,
    segment,
    y_batch,
    y_row,
    delta_batch,
    delta_row,
    z_batch,
    z_row,
    C_batch,
    C_row,
    C_group,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Compute what a segment, run alone, hands back to the one before it, and its sum of delta."""
    blocks = tl.cdiv(channels, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // (groups * blocks)).to(tl.int64)
    group = program // blocks % groups
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    in_group = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    d = group * channels + in_group
    t = tl.arange(0, BLOCK_T)
    n = tl.arange(0, BLOCK_N)
    real = in_group < channels
    states = (n < N)[:, None] & real[None, :]
    place = n[:, None] + d[None, :] * N  # in (d, n): (BLOCK_N, BLOCK_D)
    rates = tl.load(A_ptr + place, mask=states, other=0.0) * LOG2E
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=real, other=0.0)
    carry = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_D], tl.float32)
    first = (t == 0)[:, None, None]
    last = (t == BLOCK_T - 1)[:, None, None]
    begin = low + part * segment
    end = tl.minimum(begin + segment, high)
    for t0 in tl.range(0, end - begin, BLOCK_T):
        row = end - 1 - t0 - t  # time runs backwards inside a tile
        inside = (row >= begin)[:, None]
        rows = inside & real[None, :]
        row = tl.maximum(row, begin).to(tl.int64)[:, None]
        grad = tl.load(grad_y_ptr + batch * y_batch + row * y_row + d[None, :], mask=rows, other=0)
        delta = tl.load(
            delta_ptr + batch * delta_batch + row * delta_row + d[None, :], mask=rows, other=0
        )
        c_at = batch * C_batch + row * C_row + group * C_group + n[None, :]
        c = tl.load(C_ptr + c_at, mask=inside & (n < N)[None, :], other=0.0).to(tl.float32)
        grad = grad.to(tl.float32)
        delta = delta.to(tl.float32)
        if HAS_Z:
            z = tl.load(z_ptr + batch * z_batch + row * z_row + d[None, :], mask=rows, other=0)
            z = z.to(tl.float32)
            grad *= z * sigmoid(z)
        if HAS_BIAS:
            delta += bias[None, :]
        if SOFTPLUS:
            delta = softplus(delta)
        delta = tl.where(inside, delta, 0.0)
        decay = tl.exp2(delta[:, None, :] * rates[None, :, :])  # (BLOCK_T, BLOCK_N, BLOCK_D)
        drive = grad[:, None, :] * c[:, :, None]
        drive = tl.where(first, drive + carry[None, :, :], drive) * decay
        _, carries = tl.associative_scan((decay, drive), 0, carry_on)
        carry = tl.sum(tl.where(last, carries, 0.0), axis=0)
        total += tl.sum(delta, axis=0)
    tl.store(local_ptr + (batch * parts + part) * N * d_inner + place, carry, mask=states)
    tl.store(total_ptr + (batch * parts + part) * d_inner + d, total, mask=real)


@triton.jit
def combine_kernel(
    A_ptr,  # (d, n) float32, contiguous
    total_ptr,  # (b, segments, d) float32: sums of delta
    local_ptr,  # (b, segments, d, n) float32: last states of segments that began at zero
    initial_ptr,  # (b, d, n) float32
    start_ptr,  # (b, segments, d, n) float32
    d_inner,
    parts,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Compute the state that each segment starts from; with REVERSE from the last segment back."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    batch = tl.program_id(1).to(tl.int64)
    real = d < d_inner
    states = (n < N)[:, None] & real[None, :]
    place = n[:, None] + d[None, :] * N  # in (d, n): (BLOCK_N, BLOCK_D)
    rates = tl.load(A_ptr + place, mask=states, other=0.0) * LOG2E
    h = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if HAS_INITIAL:
        h = tl.load(initial_ptr + batch * N * d_inner + place, mask=states, other=0.0)
    for i in tl.range(0, parts):
        part = batch * parts + (parts - 1 - i if REVERSE else i)
        tl.store(start_ptr + part * N * d_inner + place, h, mask=states)
        total = tl.load(total_ptr + part * d_inner + d, mask=real, other=0.0)
        local = tl.load(local_ptr + part * N * d_inner + place, mask=states, other=0.0)
        carried = tl.exp2(total[None, :] * rates) * h
        h = tl.where(h == 0.0, 0.0, carried) + local  # growth may overflow: inf * 0 is NaN

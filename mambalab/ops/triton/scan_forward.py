# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Triton kernels of the forward selective scan.

A program is one warp. It carries the states of `BLOCK_D` channels, (n, BLOCK_D), through a segment
of time in tiles of `BLOCK_T` steps: a tile (BLOCK_T, n, BLOCK_D) has its time inside the threads,
so the scan over it is a chain of multiply-adds in registers, and the next tile is fetched from
memory meanwhile. Channels are blocked within the groups of B and C.

Long sequences with few channels are cut into segments that run side by side: a first pass runs
each from a zero state, `combine_kernel` strings their ends together (the product of a segment's
decays is exp(A * sum of delta)), and the second pass starts each segment from its true state.

Tensors are read and written as the operator has them, whatever their strides, so that no other
kernel runs before or after. States that are carried on lie as (d, n), saved ones as (n, d).
"""

import triton
import triton.language as tl

from mambalab.ops.triton.common import LOG2E, carry_on, product, sigmoid, softplus


@triton.jit
def scan_kernel(
    u_ptr,  # (b, l, d)
    delta_ptr,
    z_ptr,
    A_ptr,  # (d, n) float32, contiguous
    B_ptr,  # (b, l, g, n)
    C_ptr,
    D_ptr,  # (d,) float32
    bias_ptr,
    start_ptr,  # (b, segments, d, n) float32: states that the segments start from
    y_ptr,  # (b, l, d), contiguous
    final_ptr,  # (b, d, n) float32; without OUTPUT (b, segments, d, n)
    saved_ptr,  # (b, chunks, n, d) float32; without OUTPUT (b, segments, d): sums of delta
    length,
    d_inner,
    groups,
    channels,  # of a group
    segment,  # steps of a segment, a multiple of CHUNK
    u_batch,
    u_row,
    delta_batch,
    delta_row,
    z_batch,
    z_row,
    B_batch,
    B_row,
    B_group,
    C_batch,
    C_row,
    C_group,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr,
    EVEN_D: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_START: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    KEEP: tl.constexpr,
    FINAL: tl.constexpr,
    OUTPUT: tl.constexpr,
):
    """Run one segment of BLOCK_D channels: write y, and what is wanted of the states.

    With FINAL that is the last state, with KEEP the state at the beginning of each chunk. Without
    OUTPUT only the segment's last state and its sum of delta are written.
    """
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
    saved_place = n[:, None] * d_inner + d[None, :]  # in (n, d): (BLOCK_N, BLOCK_D)
    place = n[:, None] + d[None, :] * N  # in (d, n)
    rates = tl.load(A_ptr + place, mask=states, other=0.0) * LOG2E
    h = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if HAS_START:
        at = (batch * parts + part) * N * d_inner
        h = tl.load(start_ptr + at + place, mask=states, other=0.0)
    total = tl.zeros([BLOCK_D], tl.float32)
    if HAS_D:
        weight = tl.load(D_ptr + d, mask=real, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=real, other=0.0)

    begin = part * segment
    end = tl.minimum(begin + segment, length)
    row = begin.to(tl.int64)
    u_at = u_ptr + batch * u_batch + row * u_row
    delta_at = delta_ptr + batch * delta_batch + row * delta_row
    z_at = z_ptr + batch * z_batch + row * z_row
    y_at = y_ptr + (batch * length + row) * d_inner
    b_at = B_ptr + batch * B_batch + row * B_row + group * B_group
    c_at = C_ptr + batch * C_batch + row * C_row + group * C_group
    saved_at = saved_ptr + (batch * tl.cdiv(length, CHUNK) + begin // CHUNK) * N * d_inner
    u_place = t[:, None] * u_row + d[None, :]
    delta_place = t[:, None] * delta_row + d[None, :]
    z_place = t[:, None] * z_row + d[None, :]
    y_place = t[:, None] * d_inner + d[None, :]
    b_place = t[:, None] * B_row + n[None, :]
    c_place = t[:, None] * C_row + n[None, :]
    first = (t == 0)[:, None, None]
    last = (t == BLOCK_T - 1)[:, None, None]

    inside = (begin + t < end)[:, None]
    rows = inside if EVEN_D else inside & real[None, :]
    matrix = inside if BLOCK_N == N else inside & (n < N)[None, :]
    u_next = tl.load(u_at + u_place, mask=rows, other=0.0)
    delta_next = tl.load(delta_at + delta_place, mask=rows, other=0.0)
    if HAS_Z:
        z_next = tl.load(z_at + z_place, mask=rows, other=0.0)
    b_next = tl.load(b_at + b_place, mask=matrix, other=0.0)
    if OUTPUT:
        c_next = tl.load(c_at + c_place, mask=matrix, other=0.0)

    for t0 in tl.range(begin, end, BLOCK_T):
        if KEEP:  # noqa: SIM102 - decided when compiled, the other when run
            if t0 % CHUNK == 0:
                tl.store(saved_at + saved_place, h, mask=states)
                saved_at += N * d_inner
        here, here_rows = inside, rows
        u = u_next.to(tl.float32)
        delta = delta_next.to(tl.float32)
        if HAS_Z:
            z = z_next.to(tl.float32)
        b = b_next.to(tl.float32)
        if OUTPUT:
            c = c_next.to(tl.float32)

        u_at += BLOCK_T * u_row
        delta_at += BLOCK_T * delta_row
        b_at += BLOCK_T * B_row
        c_at += BLOCK_T * C_row
        inside = (t0 + BLOCK_T + t < end)[:, None]
        rows = inside if EVEN_D else inside & real[None, :]
        matrix = inside if BLOCK_N == N else inside & (n < N)[None, :]
        u_next = tl.load(u_at + u_place, mask=rows, other=0.0)
        delta_next = tl.load(delta_at + delta_place, mask=rows, other=0.0)
        if HAS_Z:
            z_at += BLOCK_T * z_row
            z_next = tl.load(z_at + z_place, mask=rows, other=0.0)
        b_next = tl.load(b_at + b_place, mask=matrix, other=0.0)
        if OUTPUT:
            c_next = tl.load(c_at + c_place, mask=matrix, other=0.0)

        if HAS_BIAS:
            delta += bias[None, :]
        if SOFTPLUS:
            delta = softplus(delta)
        delta = tl.where(here, delta, 0.0)  # steps past the end leave the state alone
        decay = tl.exp2(delta[:, None, :] * rates[None, :, :])  # (BLOCK_T, BLOCK_N, BLOCK_D)
        drive = (delta * u)[:, None, :] * b[:, :, None]
        drive = tl.where(first, decay * h[None, :, :] + drive, drive)
        _, hs = tl.associative_scan((decay, drive), 0, carry_on)
        h = tl.sum(tl.where(last, hs, 0.0), axis=0)  # (BLOCK_N, BLOCK_D)
        if OUTPUT:
            if BLOCK_N < 8:  # one state a lane
                y = tl.sum(product(hs, c[:, :, None]), axis=1)  # (BLOCK_T, BLOCK_D)
            else:
                y = tl.sum(hs * c[:, :, None], axis=1)
            if HAS_D:
                y += u * weight[None, :]
            if HAS_Z:
                y *= z * sigmoid(z)
            tl.store(y_at + y_place, y.to(y_ptr.dtype.element_ty), mask=here_rows)
            y_at += BLOCK_T * d_inner
        else:
            total += tl.sum(delta, axis=0)
    if OUTPUT:
        if FINAL and end == length:
            tl.store(final_ptr + batch * N * d_inner + place, h, mask=states)
    else:
        tl.store(final_ptr + (batch * parts + part) * N * d_inner + place, h, mask=states)
        tl.store(saved_ptr + (batch * parts + part) * d_inner + d, total, mask=real)

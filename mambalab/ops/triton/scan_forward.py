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

`rates` holds A * log2(e), transposed to (n, d); B and C are float32 and contiguous.
"""

import triton
import triton.language as tl

from mambalab.ops.triton.common import carry_on, sigmoid, softplus


@triton.jit
def scan_kernel(
    u_ptr,  # (b, l, d)
    delta_ptr,
    z_ptr,
    rates_ptr,  # (n, d) float32
    B_ptr,  # (b, l, g, n) float32
    C_ptr,
    D_ptr,  # (d,) float32
    bias_ptr,
    start_ptr,  # (b, segments, n, d) float32: states that the segments start from
    y_ptr,  # (b, l, d), contiguous
    final_ptr,  # (b, n, d) float32; without OUTPUT (b, segments, n, d)
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
    OUTPUT: tl.constexpr,
):
    """Run one segment of BLOCK_D channels: write y, the last state, and each chunk's first state.

    Without OUTPUT only the segment's last state and its sum of delta are written.
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
    place = n[:, None] * d_inner + d[None, :]  # in an (n, d) tensor: (BLOCK_N, BLOCK_D)
    if EVEN_D and BLOCK_N == N:
        rates = tl.load(rates_ptr + place)
    else:
        rates = tl.load(rates_ptr + place, mask=states, other=0.0)
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
    b_at = B_ptr + ((batch * length + row) * groups + group) * N
    c_at = C_ptr + ((batch * length + row) * groups + group) * N
    saved_at = saved_ptr + (batch * tl.cdiv(length, CHUNK) + begin // CHUNK) * N * d_inner
    u_place = t[:, None] * u_row + d[None, :]
    delta_place = t[:, None] * delta_row + d[None, :]
    z_place = t[:, None] * z_row + d[None, :]
    y_place = t[:, None] * d_inner + d[None, :]
    n_place = t[:, None] * (groups * N) + n[None, :]
    first = (t == 0)[:, None, None]
    last = (t == BLOCK_T - 1)[:, None, None]

    inside = (begin + t < end)[:, None]
    rows = inside if EVEN_D else inside & real[None, :]
    matrix = inside if BLOCK_N == N else inside & (n < N)[None, :]
    u_next = tl.load(u_at + u_place, mask=rows, other=0.0)
    delta_next = tl.load(delta_at + delta_place, mask=rows, other=0.0)
    if HAS_Z:
        z_next = tl.load(z_at + z_place, mask=rows, other=0.0)
    b_next = tl.load(b_at + n_place, mask=matrix, other=0.0)
    if OUTPUT:
        c_next = tl.load(c_at + n_place, mask=matrix, other=0.0)

    for t0 in tl.range(begin, end, BLOCK_T):
        if KEEP:  # noqa: SIM102 - decided when compiled, the other when run
            if t0 % CHUNK == 0:
                tl.store(saved_at + place, h, mask=states)
                saved_at += N * d_inner
        here, here_rows = inside, rows
        u = u_next.to(tl.float32)
        delta = delta_next.to(tl.float32)
        if HAS_Z:
            z = z_next.to(tl.float32)
        b = b_next
        if OUTPUT:
            c = c_next

        u_at += BLOCK_T * u_row
        delta_at += BLOCK_T * delta_row
        b_at += BLOCK_T * groups * N
        c_at += BLOCK_T * groups * N
        inside = (t0 + BLOCK_T + t < end)[:, None]
        rows = inside if EVEN_D else inside & real[None, :]
        matrix = inside if BLOCK_N == N else inside & (n < N)[None, :]
        u_next = tl.load(u_at + u_place, mask=rows, other=0.0)
        delta_next = tl.load(delta_at + delta_place, mask=rows, other=0.0)
        if HAS_Z:
            z_at += BLOCK_T * z_row
            z_next = tl.load(z_at + z_place, mask=rows, other=0.0)
        b_next = tl.load(b_at + n_place, mask=matrix, other=0.0)
        if OUTPUT:
            c_next = tl.load(c_at + n_place, mask=matrix, other=0.0)

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
            y = tl.sum(hs * c[:, :, None], axis=1)  # (BLOCK_T, BLOCK_D)
            if HAS_D:
                y += u * weight[None, :]
            if HAS_Z:
                y *= z * sigmoid(z)
            tl.store(y_at + y_place, y.to(y_ptr.dtype.element_ty), mask=here_rows)
            y_at += BLOCK_T * d_inner
        else:
            total += tl.sum(delta, axis=0)
    if OUTPUT:
        if end == length:
            tl.store(final_ptr + batch * N * d_inner + place, h, mask=states)
    else:
        tl.store(final_ptr + (batch * parts + part) * N * d_inner + place, h, mask=states)
        tl.store(saved_ptr + (batch * parts + part) * d_inner + d, total, mask=real)


@triton.jit
def combine_kernel(
    rates_ptr,  # (n, d) float32
    total_ptr,  # (b, segments, d) float32: sums of delta
    local_ptr,  # (b, segments, n, d) float32: last states of segments that began at zero
    initial_ptr,  # (b, n, d) float32
    start_ptr,  # (b, segments, n, d) float32
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
    place = n[:, None] * d_inner + d[None, :]  # in an (n, d) tensor: (BLOCK_N, BLOCK_D)
    rates = tl.load(rates_ptr + place, mask=states, other=0.0)
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

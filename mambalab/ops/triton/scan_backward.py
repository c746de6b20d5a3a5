# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Triton kernels of the backward selective scan; `ops.cpu.scan_backward` states the maths.

A launch covers one *round*, the steps from `low` up to `high`; rounds come from the last to the
first, so that what is kept for one round at a time stays small. A round is cut into segments that
run side by side. A program carries `BLOCK_D` channels through a segment, chunk by chunk from the
last to the first. For each chunk it

1. runs forward again from the saved state, in tiles with time inside the threads: delta, the drive
   delta * u, the gated gradient of y and the output go to scratch memory, and so does the state
   before every second step;
2. goes back through the chunk two steps at a time, with states and carry in registers;
3. turns what the second phase found into gradients of u, delta, z, D and the bias, on whole rows.

Scratch memory belongs to the program and stays in cache; float32, in this order:

    name        shape                              written in phase             read in phase
    deltas      (CHUNK, BLOCK_D)                   1                            2, 3
    drives      (CHUNK, BLOCK_D)                   1: delta u                   2
    grads       (CHUNK, BLOCK_D)                   1: dy, gated                 2, 3
    outs        (CHUNK, BLOCK_D)                   1: C h, if there is a gate   3
    sum_deltas  (CHUNK, BLOCK_D)                   2: sum_n rates p             3
    sum_drives  (CHUNK, BLOCK_D)                   2: sum_n g B                 3
    rates       (BLOCK_N, BLOCK_D)                 at the beginning: A log2(e)  1, 2
    carried     (BLOCK_N, BLOCK_D)                 2: a_t g_t at the first t    2, next chunk
    grad_As     (BLOCK_N, BLOCK_D)                 2                            2; at the end
    before      (CHUNK / 2 + 1, BLOCK_N, BLOCK_D)  1: h before every 2nd step   2

Gradients of B and C are written once for each block of channels, those of A, D and the bias once
for each sequence and segment, and added up afterwards in a fixed order: no atomics, so results are
bitwise reproducible.
"""

import triton
import triton.language as tl

from mambalab.ops.triton.common import LN2, LOG2E, carry_on, product, sigmoid, softplus


@triton.jit
def _over_states(x, y, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Add up x * y (BLOCK_N, BLOCK_D) over the states, to the same bits in every lane.

    A warp has up to 16 of the states. A lane takes up to 8 channels next to each other, and so at
    least two states of a tile of 16 by 32; of a smaller one it may have a single one.
    """
    if BLOCK_N < 16 or BLOCK_D < 32:
        return tl.sum(product(x, y), axis=0)
    return tl.sum(x * y, axis=0)


@triton.jit
def scan_backward_kernel(
    grad_y_ptr,  # (b, l, d)
    u_ptr,
    delta_ptr,
    z_ptr,
    A_ptr,  # (d, n) float32, contiguous
    B_ptr,  # (b, l, g, n)
    C_ptr,
    D_ptr,  # (d,) float32
    bias_ptr,
    saved_ptr,  # (b, chunks, n, d) float32
    carry_ptr,  # (b, segments, d, n) float32: gradients of the states that segments end with
    scratch_ptr,  # (programs, scratch_floats) float32
    grad_u_ptr,  # (b, l, d), contiguous, as the next two
    grad_delta_ptr,
    grad_z_ptr,
    grad_B_ptr,  # (blocks, b, high - low, g, n) float32, as the next
    grad_C_ptr,
    sums_ptr,  # (b, segments, n + 2, d) float32: gradients of A, D and the bias so far
    grad_start_ptr,  # (b, d, n) float32: gradient of the state before the round
    batches,
    length,
    low,  # first step of the round, a multiple of CHUNK
    high,  # first step after it
    d_inner,
    groups,
    channels,
    segment,
    y_batch,
    y_row,
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
    HAS_CARRY: tl.constexpr,
    HAND_ON: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Compute all gradients of BLOCK_D channels over one segment of a round.

    With HAND_ON the gradient of the state before the round is written.
    """
    blocks = tl.cdiv(channels, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // (groups * blocks)).to(tl.int64)
    group = program // blocks % groups
    block = (program % blocks).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    j = tl.arange(0, BLOCK_D)
    in_group = program % blocks * BLOCK_D + j
    d = group * channels + in_group
    t = tl.arange(0, BLOCK_T)
    n = tl.arange(0, BLOCK_N)
    real = in_group < channels
    states = (n < N)[:, None] & real[None, :]
    saved_place = n[:, None] * d_inner + d[None, :]  # in (n, d): (BLOCK_N, BLOCK_D)
    place = n[:, None] + d[None, :] * N  # in (d, n)
    sums_at = sums_ptr + (batch * parts + part) * (N + 2) * d_inner
    earlier = high < length  # rounds have been before
    grad_D = tl.load(sums_at + N * d_inner + d, mask=real & earlier, other=0.0)
    grad_bias = tl.load(sums_at + (N + 1) * d_inner + d, mask=real & earlier, other=0.0)
    weight = tl.zeros([BLOCK_D], tl.float32)
    bias = tl.zeros([BLOCK_D], tl.float32)
    if HAS_D:
        weight = tl.load(D_ptr + d, mask=real, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + d, mask=real, other=0.0)

    ROWS: tl.constexpr = CHUNK * BLOCK_D
    STATE: tl.constexpr = BLOCK_N * BLOCK_D
    slot = (program * parts + part).to(tl.int64)
    deltas = scratch_ptr + slot * (6 * ROWS + (CHUNK // 2 + 4) * STATE)
    drives, grads, outs = deltas + ROWS, deltas + 2 * ROWS, deltas + 3 * ROWS
    sum_deltas, sum_drives = deltas + 4 * ROWS, deltas + 5 * ROWS
    state_place = n[:, None] * BLOCK_D + j[None, :]
    rates_at = deltas + 6 * ROWS + state_place  # here while registers are needed for other things
    carried = rates_at + STATE
    grad_As = carried + STATE
    before = grad_As + STATE  # states before every second step
    carry = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if HAS_CARRY:
        carry_at = carry_ptr + (batch * parts + part) * N * d_inner
        carry = tl.load(carry_at + place, mask=states, other=0.0)
    tl.store(carried, carry)
    tl.store(grad_As, tl.load(sums_at + saved_place, mask=states & earlier, other=0.0))
    tl.store(rates_at, tl.load(A_ptr + place, mask=states, other=0.0) * LOG2E)
    first = (t == 0)[:, None, None]

    begin = low + part * segment
    end = tl.minimum(begin + segment, high)
    chunks = tl.cdiv(end - begin, CHUNK)
    for i in tl.range(0, chunks):
        start = begin + (chunks - 1 - i) * CHUNK
        steps = tl.minimum(CHUNK, end - start)
        line = batch * length + start
        row = (block * batches + batch) * (high - low) + start - low
        grad_y_at = grad_y_ptr + batch * y_batch + start.to(tl.int64) * y_row
        u_at = u_ptr + batch * u_batch + start.to(tl.int64) * u_row
        delta_at = delta_ptr + batch * delta_batch + start.to(tl.int64) * delta_row
        z_at = z_ptr + batch * z_batch + start.to(tl.int64) * z_row
        b_at = B_ptr + batch * B_batch + start.to(tl.int64) * B_row + group * B_group
        c_at = C_ptr + batch * C_batch + start.to(tl.int64) * C_row + group * C_group

        # 1. Forward again: rows are (BLOCK_T, BLOCK_D), B and C (BLOCK_T, BLOCK_N).
        saved = (batch * tl.cdiv(length, CHUNK) + start // CHUNK) * N * d_inner
        h = tl.load(saved_ptr + saved + saved_place, mask=states, other=0.0)
        tl.store(before, h)
        rates = tl.load(rates_at)
        for t0 in tl.range(0, steps, BLOCK_T):
            step = t0 + t
            inside = (step < steps)[:, None]
            rows = inside if EVEN_D else inside & real[None, :]
            matrix = inside if BLOCK_N == N else inside & (n < N)[None, :]
            u = tl.load(u_at + step[:, None] * u_row + d[None, :], mask=rows, other=0.0)
            delta = tl.load(delta_at + step[:, None] * delta_row + d[None, :], mask=rows, other=0.0)
            grad = tl.load(grad_y_at + step[:, None] * y_row + d[None, :], mask=rows, other=0.0)
            b_place = step[:, None] * B_row + n[None, :]
            b = tl.load(b_at + b_place, mask=matrix, other=0.0).to(tl.float32)
            grad = grad.to(tl.float32)
            delta = delta.to(tl.float32) + bias[None, :]
            if SOFTPLUS:
                delta = softplus(delta)
            delta = tl.where(inside, delta, 0.0)  # steps past the end leave the state alone
            drive = delta * u.to(tl.float32)
            decay = tl.exp2(delta[:, None, :] * rates[None, :, :])  # (BLOCK_T, BLOCK_N, BLOCK_D)
            x = drive[:, None, :] * b[:, :, None]
            x = tl.where(first, decay * h[None, :, :] + x, x)
            _, hs = tl.associative_scan((decay, x), 0, carry_on)
            row_place = step[:, None] * BLOCK_D + j[None, :]
            if HAS_Z:
                z = tl.load(z_at + step[:, None] * z_row + d[None, :], mask=rows, other=0.0)
                z = z.to(tl.float32)
                grad *= z * sigmoid(z)
                c_place = step[:, None] * C_row + n[None, :]
                c = tl.load(c_at + c_place, mask=matrix, other=0.0).to(tl.float32)
                if BLOCK_N < 8:  # one state a lane
                    out = tl.sum(product(hs, c[:, :, None]), axis=1)
                else:
                    out = tl.sum(hs * c[:, :, None], axis=1)
                tl.store(outs + row_place, out)
            tl.store(deltas + row_place, delta)
            tl.store(drives + row_place, drive)
            tl.store(grads + row_place, grad)
            for pair in tl.static_range(BLOCK_T // 2):
                h = tl.sum(tl.where((t == 2 * pair + 1)[:, None, None], hs, 0.0), axis=0)
                tl.store(before + (t0 // 2 + pair + 1) * STATE, h)
        tl.debug_barrier()

        # 2. Back, two steps at a time: rows are (BLOCK_D,), B and C (BLOCK_N, 1).
        rates = tl.load(rates_at)
        carry = tl.load(carried)
        grad_A = tl.load(grad_As)
        for k in tl.range(0, tl.cdiv(steps, 2)):
            step1 = 2 * (tl.cdiv(steps, 2) - 1 - k)  # the pair is step1 and step1 + 1
            at = step1 * BLOCK_D + j
            b1_at, c1_at = b_at + step1 * B_row + n, c_at + step1 * C_row + n
            h0 = tl.load(before + step1 // 2 * STATE)  # (BLOCK_N, BLOCK_D), as h1, h2, g, p
            delta1, delta2 = tl.load(deltas + at), tl.load(deltas + at + BLOCK_D)
            drive1, drive2 = tl.load(drives + at), tl.load(drives + at + BLOCK_D)
            grad1, grad2 = tl.load(grads + at), tl.load(grads + at + BLOCK_D)
            named = n < N
            both = tl.where(step1 + 1 < steps, n, N) < N
            b1 = tl.load(b1_at, mask=named, other=0.0).to(tl.float32)[:, None]
            b2 = tl.load(b1_at + B_row, mask=both, other=0.0).to(tl.float32)[:, None]
            c1 = tl.load(c1_at, mask=named, other=0.0).to(tl.float32)[:, None]
            c2 = tl.load(c1_at + C_row, mask=both, other=0.0).to(tl.float32)[:, None]
            decay1 = tl.exp2(delta1[None, :] * rates)
            h1 = decay1 * h0 + drive1[None, :] * b1
            decay2 = tl.exp2(delta2[None, :] * rates)
            h2 = decay2 * h1 + drive2[None, :] * b2

            g = grad2[None, :] * c2 + carry
            out = (row + step1) * (groups * N) + group * N + n
            sum_C = tl.sum(product(grad2[None, :], h2), axis=1)
            sum_B = tl.sum(product(drive2[None, :], g), axis=1)
            tl.store(grad_C_ptr + out + groups * N, sum_C, mask=both)
            tl.store(grad_B_ptr + out + groups * N, sum_B, mask=both)
            tl.store(sum_drives + at + BLOCK_D, _over_states(g, b2, BLOCK_N, BLOCK_D))
            g *= decay2
            p = g * h1
            grad_A += p * delta2[None, :]
            tl.store(sum_deltas + at + BLOCK_D, _over_states(p, rates, BLOCK_N, BLOCK_D))

            g = grad1[None, :] * c1 + g
            sum_C = tl.sum(product(grad1[None, :], h1), axis=1)
            sum_B = tl.sum(product(drive1[None, :], g), axis=1)
            tl.store(grad_C_ptr + out, sum_C, mask=named)
            tl.store(grad_B_ptr + out, sum_B, mask=named)
            tl.store(sum_drives + at, _over_states(g, b1, BLOCK_N, BLOCK_D))
            carry = g * decay1
            p = carry * h0
            grad_A += p * delta1[None, :]
            tl.store(sum_deltas + at, _over_states(p, rates, BLOCK_N, BLOCK_D))
        tl.store(carried, carry)
        tl.store(grad_As, grad_A)
        tl.debug_barrier()

        # 3. Gradients of the rows, (BLOCK_T, BLOCK_D).
        for t0 in tl.range(0, steps, BLOCK_T):
            step = t0 + t
            inside = (step < steps)[:, None]
            rows = inside if EVEN_D else inside & real[None, :]
            row_place = step[:, None] * BLOCK_D + j[None, :]
            u = tl.load(u_at + step[:, None] * u_row + d[None, :], mask=rows, other=0.0)
            u = u.to(tl.float32)
            grad = tl.load(grads + row_place)
            through = tl.load(sum_drives + row_place, mask=inside, other=0.0)
            slope = tl.load(sum_deltas + row_place, mask=inside, other=0.0) * LN2 + through * u
            if SOFTPLUS:
                raw = tl.load(
                    delta_at + step[:, None] * delta_row + d[None, :], mask=rows, other=0.0
                )
                slope = product(slope, sigmoid(raw.to(tl.float32) + bias[None, :]))
            to = (line + step)[:, None] * d_inner + d[None, :]
            grad_u = through * tl.load(deltas + row_place) + grad * weight[None, :]
            tl.store(grad_u_ptr + to, grad_u.to(grad_u_ptr.dtype.element_ty), mask=rows)
            tl.store(grad_delta_ptr + to, slope.to(grad_delta_ptr.dtype.element_ty), mask=rows)
            grad_bias += tl.sum(slope, axis=0)
            grad_D += tl.sum(product(grad, u), axis=0)
            if HAS_Z:
                z = tl.load(z_at + step[:, None] * z_row + d[None, :], mask=rows, other=0.0)
                z = z.to(tl.float32)
                dy = tl.load(grad_y_at + step[:, None] * y_row + d[None, :], mask=rows, other=0.0)
                y = tl.load(outs + row_place) + weight[None, :] * u
                share = sigmoid(z)
                grad_z = dy.to(tl.float32) * y * share * (1.0 + z * (1.0 - share))
                tl.store(grad_z_ptr + to, grad_z.to(grad_z_ptr.dtype.element_ty), mask=rows)
        tl.debug_barrier()

    tl.store(sums_at + saved_place, tl.load(grad_As), mask=states)
    tl.store(sums_at + N * d_inner + d, grad_D, mask=real)
    tl.store(sums_at + (N + 1) * d_inner + d, grad_bias, mask=real)
    if HAND_ON and part == 0:
        tl.store(grad_start_ptr + batch * N * d_inner + place, tl.load(carried), mask=states)

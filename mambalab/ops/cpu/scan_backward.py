"""The backward CPU kernel of the selective scan; `scan_layout` defines strip, pack, chunk, block.

Chunks are walked last to first. In each, the states are recomputed from the one that the forward
saved, then the gradient g_t of the loss with respect to h_t runs in reverse:

    g_t = dy_t C_t + a_{t+1} g_{t+1},   a_t = exp(delta_t A),   x_t = delta_t u_t
    dC_t = sum_d dy_t h_t               dB_t = sum_d g_t x_t    dx_t = sum_n g_t B_t
    dA = sum_t delta_t p_t              ddelta_t = sum_n A p_t + dx_t u_t,   p_t = g_t a_t h_{t-1}

The sums over channels stay vectors over the strips of a pack and are added across lanes once.

Scratch memory of a worker, in this order; all float32:

    name        shape                         written by                     read by
    rates       (pack, n, LANES)              gather_states, each task       recompute, reverse
    grad_state  (pack, n, LANES)              gather_states, reverse         reverse, scatter_states
    grad_A      (pack, n, LANES)              clear_vectors, reverse         copy_vectors
    totals      (pack, 2, LANES)              clear_vectors, finish          copy_vectors: dD, dbias
    stage       (pack, STAGED, CHUNK, LANES)  stage_*, recompute, reverse    the passes, finish
    bs          (CHUNK, w)                    widen_states, each chunk       recompute, reverse
    cs          (CHUNK, w)                    widen_states, each chunk       recompute, reverse
    decays      (CHUNK, BLOCK, LANES)         recompute: a_t                 reverse
    states      (CHUNK + 1, BLOCK, LANES)     recompute: h_{t-1}, last h_t   reverse
    sum_b       (CHUNK, BLOCK, LANES)         reverse, over the pack         add_across_lanes: dB
    sum_c       (CHUNK, BLOCK, LANES)         reverse, over the pack         add_across_lanes: dC
    lane_sums   (CHUNK, BLOCK)                add_across_lanes               add_across_lanes
"""

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu.scan_backward_passes import (
    DELTA,
    DRIVE,
    DY,
    DZ,
    GRAD_DELTA,
    GRAD_DRIVE,
    OUT,
    SLOPE,
    STAGED,
    U,
    add_across_lanes,
    finish,
    recompute,
    recompute_with_output,
    reverse_first,
    reverse_next,
    stage_output_gradient,
)
from mambalab.ops.cpu.scan_layout import (
    BLOCK,
    CHUNK,
    apply_softplus,
    clear_vectors,
    copy_vectors,
    gather_states,
    next_rows,
    offset_address,
    padded_states,
    prefetch_rows,
    row_address,
    scatter_states,
    stage_inputs,
    stage_skip,
    widen_states,
)
from mambalab.ops.cpu.simd import LANES, VECTOR_BYTES, carray, inline
from mambalab.ops.cpu.threads import flush_denormals, restore, take_ticket

_V = VECTOR_BYTES
_STAGE_BYTES = STAGED * CHUNK * _V  # staged rows of a strip


def scratch_bytes(d_state: int, pack: int) -> int:
    """Scratch memory of a worker, in bytes; the module's docstring says what is in it."""
    row_vectors = -(-d_state // LANES)  # of B or C
    strip = 3 * padded_states(d_state) + 2 + STAGED * CHUNK
    passes = 4 * CHUNK * BLOCK + BLOCK + CHUNK * BLOCK // LANES
    return _V * (pack * strip + 2 * CHUNK * row_vectors + passes)


@inline
def _inputs_before(a, k, near, batch, t, offset):
    """Choose what pass k over a strip's states prefetches: `offset` bytes into a chunk's rows from
    t on. Returns the first line's address and the rows' pitch: `near` and 0 if there is nothing.

    Lines come from memory one a step, while the passes compute: all at once they would wait.
    """
    address, pitch = 0, 0
    if k == 0:
        address, pitch = row_address(a.u, a.u_batch, batch, a.u_row, t, offset), a.u_row
    elif k == 1:
        address, pitch = (
            row_address(a.delta, a.delta_batch, batch, a.delta_row, t, offset),
            a.delta_row,
        )
    elif k == 2:
        address, pitch = row_address(a.y, a.y_batch, batch, a.y_row, t, offset), a.y_row
    elif k == 3:
        address, pitch = row_address(a.z, a.z_batch, batch, a.z_row, t, offset), a.z_row
    return (address, pitch) if address != 0 and t >= 0 else (near, 0)


@inline
def _gradients_and_states(a, k, near, to, to_row, before, strip_bytes):
    """Choose what reverse pass k prefetches: rows of du, ddelta and dz, `to` bytes in, that are
    written after the passes, and the states saved before the chunk, unless `before` is negative."""
    address, pitch = 0, to_row
    if k == 0:
        address = a.grad_u + to
    elif k == 1:
        address = a.grad_delta + to
    elif k == 2 and a.z != 0:
        address = a.grad_z + to
    elif k == 3 and before >= 0:
        address, pitch = a.saved_states + before, strip_bytes // CHUNK
    return (address, pitch) if address != 0 else (near, 0)


def build(sources: int):
    """Build the kernel's Python function; `sources` identifies the code in numba's cache key."""

    def selective_scan_backward(pointer):
        _ = sources
        control = flush_denormals()
        a = carray(pointer, 1)[0]
        length, d_state, bf16 = a.length, a.d_state, a.is_bf16 != 0
        gated, softplus = a.z != 0, a.softplus != 0
        size = 2 if bf16 else 4  # bytes of an activation
        n_pad = (d_state + BLOCK - 1) // BLOCK * BLOCK
        row = (d_state + LANES - 1) // LANES * _V  # bytes of a widened row of B or C
        channels = a.d_inner // a.groups
        group_strips = (channels + LANES - 1) // LANES
        strips = a.groups * group_strips
        packs = (group_strips + a.pack - 1) // a.pack
        chunks = (length + CHUNK - 1) // CHUNK
        strip_bytes = n_pad * _V  # one value for each state of a strip: (n, LANES)
        pass_bytes = CHUNK * BLOCK * _V
        to_row = a.d_inner * size  # bytes of a row of du, ddelta and dz

        rates = a.scratch + take_ticket(a.tickets) * a.scratch_bytes  # (pack, n, LANES)
        grad_state = rates + a.pack * strip_bytes  # (pack, n, LANES)
        grad_A = grad_state + a.pack * strip_bytes  # (pack, n, LANES)
        totals = grad_A + a.pack * strip_bytes  # (pack, 2, LANES): gradients of D and of the bias
        stage = totals + 2 * a.pack * _V  # (pack, STAGED, CHUNK, LANES)
        bs = stage + a.pack * _STAGE_BYTES  # (CHUNK, w)
        cs = bs + CHUNK * row  # (CHUNK, w)
        decays = cs + CHUNK * row  # (CHUNK, BLOCK, LANES)
        states = decays + pass_bytes  # (CHUNK + 1, BLOCK, LANES)
        sum_b = states + pass_bytes + BLOCK * _V  # (CHUNK, BLOCK, LANES)
        sum_c = sum_b + pass_bytes  # (CHUNK, BLOCK, LANES)
        lane_sums = sum_c + pass_bytes  # (CHUNK, BLOCK)

        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch = task // (a.groups * packs)
            group = task // packs % a.groups
            pack = task % packs
            begin = pack * a.pack  # strips begin ... end of the group are this task's
            end = min(group_strips, begin + a.pack)

            for s in range(begin, end):
                channel = group * channels + s * LANES  # the strip's first
                count = min(LANES, channels - s * LANES)  # channels in the strip
                strip = (s - begin) * strip_bytes
                A = a.A + channel * d_state * 4
                gather_states(rates + strip, A, count, d_state, n_pad, LOG2E)
                final = offset_address(a.final, (batch * a.d_inner + channel) * d_state * 4)
                gather_states(grad_state + strip, final, count, d_state, n_pad, 1.0)
            clear_vectors(grad_A, (end - begin) * n_pad)
            clear_vectors(totals, 2 * (end - begin))

            for chunk in range(chunks - 1, -1, -1):
                t = chunk * CHUNK
                steps = min(CHUNK, length - t)
                b = row_address(a.B, a.B_batch, batch, a.B_row, t, group * a.B_group)
                c = row_address(a.C, a.C_batch, batch, a.C_row, t, group * a.C_group)
                widen_states(bs, b, a.B_row, steps, d_state, bf16)
                widen_states(cs, c, a.C_row, steps, d_state, bf16)

                # 1. Stage the rows of every strip of the pack.
                for s in range(begin, end):
                    channel = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    staged = stage + (s - begin) * _STAGE_BYTES  # (STAGED, CHUNK, LANES)
                    first = channel * size
                    u_rows = row_address(a.u, a.u_batch, batch, a.u_row, t, first)
                    delta_rows = row_address(a.delta, a.delta_batch, batch, a.delta_row, t, first)
                    bias = offset_address(a.bias, channel * 4)
                    stage_inputs(
                        staged + U, staged + DELTA, staged + DRIVE,
                        u_rows, a.u_row, delta_rows, a.delta_row, bias, steps, count, bf16,
                    )  # fmt: skip
                    if softplus:
                        apply_softplus(
                            staged + U, staged + DELTA, staged + DRIVE, staged + SLOPE, steps
                        )
                    dy_rows = row_address(a.y, a.y_batch, batch, a.y_row, t, first)
                    z_rows = row_address(a.z, a.z_batch, batch, a.z_row, t, first)
                    stage_output_gradient(
                        staged + DY, staged + DZ, dy_rows, a.y_row, z_rows, a.z_row,
                        steps, count, bf16,
                    )  # fmt: skip
                    if chunk == chunks - 1 or n_pad < 4 * BLOCK:  # else the passes did so before
                        for k in range(4):
                            ahead, pitch = _inputs_before(a, k, staged, batch, t, first)
                            ahead = next_rows(ahead, pitch, s, begin, end, size, -CHUNK)
                            prefetch_rows(ahead, pitch, steps)
                    clear_vectors(staged + GRAD_DELTA, 2 * CHUNK)  # and GRAD_DRIVE after it
                    if gated:
                        D = offset_address(a.D, channel * 4)
                        stage_skip(staged + OUT, staged + U, D, steps, count)

                # 2. Each block of states forward again and back, strip after strip.
                for n in range(0, n_pad, BLOCK):
                    bn, cn = bs + n * 4, cs + n * 4
                    for s in range(begin, end):
                        staged = stage + (s - begin) * _STAGE_BYTES
                        delta, drive, dy = staged + DELTA, staged + DRIVE, staged + DY
                        grad_delta, grad_drive = staged + GRAD_DELTA, staged + GRAD_DRIVE
                        block = (s - begin) * strip_bytes + n * _V  # (BLOCK, LANES) in (pack, n)
                        saved = (batch * chunks + chunk) * strips + group * group_strips + s
                        h = a.saved_states + saved * strip_bytes + n * _V
                        k, first = n // BLOCK, (group * channels + s * LANES) * size
                        ahead, pitch = _inputs_before(a, k, staged, batch, t - CHUNK, first)
                        to = (batch * length + t) * to_row + first
                        before = (saved - strips) * strip_bytes if chunk > 0 else -1
                        behind, spacing = _gradients_and_states(
                            a, k, staged, to, to_row, before, strip_bytes
                        )
                        r = rates + block
                        if gated:
                            recompute_with_output(
                                h, r, delta, drive, staged + OUT, bn, cn, row,
                                decays, states, steps, ahead, pitch,
                            )  # fmt: skip
                        else:
                            recompute(
                                h, r, delta, drive, 0, bn, cn, row,
                                decays, states, steps, ahead, pitch,
                            )  # fmt: skip
                        g, dA = grad_state + block, grad_A + block
                        if s == begin:
                            reverse_first(
                                g, dA, r, delta, drive, dy, grad_delta, grad_drive,
                                bn, cn, row, decays, states, sum_b, sum_c, steps, behind, spacing,
                            )  # fmt: skip
                        else:
                            reverse_next(
                                g, dA, r, delta, drive, dy, grad_delta, grad_drive,
                                bn, cn, row, decays, states, sum_b, sum_c, steps, behind, spacing,
                            )  # fmt: skip
                    stride = a.groups * d_state * 4  # bytes of a row (groups, d_state) of dB or dC
                    to = ((pack * a.batch + batch) * length + t) * stride
                    to += (group * d_state + n) * 4
                    real = min(BLOCK, d_state - n)  # the last block may be padded
                    add_across_lanes(a.grad_B + to, stride, sum_b, lane_sums, steps, real)
                    add_across_lanes(a.grad_C + to, stride, sum_c, lane_sums, steps, real)

                # 3. Gradients of the rows.
                for s in range(begin, end):
                    channel = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    to = ((batch * length + t) * a.d_inner + channel) * size
                    total = totals + 2 * (s - begin) * _V
                    finish(
                        a.grad_u + to,
                        a.grad_delta + to,
                        a.grad_z + to,
                        to_row,
                        stage + (s - begin) * _STAGE_BYTES,
                        offset_address(a.D, channel * 4),
                        total,
                        total + _V,
                        softplus,
                        gated,
                        steps,
                        count,
                        bf16,
                    )

            for s in range(begin, end):
                channel = group * channels + s * LANES
                count = min(LANES, channels - s * LANES)
                to = batch * strips + group * group_strips + s
                strip, total = (s - begin) * strip_bytes, totals + 2 * (s - begin) * _V
                copy_vectors(a.grad_A + to * strip_bytes, grad_A + strip, n_pad)
                copy_vectors(a.grad_D + to * _V, total, 1)
                copy_vectors(a.grad_bias + to * _V, total + _V, 1)
                if a.initial != 0:
                    initial = a.initial + (batch * a.d_inner + channel) * d_state * 4
                    scatter_states(initial, grad_state + strip, count, d_state)
        restore(control)

    return selective_scan_backward

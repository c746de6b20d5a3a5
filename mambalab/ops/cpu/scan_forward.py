"""The forward CPU kernel of the selective scan; `scan_layout` defines strip, pack, chunk and block.

    h_t = exp(delta_t A) h_{t-1} + (delta_t u_t) B_t,   y_t = (C_t h_t + D u_t) silu(z_t)

Scratch memory of a worker, in this order; all float32:

    name   shape              written by                     read by
    rates  (pack, n, LANES)   gather_states, each task       _advance
    state  (pack, n, LANES)   gather_states, _advance        _advance, copy_vectors, scatter_states
    bs     (CHUNK, w)         widen_states, each chunk       _advance
    cs     (CHUNK, w)         widen_states, each chunk       _advance
    delta  (CHUNK, LANES)     stage_inputs, apply_softplus   _advance
    drive  (CHUNK, LANES)     stage_inputs, apply_softplus   _advance
    u      (CHUNK, LANES)     stage_inputs                   apply_softplus, stage_skip
    out    (CHUNK, LANES)     stage_skip, _advance           _finish
"""

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu.scan_layout import (
    BLOCK,
    CHUNK,
    advance_state,
    apply_softplus,
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
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast_load,
    carray,
    fma,
    load,
    load_row,
    outline,
    prefetch,
    store,
    store_row,
)
from mambalab.ops.cpu.simd_functions import apply_silu
from mambalab.ops.cpu.threads import flush_denormals, restore, take_ticket

_V = VECTOR_BYTES


def scratch_bytes(d_state: int, pack: int) -> int:
    """Scratch memory of a worker, in bytes; the module's docstring says what is in it."""
    row_vectors = -(-d_state // LANES)  # of B or C
    return _V * (2 * pack * padded_states(d_state) + 2 * CHUNK * row_vectors + 4 * CHUNK)


@outline
def _advance(h, rates, delta, drive, out, b, c, row, steps, ahead, pitch):
    """Carry BLOCK states through a chunk, adding C h to `out`; B and C have rows of `row` bytes.

    h, rates (BLOCK, LANES); delta, drive, out (steps, LANES); b, c: the block's first float. The
    lines at `ahead`, `pitch` bytes apart, are prefetched, one a step.
    """
    h0, h1, h2, h3 = load(h), load(h + _V), load(h + 2 * _V), load(h + 3 * _V)
    r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
    for t in range(steps):
        prefetch(ahead + t * pitch)
        d, x, y = load(delta + t * _V), load(drive + t * _V), load(out + t * _V)  # (LANES,) each
        bt, ct = b + t * row, c + t * row  # addresses of BLOCK floats
        h0, _ = advance_state(h0, r0, d, x, bt)
        h1, _ = advance_state(h1, r1, d, x, bt + 4)
        h2, _ = advance_state(h2, r2, d, x, bt + 8)
        h3, _ = advance_state(h3, r3, d, x, bt + 12)
        y = fma(h0, broadcast_load(ct), y)
        y = fma(h1, broadcast_load(ct + 4), y)
        y = fma(h2, broadcast_load(ct + 8), y)
        y = fma(h3, broadcast_load(ct + 12), y)
        store(out + t * _V, y)
    store(h, h0)
    store(h + _V, h1)
    store(h + 2 * _V, h2)
    store(h + 3 * _V, h3)


@outline
def _finish(y, y_row, out, z, z_row, steps, count, bf16):
    """Multiply the output (steps, LANES) by silu(z) if there is a gate, and write it to y."""
    for t in range(steps):
        value = load(out + t * _V)
        if z != 0:
            gate = load_row(z + t * z_row, bf16, count)
            value = value * apply_silu(gate)
        store_row(y + t * y_row, value, bf16, count)


def build(sources: int):
    """Build the kernel's Python function; `sources` identifies the code in numba's cache key."""

    def selective_scan_forward(pointer):
        _ = sources
        control = flush_denormals()
        a = carray(pointer, 1)[0]
        length, d_state, bf16 = a.length, a.d_state, a.is_bf16 != 0
        size = 2 if bf16 else 4  # bytes of an activation
        n_pad = (d_state + BLOCK - 1) // BLOCK * BLOCK
        row = (d_state + LANES - 1) // LANES * _V  # bytes of a widened row of B or C
        channels = a.d_inner // a.groups
        group_strips = (channels + LANES - 1) // LANES
        packs = (group_strips + a.pack - 1) // a.pack
        chunks = (length + CHUNK - 1) // CHUNK
        strip_bytes = n_pad * _V  # one value for each state of a strip: (n, LANES)

        rates = a.scratch + take_ticket(a.tickets) * a.scratch_bytes  # (pack, n, LANES)
        state = rates + a.pack * strip_bytes  # (pack, n, LANES)
        bs = state + a.pack * strip_bytes  # (CHUNK, w)
        cs = bs + CHUNK * row  # (CHUNK, w)
        delta = cs + CHUNK * row  # (CHUNK, LANES), as the next three
        drive = delta + CHUNK * _V
        u = drive + CHUNK * _V
        out = u + CHUNK * _V

        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch = task // (a.groups * packs)
            group = task // packs % a.groups
            begin = task % packs * a.pack  # strips begin ... end of the group are this task's
            end = min(group_strips, begin + a.pack)

            for s in range(begin, end):
                channel = group * channels + s * LANES  # the strip's first
                count = min(LANES, channels - s * LANES)  # channels in the strip
                strip = (s - begin) * strip_bytes
                A = a.A + channel * d_state * 4
                gather_states(rates + strip, A, count, d_state, n_pad, LOG2E)
                initial = offset_address(a.initial, (batch * a.d_inner + channel) * d_state * 4)
                gather_states(state + strip, initial, count, d_state, n_pad, 1.0)

            for chunk in range(chunks):
                t = chunk * CHUNK
                steps = min(CHUNK, length - t)
                b = row_address(a.B, a.B_batch, batch, a.B_row, t, group * a.B_group)
                c = row_address(a.C, a.C_batch, batch, a.C_row, t, group * a.C_group)
                widen_states(bs, b, a.B_row, steps, d_state, bf16)
                widen_states(cs, c, a.C_row, steps, d_state, bf16)
                for s in range(begin, end):
                    channel = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    strip = (s - begin) * strip_bytes
                    if a.saved_states != 0:
                        saved = (batch * chunks + chunk) * a.groups * group_strips
                        saved += group * group_strips + s
                        copy_vectors(a.saved_states + saved * strip_bytes, state + strip, n_pad)

                    # Where this strip's rows of the chunk begin in the caller's tensors.
                    first = channel * size
                    y_rows = row_address(a.y, a.y_batch, batch, a.y_row, t, first)
                    z_rows = row_address(a.z, a.z_batch, batch, a.z_row, t, first)
                    u_rows = row_address(a.u, a.u_batch, batch, a.u_row, t, first)
                    delta_rows = row_address(a.delta, a.delta_batch, batch, a.delta_row, t, first)
                    bias = offset_address(a.bias, channel * 4)
                    stage_inputs(
                        u, delta, drive, u_rows, a.u_row, delta_rows, a.delta_row,
                        bias, steps, count, bf16,
                    )  # fmt: skip
                    if a.softplus != 0:
                        apply_softplus(u, delta, drive, 0, steps)
                    stage_skip(out, u, offset_address(a.D, channel * 4), steps, count)
                    # Lines come from memory one a step, while the passes compute.
                    y_ahead = y_rows, a.y_row
                    u_ahead = next_rows(u_rows, a.u_row, s, begin, end, size, CHUNK), a.u_row
                    delta_ahead = (
                        next_rows(delta_rows, a.delta_row, s, begin, end, size, CHUNK), a.delta_row
                    )  # fmt: skip
                    z_ahead = next_rows(z_rows, a.z_row, s, begin, end, size, CHUNK), a.z_row
                    for n in range(0, max(n_pad, 4 * BLOCK), BLOCK):
                        ahead, pitch = out, 0
                        if n == 0:
                            ahead, pitch = y_ahead
                        elif n == BLOCK:
                            ahead, pitch = u_ahead
                        elif n == 2 * BLOCK:
                            ahead, pitch = delta_ahead
                        elif n == 3 * BLOCK and a.z != 0:
                            ahead, pitch = z_ahead
                        if n >= n_pad:  # fewer passes than tensors
                            prefetch_rows(ahead, pitch, steps)
                            continue
                        h, r = state + strip + n * _V, rates + strip + n * _V  # (BLOCK, LANES)
                        bn, cn = bs + n * 4, cs + n * 4
                        _advance(h, r, delta, drive, out, bn, cn, row, steps, ahead, pitch)

                    _finish(y_rows, a.y_row, out, z_rows, a.z_row, steps, count, bf16)

            if a.final != 0:
                for s in range(begin, end):
                    channel = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    final = a.final + (batch * a.d_inner + channel) * d_state * 4
                    scatter_states(final, state + (s - begin) * strip_bytes, count, d_state)
        restore(control)

    return selective_scan_forward

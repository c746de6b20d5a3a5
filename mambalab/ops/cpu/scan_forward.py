"""The forward CPU kernel of the selective scan; `cpu_scan_layout` has the words used here."""

from mambalab.ops.cpu.scan_layout import (
    BLOCK,
    CHUNK,
    LOG2E,
    apply_softplus,
    at,
    copy,
    fetch,
    fetch_next,
    gather,
    padded_states,
    scatter,
    skip,
    stage_inputs,
    step,
    widen_states,
)
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    apply_silu,
    carray,
    fma,
    load,
    load_row,
    outline,
    spread,
    store,
    store_row,
)
from mambalab.ops.cpu.threads import flush_denormals, restore, take_ticket

_V = VECTOR_BYTES


def scratch_bytes(d_state: int, pack: int) -> int:
    """Scratch memory of a worker: rates and states; B and C; delta, drive, u and the output."""
    width = -(-d_state // LANES)
    return _V * (2 * pack * padded_states(d_state) + 2 * CHUNK * width + 4 * CHUNK)


@outline
def _advance(h, rates, delta, drive, out, b, c, row, steps):
    """Carry BLOCK states through a chunk, adding C h to `out`; B and C have rows of `row` bytes."""
    h0, h1, h2, h3 = load(h), load(h + _V), load(h + 2 * _V), load(h + 3 * _V)
    r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
    for t in range(steps):
        d, x, y = load(delta + t * _V), load(drive + t * _V), load(out + t * _V)
        bt, ct = b + t * row, c + t * row
        h0, _ = step(h0, r0, d, x, bt)
        h1, _ = step(h1, r1, d, x, bt + 4)
        h2, _ = step(h2, r2, d, x, bt + 8)
        h3, _ = step(h3, r3, d, x, bt + 12)
        y = fma(h0, spread(ct), y)
        y = fma(h1, spread(ct + 4), y)
        y = fma(h2, spread(ct + 8), y)
        y = fma(h3, spread(ct + 12), y)
        store(out + t * _V, y)
    store(h, h0)
    store(h + _V, h1)
    store(h + 2 * _V, h2)
    store(h + 3 * _V, h3)


@outline
def _finish(y, y_row, out, z, z_row, steps, count, half):
    """Gate the output and write it."""
    for t in range(steps):
        value = load(out + t * _V)
        if z != 0:
            gate = load_row(z + t * z_row, half, count)
            value = value * apply_silu(gate)
        store_row(y + t * y_row, value, half, count)


def build(sources: int):
    """The kernel. `sources` identifies the code, and so becomes part of numba's cache key."""

    def selective_scan_forward(pointer):
        _ = sources
        control = flush_denormals()
        a = carray(pointer, 1)[0]
        length, d_state, half = a.length, a.d_state, a.half != 0
        size = 2 if half else 4
        n_pad = (d_state + BLOCK - 1) // BLOCK * BLOCK
        row = (d_state + LANES - 1) // LANES * _V
        channels = a.d_inner // a.groups
        group_strips = (channels + LANES - 1) // LANES
        packs = (group_strips + a.pack - 1) // a.pack
        chunks = (length + CHUNK - 1) // CHUNK

        rates = a.scratch + take_ticket(a.tickets) * a.scratch_bytes
        state = rates + a.pack * n_pad * _V
        bs = state + a.pack * n_pad * _V
        cs = bs + CHUNK * row
        delta = cs + CHUNK * row
        drive = delta + CHUNK * _V
        u = drive + CHUNK * _V
        out = u + CHUNK * _V

        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch = task // (a.groups * packs)
            group = task // packs % a.groups
            begin = task % packs * a.pack
            end = min(group_strips, begin + a.pack)

            for s in range(begin, end):
                low = group * channels + s * LANES
                count = min(LANES, channels - s * LANES)
                place = (s - begin) * n_pad * _V
                gather(rates + place, a.A + low * d_state * 4, count, d_state, n_pad, LOG2E)
                initial = at(a.initial, a.d_inner * d_state * 4, batch, 0, 0, low * d_state * 4)
                gather(state + place, initial, count, d_state, n_pad, 1.0)

            for chunk in range(chunks):
                t = chunk * CHUNK
                steps = min(CHUNK, length - t)
                b = at(a.B, a.B_batch, batch, a.B_row, t, group * a.B_group)
                c = at(a.C, a.C_batch, batch, a.C_row, t, group * a.C_group)
                widen_states(bs, b, a.B_row, steps, d_state, half)
                widen_states(cs, c, a.C_row, steps, d_state, half)
                for s in range(begin, end):
                    low = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    place = (s - begin) * n_pad * _V
                    if a.kept != 0:
                        strip = (batch * chunks + chunk) * a.groups * group_strips
                        strip += group * group_strips + s
                        copy(a.kept + strip * n_pad * _V, state + place, n_pad)

                    y_at = at(a.y, a.y_batch, batch, a.y_row, t, low * size)
                    z_at = at(a.z, a.z_batch, batch, a.z_row, t, low * size)
                    u_at = at(a.u, a.u_batch, batch, a.u_row, t, low * size)
                    delta_at = at(a.delta, a.delta_batch, batch, a.delta_row, t, low * size)
                    bias = at(a.bias, 0, 0, 0, 0, low * 4)
                    stage_inputs(
                        u, delta, drive, u_at, a.u_row, delta_at, a.delta_row,
                        bias, steps, count, half,
                    )  # fmt: skip
                    if a.softplus != 0:
                        apply_softplus(u, delta, drive, 0, steps)
                    skip(out, u, at(a.D, 0, 0, 0, 0, low * 4), steps, count)
                    fetch_next(u_at, a.u_row, steps, s, begin, end, size, CHUNK)
                    fetch_next(delta_at, a.delta_row, steps, s, begin, end, size, CHUNK)
                    fetch_next(z_at, a.z_row, steps, s, begin, end, size, CHUNK)
                    fetch(y_at, a.y_row, steps)
                    for n in range(0, n_pad, BLOCK):
                        h, r = state + place + n * _V, rates + place + n * _V
                        _advance(h, r, delta, drive, out, bs + n * 4, cs + n * 4, row, steps)

                    _finish(y_at, a.y_row, out, z_at, a.z_row, steps, count, half)

            if a.final != 0:
                for s in range(begin, end):
                    low = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    final = at(a.final, a.d_inner * d_state * 4, batch, 0, 0, low * d_state * 4)
                    scatter(final, state + (s - begin) * n_pad * _V, count, d_state)
        restore(control)

    return selective_scan_forward

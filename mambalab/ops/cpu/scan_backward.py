"""The backward CPU kernel of the selective scan; `cpu_scan_layout` has the words used here.

Chunks are walked last to first. In each, the states are recomputed from the one that the forward
kept, then the gradient g_t of the loss with respect to h_t runs in reverse:

    g_t = dy_t C_t + a_{t+1} g_{t+1},   a_t = exp(delta_t A),   x_t = delta_t u_t
    dC_t = sum_d dy_t h_t               dB_t = sum_d g_t x_t    dx_t = sum_n g_t B_t
    dA = sum_t delta_t p_t              ddelta_t = sum_n A p_t + dx_t u_t,   p_t = g_t a_t h_{t-1}

The sums over channels are kept as vectors over the strips of a pack and added across lanes once.
"""

import math

from mambalab.ops.cpu.scan_layout import (
    BLOCK,
    CHUNK,
    LOG2E,
    apply_softplus,
    at,
    clear,
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
    carray,
    fma,
    inline,
    load,
    load_float,
    load_row,
    outline,
    sigmoid,
    silu_argument,
    splat,
    spread,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.threads import flush_denormals, restore, take_ticket

_V = VECTOR_BYTES
_STAGED = 9  # rows staged for each strip: see `backward`
_LN2 = math.log(2.0)


def scratch_bytes(d_state: int, pack: int) -> int:
    """Scratch memory of a worker; the kernel lays it out in this order."""
    width = -(-d_state // LANES)
    strip = 3 * padded_states(d_state) + 2 + _STAGED * CHUNK
    passes = 4 * CHUNK * BLOCK + BLOCK + CHUNK * BLOCK // LANES
    return _V * (pack * strip + 2 * CHUNK * width + passes)


# One pass over a chunk for BLOCK states -----------------------------------------------------------


def _make_recompute(with_output):
    @outline
    def recompute(h, rates, delta, drive, out, b, c, row, decays, states, steps):
        """Store decay and *previous* state of each step; add C h to `out` if it is wanted."""
        h0, h1, h2, h3 = load(h), load(h + _V), load(h + 2 * _V), load(h + 3 * _V)
        r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
        for t in range(steps):
            d, x = load(delta + t * _V), load(drive + t * _V)
            bt, st, et = b + t * row, states + t * BLOCK * _V, decays + t * BLOCK * _V
            store(st, h0)
            store(st + _V, h1)
            store(st + 2 * _V, h2)
            store(st + 3 * _V, h3)
            h0, e0 = step(h0, r0, d, x, bt)
            h1, e1 = step(h1, r1, d, x, bt + 4)
            h2, e2 = step(h2, r2, d, x, bt + 8)
            h3, e3 = step(h3, r3, d, x, bt + 12)
            store(et, e0)
            store(et + _V, e1)
            store(et + 2 * _V, e2)
            store(et + 3 * _V, e3)
            if with_output:
                ct = c + t * row
                y = fma(h0, spread(ct), load(out + t * _V))
                y = fma(h1, spread(ct + 4), y)
                y = fma(h2, spread(ct + 8), y)
                store(out + t * _V, fma(h3, spread(ct + 12), y))
        last = states + steps * BLOCK * _V
        store(last, h0)
        store(last + _V, h1)
        store(last + 2 * _V, h2)
        store(last + 3 * _V, h3)

    return recompute


_recompute = _make_recompute(False)
_recompute_with_output = _make_recompute(True)


def _make_reverse(first):
    @inline
    def accumulate(address, x, y):
        if first:
            store(address, x * y)
        else:
            store(address, fma(x, y, load(address)))

    @inline
    def back(g, dA, ddelta, ddrive, h, rate, dy, d, x, b, c, decay, before, sum_b, sum_c):
        """One state, one step back; `before` holds h_{t-1}."""
        g = fma(dy, spread(c), g)
        accumulate(sum_c, dy, h)
        accumulate(sum_b, g, x)
        ddrive = fma(g, spread(b), ddrive)
        g = g * load(decay)
        h = load(before)
        p = g * h
        return g, fma(p, d, dA), fma(p, rate, ddelta), ddrive, h

    @outline
    def reverse(
        g, dA, rates, delta, drive, dy, ddelta, ddrive,
        b, c, row, decays, states, sum_b, sum_c, steps,
    ):  # fmt: skip
        """Carry the gradient of BLOCK states back through a chunk."""
        g0, g1, g2, g3 = load(g), load(g + _V), load(g + 2 * _V), load(g + 3 * _V)
        q0, q1, q2, q3 = load(dA), load(dA + _V), load(dA + 2 * _V), load(dA + 3 * _V)
        r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
        last = states + steps * BLOCK * _V
        h0, h1, h2, h3 = load(last), load(last + _V), load(last + 2 * _V), load(last + 3 * _V)
        for i in range(steps):
            t = steps - 1 - i
            d, x, y = load(delta + t * _V), load(drive + t * _V), load(dy + t * _V)
            s, w = load(ddelta + t * _V), load(ddrive + t * _V)
            bt, ct, k = b + t * row, c + t * row, t * BLOCK * _V
            et, st, lb, lc = decays + k, states + k, sum_b + k, sum_c + k
            g0, q0, s, w, h0 = back(g0, q0, s, w, h0, r0, y, d, x, bt, ct, et, st, lb, lc)
            bt, ct, et, st, lb, lc = bt + 4, ct + 4, et + _V, st + _V, lb + _V, lc + _V
            g1, q1, s, w, h1 = back(g1, q1, s, w, h1, r1, y, d, x, bt, ct, et, st, lb, lc)
            bt, ct, et, st, lb, lc = bt + 4, ct + 4, et + _V, st + _V, lb + _V, lc + _V
            g2, q2, s, w, h2 = back(g2, q2, s, w, h2, r2, y, d, x, bt, ct, et, st, lb, lc)
            bt, ct, et, st, lb, lc = bt + 4, ct + 4, et + _V, st + _V, lb + _V, lc + _V
            g3, q3, s, w, h3 = back(g3, q3, s, w, h3, r3, y, d, x, bt, ct, et, st, lb, lc)
            store(ddelta + t * _V, s)
            store(ddrive + t * _V, w)
        store(g, g0)
        store(g + _V, g1)
        store(g + 2 * _V, g2)
        store(g + 3 * _V, g3)
        store(dA, q0)
        store(dA + _V, q1)
        store(dA + 2 * _V, q2)
        store(dA + 3 * _V, q3)

    return reverse


_reverse_first = _make_reverse(True)
_reverse_next = _make_reverse(False)


# Before and after the passes ----------------------------------------------------------------------


@outline
def _stage_output_gradient(dy_to, dz_to, dy, dy_row, z, z_row, steps, count, half):
    """dy times the gate; and its factor in the gradient of z, which lacks the output."""
    for t in range(steps):
        grad = load_row(dy + t * dy_row, half, count)
        if z != 0:
            gate = silu_argument(load_row(z + t * z_row, half, count))
            share = sigmoid(gate)
            slope = share * fma(gate, splat(1.0) - share, splat(1.0))
            store(dz_to + t * _V, grad * slope)
            grad = grad * (gate * share)
        store(dy_to + t * _V, grad)


@outline
def _add_across_lanes(target, stride, vectors, totals, steps, states):
    """Sums over lanes of (steps, BLOCK) vectors, written to rows of `states` <= BLOCK floats."""
    for i in range((steps * BLOCK + LANES - 1) // LANES):
        store(totals + i * _V, sums(vectors + i * LANES * _V))
    for t in range(steps):
        for n in range(states):
            store_float(target + t * stride + n * 4, load_float(totals + (t * BLOCK + n) * 4))


@outline
def _finish(
    du, ddelta, dz, to_row, staged, D, total_D, total_bias, softplus, gated, steps, count, half
):
    """Write the rows of one strip; add to the gradients of D and the bias."""
    delta, u = staged, staged + 2 * CHUNK * _V
    dy, slope = u + CHUNK * _V, u + 2 * CHUNK * _V
    grad_delta, grad_drive = u + 3 * CHUNK * _V, u + 4 * CHUNK * _V
    out, dz_factor = u + 5 * CHUNK * _V, u + 6 * CHUNK * _V
    weight = splat(0.0)
    if D != 0:
        weight = load_row(D, False, count)
    sum_D, sum_bias = load(total_D), load(total_bias)
    for t in range(steps):
        k = t * _V
        grad, value, through = load(dy + k), load(u + k), load(grad_drive + k)
        store_row(du + t * to_row, fma(through, load(delta + k), grad * weight), half, count)
        step_grad = fma(load(grad_delta + k), splat(_LN2), through * value)
        if softplus:
            step_grad = step_grad * load(slope + k)
        store_row(ddelta + t * to_row, step_grad, half, count)
        sum_D = fma(grad, value, sum_D)
        sum_bias = sum_bias + step_grad
        if gated:
            store_row(dz + t * to_row, load(out + k) * load(dz_factor + k), half, count)
    store(total_D, sum_D)
    store(total_bias, sum_bias)


def build(sources: int):
    """The kernel. `sources` identifies the code, and so becomes part of numba's cache key."""

    def selective_scan_backward(pointer):
        _ = sources
        control = flush_denormals()
        a = carray(pointer, 1)[0]
        length, d_state, half = a.length, a.d_state, a.half != 0
        gated, softplus = a.z != 0, a.softplus != 0
        size = 2 if half else 4
        n_pad = (d_state + BLOCK - 1) // BLOCK * BLOCK
        row = (d_state + LANES - 1) // LANES * _V
        channels = a.d_inner // a.groups
        group_strips = (channels + LANES - 1) // LANES
        strips = a.groups * group_strips
        packs = (group_strips + a.pack - 1) // a.pack
        chunks = (length + CHUNK - 1) // CHUNK
        packed = a.pack * n_pad * _V
        rows = CHUNK * _V
        to_row = a.d_inner * size

        rates = a.scratch + take_ticket(a.tickets) * a.scratch_bytes
        grad_state, grad_A = rates + packed, rates + 2 * packed
        totals = rates + 3 * packed  # gradients of D and of the bias, for each strip
        stage = totals + 2 * a.pack * _V
        bs = stage + a.pack * _STAGED * rows
        cs = bs + CHUNK * row
        decays, states = cs + CHUNK * row, cs + CHUNK * row + BLOCK * rows
        sum_b, sum_c = states + BLOCK * rows + BLOCK * _V, states + 2 * BLOCK * rows + BLOCK * _V
        lane_sums = sum_c + BLOCK * rows

        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch = task // (a.groups * packs)
            group = task // packs % a.groups
            pack = task % packs
            begin = pack * a.pack
            end = min(group_strips, begin + a.pack)

            for s in range(begin, end):
                low = group * channels + s * LANES
                count = min(LANES, channels - s * LANES)
                place = (s - begin) * n_pad * _V
                gather(rates + place, a.A + low * d_state * 4, count, d_state, n_pad, LOG2E)
                final = at(a.final, a.d_inner * d_state * 4, batch, 0, 0, low * d_state * 4)
                gather(grad_state + place, final, count, d_state, n_pad, 1.0)
            clear(grad_A, (end - begin) * n_pad)
            clear(totals, 2 * (end - begin))

            for chunk in range(chunks - 1, -1, -1):
                t = chunk * CHUNK
                steps = min(CHUNK, length - t)
                b = at(a.B, a.B_batch, batch, a.B_row, t, group * a.B_group)
                c = at(a.C, a.C_batch, batch, a.C_row, t, group * a.C_group)
                widen_states(bs, b, a.B_row, steps, d_state, half)
                widen_states(cs, c, a.C_row, steps, d_state, half)

                for s in range(begin, end):
                    low = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    delta = stage + (s - begin) * _STAGED * rows
                    drive, u, dy = delta + rows, delta + 2 * rows, delta + 3 * rows
                    slope, sum_delta = delta + 4 * rows, delta + 5 * rows
                    out, dz = delta + 7 * rows, delta + 8 * rows
                    u_at = at(a.u, a.u_batch, batch, a.u_row, t, low * size)
                    delta_at = at(a.delta, a.delta_batch, batch, a.delta_row, t, low * size)
                    bias = at(a.bias, 0, 0, 0, 0, low * 4)
                    stage_inputs(
                        u, delta, drive, u_at, a.u_row, delta_at, a.delta_row,
                        bias, steps, count, half,
                    )  # fmt: skip
                    if softplus:
                        apply_softplus(u, delta, drive, slope, steps)
                    y_at = at(a.y, a.y_batch, batch, a.y_row, t, low * size)
                    z_at = at(a.z, a.z_batch, batch, a.z_row, t, low * size)
                    _stage_output_gradient(dy, dz, y_at, a.y_row, z_at, a.z_row, steps, count, half)
                    fetch_next(u_at, a.u_row, steps, s, begin, end, size, -CHUNK)
                    fetch_next(delta_at, a.delta_row, steps, s, begin, end, size, -CHUNK)
                    fetch_next(y_at, a.y_row, steps, s, begin, end, size, -CHUNK)
                    fetch_next(z_at, a.z_row, steps, s, begin, end, size, -CHUNK)
                    place = ((batch * length + t) * a.d_inner + low) * size
                    fetch(a.grad_u + place, to_row, steps)
                    fetch(a.grad_delta + place, to_row, steps)
                    if gated:
                        fetch(a.grad_z + place, to_row, steps)
                    strip = (batch * chunks + chunk - 1) * strips + group * group_strips + s
                    fetch(a.kept + strip * n_pad * _V, _V, n_pad)
                    clear(sum_delta, 2 * CHUNK)
                    if gated:
                        skip(out, u, at(a.D, 0, 0, 0, 0, low * 4), steps, count)

                for n in range(0, n_pad, BLOCK):
                    bn, cn = bs + n * 4, cs + n * 4
                    for s in range(begin, end):
                        place = (s - begin) * n_pad * _V + n * _V
                        delta = stage + (s - begin) * _STAGED * rows
                        drive, dy = delta + rows, delta + 3 * rows
                        sum_delta, sum_drive = delta + 5 * rows, delta + 6 * rows
                        out = delta + 7 * rows
                        strip = (batch * chunks + chunk) * strips + group * group_strips + s
                        h = a.kept + (strip * n_pad + n) * _V
                        r = rates + place
                        if gated:
                            _recompute_with_output(
                                h, r, delta, drive, out, bn, cn, row, decays, states, steps
                            )
                        else:
                            _recompute(h, r, delta, drive, 0, bn, cn, row, decays, states, steps)
                        g, dA = grad_state + place, grad_A + place
                        if s == begin:
                            _reverse_first(
                                g, dA, r, delta, drive, dy, sum_delta, sum_drive,
                                bn, cn, row, decays, states, sum_b, sum_c, steps,
                            )  # fmt: skip
                        else:
                            _reverse_next(
                                g, dA, r, delta, drive, dy, sum_delta, sum_drive,
                                bn, cn, row, decays, states, sum_b, sum_c, steps,
                            )  # fmt: skip
                    stride = a.groups * d_state * 4
                    place = ((pack * a.batch + batch) * length + t) * stride
                    place += (group * d_state + n) * 4
                    count = min(BLOCK, d_state - n)
                    _add_across_lanes(a.grad_B + place, stride, sum_b, lane_sums, steps, count)
                    _add_across_lanes(a.grad_C + place, stride, sum_c, lane_sums, steps, count)

                for s in range(begin, end):
                    low = group * channels + s * LANES
                    count = min(LANES, channels - s * LANES)
                    place = ((batch * length + t) * a.d_inner + low) * size
                    total = totals + 2 * (s - begin) * _V
                    _finish(
                        a.grad_u + place,
                        a.grad_delta + place,
                        a.grad_z + place,
                        to_row,
                        stage + (s - begin) * _STAGED * rows,
                        at(a.D, 0, 0, 0, 0, low * 4),
                        total,
                        total + _V,
                        softplus,
                        gated,
                        steps,
                        count,
                        half,
                    )

            for s in range(begin, end):
                low = group * channels + s * LANES
                count = min(LANES, channels - s * LANES)
                strip = batch * strips + group * group_strips + s
                place, total = (s - begin) * n_pad * _V, totals + 2 * (s - begin) * _V
                copy(a.grad_A + strip * n_pad * _V, grad_A + place, n_pad)
                copy(a.grad_D + strip * _V, total, 1)
                copy(a.grad_bias + strip * _V, total + _V, 1)
                initial = at(a.initial, a.d_inner * d_state * 4, batch, 0, 0, low * d_state * 4)
                if initial != 0:
                    scatter(initial, grad_state + place, count, d_state)
        restore(control)

    return selective_scan_backward

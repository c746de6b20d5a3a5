"""Passes of the backward CPU kernel over one chunk; `scan_backward` states the maths.

Address arguments are written with the shape of the float32 memory there; the arithmetic on them is
in bytes.
"""

from mambalab.ops.common import LN2
from mambalab.ops.cpu.scan_layout import BLOCK, CHUNK, advance_state
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast,
    broadcast_load,
    fma,
    inline,
    load,
    load_float,
    load_row,
    outline,
    prefetch,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.simd_functions import sigmoid, silu_argument

_V = VECTOR_BYTES

STAGED = 9  # blocks of (CHUNK, LANES) that are staged for each strip
# Where each begins, in bytes: filled before the passes (delta to slope, and dz), by them (the two
# gradients), or by both (out). DZ is dz without its factor y; SLOPE is that of softplus.
DELTA, DRIVE, U, DY, SLOPE, GRAD_DELTA, GRAD_DRIVE, OUT, DZ = range(
    0, STAGED * CHUNK * _V, CHUNK * _V
)


# One pass over a chunk for BLOCK states -----------------------------------------------------------


def _make_recompute(with_output):
    """Compile the forward pass over a chunk, with or without the output C h."""

    @outline
    def recompute(h, rates, delta, drive, out, b, c, row, decays, states, steps, ahead, pitch):
        """Store decay and *previous* state of each step; add C h to `out` if it is wanted.

        h, rates (BLOCK, LANES); delta, drive, out (steps, LANES); b, c: the block's first float in
        rows of `row` bytes; decays (steps, BLOCK, LANES); states (steps + 1, BLOCK, LANES). The
        lines at `ahead`, `pitch` bytes apart, are prefetched, one a step.
        """
        h0, h1, h2, h3 = load(h), load(h + _V), load(h + 2 * _V), load(h + 3 * _V)
        r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
        for t in range(steps):
            prefetch(ahead + t * pitch)
            d, x = load(delta + t * _V), load(drive + t * _V)  # (LANES,) each
            bt, st, et = b + t * row, states + t * BLOCK * _V, decays + t * BLOCK * _V
            store(st, h0)
            store(st + _V, h1)
            store(st + 2 * _V, h2)
            store(st + 3 * _V, h3)
            h0, e0 = advance_state(h0, r0, d, x, bt)
            h1, e1 = advance_state(h1, r1, d, x, bt + 4)
            h2, e2 = advance_state(h2, r2, d, x, bt + 8)
            h3, e3 = advance_state(h3, r3, d, x, bt + 12)
            store(et, e0)
            store(et + _V, e1)
            store(et + 2 * _V, e2)
            store(et + 3 * _V, e3)
            if with_output:
                ct = c + t * row
                y = fma(h0, broadcast_load(ct), load(out + t * _V))
                y = fma(h1, broadcast_load(ct + 4), y)
                y = fma(h2, broadcast_load(ct + 8), y)
                store(out + t * _V, fma(h3, broadcast_load(ct + 12), y))
        last = states + steps * BLOCK * _V
        store(last, h0)
        store(last + _V, h1)
        store(last + 2 * _V, h2)
        store(last + 3 * _V, h3)

    return recompute


recompute = _make_recompute(False)
recompute_with_output = _make_recompute(True)


def _make_reverse(first):
    """Compile the reverse pass; the first strip of a pack writes sums, others add to them."""

    @inline
    def accumulate(address, x, y):
        """Add x * y to the vector at an address; the pack's first strip writes it."""
        if first:
            store(address, x * y)
        else:
            store(address, fma(x, y, load(address)))

    @inline
    def back(g, dA, ddelta, ddrive, h, rate, dy, d, x, b, c, decay, before, sum_b, sum_c):
        """Take one state one step back; `before` is the address of h_{t-1}.

        g comes as a_{t+1} g_{t+1} and goes as a_t g_t; h comes as h_t and goes as h_{t-1}.
        """
        g = fma(dy, broadcast_load(c), g)  # g_t
        accumulate(sum_c, dy, h)
        accumulate(sum_b, g, x)
        ddrive = fma(g, broadcast_load(b), ddrive)
        g = g * load(decay)  # a_t g_t
        h = load(before)
        p = g * h  # p_t
        return g, fma(p, d, dA), fma(p, rate, ddelta), ddrive, h

    @outline
    def reverse(
        g, dA, rates, delta, drive, dy, ddelta, ddrive,
        b, c, row, decays, states, sum_b, sum_c, steps, ahead, pitch,
    ):  # fmt: skip
        """Carry the gradient of BLOCK states back through a chunk.

        g, dA, rates (BLOCK, LANES); delta, drive, dy, ddelta, ddrive (steps, LANES); b, c: the
        block's first float in rows of `row` bytes; decays, sum_b, sum_c (steps, BLOCK, LANES);
        states (steps + 1, BLOCK, LANES). The lines at `ahead`, `pitch` bytes apart, are
        prefetched, one a step.
        """
        g0, g1, g2, g3 = load(g), load(g + _V), load(g + 2 * _V), load(g + 3 * _V)
        q0, q1, q2, q3 = load(dA), load(dA + _V), load(dA + 2 * _V), load(dA + 3 * _V)
        r0, r1, r2, r3 = load(rates), load(rates + _V), load(rates + 2 * _V), load(rates + 3 * _V)
        last = states + steps * BLOCK * _V
        h0, h1, h2, h3 = load(last), load(last + _V), load(last + 2 * _V), load(last + 3 * _V)
        for i in range(steps):
            t = steps - 1 - i
            prefetch(ahead + t * pitch)
            d, x, y = load(delta + t * _V), load(drive + t * _V), load(dy + t * _V)  # (LANES,)
            s, w = load(ddelta + t * _V), load(ddrive + t * _V)  # sums over states so far
            bt, ct, k = b + t * row, c + t * row, t * BLOCK * _V
            et, st, lb, lc = decays + k, states + k, sum_b + k, sum_c + k  # (BLOCK, LANES) each
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


reverse_first = _make_reverse(True)
reverse_next = _make_reverse(False)


# Before and after the passes ----------------------------------------------------------------------


@outline
def stage_output_gradient(dy_to, dz_to, dy, dy_row, z, z_row, steps, count, bf16):
    """Store dy silu(z) and, with a gate, dy silu'(z): dz without its factor, the ungated output.

    Both are (steps, LANES).
    """
    for t in range(steps):
        grad = load_row(dy + t * dy_row, bf16, count)
        if z != 0:
            gate = silu_argument(load_row(z + t * z_row, bf16, count))
            share = sigmoid(gate)
            slope = share * fma(gate, broadcast(1.0) - share, broadcast(1.0))
            store(dz_to + t * _V, grad * slope)
            grad = grad * (gate * share)
        store(dy_to + t * _V, grad)


@outline
def add_across_lanes(target, stride, vectors, totals, steps, states):
    """Sum (steps, BLOCK, LANES) over lanes to rows of `states` <= BLOCK floats, `stride` apart.

    `totals` (steps, BLOCK) is memory to work in.
    """
    for i in range((steps * BLOCK + LANES - 1) // LANES):
        store(totals + i * _V, sums(vectors + i * LANES * _V))
    for t in range(steps):
        for n in range(states):
            store_float(target + t * stride + n * 4, load_float(totals + (t * BLOCK + n) * 4))


@outline
def finish(
    du, ddelta, dz, to_row, staged, D, total_D, total_bias, softplus, gated, steps, count, bf16
):
    """Write a strip's rows of du, ddelta and dz; add to the gradients of D and the bias.

    du_t = dx_t delta_t + dy_t D; ddelta_t is a sum of rates, A log2(e), and therefore times ln(2).
    staged (STAGED, CHUNK, LANES); total_D, total_bias (LANES,); rows are `to_row` bytes apart.
    """
    weight = broadcast(0.0)
    if D != 0:
        weight = load_row(D, False, count)
    sum_D, sum_bias = load(total_D), load(total_bias)
    for t in range(steps):
        row = staged + t * _V
        grad, value, through = load(row + DY), load(row + U), load(row + GRAD_DRIVE)
        du_t = fma(through, load(row + DELTA), grad * weight)
        store_row(du + t * to_row, du_t, bf16, count)
        step_grad = fma(load(row + GRAD_DELTA), broadcast(LN2), through * value)
        if softplus:
            step_grad = step_grad * load(row + SLOPE)
        store_row(ddelta + t * to_row, step_grad, bf16, count)
        sum_D = fma(grad, value, sum_D)
        sum_bias = sum_bias + step_grad
        if gated:
            store_row(dz + t * to_row, load(row + OUT) * load(row + DZ), bf16, count)
    store(total_D, sum_D)
    store(total_bias, sum_bias)

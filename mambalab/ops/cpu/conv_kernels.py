"""CPU kernels of the causal convolution: forward and backward, SiLU fused, over explicit vectors.

A *strip* is `LANES` neighbouring channels, a *task* a block of `ROWS` steps of one sequence with
all its strips. The usual four taps have passes that go through a strip with everything in
registers; other widths go row by row. The gradients of weight and bias that a task finds go into
its own buffer; the host adds them up.
"""

from typing import NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    apply_silu,
    carray,
    fma,
    inline,
    load,
    load_float,
    load_row,
    outline,
    prefetch,
    sigmoid,
    silu_argument,
    splat,
    store,
    store_float,
    store_row,
)
from mambalab.ops.cpu.threads import take_ticket

ROWS = 128
_V = VECTOR_BYTES


class ConvArgs(NamedTuple):
    """What the kernels read after the runtime's header: addresses, strides in bytes, sizes, flags.

    The address 0 stands for a tensor that is not there.
    """

    batch: int
    length: int
    d_inner: int
    taps: int
    half: int  # x, y and their gradients are bfloat16, else float32
    silu: int
    weight: int  # (D, K) float32, contiguous
    bias: int  # (D,) float32
    before: int  # (B, K - 1, D) float32, contiguous: inputs before the first; backward: gradient
    x: int
    x_batch: int
    x_row: int
    y: int  # output; the backward reads its gradient here
    y_batch: int
    y_row: int
    grad_x: int = 0  # (B, L, D), contiguous
    grad_before: int = 0  # (B, K - 1, D) float32, contiguous
    grad_weight: int = 0  # (tasks, strips, K, LANES) float32
    grad_bias: int = 0  # (tasks, strips, LANES) float32


def forward_scratch(d_inner: int, taps: int) -> int:
    """Scratch bytes of a forward worker: the weights."""
    return _V * taps * -(-d_inner // LANES)


def backward_scratch(d_inner: int, taps: int) -> int:
    """Scratch bytes of a backward worker: weights and the last K gradients of each strip."""
    return 2 * forward_scratch(d_inner, taps)


@outline
def _stage_weights(target, weight, d_inner, taps):
    """(D, K) floats -> (strips, K) vectors of channels; zeros beyond the last channel."""
    strips = (d_inner + LANES - 1) // LANES
    for i in range(strips * taps):
        store(target + i * _V, splat(0.0))
    for d in range(d_inner):
        for k in range(taps):
            place = (d // LANES * taps + k) * _V + d % LANES * 4
            store_float(target + place, load_float(weight + (d * taps + k) * 4))


@inline
def _input(x, x_row, before, t, s, d_inner, taps, half, count):
    """Strip s of x_t; for t < 0 that of the rows before the first, or zeros."""
    if t >= 0:
        size = 2 if half else 4
        return load_row(x + t * x_row + s * LANES * size, half, count)
    if before != 0:
        return load_row(before + ((t + taps - 1) * d_inner + s * LANES) * 4, False, count)
    return splat(0.0)


@inline
def _convolved(weights, bias, x, x_row, before, t, s, d_inner, taps, half, count):
    """Bias + sum_k weight_k x_{t - (K - 1) + k} of strip s."""
    total = splat(0.0)
    if bias != 0:
        total = load_row(bias + s * LANES * 4, False, count)
    for k in range(taps):
        value = _input(x, x_row, before, t - (taps - 1) + k, s, d_inner, taps, half, count)
        total = fma(load(weights + (s * taps + k) * _V), value, total)
    return total


@outline
def _forward_four(weights, bias, x, x_row, before, y, y_row, begin, end, s, d_inner, half, silu):
    """Rows begin ... end of strip s with four taps: a window of inputs slides through registers."""
    size = 2 if half else 4
    count = min(LANES, d_inner - s * LANES)
    own = weights + s * 4 * _V
    w0, w1, w2, w3 = load(own), load(own + _V), load(own + 2 * _V), load(own + 3 * _V)
    start = splat(0.0)
    if bias != 0:
        start = load_row(bias + s * LANES * 4, False, count)
    x0 = _input(x, x_row, before, begin - 3, s, d_inner, 4, half, count)
    x1 = _input(x, x_row, before, begin - 2, s, d_inner, 4, half, count)
    x2 = _input(x, x_row, before, begin - 1, s, d_inner, 4, half, count)
    source, target = x + s * LANES * size, y + s * LANES * size
    for t in range(begin, end):
        prefetch(source + t * x_row + VECTOR_BYTES)
        x3 = load_row(source + t * x_row, half, count)
        value = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, start))))
        if silu:
            value = apply_silu(value)
        store_row(target + t * y_row, value, half, count)
        x0, x1, x2 = x1, x2, x3


def build_forward(sources: int):
    """The forward kernel. `sources` identifies the code, and so enters numba's cache key."""

    def causal_conv1d_forward(pointer):
        _ = sources
        a = carray(pointer, 1)[0]
        d_inner, taps, half, silu = a.d_inner, a.taps, a.half != 0, a.silu != 0
        size = 2 if half else 4
        strips = (d_inner + LANES - 1) // LANES
        blocks = (a.length + ROWS - 1) // ROWS
        bias, x_row = a.bias, a.x_row
        weights = a.scratch + take_ticket(a.tickets) * a.scratch_bytes
        _stage_weights(weights, a.weight, d_inner, taps)
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch, begin = task // blocks, task % blocks * ROWS
            x = a.x + batch * a.x_batch
            before = a.before + batch * (taps - 1) * d_inner * 4 if a.before != 0 else 0
            end = min(a.length, begin + ROWS)
            if taps == 4:
                y = a.y + batch * a.y_batch
                for s in range(strips):
                    _forward_four(
                        weights, bias, x, x_row, before, y, a.y_row,
                        begin, end, s, d_inner, half, silu,
                    )  # fmt: skip
                continue
            for t in range(begin, end):
                y = a.y + batch * a.y_batch + t * a.y_row
                for s in range(strips):
                    count = min(LANES, d_inner - s * LANES)
                    value = _convolved(
                        weights, bias, x, x_row, before, t, s, d_inner, taps, half, count
                    )
                    if silu:
                        value = apply_silu(value)
                    store_row(y + s * LANES * size, value, half, count)

    return causal_conv1d_forward


@inline
def _slope(value):
    """Derivative of SiLU."""
    value = silu_argument(value)
    share = sigmoid(value)
    return share * fma(value, splat(1.0) - share, splat(1.0))


@outline
def _backward_four(
    weights, bias, x, x_row, before, dy, dy_row, dx, dx_row, d_before, d_weight, d_bias,
    begin, end, length, s, d_inner, half, silu,
):  # fmt: skip
    """Rows end ... begin of strip s with four taps; inputs and gradients slide in registers."""
    size = 2 if half else 4
    count = min(LANES, d_inner - s * LANES)
    own = weights + s * 4 * _V
    w0, w1, w2, w3 = load(own), load(own + _V), load(own + 2 * _V), load(own + 3 * _V)
    zero = splat(0.0)
    start = zero
    if bias != 0:
        start = load_row(bias + s * LANES * 4, False, count)
    v0, v1, v2, v3, total = zero, zero, zero, zero, zero  # gradients of the weights and the bias
    g1, g2, g3 = zero, zero, zero  # gradients of the sums at t + 1, t + 2, t + 3
    t = min(length, end + 3) - 1
    x3 = _input(x, x_row, before, t, s, d_inner, 4, half, count)
    x2 = _input(x, x_row, before, t - 1, s, d_inner, 4, half, count)
    x1 = _input(x, x_row, before, t - 2, s, d_inner, 4, half, count)
    offset = s * LANES * size
    while t >= begin:
        prefetch(x + offset + t * x_row + VECTOR_BYTES)
        prefetch(dy + offset + t * dy_row + VECTOR_BYTES)
        x0 = _input(x, x_row, before, t - 3, s, d_inner, 4, half, count)
        g0 = load_row(dy + offset + t * dy_row, half, count)
        if silu:
            g0 = g0 * _slope(fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, start)))))
        if t < end:
            v0, v1, v2, v3 = fma(g0, x0, v0), fma(g0, x1, v1), fma(g0, x2, v2), fma(g0, x3, v3)
            total = total + g0
            value = fma(w0, g3, fma(w1, g2, fma(w2, g1, w3 * g0)))
            store_row(dx + offset + t * dx_row, value, half, count)
        x3, x2, x1 = x2, x1, x0
        g1, g2, g3 = g0, g1, g2
        t -= 1
    if begin == 0 and d_before != 0:
        place = d_before + s * LANES * 4
        row = d_inner * 4
        store_row(place + 2 * row, fma(w0, g3, fma(w1, g2, w2 * g1)), False, count)
        store_row(place + row, fma(w0, g2, w1 * g1), False, count)
        store_row(place, w0 * g1, False, count)
    own = d_weight + s * 4 * _V
    store(own, v0)
    store(own + _V, v1)
    store(own + 2 * _V, v2)
    store(own + 3 * _V, v3)
    store(d_bias + s * _V, total)


def build_backward(sources: int):
    """The backward kernel: walks a block of steps in reverse.

    The gradient of x_t needs those of the sums at t ... t + K - 1, so each strip keeps the last K
    of them in a ring, and a block starts K - 1 steps late to fill it.
    """

    def causal_conv1d_backward(pointer):
        _ = sources
        a = carray(pointer, 1)[0]
        d_inner, taps, half, silu = a.d_inner, a.taps, a.half != 0, a.silu != 0
        size = 2 if half else 4
        strips = (d_inner + LANES - 1) // LANES
        blocks = (a.length + ROWS - 1) // ROWS
        bias, x_row = a.bias, a.x_row
        weights = a.scratch + take_ticket(a.tickets) * a.scratch_bytes
        ring = weights + strips * taps * _V
        _stage_weights(weights, a.weight, d_inner, taps)
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch, begin = task // blocks, task % blocks * ROWS
            end = min(a.length, begin + ROWS)
            first = begin if begin > 0 else 1 - taps  # the first block serves the rows before 0
            x = a.x + batch * a.x_batch
            before = a.before + batch * (taps - 1) * d_inner * 4 if a.before != 0 else 0
            grad_weight = a.grad_weight + task * strips * taps * _V
            grad_bias = a.grad_bias + task * strips * _V
            if taps == 4:
                dy, row = a.y + batch * a.y_batch, d_inner * size
                dx = a.grad_x + batch * a.length * row
                d_before = a.grad_before
                if d_before != 0:
                    d_before += batch * 3 * d_inner * 4
                for s in range(strips):
                    _backward_four(
                        weights, bias, x, x_row, before, dy, a.y_row, dx, row, d_before,
                        grad_weight, grad_bias, begin, end, a.length, s, d_inner, half, silu,
                    )  # fmt: skip
                continue
            for i in range(strips * taps):
                store(grad_weight + i * _V, splat(0.0))
                store(ring + i * _V, splat(0.0))
            for i in range(strips):
                store(grad_bias + i * _V, splat(0.0))

            for t in range(min(a.length, end + taps - 1) - 1, first - 1, -1):
                dy = a.y + batch * a.y_batch + t * a.y_row
                slot = (t + taps) % taps
                for s in range(strips):
                    count = min(LANES, d_inner - s * LANES)
                    grad = splat(0.0)
                    if t >= 0:
                        grad = load_row(dy + s * LANES * size, half, count)
                        if silu:
                            value = _convolved(
                                weights, bias, x, x_row, before, t, s, d_inner, taps, half, count
                            )
                            grad = grad * _slope(value)
                    own = ring + s * taps * _V
                    store(own + slot * _V, grad)
                    if t < end:
                        if t >= 0:
                            place = grad_bias + s * _V
                            store(place, load(place) + grad)
                            for k in range(taps):
                                r = t - (taps - 1) + k
                                value = _input(x, x_row, before, r, s, d_inner, taps, half, count)
                                place = grad_weight + (s * taps + k) * _V
                                store(place, fma(grad, value, load(place)))
                        total = splat(0.0)
                        at = slot
                        for k in range(taps - 1, -1, -1):
                            total = fma(
                                load(weights + (s * taps + k) * _V), load(own + at * _V), total
                            )
                            at += 1
                            if at == taps:
                                at = 0
                        if t >= 0:
                            place = (batch * a.length + t) * d_inner + s * LANES
                            store_row(a.grad_x + place * size, total, half, count)
                        elif a.grad_before != 0:
                            place = (batch * (taps - 1) + t + taps - 1) * d_inner + s * LANES
                            store_row(a.grad_before + place * 4, total, False, count)

    return causal_conv1d_backward

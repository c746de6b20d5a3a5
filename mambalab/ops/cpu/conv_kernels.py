"""CPU kernels of the causal convolution: forward and backward, SiLU fused, over explicit vectors.

    s_t = bias + sum_k weight_k x_{t - (K - 1) + k},   y_t = silu(s_t)
    g_t = dy_t silu'(s_t),   dx_t = sum_k weight_{K - 1 - k} g_{t + k},   dbias = sum_t g_t
    dweight_k = sum_t g_t x_{t - (K - 1) + k}

A *strip* is `LANES` neighbouring channels, a *task* a block of `TASK_STEPS` steps of one sequence
with all its strips. The usual four taps have passes that go through a strip with everything in
registers; other widths go row by row. The gradients of weight and bias that a task finds go into
its own buffer; the host adds them up.

Scratch memory of a worker, in this order; all float32, K taps:

    name     shape               written by             read by
    weights  (strips, K, LANES)  _stage_weights, once   both kernels
    ring     (strips, K, LANES)  the backward: g_t in slot t mod K of the last K steps; not if K = 4
"""

from typing import NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast,
    carray,
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
)
from mambalab.ops.cpu.simd_functions import apply_silu, sigmoid, silu_argument
from mambalab.ops.cpu.threads import take_ticket

TASK_STEPS = 128  # of one sequence
_V = VECTOR_BYTES


class ConvArgs(NamedTuple):
    """What the kernels read after the runtime's header: addresses, strides in bytes, sizes, flags.

    `X_batch` and `X_row` are the strides of X over sequences and steps. The address 0 stands for an
    absent tensor.
    """

    batch: int
    length: int
    d_inner: int
    taps: int
    is_bf16: int  # x, y and their gradients are bfloat16, else float32
    silu: int
    weight: int  # (d_inner, taps) float32, contiguous
    bias: int  # (d_inner,) float32
    before: int  # (b, taps - 1, d_inner) float32, contiguous: inputs before the first
    x: int  # (b, l, d_inner)
    x_batch: int
    x_row: int
    y: int  # (b, l, d_inner), output; the backward reads its gradient here
    y_batch: int
    y_row: int
    grad_x: int = 0  # (b, l, d_inner), contiguous
    grad_before: int = 0  # (b, taps - 1, d_inner) float32, contiguous
    grad_weight: int = 0  # (tasks, strips, taps, LANES) float32
    grad_bias: int = 0  # (tasks, strips, LANES) float32


def forward_scratch(d_inner: int, taps: int) -> int:
    """Scratch memory of a worker of the forward, in bytes: the weights."""
    return _V * taps * -(-d_inner // LANES)


def backward_scratch(d_inner: int, taps: int) -> int:
    """Scratch memory of a worker of the backward, in bytes: the weights and the ring."""
    return 2 * forward_scratch(d_inner, taps)


@outline
def _stage_weights(target, weight, d_inner, taps):
    """Transpose (d_inner, taps) floats to (strips, taps, LANES); zeros beyond the last channel."""
    strips = (d_inner + LANES - 1) // LANES
    for i in range(strips * taps):
        store(target + i * _V, broadcast(0.0))
    for d in range(d_inner):
        for k in range(taps):
            lane = (d // LANES * taps + k) * _V + d % LANES * 4
            store_float(target + lane, load_float(weight + (d * taps + k) * 4))


@inline
def _input(x, x_row, before, t, s, d_inner, taps, bf16, count):
    """Load strip s of x_t; for t < 0 that of the initial state, zeros if there is none."""
    if t >= 0:
        size = 2 if bf16 else 4
        return load_row(x + t * x_row + s * LANES * size, bf16, count)
    if before != 0:
        return load_row(before + ((t + taps - 1) * d_inner + s * LANES) * 4, False, count)
    return broadcast(0.0)


@inline
def _convolved(weights, bias, x, x_row, before, t, s, d_inner, taps, bf16, count):
    """Compute s_t = bias + sum_k weight_k x_{t - (K - 1) + k} of strip s, (LANES,)."""
    total = broadcast(0.0)
    if bias != 0:
        total = load_row(bias + s * LANES * 4, False, count)
    for k in range(taps):
        value = _input(x, x_row, before, t - (taps - 1) + k, s, d_inner, taps, bf16, count)
        total = fma(load(weights + (s * taps + k) * _V), value, total)
    return total


@outline
def _forward_four(weights, bias, x, x_row, before, y, y_row, begin, end, s, d_inner, bf16, silu):
    """Write y for rows begin ... end of strip s, K = 4: a window of inputs slides in registers."""
    size = 2 if bf16 else 4
    count = min(LANES, d_inner - s * LANES)
    own = weights + s * 4 * _V  # (4, LANES)
    w0, w1, w2, w3 = load(own), load(own + _V), load(own + 2 * _V), load(own + 3 * _V)
    start = broadcast(0.0)
    if bias != 0:
        start = load_row(bias + s * LANES * 4, False, count)
    x0 = _input(x, x_row, before, begin - 3, s, d_inner, 4, bf16, count)
    x1 = _input(x, x_row, before, begin - 2, s, d_inner, 4, bf16, count)
    x2 = _input(x, x_row, before, begin - 1, s, d_inner, 4, bf16, count)
    source, target = x + s * LANES * size, y + s * LANES * size
    for t in range(begin, end):
        prefetch(source + t * x_row + VECTOR_BYTES)
        x3 = load_row(source + t * x_row, bf16, count)
        value = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, start))))
        if silu:
            value = apply_silu(value)
        store_row(target + t * y_row, value, bf16, count)
        x0, x1, x2 = x1, x2, x3


def build_forward(sources: int):
    """Build the forward's Python function; `sources` identifies the code in numba's cache key."""

    def causal_conv1d_forward(pointer):
        _ = sources
        a = carray(pointer, 1)[0]
        d_inner, taps, bf16, silu = a.d_inner, a.taps, a.is_bf16 != 0, a.silu != 0
        size = 2 if bf16 else 4  # bytes of an activation
        strips = (d_inner + LANES - 1) // LANES
        blocks = (a.length + TASK_STEPS - 1) // TASK_STEPS
        bias, x_row = a.bias, a.x_row
        weights = a.scratch + take_ticket(a.tickets) * a.scratch_bytes  # (strips, K, LANES)
        _stage_weights(weights, a.weight, d_inner, taps)
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch, begin = task // blocks, task % blocks * TASK_STEPS
            x = a.x + batch * a.x_batch
            before = a.before + batch * (taps - 1) * d_inner * 4 if a.before != 0 else 0
            end = min(a.length, begin + TASK_STEPS)
            if taps == 4:
                y = a.y + batch * a.y_batch
                for s in range(strips):
                    _forward_four(
                        weights, bias, x, x_row, before, y, a.y_row,
                        begin, end, s, d_inner, bf16, silu,
                    )  # fmt: skip
                continue
            for t in range(begin, end):
                y = a.y + batch * a.y_batch + t * a.y_row
                for s in range(strips):
                    count = min(LANES, d_inner - s * LANES)
                    value = _convolved(
                        weights, bias, x, x_row, before, t, s, d_inner, taps, bf16, count
                    )
                    if silu:
                        value = apply_silu(value)
                    store_row(y + s * LANES * size, value, bf16, count)

    return causal_conv1d_forward


@inline
def _slope(value):
    """Derivative of SiLU: sigmoid(x) (1 + x (1 - sigmoid(x)))."""
    value = silu_argument(value)
    share = sigmoid(value)
    return share * fma(value, broadcast(1.0) - share, broadcast(1.0))


@outline
def _backward_four(
    weights, bias, x, x_row, before, dy, dy_row, dx, dx_row, d_before, d_weight, d_bias,
    begin, end, length, s, d_inner, bf16, silu,
):  # fmt: skip
    """Write dx for rows begin ... end of strip s, K = 4, and its parts of dweight and dbias.

    Time runs backwards; inputs and gradients slide in registers. d_before (3, d_inner), d_weight
    (strips, 4, LANES) and d_bias (strips, LANES) are those of the sequence and of the task.
    """
    size = 2 if bf16 else 4
    count = min(LANES, d_inner - s * LANES)
    own = weights + s * 4 * _V  # (4, LANES)
    w0, w1, w2, w3 = load(own), load(own + _V), load(own + 2 * _V), load(own + 3 * _V)
    zero = broadcast(0.0)
    start = zero
    if bias != 0:
        start = load_row(bias + s * LANES * 4, False, count)
    v0, v1, v2, v3, total = zero, zero, zero, zero, zero  # gradients of the weights and the bias
    g1, g2, g3 = zero, zero, zero  # gradients of the sums at t + 1, t + 2, t + 3
    t = min(length, end + 3) - 1
    x3 = _input(x, x_row, before, t, s, d_inner, 4, bf16, count)
    x2 = _input(x, x_row, before, t - 1, s, d_inner, 4, bf16, count)
    x1 = _input(x, x_row, before, t - 2, s, d_inner, 4, bf16, count)
    offset = s * LANES * size
    while t >= begin:
        prefetch(x + offset + t * x_row + VECTOR_BYTES)
        prefetch(dy + offset + t * dy_row + VECTOR_BYTES)
        x0 = _input(x, x_row, before, t - 3, s, d_inner, 4, bf16, count)
        g0 = load_row(dy + offset + t * dy_row, bf16, count)
        if silu:
            g0 = g0 * _slope(fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, start)))))
        if t < end:
            v0, v1, v2, v3 = fma(g0, x0, v0), fma(g0, x1, v1), fma(g0, x2, v2), fma(g0, x3, v3)
            total = total + g0
            value = fma(w0, g3, fma(w1, g2, fma(w2, g1, w3 * g0)))
            store_row(dx + offset + t * dx_row, value, bf16, count)
        x3, x2, x1 = x2, x1, x0
        g1, g2, g3 = g0, g1, g2
        t -= 1
    if begin == 0 and d_before != 0:
        first = d_before + s * LANES * 4  # oldest of the three inputs before the first
        row = d_inner * 4
        store_row(first + 2 * row, fma(w0, g3, fma(w1, g2, w2 * g1)), False, count)
        store_row(first + row, fma(w0, g2, w1 * g1), False, count)
        store_row(first, w0 * g1, False, count)
    own = d_weight + s * 4 * _V
    store(own, v0)
    store(own + _V, v1)
    store(own + 2 * _V, v2)
    store(own + 3 * _V, v3)
    store(d_bias + s * _V, total)


def build_backward(sources: int):
    """Build the backward's Python function; `sources` identifies the code in numba's cache key.

    A task walks its block of steps in reverse. The gradient of x_t needs g_t ... g_{t + K - 1}, so
    each strip has the last K of them in a ring, and a block starts K - 1 steps late to fill it.
    """

    def causal_conv1d_backward(pointer):
        _ = sources
        a = carray(pointer, 1)[0]
        d_inner, taps, bf16, silu = a.d_inner, a.taps, a.is_bf16 != 0, a.silu != 0
        size = 2 if bf16 else 4  # bytes of an activation
        strips = (d_inner + LANES - 1) // LANES
        blocks = (a.length + TASK_STEPS - 1) // TASK_STEPS
        bias, x_row = a.bias, a.x_row
        weights = a.scratch + take_ticket(a.tickets) * a.scratch_bytes  # (strips, K, LANES)
        ring = weights + strips * taps * _V  # (strips, K, LANES)
        _stage_weights(weights, a.weight, d_inner, taps)
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            batch, begin = task // blocks, task % blocks * TASK_STEPS
            end = min(a.length, begin + TASK_STEPS)
            first = begin if begin > 0 else 1 - taps  # the first block serves the rows before 0
            x = a.x + batch * a.x_batch
            before = a.before + batch * (taps - 1) * d_inner * 4 if a.before != 0 else 0
            grad_weight = a.grad_weight + task * strips * taps * _V  # (strips, K, LANES)
            grad_bias = a.grad_bias + task * strips * _V  # (strips, LANES)
            if taps == 4:
                dy, row = a.y + batch * a.y_batch, d_inner * size
                dx = a.grad_x + batch * a.length * row
                d_before = a.grad_before
                if d_before != 0:
                    d_before += batch * 3 * d_inner * 4
                for s in range(strips):
                    _backward_four(
                        weights, bias, x, x_row, before, dy, a.y_row, dx, row, d_before,
                        grad_weight, grad_bias, begin, end, a.length, s, d_inner, bf16, silu,
                    )  # fmt: skip
                continue
            for i in range(strips * taps):
                store(grad_weight + i * _V, broadcast(0.0))
                store(ring + i * _V, broadcast(0.0))
            for i in range(strips):
                store(grad_bias + i * _V, broadcast(0.0))

            for t in range(min(a.length, end + taps - 1) - 1, first - 1, -1):
                dy = a.y + batch * a.y_batch + t * a.y_row
                slot = (t + taps) % taps
                for s in range(strips):
                    count = min(LANES, d_inner - s * LANES)
                    grad = broadcast(0.0)
                    if t >= 0:
                        grad = load_row(dy + s * LANES * size, bf16, count)
                        if silu:
                            value = _convolved(
                                weights, bias, x, x_row, before, t, s, d_inner, taps, bf16, count
                            )
                            grad = grad * _slope(value)
                    own = ring + s * taps * _V  # (K, LANES)
                    store(own + slot * _V, grad)
                    if t < end:
                        if t >= 0:
                            d_bias = grad_bias + s * _V
                            store(d_bias, load(d_bias) + grad)
                            for k in range(taps):
                                r = t - (taps - 1) + k
                                value = _input(x, x_row, before, r, s, d_inner, taps, bf16, count)
                                d_weight = grad_weight + (s * taps + k) * _V
                                store(d_weight, fma(grad, value, load(d_weight)))
                        total = broadcast(0.0)
                        turn = slot  # of g_t; g_{t + 1} follows it in the ring
                        for k in range(taps - 1, -1, -1):
                            total = fma(
                                load(weights + (s * taps + k) * _V), load(own + turn * _V), total
                            )
                            turn += 1
                            if turn == taps:
                                turn = 0
                        if t >= 0:
                            entry = (batch * a.length + t) * d_inner + s * LANES
                            store_row(a.grad_x + entry * size, total, bf16, count)
                        elif a.grad_before != 0:
                            entry = (batch * (taps - 1) + t + taps - 1) * d_inner + s * LANES
                            store_row(a.grad_before + entry * 4, total, False, count)

    return causal_conv1d_backward

"""The kernel that takes a stack of Mamba layers one step further, and what it reads.

One call does all layers and the head. Decoding at small batches is bound by the reading of weights;
what costs next are the pauses between operations, when threads wait for each other: four a layer
here, each some hundred nanoseconds. Lanes are output rows of a matrix, or channels, or entries of
the state, whichever is contiguous.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    apply_silu,
    carray,
    exp2,
    fma,
    inline,
    load,
    load_float,
    load_int,
    load_row,
    prefetch,
    softplus,
    splat,
    spread,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.threads import arrive, flush_denormals, restore, take_ticket, wait_for

AHEAD = 8192  # bytes: how far ahead a matrix is fetched; rows are too short for the processor
GROUP = 4  # units of LANES rows in a task
COUNTERS = 128  # bytes of a phase's counters: cache lines that no other phase shares
PHASES = 4  # of a layer
IN, LOW, SCAN, OUT, HEAD = range(5)  # in_proj and convolution; x_proj; dt_proj and state; out_proj
_V = VECTOR_BYTES


class StepArgs(NamedTuple):
    """What the kernel reads after the runtime's header: sizes, and addresses of contiguous float32
    tensors where nothing else is said."""

    batch: int
    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    rank: int
    layers: int
    eps: int  # address of a float32
    counters: int  # PHASES x layers + 1 pairs of int64, zero, COUNTERS bytes apart
    table: int  # (layers, len(Layer._fields)) int64
    hidden: int  # (B, d_model), the residual stream: read and written
    x: int  # (B, d_inner), memory to work in, as the next three
    gate: int  # (B, d_inner)
    y: int  # (B, d_inner)
    low: int  # (B, rank + 2 d_state)
    norm_f: int  # (d_model,)
    head: int  # (vocab_size, d_model), or 0: no head
    vocab_size: int
    logits: int  # (B, vocab_size), written


class Layer(NamedTuple):
    """Addresses of a layer's weights and state. Matrices marked * are bfloat16 in the kernel of
    that name."""

    norm: int  # (d_model,)
    in_proj: int  # (2 d_inner, d_model) *
    conv_weight: int  # (d_inner, d_conv)
    conv_bias: int  # (d_inner,)
    x_proj: int  # (rank + 2 d_state, d_inner) *
    dt_proj: int  # (d_inner, rank) *
    dt_bias: int  # (d_inner,)
    A: int  # (d_inner, d_state), times log2(e)
    D: int  # (d_inner,)
    out_proj: int  # (d_model, d_inner) *
    conv_state: int  # (B, d_inner, d_conv - 1), updated
    ssm_state: int  # (B, d_inner, d_state), updated


# Bytes from the beginning of a layer's row of the table to each of its addresses.
_NORM, _IN_PROJ, _CONV_WEIGHT, _CONV_BIAS, _X_PROJ, _DT_PROJ = range(0, 48, 8)
_DT_BIAS, _A, _D, _OUT_PROJ, _CONV_STATE, _SSM_STATE = range(48, 96, 8)
_ROW = 8 * len(Layer._fields)


def scratch_bytes(batch: int, d_model: int) -> int:
    """Memory that each worker needs: the normalised stream, and sums of rows lane by lane."""
    return batch * (d_model * 4 + LANES * _V) + 2 * _V


@inline
def _normalise(x, weight, eps, batch, width, out, scratch):
    """Root-mean-square norm of each row (B, width) to `out`."""
    for b in range(batch):
        source, target = x + b * width * 4, out + b * width * 4
        total = splat(0.0)
        for s in range(0, width, LANES):
            value = load_row(source + s * 4, False, min(LANES, width - s))
            total = fma(value, value, total)
        store(scratch, total)
        square = load_float(scratch)
        for i in range(1, LANES):
            square += load_float(scratch + i * 4)
        store_float(scratch, 1 / math.sqrt(square / width + eps))
        scale = spread(scratch)
        for s in range(0, width, LANES):
            count = min(LANES, width - s)
            value = load_row(source + s * 4, False, count) * scale
            value = value * load_row(weight + s * 4, False, count)
            store_row(target + s * 4, value, False, count)


@inline
def _product(w, half, width, x):
    """A row of a matrix times x, lane by lane, in the same order wherever it is done."""
    size = 2 if half else 4
    a0, a1, a2, a3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    s = 0
    while s + 4 * LANES <= width:
        at, value = w + s * size, x + s * 4
        for line in range(0, 4 * LANES * size, 64):
            prefetch(at + AHEAD + line)
        a0 = fma(load_row(at, half, LANES), load(value), a0)
        a1 = fma(load_row(at + LANES * size, half, LANES), load(value + _V), a1)
        a2 = fma(load_row(at + 2 * LANES * size, half, LANES), load(value + 2 * _V), a2)
        a3 = fma(load_row(at + 3 * LANES * size, half, LANES), load(value + 3 * _V), a3)
        s += 4 * LANES
    while s < width:
        count = min(LANES, width - s)
        a0 = fma(load_row(w + s * size, half, count), load_row(x + s * 4, False, count), a0)
        s += LANES
    return (a0 + a1) + (a2 + a3)


@inline
def _products_of_two(w, half, width, x, pitch, target, target_pitch):
    """`_product` with x and with what lies `pitch` behind it: weights are widened once for both."""
    size = 2 if half else 4
    a0, a1, a2, a3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    b0, b1, b2, b3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    s = 0
    while s + 4 * LANES <= width:
        at, first = w + s * size, x + s * 4
        second = first + pitch
        w0, w1 = load_row(at, half, LANES), load_row(at + LANES * size, half, LANES)
        w2 = load_row(at + 2 * LANES * size, half, LANES)
        w3 = load_row(at + 3 * LANES * size, half, LANES)
        a0, b0 = fma(w0, load(first), a0), fma(w0, load(second), b0)
        a1, b1 = fma(w1, load(first + _V), a1), fma(w1, load(second + _V), b1)
        a2, b2 = fma(w2, load(first + 2 * _V), a2), fma(w2, load(second + 2 * _V), b2)
        a3, b3 = fma(w3, load(first + 3 * _V), a3), fma(w3, load(second + 3 * _V), b3)
        s += 4 * LANES
    while s < width:
        count = min(LANES, width - s)
        some = load_row(w + s * size, half, count)
        a0 = fma(some, load_row(x + s * 4, False, count), a0)
        b0 = fma(some, load_row(x + pitch + s * 4, False, count), b0)
        s += LANES
    store(target, (a0 + a1) + (a2 + a3))
    store(target + target_pitch, (b0 + b1) + (b2 + b3))


@inline
def _products(weight, half, row, last, width, x, x_width, batch, scratch):
    """Products of rows row .. row + LANES - 1 < last of a matrix with each x (B, x_width), lane by
    lane: LANES vectors for each sequence. Memory is read in order, once for all sequences."""
    size = 2 if half else 4
    for i in range(min(LANES, last - row)):
        w = weight + (row + i) * width * size
        if batch % 2:
            store(scratch + i * _V, _product(w, half, width, x))
        for b in range(batch % 2, batch, 2):
            if b == 0:
                for line in range(0, width * size, 64):
                    prefetch(w + AHEAD + line)
            source, target = x + b * x_width * 4, scratch + (b * LANES + i) * _V
            _products_of_two(w, half, width, source, x_width * 4, target, LANES * _V)


@inline
def _convolve(x, row, count, layer, taps, state):
    """SiLU of the causal convolution of `count` channels from `row` on, in place; shifts `state`,
    that of this sequence. `layer`: address of the layer's row of the table."""
    weight, bias = load_int(layer + _CONV_WEIGHT), load_int(layer + _CONV_BIAS)
    for c in range(row, row + count):
        new = load_float(x + c * 4)
        total = load_float(bias + c * 4) + load_float(weight + (c * taps + taps - 1) * 4) * new
        for k in range(taps - 1):
            old = load_float(state + (c * (taps - 1) + k) * 4)
            total += load_float(weight + (c * taps + k) * 4) * old
            if k:
                store_float(state + (c * (taps - 1) + k - 1) * 4, old)
        if taps > 1:
            store_float(state + (c * (taps - 1) + taps - 2) * 4, new)
        store_float(x + c * 4, total)
    store_row(x + row * 4, apply_silu(load_row(x + row * 4, False, count)), False, count)


@inline
def _project_in(a, layer, half, unit, normal, scratch):
    """One unit of in_proj: channels of x, convolved, or of the gate z, through SiLU."""
    units = -(-a.d_inner // LANES)
    second = unit >= units
    row = (unit - units if second else unit) * LANES
    count = min(LANES, a.d_inner - row)
    first = a.d_inner if second else 0
    weight = load_int(layer + _IN_PROJ)
    last = first + a.d_inner
    _products(weight, half, first + row, last, a.d_model, normal, a.d_model, a.batch, scratch)
    for b in range(a.batch):
        value = sums(scratch + b * LANES * _V)
        place = b * a.d_inner
        if second:
            store_row(a.gate + (place + row) * 4, apply_silu(value), False, count)
        else:
            store_row(a.x + (place + row) * 4, value, False, count)
            state = load_int(layer + _CONV_STATE) + place * (a.d_conv - 1) * 4
            _convolve(a.x + place * 4, row, count, layer, a.d_conv, state)


@inline
def _project(weight, half, unit, rows, width, x, batch, out, add, scratch):
    """One unit of a matrix (rows, width) times x (B, width), to `out` (B, rows) or added to it."""
    row = unit * LANES
    count = min(LANES, rows - row)
    _products(weight, half, row, rows, width, x, width, batch, scratch)
    for b in range(batch):
        target = out + (b * rows + row) * 4
        value = sums(scratch + b * LANES * _V)
        if add:
            value = value + load_row(target, False, count)
        store_row(target, value, False, count)


@inline
def _scan(a, layer, half, unit, scratch, spare):
    """One unit of channels: delta, the state's step, the skip D and the gate (Algorithm 2)."""
    row = unit * LANES
    count = min(LANES, a.d_inner - row)
    rank, n = a.rank, a.d_state
    width = rank + 2 * n
    _products(
        load_int(layer + _DT_PROJ), half, row, a.d_inner, rank, a.low, width, a.batch, scratch
    )
    bias = load_row(load_int(layer + _DT_BIAS) + row * 4, False, count)
    skip = load_row(load_int(layer + _D) + row * 4, False, count)
    decay = load_int(layer + _A) + row * n * 4
    for b in range(a.batch):
        delta = softplus(sums(scratch + b * LANES * _V) + bias)
        place = b * a.d_inner + row
        u = load_row(a.x + place * 4, False, count)
        store(spare, delta)
        store(spare + _V, delta * u)
        write = a.low + (b * width + rank) * 4
        read = write + n * 4
        state = load_int(layer + _SSM_STATE) + place * n * 4
        for i in range(count):
            step, gain = spread(spare + i * 4), spread(spare + _V + i * 4)
            total = splat(0.0)
            for s in range(0, n, LANES):
                some, at = min(LANES, n - s), (i * n + s) * 4
                keep = exp2(step * load_row(decay + at, False, some))
                h = keep * load_row(state + at, False, some)
                h = fma(gain, load_row(write + s * 4, False, some), h)
                store_row(state + at, h, False, some)
                total = fma(h, load_row(read + s * 4, False, some), total)
            store(scratch + (b * LANES + i) * _V, total)
        y = fma(skip, u, sums(scratch + b * LANES * _V))
        y = y * load_row(a.gate + place * 4, False, count)
        store_row(a.y + place * 4, y, False, count)


@inline
def _units(a, kind):
    """How many units of LANES rows or channels a phase has."""
    if kind == IN:
        return 2 * -(-a.d_inner // LANES)
    if kind == LOW:
        return -(-(a.rank + 2 * a.d_state) // LANES)
    if kind == SCAN:
        return -(-a.d_inner // LANES)
    return -(-(a.d_model if kind == OUT else a.vocab_size) // LANES)


@inline
def _do(a, layer, half, kind, unit, normal, scratch, spare):
    """One unit of a phase."""
    if kind == IN:
        _project_in(a, layer, half, unit, normal, scratch)
    elif kind == SCAN:
        _scan(a, layer, half, unit, scratch, spare)
    elif kind == LOW:
        weight, rows = load_int(layer + _X_PROJ), a.rank + 2 * a.d_state
        _project(weight, half, unit, rows, a.d_inner, a.x, a.batch, a.low, False, scratch)
    elif kind == OUT:
        weight, rows = load_int(layer + _OUT_PROJ), a.d_model
        _project(weight, half, unit, rows, a.d_inner, a.y, a.batch, a.hidden, True, scratch)
    else:
        rows = a.vocab_size
        _project(a.head, half, unit, rows, a.d_model, normal, a.batch, a.logits, False, scratch)


def build_step(sources: int, half: bool) -> Callable[[Any], None]:
    """The kernel of one step; `half`: the matrices are bfloat16, else float32. `sources`
    identifies the code, and so enters numba's cache key."""

    def mamba_step(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        before = flush_denormals()
        spare = a.scratch + worker * a.scratch_bytes
        scratch = spare + 2 * _V
        normal = scratch + a.batch * LANES * _V
        eps = load_float(a.eps)
        for phase in range(PHASES * a.layers + (1 if a.head else 0)):
            layer = a.table + phase // PHASES * _ROW
            kind = phase % PHASES if phase < PHASES * a.layers else HEAD
            if kind in (IN, HEAD):
                weight = load_int(layer + _NORM) if kind == IN else a.norm_f
                _normalise(a.hidden, weight, eps, a.batch, a.d_model, normal, spare)
            counter = a.counters + phase * COUNTERS
            units = _units(a, kind)
            tasks = -(-units // GROUP)
            while True:
                task = take_ticket(counter)
                if task >= tasks:
                    break
                for unit in range(task * GROUP, min(units, (task + 1) * GROUP)):
                    _do(a, layer, half, kind, unit, normal, scratch, spare)
                arrive(counter + COUNTERS // 2)
            wait_for(counter + COUNTERS // 2, tasks)  # the next phase reads what this one wrote
        restore(before)

    return mamba_step

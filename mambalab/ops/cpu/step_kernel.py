"""The kernel that takes a stack of Mamba layers one step further, and what it reads.

One call computes all layers and the head. Decoding at small batches is bound by the reading of
weights; what costs next are the pauses between phases, when threads wait for each other: four a
layer here, each some hundred nanoseconds. Lanes are output rows of a matrix, or channels, or
entries of the state, whichever is contiguous.

A *phase* is one matrix with what follows it, a *unit* LANES of its rows, a *task* TASK_UNITS units.

    phase     computes                                         writes
    IN_PROJ   norm, in_proj, convolution and SiLU; silu(z)     x, gate, conv_state
    X_PROJ    x_proj                                           dt_B_C
    SCAN      dt_proj, softplus, one step of the scan, gate    y, ssm_state
    OUT_PROJ  out_proj, added to the residual stream           hidden
    HEAD      last norm, projection to the vocabulary          logits

Scratch memory of a worker, in this order; all float32:

    name     shape               written by                      read by
    spare    (2, LANES)          _scan: delta, delta u; a sum    _scan, _normalise
    scratch  (b, LANES, LANES)   _products: sums lane by lane    sums: one total a lane
    normal   (b, d_model)        _normalise, by every worker     IN_PROJ, HEAD
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    apply_silu,
    broadcast,
    broadcast_load,
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
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.threads import arrive, flush_denormals, restore, take_ticket, wait_for

PREFETCH_BYTES = 8192  # how far ahead a matrix is fetched; rows are too short for the processor
TASK_UNITS = 4
COUNTER_BYTES = 128  # of a phase: its two counters are on cache lines that no other phase shares
PHASES_PER_LAYER = 4
IN_PROJ, X_PROJ, SCAN, OUT_PROJ, HEAD = range(5)
_V = VECTOR_BYTES


class StepArgs(NamedTuple):
    """What the kernel reads after the runtime's header: sizes and addresses.

    Tensors are contiguous, and float32 where nothing else is said.
    """

    batch: int
    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    rank: int
    layers: int
    eps: int  # address of a float32
    counters: int  # PHASES_PER_LAYER x layers + 1 pairs of int64, zero, COUNTER_BYTES bytes apart
    table: int  # (layers, len(Layer._fields)) int64
    hidden: int  # (b, d_model), the residual stream: read and written
    x: int  # (b, d_inner), memory to work in, as the next three
    gate: int  # (b, d_inner)
    y: int  # (b, d_inner)
    dt_B_C: int  # (b, rank + 2 d_state): output of x_proj, which is delta at low rank, B and C
    norm_f: int  # (d_model,)
    head: int  # (vocab_size, d_model), or 0: no head
    vocab_size: int
    logits: int  # (b, vocab_size), written


class Layer(NamedTuple):
    """Addresses of a layer's weights and state; matrices marked * are bfloat16 if `bf16`."""

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
    conv_state: int  # (b, d_inner, d_conv - 1), updated
    ssm_state: int  # (b, d_inner, d_state), updated


# Bytes from the beginning of a layer's row of the table to each of its addresses.
_NORM, _IN_PROJ, _CONV_WEIGHT, _CONV_BIAS, _X_PROJ, _DT_PROJ = range(0, 48, 8)
_DT_BIAS, _A, _D, _OUT_PROJ, _CONV_STATE, _SSM_STATE = range(48, 96, 8)
_LAYER_BYTES = 8 * len(Layer._fields)


def scratch_bytes(batch: int, d_model: int) -> int:
    """Scratch memory of a worker, in bytes; the module's docstring says what is in it."""
    return batch * (d_model * 4 + LANES * _V) + 2 * _V


@inline
def _normalise(x, weight, eps, batch, width, out, scratch):
    """Store the RMS norm (arXiv 1910.07467) of each row of x (b, width) to out (b, width)."""
    for b in range(batch):
        source, target = x + b * width * 4, out + b * width * 4
        total = broadcast(0.0)
        for s in range(0, width, LANES):
            value = load_row(source + s * 4, False, min(LANES, width - s))
            total = fma(value, value, total)
        store(scratch, total)
        square = load_float(scratch)
        for i in range(1, LANES):
            square += load_float(scratch + i * 4)
        store_float(scratch, 1 / math.sqrt(square / width + eps))
        scale = broadcast_load(scratch)
        for s in range(0, width, LANES):
            count = min(LANES, width - s)
            value = load_row(source + s * 4, False, count) * scale
            value = value * load_row(weight + s * 4, False, count)
            store_row(target + s * 4, value, False, count)


@inline
def _product(w, bf16, width, x):
    """Multiply a row w (width,) of a matrix by x (width,): one sum a lane, always in this order."""
    size = 2 if bf16 else 4
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    s = 0
    while s + 4 * LANES <= width:
        part, value = w + s * size, x + s * 4  # addresses of 4 LANES entries
        for line in range(0, 4 * LANES * size, 64):
            prefetch(part + PREFETCH_BYTES + line)
        a0 = fma(load_row(part, bf16, LANES), load(value), a0)
        a1 = fma(load_row(part + LANES * size, bf16, LANES), load(value + _V), a1)
        a2 = fma(load_row(part + 2 * LANES * size, bf16, LANES), load(value + 2 * _V), a2)
        a3 = fma(load_row(part + 3 * LANES * size, bf16, LANES), load(value + 3 * _V), a3)
        s += 4 * LANES
    while s < width:
        count = min(LANES, width - s)
        a0 = fma(load_row(w + s * size, bf16, count), load_row(x + s * 4, False, count), a0)
        s += LANES
    return (a0 + a1) + (a2 + a3)


@inline
def _products_of_two(w, bf16, width, x, pitch, target, target_pitch):
    """Store `_product` with x and with the vector `pitch` bytes after it; w is widened once."""
    size = 2 if bf16 else 4
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    b0, b1, b2, b3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    s = 0
    while s + 4 * LANES <= width:
        part, first = w + s * size, x + s * 4
        second = first + pitch
        w0, w1 = load_row(part, bf16, LANES), load_row(part + LANES * size, bf16, LANES)
        w2 = load_row(part + 2 * LANES * size, bf16, LANES)
        w3 = load_row(part + 3 * LANES * size, bf16, LANES)
        a0, b0 = fma(w0, load(first), a0), fma(w0, load(second), b0)
        a1, b1 = fma(w1, load(first + _V), a1), fma(w1, load(second + _V), b1)
        a2, b2 = fma(w2, load(first + 2 * _V), a2), fma(w2, load(second + 2 * _V), b2)
        a3, b3 = fma(w3, load(first + 3 * _V), a3), fma(w3, load(second + 3 * _V), b3)
        s += 4 * LANES
    while s < width:
        count = min(LANES, width - s)
        rest = load_row(w + s * size, bf16, count)
        a0 = fma(rest, load_row(x + s * 4, False, count), a0)
        b0 = fma(rest, load_row(x + pitch + s * 4, False, count), b0)
        s += LANES
    store(target, (a0 + a1) + (a2 + a3))
    store(target + target_pitch, (b0 + b1) + (b2 + b3))


@inline
def _products(weight, bf16, row, last, width, x, x_width, batch, scratch):
    """Multiply rows row ... row + LANES - 1 (below `last`) of a matrix by each x (b, x_width).

    Sums stay lane by lane: scratch (b, LANES, LANES), a vector for each sequence and row. Memory is
    read in order, once for all sequences.
    """
    size = 2 if bf16 else 4
    for i in range(min(LANES, last - row)):
        w = weight + (row + i) * width * size
        if batch % 2:
            store(scratch + i * _V, _product(w, bf16, width, x))
        for b in range(batch % 2, batch, 2):
            if b == 0:
                for line in range(0, width * size, 64):
                    prefetch(w + PREFETCH_BYTES + line)
            source, target = x + b * x_width * 4, scratch + (b * LANES + i) * _V
            _products_of_two(w, bf16, width, source, x_width * 4, target, LANES * _V)


@inline
def _convolve(x, row, count, layer, taps, state):
    """Apply the causal convolution and SiLU to `count` channels of x from `row` on, in place.

    x (d_inner,) and state (d_inner, taps - 1) are those of one sequence; the state is shifted.
    `layer` is the address of the layer's row of the table.
    """
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
def _project_in(a, layer, bf16, unit, normal, scratch):
    """Compute one unit of in_proj: channels of x, convolved, or of the gate, silu(z)."""
    units = -(-a.d_inner // LANES)
    second = unit >= units
    row = (unit - units if second else unit) * LANES
    count = min(LANES, a.d_inner - row)
    first = a.d_inner if second else 0
    weight = load_int(layer + _IN_PROJ)
    last = first + a.d_inner
    _products(weight, bf16, first + row, last, a.d_model, normal, a.d_model, a.batch, scratch)
    for b in range(a.batch):
        value = sums(scratch + b * LANES * _V)  # (LANES,): one row of the product a lane
        sequence = b * a.d_inner
        if second:
            store_row(a.gate + (sequence + row) * 4, apply_silu(value), False, count)
        else:
            store_row(a.x + (sequence + row) * 4, value, False, count)
            state = load_int(layer + _CONV_STATE) + sequence * (a.d_conv - 1) * 4
            _convolve(a.x + sequence * 4, row, count, layer, a.d_conv, state)


@inline
def _project(weight, bf16, unit, rows, width, x, batch, out, add, scratch):
    """Store one unit of a matrix (rows, width) times x (b, width) to out (b, rows), or add it."""
    row = unit * LANES
    count = min(LANES, rows - row)
    _products(weight, bf16, row, rows, width, x, width, batch, scratch)
    for b in range(batch):
        target = out + (b * rows + row) * 4
        value = sums(scratch + b * LANES * _V)
        if add:
            value = value + load_row(target, False, count)
        store_row(target, value, False, count)


@inline
def _scan(a, layer, bf16, unit, scratch, spare):
    """Compute one unit of channels: delta, the state's step, D u and the gate.

    Lanes are channels for delta and y, states in between (arXiv 2312.00752, Algorithm 2).
    """
    row = unit * LANES
    count = min(LANES, a.d_inner - row)
    rank, n = a.rank, a.d_state
    width = rank + 2 * n
    _products(
        load_int(layer + _DT_PROJ), bf16, row, a.d_inner, rank, a.dt_B_C, width, a.batch, scratch
    )
    bias = load_row(load_int(layer + _DT_BIAS) + row * 4, False, count)
    skip = load_row(load_int(layer + _D) + row * 4, False, count)
    rates = load_int(layer + _A) + row * n * 4  # (LANES, d_state)
    for b in range(a.batch):
        delta = softplus(sums(scratch + b * LANES * _V) + bias)
        first = b * a.d_inner + row  # the unit's first channel
        u = load_row(a.x + first * 4, False, count)
        store(spare, delta)
        store(spare + _V, delta * u)
        B = a.dt_B_C + (b * width + rank) * 4  # (d_state,), as C
        C = B + n * 4
        state = load_int(layer + _SSM_STATE) + first * n * 4
        for i in range(count):
            step, gain = broadcast_load(spare + i * 4), broadcast_load(spare + _V + i * 4)
            total = broadcast(0.0)
            for s in range(0, n, LANES):
                some, entry = min(LANES, n - s), (i * n + s) * 4
                decay = exp2(step * load_row(rates + entry, False, some))
                h = decay * load_row(state + entry, False, some)
                h = fma(gain, load_row(B + s * 4, False, some), h)
                store_row(state + entry, h, False, some)
                total = fma(h, load_row(C + s * 4, False, some), total)
            store(scratch + (b * LANES + i) * _V, total)
        y = fma(skip, u, sums(scratch + b * LANES * _V))
        y = y * load_row(a.gate + first * 4, False, count)
        store_row(a.y + first * 4, y, False, count)


@inline
def _units(a, kind):
    """Count the units of LANES rows or channels of a phase."""
    if kind == IN_PROJ:
        return 2 * -(-a.d_inner // LANES)
    if kind == X_PROJ:
        return -(-(a.rank + 2 * a.d_state) // LANES)
    if kind == SCAN:
        return -(-a.d_inner // LANES)
    return -(-(a.d_model if kind == OUT_PROJ else a.vocab_size) // LANES)


@inline
def _do(a, layer, bf16, kind, unit, normal, scratch, spare):
    """Compute one unit of a phase."""
    if kind == IN_PROJ:
        _project_in(a, layer, bf16, unit, normal, scratch)
    elif kind == SCAN:
        _scan(a, layer, bf16, unit, scratch, spare)
    elif kind == X_PROJ:
        weight, rows = load_int(layer + _X_PROJ), a.rank + 2 * a.d_state
        _project(weight, bf16, unit, rows, a.d_inner, a.x, a.batch, a.dt_B_C, False, scratch)
    elif kind == OUT_PROJ:
        weight, rows = load_int(layer + _OUT_PROJ), a.d_model
        _project(weight, bf16, unit, rows, a.d_inner, a.y, a.batch, a.hidden, True, scratch)
    else:
        rows = a.vocab_size
        _project(a.head, bf16, unit, rows, a.d_model, normal, a.batch, a.logits, False, scratch)


def build_step(sources: int, bf16: bool) -> Callable[[Any], None]:
    """Build the Python function of one step, for bfloat16 matrices if `bf16`, else float32.

    `sources` identifies the code in numba's cache key.
    """

    def mamba_step(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        before = flush_denormals()
        spare = a.scratch + worker * a.scratch_bytes  # (2, LANES)
        scratch = spare + 2 * _V  # (b, LANES, LANES)
        normal = scratch + a.batch * LANES * _V  # (b, d_model)
        eps = load_float(a.eps)
        for phase in range(PHASES_PER_LAYER * a.layers + (1 if a.head else 0)):
            layer = a.table + phase // PHASES_PER_LAYER * _LAYER_BYTES
            kind = phase % PHASES_PER_LAYER if phase < PHASES_PER_LAYER * a.layers else HEAD
            if kind in (IN_PROJ, HEAD):
                weight = load_int(layer + _NORM) if kind == IN_PROJ else a.norm_f
                _normalise(a.hidden, weight, eps, a.batch, a.d_model, normal, spare)
            counter = a.counters + phase * COUNTER_BYTES
            units = _units(a, kind)
            tasks = -(-units // TASK_UNITS)
            while True:
                task = take_ticket(counter)
                if task >= tasks:
                    break
                for unit in range(task * TASK_UNITS, min(units, (task + 1) * TASK_UNITS)):
                    _do(a, layer, bf16, kind, unit, normal, scratch, spare)
                arrive(counter + COUNTER_BYTES // 2)
            wait_for(
                counter + COUNTER_BYTES // 2, tasks
            )  # the next phase reads what this one wrote
        restore(before)

    return mamba_step

"""The phases of a Mamba layer in the decoding step."""

from mambalab.ops.cpu.products import products
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast,
    broadcast_load,
    exp2,
    fma,
    inline,
    load_float,
    load_int,
    load_row,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.simd_functions import apply_silu, softplus
from mambalab.ops.cpu.step_layout import (
    M_A,
    M_CONV_BIAS,
    M_CONV_STATE,
    M_CONV_WEIGHT,
    M_D,
    M_DT_BIAS,
    M_DT_PROJ,
    M_IN_PROJ,
    M_SSM_STATE,
)

_V = VECTOR_BYTES


@inline
def _convolve(x, row, count, layer, taps, state):
    """Apply the causal convolution and SiLU to `count` channels of x from `row` on, in place.

    x (d_inner,) and state (d_inner, taps - 1) are those of one sequence; the state is shifted.
    `layer` is the address of the layer's row of the table.
    """
    weight, bias = load_int(layer + M_CONV_WEIGHT), load_int(layer + M_CONV_BIAS)
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
def project_in(a, layer, bf16, unit, normal, scratch):
    """Compute one unit of in_proj: channels of x, convolved, or of the gate, silu(z)."""
    units = -(-a.d_inner // LANES)
    second = unit >= units
    row = (unit - units if second else unit) * LANES
    count = min(LANES, a.d_inner - row)
    first = a.d_inner if second else 0
    weight = load_int(layer + M_IN_PROJ)
    last = first + a.d_inner
    products(weight, bf16, first + row, last, a.d_model, normal, a.d_model, a.batch, scratch)
    for b in range(a.batch):
        value = sums(scratch + b * LANES * _V)  # (LANES,): one row of the product a lane
        sequence = b * a.d_inner
        if second:
            store_row(a.gate + (sequence + row) * 4, apply_silu(value), False, count)
        else:
            store_row(a.x + (sequence + row) * 4, value, False, count)
            state = load_int(layer + M_CONV_STATE) + sequence * (a.d_conv - 1) * 4
            _convolve(a.x + sequence * 4, row, count, layer, a.d_conv, state)


@inline
def scan(a, layer, bf16, unit, scratch, spare):
    """Compute one unit of channels: delta, the state's step, D u and the gate.

    Lanes are channels for delta and y, states in between (arXiv 2312.00752, Algorithm 2).
    """
    row = unit * LANES
    count = min(LANES, a.d_inner - row)
    rank, n = a.rank, a.d_state
    width = rank + 2 * n
    products(
        load_int(layer + M_DT_PROJ), bf16, row, a.d_inner, rank, a.dt_B_C, width, a.batch, scratch
    )
    bias = load_row(load_int(layer + M_DT_BIAS) + row * 4, False, count)
    skip = load_row(load_int(layer + M_D) + row * 4, False, count)
    rates = load_int(layer + M_A) + row * n * 4  # (LANES, d_state)
    for b in range(a.batch):
        delta = softplus(sums(scratch + b * LANES * _V) + bias)
        first = b * a.d_inner + row  # the unit's first channel
        u = load_row(a.x + first * 4, False, count)
        store(spare, delta)
        store(spare + _V, delta * u)
        B = a.dt_B_C + (b * width + rank) * 4  # (d_state,), as C
        C = B + n * 4
        state = load_int(layer + M_SSM_STATE) + first * n * 4
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

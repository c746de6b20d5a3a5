"""What the two CPU scan kernels share: their arguments, memory layouts and the staging of rows.

A *strip* is `LANES` neighbouring channels of one group of B and C; a vector holds one value of
each. A *task* is one sequence of the batch and a *pack* of strips, walked chunk by chunk in time.
For each chunk the rows of a strip are first widened to float32 in scratch memory (softplus, gate
and ragged ends are dealt with there), then the recurrence runs for `BLOCK` states at once with
everything in registers, time innermost.

Exponentials are powers of two: `rates` holds A * log2(e).
"""

import math
from typing import NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    exp2,
    fma,
    inline,
    load,
    load_float,
    load_row,
    outline,
    prefetch,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    store_float,
)

CHUNK = 64  # steps between two kept states
BLOCK = 4  # states that run side by side
LOG2E = 1.0 / math.log(2.0)
_V = VECTOR_BYTES


class ScanArgs(NamedTuple):
    """What the kernels read after the runtime's header: addresses, strides in bytes, sizes, flags.

    The address 0 stands for a tensor that is not there.
    """

    batch: int
    length: int
    d_inner: int
    d_state: int
    groups: int
    pack: int  # strips in a task
    half: int  # u, delta, B, C, z, y and their gradients are bfloat16, else float32
    softplus: int
    A: int  # (D, N), contiguous
    D: int
    bias: int
    initial: int  # (B, D, N), contiguous; the backward writes its gradient here
    final: int  # (B, D, N), contiguous; the backward reads its gradient here
    kept: int  # (B, chunks, strips, padded states, LANES)
    u: int
    u_batch: int
    u_row: int
    delta: int
    delta_batch: int
    delta_row: int
    B: int
    B_batch: int
    B_row: int
    B_group: int
    C: int
    C_batch: int
    C_row: int
    C_group: int
    z: int
    z_batch: int
    z_row: int
    y: int  # output; the backward reads its gradient here
    y_batch: int
    y_row: int
    grad_u: int = 0  # (B, L, D), contiguous, as the next two
    grad_delta: int = 0
    grad_z: int = 0
    grad_A: int = 0  # (B, strips, padded states, LANES) float32
    grad_D: int = 0  # (B, strips, LANES) float32, as the next
    grad_bias: int = 0
    grad_B: int = 0  # (packs, B, L, G, N) float32, as the next
    grad_C: int = 0


def padded_states(d_state: int) -> int:
    """States of a channel in the kernels' layouts: whole blocks."""
    return -(-d_state // BLOCK) * BLOCK


def strips_per_group(d_inner: int, groups: int) -> int:
    """Strips that hold the channels of one group."""
    return -(-(d_inner // groups) // LANES)


@inline
def at(base, batch_stride, batch, row, t, offset):
    """Address of a row's part; 0 for a tensor that is not there."""
    return base + batch * batch_stride + t * row + offset if base != 0 else 0


# From the caller's rows to vectors in scratch memory ----------------------------------------------


@outline
def fetch(address, stride, lines):
    """Prefetch `lines` cache lines; none if the address is 0."""
    if address != 0:
        for i in range(lines):
            prefetch(address + i * stride)


@outline
def fetch_next(address, row, steps, s, begin, end, size, chunk):
    """Prefetch what is staged after the rows of strip s that are at `address`.

    That is strip s + 1, or the first strip of the pack `chunk` rows away. It arrives from memory
    while strip s is computed.
    """
    ahead = LANES * size if s + 1 < end else chunk * row - (s - begin) * LANES * size
    if address != 0:
        fetch(address + ahead, row, steps)


@outline
def gather(target, source, count, d_state, n_pad, scale):
    """(count channels, N) floats -> N vectors of channels, times `scale`; zeros elsewhere."""
    for i in range(n_pad):
        store(target + i * _V, splat(0.0))
    if source != 0:
        for w in range(count):
            for n in range(d_state):
                value = load_float(source + (w * d_state + n) * 4)
                store_float(target + n * _V + w * 4, value * scale)


@outline
def scatter(target, source, count, d_state):
    """N vectors of channels -> (count channels, N) floats."""
    for w in range(count):
        for n in range(d_state):
            store_float(target + (w * d_state + n) * 4, load_float(source + n * _V + w * 4))


@outline
def copy(target, source, vectors):
    """Copy vectors."""
    for i in range(vectors):
        store(target + i * _V, load(source + i * _V))


@outline
def clear(target, vectors):
    """Zero vectors."""
    for i in range(vectors):
        store(target + i * _V, splat(0.0))


@outline
def widen_states(target, source, row, steps, d_state, half):
    """The rows of B or C of a chunk, padded with zeros to whole vectors."""
    size = 2 if half else 4
    width = (d_state + LANES - 1) // LANES
    for t in range(steps):
        for i in range(width):
            value = load_row(
                source + t * row + i * LANES * size, half, min(LANES, d_state - i * LANES)
            )
            store(target + (t * width + i) * _V, value)


@outline
def stage_inputs(u_to, delta_to, drive_to, u, u_row, delta, delta_row, bias, steps, count, half):
    """u, and delta + bias, and (for no softplus) their product."""
    shift = splat(0.0)
    if bias != 0:
        shift = load_row(bias, False, count)
    for t in range(steps):
        value = load_row(u + t * u_row, half, count)
        step = load_row(delta + t * delta_row, half, count) + shift
        store(u_to + t * _V, value)
        store(delta_to + t * _V, step)
        store(drive_to + t * _V, value * step)


@outline
def apply_softplus(u_to, delta_to, drive_to, slope_to, steps):
    """delta = softplus(delta) in place, the drive, and the slope unless its address is 0."""
    for t in range(steps):
        raw = load(delta_to + t * _V)
        step = softplus(raw)
        store(delta_to + t * _V, step)
        store(drive_to + t * _V, load(u_to + t * _V) * step)
        if slope_to != 0:
            store(slope_to + t * _V, sigmoid(raw))


@outline
def skip(target, u, D, steps, count):
    """D * u: where the sum over the states starts from."""
    weight = splat(0.0)
    if D != 0:
        weight = load_row(D, False, count)
    for t in range(steps):
        store(target + t * _V, weight * load(u + t * _V))


@inline
def step(h, rate, delta, drive, b):
    """h_t and the decay it was reached with."""
    decay = exp2(delta * rate)
    return fma(h, decay, drive * spread(b)), decay

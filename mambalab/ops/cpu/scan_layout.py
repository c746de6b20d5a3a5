"""What the two CPU scan kernels share: their arguments, memory layouts and the staging of rows.

A *strip* is `LANES` neighbouring channels of one group of B and C; a vector holds one value of
each. A *task* is one sequence of the batch and a *pack* of strips, walked chunk by chunk in time.
For each chunk the rows of a strip are first widened to float32 in scratch memory (softplus, gate
and ragged ends are dealt with there), then the recurrence runs for `BLOCK` states at once with
everything in registers, time innermost.

Exponentials are powers of two: `rates` holds A * log2(e). Addresses are integers, in bytes; the
address 0 stands for a tensor that is absent. In shapes, n is d_state rounded up to whole blocks
and w the row of B or C rounded up to whole vectors.
"""

from typing import NamedTuple

from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast,
    broadcast_load,
    exp2,
    fma,
    inline,
    load,
    load_float,
    load_row,
    outline,
    prefetch,
    store,
    store_float,
)
from mambalab.ops.cpu.simd_functions import sigmoid, softplus

CHUNK = 32  # steps between two saved states
BLOCK = 4  # states of a channel that run side by side in registers
_V = VECTOR_BYTES


class ScanArgs(NamedTuple):
    """What the kernels read after the runtime's header: addresses, strides in bytes, sizes, flags.

    `X_batch`, `X_row` and `X_group` are the strides of X over sequences, steps and groups; its last
    dimension is contiguous. The address 0 stands for an absent tensor.
    """

    batch: int
    length: int
    d_inner: int
    d_state: int
    groups: int
    pack: int  # strips in a task
    is_bf16: int  # u, delta, B, C, z, y and their gradients are bfloat16, else float32
    softplus: int
    A: int  # (d_inner, d_state) float32, contiguous
    D: int  # (d_inner,) float32, as the next
    bias: int
    initial: int  # (b, d_inner, d_state) float32; the backward writes its gradient here
    final: int  # (b, d_inner, d_state) float32; the backward reads its gradient here
    saved_states: int  # (b, chunks, strips, n, LANES) float32: the state before each chunk
    u: int  # (b, l, d_inner)
    u_batch: int
    u_row: int
    delta: int  # (b, l, d_inner)
    delta_batch: int
    delta_row: int
    B: int  # (b, l, [groups,] d_state)
    B_batch: int
    B_row: int
    B_group: int
    C: int  # (b, l, [groups,] d_state)
    C_batch: int
    C_row: int
    C_group: int
    z: int  # (b, l, d_inner), or 0: no gate
    z_batch: int
    z_row: int
    y: int  # (b, l, d_inner), output; the backward reads its gradient here
    y_batch: int
    y_row: int
    grad_u: int = 0  # (b, l, d_inner), contiguous, as the next two
    grad_delta: int = 0
    grad_z: int = 0
    grad_A: int = 0  # (b, strips, n, LANES) float32
    grad_D: int = 0  # (b, strips, LANES) float32, as the next
    grad_bias: int = 0
    grad_B: int = 0  # (packs, b, l, groups, d_state) float32, as the next
    grad_C: int = 0


def padded_states(d_state: int) -> int:
    """Round the states of a channel up to whole blocks, as the kernels lay them out."""
    return -(-d_state // BLOCK) * BLOCK


def strips_per_group(d_inner: int, groups: int) -> int:
    """Count the strips that hold the channels of one group."""
    return -(-(d_inner // groups) // LANES)


@inline
def row_address(base, batch_stride, batch, row_stride, t, offset):
    """Address `offset` bytes into row t of a sequence; 0 for an absent tensor."""
    return base + batch * batch_stride + t * row_stride + offset if base != 0 else 0


@inline
def offset_address(base, offset):
    """Address `offset` bytes into a contiguous tensor; 0 for an absent one."""
    return base + offset if base != 0 else 0


# From the caller's rows to vectors in scratch memory ----------------------------------------------


@outline
def prefetch_rows(address, stride, lines):
    """Prefetch one cache line of each of `lines` rows; none if the address is 0."""
    if address != 0:
        for i in range(lines):
            prefetch(address + i * stride)


@inline
def next_rows(address, row, s, begin, end, size, chunk):
    """Address of the rows that are staged after those of strip s, which are at `address`.

    They are those of strip s + 1, or of the pack's first strip `chunk` rows away. Values have
    `size` bytes; the address 0 stays.
    """
    ahead = LANES * size if s + 1 < end else chunk * row - (s - begin) * LANES * size
    return address + ahead if address != 0 else 0


@outline
def gather_states(target, source, count, d_state, n_pad, scale):
    """Transpose (count, d_state) floats to (n_pad, LANES), times `scale`; zeros elsewhere."""
    for i in range(n_pad):
        store(target + i * _V, broadcast(0.0))
    if source != 0:
        for w in range(count):
            for n in range(d_state):
                value = load_float(source + (w * d_state + n) * 4)
                store_float(target + n * _V + w * 4, value * scale)


@outline
def scatter_states(target, source, count, d_state):
    """Transpose (n_pad, LANES) floats back to (count, d_state)."""
    for w in range(count):
        for n in range(d_state):
            store_float(target + (w * d_state + n) * 4, load_float(source + n * _V + w * 4))


@outline
def copy_vectors(target, source, vectors):
    """Copy `vectors` vectors."""
    for i in range(vectors):
        store(target + i * _V, load(source + i * _V))


@outline
def clear_vectors(target, vectors):
    """Set `vectors` vectors to zero."""
    for i in range(vectors):
        store(target + i * _V, broadcast(0.0))


@outline
def widen_states(target, source, row, steps, d_state, bf16):
    """Copy a chunk's rows of B or C to (steps, w) float32, padded with zeros to whole vectors."""
    size = 2 if bf16 else 4
    width = (d_state + LANES - 1) // LANES
    for t in range(steps):
        for i in range(width):
            value = load_row(
                source + t * row + i * LANES * size, bf16, min(LANES, d_state - i * LANES)
            )
            store(target + (t * width + i) * _V, value)


@outline
def stage_inputs(u_to, delta_to, drive_to, u, u_row, delta, delta_row, bias, steps, count, bf16):
    """Widen u and delta + bias to (steps, LANES) each, and their product, the drive.

    The drive holds only without softplus: `apply_softplus` replaces it.
    """
    shift = broadcast(0.0)
    if bias != 0:
        shift = load_row(bias, False, count)
    for t in range(steps):
        value = load_row(u + t * u_row, bf16, count)
        step = load_row(delta + t * delta_row, bf16, count) + shift
        store(u_to + t * _V, value)
        store(delta_to + t * _V, step)
        store(drive_to + t * _V, value * step)


@outline
def apply_softplus(u_to, delta_to, drive_to, slope_to, steps):
    """Replace delta by softplus(delta), the drive by delta * u; store softplus' slope.

    All are (steps, LANES); no slope is stored if its address is 0.
    """
    for t in range(steps):
        raw = load(delta_to + t * _V)
        step = softplus(raw)
        store(delta_to + t * _V, step)
        store(drive_to + t * _V, load(u_to + t * _V) * step)
        if slope_to != 0:
            store(slope_to + t * _V, sigmoid(raw))


@outline
def stage_skip(target, u, D, steps, count):
    """Store D * u, (steps, LANES): what the sum over the states is added to."""
    weight = broadcast(0.0)
    if D != 0:
        weight = load_row(D, False, count)
    for t in range(steps):
        store(target + t * _V, weight * load(u + t * _V))


@inline
def advance_state(h, rate, delta, drive, b):
    """Return h_t = decay h_{t-1} + B_t drive_t and the decay exp(delta_t A) (Algorithm 2).

    Vectors of channels; `b` is the address of the state's float in B_t.
    """
    decay = exp2(delta * rate)
    return fma(h, decay, drive * broadcast_load(b)), decay

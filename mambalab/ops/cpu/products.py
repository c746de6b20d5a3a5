"""Products of a matrix with one vector a sequence, for the decoding step; and the norm before them.

Reading the matrix is what costs: it is read in order, once for all sequences, some way ahead.
"""

import math

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
    prefetch,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.simd_functions import apply_gelu

PREFETCH_BYTES = 8192  # how far ahead a matrix is fetched; rows are too short for the processor
_V = VECTOR_BYTES


@inline
def normalise(x, weight, eps, batch, width, out, scratch):
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
def product(w, bf16, width, x):
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
    """Store `product` with x and with the vector `pitch` bytes after it; w is widened once."""
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
def products(weight, bf16, row, last, width, x, x_width, batch, scratch):
    """Multiply rows row ... row + LANES - 1 (below `last`) of a matrix by each x (b, x_width).

    Sums stay lane by lane: scratch (b, LANES, LANES), a vector for each sequence and row. Memory is
    read in order, once for all sequences.
    """
    size = 2 if bf16 else 4
    for i in range(min(LANES, last - row)):
        w = weight + (row + i) * width * size
        if batch % 2:
            store(scratch + i * _V, product(w, bf16, width, x))
        for b in range(batch % 2, batch, 2):
            if b == 0:
                for line in range(0, width * size, 64):
                    prefetch(w + PREFETCH_BYTES + line)
            source, target = x + b * x_width * 4, scratch + (b * LANES + i) * _V
            _products_of_two(w, bf16, width, source, x_width * 4, target, LANES * _V)


@inline
def project(weight, bf16, unit, rows, width, x, batch, out, add, bend, scratch):
    """Store one unit of a matrix (rows, width) times x (b, width) to out (b, rows).

    It is added to what is there if `add`, and goes through a GELU if `bend`.
    """
    row = unit * LANES
    count = min(LANES, rows - row)
    products(weight, bf16, row, rows, width, x, width, batch, scratch)
    for b in range(batch):
        target = out + (b * rows + row) * 4
        value = sums(scratch + b * LANES * _V)
        if add:
            value = value + load_row(target, False, count)
        if bend:
            value = apply_gelu(value)
        store_row(target, value, False, count)

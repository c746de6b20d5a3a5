"""The attention and FFN phases of the decoding step.

A *unit* of the attention is one head of one sequence and CHUNK positions of its cache, whose keys
and then values are read in order. The unit that has the new position stores its key and value
before. What a unit finds is a part: its largest score, the sum of the weights, and the sum of the
weighted values; whoever finishes the last part of a head adds its parts up, always in this order
(Flash-Decoding: arXiv 2311.01282, section 2.3). Scores are powers of two.
"""

import math

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu.products import products
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    broadcast,
    broadcast_load,
    exp2,
    fma,
    inline,
    load,
    load_even_bf16,
    load_float,
    load_int,
    load_odd_bf16,
    load_row,
    prefetch,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.simd_functions import apply_silu, larger
from mambalab.ops.cpu.step_layout import (
    A_ARRIVED,
    A_CAPACITY,
    A_COS,
    A_FILLED,
    A_HEAD_DIM,
    A_K_NORM,
    A_KEY,
    A_N_HEAD,
    A_Q_NORM,
    A_SIN,
    A_VALUE,
    CHUNK,
    F_D_FF,
    F_FC1,
)
from mambalab.ops.cpu.threads import arrive_in_turn

_V = VECTOR_BYTES
_NEVER = -1e17  # score of a lane without a position


@inline
def chunks(layer, batch):
    """Count the chunks of the longest sequence's cache, with the new position."""
    longest = 0
    for b in range(batch):
        longest = max(longest, load_int(load_int(layer + A_FILLED) + b * 8))
    return longest // CHUNK + 1


@inline
def _rotate(source, weight, eps, width, cos, sin, scale, target):
    """Norm (if there is a weight), rotate and scale a head's query or key (width,)."""
    r = 1.0
    if weight:
        square = 0.0
        for i in range(width):
            square += load_float(source + i * 4) * load_float(source + i * 4)
        r = 1 / math.sqrt(square / width + eps)
    half = width // 2
    for i in range(half):
        first, second = load_float(source + i * 4) * r, load_float(source + (i + half) * 4) * r
        if weight:
            first *= load_float(weight + i * 4)
            second *= load_float(weight + (i + half) * 4)
        c, s = load_float(cos + i * 4), load_float(sin + i * 4)
        store_float(target + i * 4, (first * c - second * s) * scale)
        store_float(target + (i + half) * 4, (second * c + first * s) * scale)


@inline
def _keep(source, bf16, width, target):
    """Store a head's key or value (width,) in the cache."""
    for s in range(0, width, LANES):
        count = min(LANES, width - s)
        value = load_row(source + s * 4, False, count)
        store_row(target + s * (2 if bf16 else 4), value, bf16, count)


@inline
def _first(address, bf16):
    """Load the first half of 2 LANES values: every other if they are bfloat16, from 0 on."""
    return load_even_bf16(address) if bf16 else load(address)


@inline
def _second(address, bf16):
    """Load the second half of 2 LANES values: every other if they are bfloat16, from 1 on."""
    return load_odd_bf16(address) if bf16 else load(address + _V)


@inline
def _place(i, bf16, width):
    """Where value i of `width` is in memory of the order of `_first`, `_second`, and the rest."""
    if not bf16 or i >= width - width % (2 * LANES):
        return i
    within = i % (2 * LANES)
    return i - within + within % 2 * LANES + within // 2


@inline
def _score(row, bf16, width, query):
    """Multiply a key (width,) by the query: one sum a lane."""
    a0, a1 = broadcast(0.0), broadcast(0.0)
    size = 2 if bf16 else 4
    s = 0
    while s + 2 * LANES <= width:
        a0 = fma(_first(row + s * size, bf16), load(query + s * 4), a0)
        a1 = fma(_second(row + s * size, bf16), load(query + s * 4 + _V), a1)
        s += 2 * LANES
    while s < width:
        count = min(LANES, width - s)
        a0 = fma(load_row(row + s * size, bf16, count), load_row(query + s * 4, False, count), a0)
        s += LANES
    return a0 + a1


@inline
def _four_scores(row, bf16, width, query, target):
    """Store `_score` of four keys, one after the other."""
    size = 2 if bf16 else 4
    second, third, fourth = row + width * size, row + 2 * width * size, row + 3 * width * size
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    b0, b1, b2, b3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    s = 0
    while s + 2 * LANES <= width:
        q, place = load(query + s * 4), s * size
        a0 = fma(_first(row + place, bf16), q, a0)
        a1 = fma(_first(second + place, bf16), q, a1)
        a2 = fma(_first(third + place, bf16), q, a2)
        a3 = fma(_first(fourth + place, bf16), q, a3)
        q = load(query + s * 4 + _V)
        b0 = fma(_second(row + place, bf16), q, b0)
        b1 = fma(_second(second + place, bf16), q, b1)
        b2 = fma(_second(third + place, bf16), q, b2)
        b3 = fma(_second(fourth + place, bf16), q, b3)
        s += 2 * LANES
    if s + LANES <= width:
        q, place = load(query + s * 4), s * size
        a0 = fma(load_row(row + place, bf16, LANES), q, a0)
        a1 = fma(load_row(second + place, bf16, LANES), q, a1)
        a2 = fma(load_row(third + place, bf16, LANES), q, a2)
        a3 = fma(load_row(fourth + place, bf16, LANES), q, a3)
        s += LANES
    if s < width:
        count, place = width - s, s * size
        q = load_row(query + s * 4, False, count)
        a0 = fma(load_row(row + place, bf16, count), q, a0)
        a1 = fma(load_row(second + place, bf16, count), q, a1)
        a2 = fma(load_row(third + place, bf16, count), q, a2)
        a3 = fma(load_row(fourth + place, bf16, count), q, a3)
    store(target, a0 + b0)
    store(target + _V, a1 + b1)
    store(target + 2 * _V, a2 + b2)
    store(target + 3 * _V, a3 + b3)


@inline
def _weights(key, value, bf16, count, width, query, weights, scratch, part):
    """Store 2^(score - largest score) of `count` positions to `weights`; their values are fetched.

    The largest score and the sum of the weights go to `part`.
    """
    row_bytes = width * (2 if bf16 else 4)
    top = broadcast(_NEVER)
    for first in range(0, count, LANES):
        some = min(LANES, count - first)
        for line in range(first * row_bytes, (first + some) * row_bytes, 64):
            prefetch(value + line)
        i = 0
        while i + 4 <= some:
            row = key + (first + i) * row_bytes
            _four_scores(row, bf16, width, query, scratch + i * _V)
            i += 4
        while i < some:
            row = key + (first + i) * row_bytes
            store(scratch + i * _V, _score(row, bf16, width, query))
            i += 1
        target = weights + first * 4
        store(target, broadcast(_NEVER))
        store_row(target, sums(scratch), False, some)
        top = larger(load(target), top)
    store(scratch, top)
    largest = load_float(scratch)
    for i in range(1, LANES):
        largest = max(largest, load_float(scratch + i * 4))
    total = broadcast(0.0)
    for first in range(0, count, LANES):
        weight = exp2(load(weights + first * 4) - broadcast(largest))
        store(weights + first * 4, weight)
        total = total + weight
    store(scratch, total)
    whole = load_float(scratch)
    for i in range(1, LANES):
        whole += load_float(scratch + i * 4)
    store_float(part, largest)
    store_float(part + 4, whole)


@inline
def _mix(value, bf16, count, width, weights, out, following):
    """Store the sum of `count` rows of value (count, width), times their weights, to out.

    Its order is that of `_place`. What is at `following` (if that is not 0), as many rows, is
    fetched meanwhile.
    """
    size = 2 if bf16 else 4
    row_bytes = width * size
    s = 0
    while s + 2 * LANES <= width:
        a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        b0, b1, b2, b3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        row, t = value + s * size, 0
        while t + 4 <= count:
            if s == 0 and following:
                for line in range(t * row_bytes, (t + 4) * row_bytes, 64):
                    prefetch(following + line)
            weight = broadcast_load(weights + t * 4)
            a0, b0 = fma(weight, _first(row, bf16), a0), fma(weight, _second(row, bf16), b0)
            row += row_bytes
            weight = broadcast_load(weights + t * 4 + 4)
            a1, b1 = fma(weight, _first(row, bf16), a1), fma(weight, _second(row, bf16), b1)
            row += row_bytes
            weight = broadcast_load(weights + t * 4 + 8)
            a2, b2 = fma(weight, _first(row, bf16), a2), fma(weight, _second(row, bf16), b2)
            row += row_bytes
            weight = broadcast_load(weights + t * 4 + 12)
            a3, b3 = fma(weight, _first(row, bf16), a3), fma(weight, _second(row, bf16), b3)
            row += row_bytes
            t += 4
        while t < count:
            weight = broadcast_load(weights + t * 4)
            a0, b0 = fma(weight, _first(row, bf16), a0), fma(weight, _second(row, bf16), b0)
            row += row_bytes
            t += 1
        store(out + s * 4, (a0 + a1) + (a2 + a3))
        store(out + s * 4 + _V, (b0 + b1) + (b2 + b3))
        s += 2 * LANES
    if s + LANES <= width:
        store(out + s * 4, _column(value + s * size, bf16, count, row_bytes, LANES, weights))
        s += LANES
    if s < width:
        store(out + s * 4, _column(value + s * size, bf16, count, row_bytes, width - s, weights))


@inline
def _column(value, bf16, count, row_bytes, some, weights):
    """Sum of `count` rows, times their weights, in the first `some` <= LANES columns."""
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    row, t = value, 0
    while t + 4 <= count:
        a0 = fma(broadcast_load(weights + t * 4), load_row(row, bf16, some), a0)
        row += row_bytes
        a1 = fma(broadcast_load(weights + t * 4 + 4), load_row(row, bf16, some), a1)
        row += row_bytes
        a2 = fma(broadcast_load(weights + t * 4 + 8), load_row(row, bf16, some), a2)
        row += row_bytes
        a3 = fma(broadcast_load(weights + t * 4 + 12), load_row(row, bf16, some), a3)
        row += row_bytes
        t += 4
    while t < count:
        a0 = fma(broadcast_load(weights + t * 4), load_row(row, bf16, some), a0)
        row += row_bytes
        t += 1
    return (a0 + a1) + (a2 + a3)


@inline
def _add_up(parts, bf16, count, pitch, width, out):
    """Store the attention of a head (width,), given its `count` parts, `pitch` bytes apart."""
    largest = load_float(parts)
    for c in range(1, count):
        largest = max(largest, load_float(parts + c * pitch))
    total = broadcast(0.0)
    for c in range(count):
        part = parts + c * pitch
        weight = exp2(broadcast(load_float(part) - largest))
        total = fma(weight, broadcast_load(part + 4), total)
        store(part, weight)
    for s in range(0, width, LANES):
        value = broadcast(0.0)
        for c in range(count):
            part = parts + c * pitch
            value = fma(load(part), load(part + _V + s * 4), value)
        store(parts + _V + s * 4, value / total)
    for i in range(width):
        store_float(out + i * 4, load_float(parts + _V + _place(i, bf16, width) * 4))


@inline
def attend(a, layer, bf16, eps, unit, shares, fresh, ahead, scratch, query):
    """Compute one unit of the attention; a head of a sequence has `shares` of them.

    `query` is worked out if `fresh`, else it is there; behind it is memory for a key, and for the
    weights of a chunk. `ahead`: the unit after this one is the same worker's.
    """
    heads, width = load_int(layer + A_N_HEAD), load_int(layer + A_HEAD_DIM)
    capacity = load_int(layer + A_CAPACITY)
    pair, chunk = unit // shares, unit % shares
    b, head = pair // heads, pair % heads
    filled, begin = load_int(load_int(layer + A_FILLED) + b * 8), chunk * CHUNK
    if begin > filled:
        return  # this sequence is shorter
    rotated = query + -(-width // LANES) * _V
    weights = rotated + -(-width // LANES) * _V
    row_bytes = width * (2 if bf16 else 4)
    key = load_int(layer + A_KEY) + pair * capacity * row_bytes
    value = load_int(layer + A_VALUE) + pair * capacity * row_bytes
    new = a.qkv + (b * 3 * heads + head) * width * 4  # query; key and value are behind
    angles = filled * (width // 2) * 4
    cos, sin = load_int(layer + A_COS) + angles, load_int(layer + A_SIN) + angles
    if fresh:
        scale = LOG2E / math.sqrt(width)
        _rotate(new, load_int(layer + A_Q_NORM), eps, width, cos, sin, scale, rotated)
        for i in range(width):
            store_float(query + _place(i, bf16, width) * 4, load_float(rotated + i * 4))
    if begin + CHUNK > filled:
        after = new + heads * width * 4
        _rotate(after, load_int(layer + A_K_NORM), eps, width, cos, sin, 1.0, rotated)
        _keep(rotated, bf16, width, key + filled * row_bytes)
        _keep(after + heads * width * 4, bf16, width, value + filled * row_bytes)
    pitch = _V + -(-width // LANES) * _V
    parts = a.parts + pair * shares * pitch
    part = parts + chunk * pitch
    count = min(CHUNK, filled + 1 - begin)
    key, value = key + begin * row_bytes, value + begin * row_bytes
    _weights(key, value, bf16, count, width, query, weights, scratch, part)
    following = key + CHUNK * row_bytes if ahead else 0
    _mix(value, bf16, count, width, weights, part + _V, following)
    last = filled // CHUNK
    if arrive_in_turn(load_int(layer + A_ARRIVED) + pair * 8) == last:
        _add_up(parts, bf16, last + 1, pitch, width, a.mixed + pair * width * 4)


@inline
def gate(a, layer, bf16, unit, normal, scratch):
    """Compute one unit of a gated FFN's inner values: silu(W1 x) * W3 x (arXiv 2002.05202)."""
    d_ff = load_int(layer + F_D_FF)
    row = unit * LANES
    count = min(LANES, d_ff - row)
    for half in range(2):
        first, last = half * d_ff + row, (half + 1) * d_ff
        width = a.d_model
        products(load_int(layer + F_FC1), bf16, first, last, width, normal, width, a.batch, scratch)
        for b in range(a.batch):
            target = a.inner + (b * d_ff + row) * 4
            value = sums(scratch + b * LANES * _V)
            if half:
                value = value * load_row(target, False, count)
            else:
                value = apply_silu(value)
            store_row(target, value, False, count)

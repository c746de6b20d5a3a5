"""RMS norm on the CPU: kernels and what prepares their arguments.

A *task* is `ROWS` rows, taken `LANES` at a time: each row's products are added up lane by lane, one
transposed sum gives the totals of all of them, and the rows, still in the first-level cache, are
scaled. PyTorch composes the norm of six element-wise passes and keeps their results; this reads
the rows once and keeps nothing: the backward finds the scale again.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.simd import (
    LANES,
    VECTOR_BYTES,
    carray,
    fma,
    inline,
    load,
    load_float,
    load_row,
    splat,
    spread,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.threads import take_ticket

ROWS = 128
_V = VECTOR_BYTES
_SMALL = 2**15  # values below which a second thread does not pay


class NormArgs(NamedTuple):
    """What the kernels read after the runtime's header: sizes, flags and addresses of contiguous
    tensors."""

    rows: int
    width: int
    eps: int  # address of a float32
    weight: int  # (width,) float32
    x: int  # (rows, width)
    half: int  # x and its gradient are bfloat16, else float32
    y: int  # (rows, width); the backward reads its gradient here
    y_half: int  # y and its gradient are bfloat16, else float32
    grad_x: int = 0  # (rows, width)
    grad_weight: int = 0  # (tasks, strips * LANES) float32


@inline
def _scales(scratch, x, row, last, width, half, eps, scales):
    """1 / sqrt(mean(x^2) + eps) of up to LANES rows from `row` on, to `scales`."""
    size = 2 if half else 4
    for i in range(LANES):
        total = splat(0.0)
        if row + i < last:
            for s in range(0, width, LANES):
                value = load_row(x + ((row + i) * width + s) * size, half, min(LANES, width - s))
                total = fma(value, value, total)
        store(scratch + i * _V, total)
    store(scales, sums(scratch))
    for i in range(LANES):
        square = load_float(scales + i * 4) / width
        store_float(scales + i * 4, 1 / math.sqrt(square + eps))


def build_forward(sources: int) -> Callable[[Any], None]:
    """The kernel of y = x / sqrt(mean(x^2) + eps) * weight. `sources` identifies the code, and so
    enters numba's cache key."""

    def rms_norm_forward(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        scratch = a.scratch + worker * a.scratch_bytes
        scales = scratch + LANES * _V
        eps, width, half, y_half = load_float(a.eps), a.width, a.half != 0, a.y_half != 0
        size, y_size = 2 if half else 4, 2 if y_half else 4
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            last = min(a.rows, (task + 1) * ROWS)
            for row in range(task * ROWS, last, LANES):
                _scales(scratch, a.x, row, last, width, half, eps, scales)
                for i in range(min(LANES, last - row)):
                    scale = spread(scales + i * 4)
                    place = (row + i) * width
                    for s in range(0, width, LANES):
                        count = min(LANES, width - s)
                        value = load_row(a.x + (place + s) * size, half, count)
                        value = value * scale * load_row(a.weight + s * 4, False, count)
                        store_row(a.y + (place + s) * y_size, value, y_half, count)

    return rms_norm_forward


def build_backward(sources: int) -> Callable[[Any], None]:
    """The kernel of both gradients. `sources`: as above.

    With r = 1 / sqrt(mean(x^2) + eps) and g = weight * dy: dx = r (g - x r^2 mean(g x)), and
    dweight is the sum over rows of dy x r.
    """

    def rms_norm_backward(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        scratch = a.scratch + worker * a.scratch_bytes
        scales = scratch + LANES * _V
        shares = scales + _V
        eps, width, half, y_half = load_float(a.eps), a.width, a.half != 0, a.y_half != 0
        size, y_size = 2 if half else 4, 2 if y_half else 4
        padded = (width + LANES - 1) // LANES * LANES
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            d_weight = a.grad_weight + task * padded * 4
            for s in range(0, padded, LANES):
                store(d_weight + s * 4, splat(0.0))
            last = min(a.rows, (task + 1) * ROWS)
            for row in range(task * ROWS, last, LANES):
                _scales(scratch, a.x, row, last, width, half, eps, scales)
                for i in range(LANES):
                    total = splat(0.0)
                    if row + i < last:
                        place = (row + i) * width
                        scale = spread(scales + i * 4)
                        for s in range(0, width, LANES):
                            count = min(LANES, width - s)
                            value = load_row(a.x + (place + s) * size, half, count)
                            grad = load_row(a.y + (place + s) * y_size, y_half, count)
                            product = grad * value
                            at = d_weight + s * 4
                            store(at, fma(product, scale, load(at)))
                            total = fma(product, load_row(a.weight + s * 4, False, count), total)
                    store(scratch + i * _V, total)
                store(shares, sums(scratch))
                for i in range(min(LANES, last - row)):
                    r = load_float(scales + i * 4)
                    share = splat(-r * r * r * (load_float(shares + i * 4) / width))
                    scale = splat(r)
                    place = (row + i) * width
                    for s in range(0, width, LANES):
                        count = min(LANES, width - s)
                        value = load_row(a.x + (place + s) * size, half, count)
                        grad = load_row(a.y + (place + s) * y_size, y_half, count)
                        grad = grad * load_row(a.weight + s * 4, False, count) * scale
                        store_row(
                            a.grad_x + (place + s) * size, fma(value, share, grad), half, count
                        )

    return rms_norm_backward


_FORWARD = Kernel(build_forward, NormArgs._fields)
_BACKWARD = Kernel(build_backward, NormArgs._fields)
_SCRATCH = (LANES + 2) * _V


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _described(x: Tensor, weight: Tensor, eps: Tensor, y: Tensor) -> NormArgs:
    width = x.shape[-1]
    return NormArgs(
        x.numel() // width,
        width,
        eps.data_ptr(),
        weight.data_ptr(),
        x.data_ptr(),
        int(x.dtype == torch.bfloat16),
        y.data_ptr(),
        int(y.dtype == torch.bfloat16),
    )


def forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Y (..., D) of `dtype` from x (..., D), each float32 or bfloat16, and weight (D,) float32."""
    x, weight, small = x.contiguous(), weight.contiguous(), _scalar(eps)
    y = empty(x.shape, dtype)
    args = _described(x, weight, small, y)
    _FORWARD.run(args, -(-args.rows // ROWS), _SCRATCH, x.numel() > _SMALL)
    return y


def backward(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x, in its dtype, and of weight, float32, from that of y (..., D)."""
    x, weight, small = x.contiguous(), weight.contiguous(), _scalar(eps)
    grad_y = grad_y.contiguous()
    args = _described(x, weight, small, grad_y)
    tasks = -(-args.rows // ROWS)
    grad_x = empty(x.shape, x.dtype)
    parts = empty((tasks, -(-args.width // LANES) * LANES))
    args = args._replace(grad_x=grad_x.data_ptr(), grad_weight=parts.data_ptr())
    _BACKWARD.run(args, tasks, _SCRATCH, x.numel() > _SMALL)
    return grad_x, parts.sum(0)[: args.width].contiguous()

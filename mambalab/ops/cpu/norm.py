"""RMS norm on the CPU: kernels and what prepares their arguments.

A *task* is `TASK_ROWS` rows, taken `LANES` at a time: each row's products are added up lane by
lane, one transposed sum gives the totals of all of them, and the rows, still in the first-level
cache, are scaled. PyTorch composes the norm of six element-wise passes and saves their results;
this reads the rows once and saves nothing: the backward computes the scale again.

Scratch memory of a worker, in this order; all float32:

    name     shape           written by                       read by
    scratch  (LANES, LANES)  sums of a row each, by lane      sums: one total a lane
    scales   (LANES,)        _scales: 1 / rms of each row     both kernels
    shares   (LANES,)        the backward: sum of g x a row   the backward
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
    broadcast,
    broadcast_load,
    carray,
    fma,
    inline,
    load,
    load_float,
    load_row,
    store,
    store_float,
    store_row,
    sums,
)
from mambalab.ops.cpu.threads import take_ticket

TASK_ROWS = 128  # of x, flattened to (rows, width)
_V = VECTOR_BYTES
_MIN_PARALLEL_VALUES = 2**15  # of x; a second thread does not pay below


class NormArgs(NamedTuple):
    """What the kernels read after the runtime's header: sizes, flags, addresses.

    All tensors are contiguous.
    """

    rows: int
    width: int
    eps: int  # address of a float32
    weight: int  # (width,) float32
    x: int  # (rows, width)
    is_bf16: int  # x and its gradient are bfloat16, else float32
    y: int  # (rows, width); the backward reads its gradient here
    y_is_bf16: int  # y and its gradient are bfloat16, else float32
    grad_x: int = 0  # (rows, width)
    grad_weight: int = 0  # (tasks, strips * LANES) float32


@inline
def _scales(scratch, x, row, last, width, bf16, eps, scales):
    """Store 1 / sqrt(mean(x^2) + eps) of up to LANES rows from `row` on to `scales` (LANES,)."""
    size = 2 if bf16 else 4
    for i in range(LANES):
        total = broadcast(0.0)
        if row + i < last:
            for s in range(0, width, LANES):
                value = load_row(x + ((row + i) * width + s) * size, bf16, min(LANES, width - s))
                total = fma(value, value, total)
        store(scratch + i * _V, total)
    store(scales, sums(scratch))
    for i in range(LANES):
        square = load_float(scales + i * 4) / width
        store_float(scales + i * 4, 1 / math.sqrt(square + eps))


def build_forward(sources: int) -> Callable[[Any], None]:
    """Build the Python function of y = x / sqrt(mean(x^2) + eps) * weight.

    `sources` identifies the code in numba's cache key.
    """

    def rms_norm_forward(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        scratch = a.scratch + worker * a.scratch_bytes  # (LANES, LANES)
        scales = scratch + LANES * _V  # (LANES,)
        eps, width, bf16, y_bf16 = load_float(a.eps), a.width, a.is_bf16 != 0, a.y_is_bf16 != 0
        size, y_size = 2 if bf16 else 4, 2 if y_bf16 else 4
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            last = min(a.rows, (task + 1) * TASK_ROWS)
            for row in range(task * TASK_ROWS, last, LANES):
                _scales(scratch, a.x, row, last, width, bf16, eps, scales)
                for i in range(min(LANES, last - row)):
                    scale = broadcast_load(scales + i * 4)
                    entry = (row + i) * width
                    for s in range(0, width, LANES):
                        count = min(LANES, width - s)
                        value = load_row(a.x + (entry + s) * size, bf16, count)
                        value = value * scale * load_row(a.weight + s * 4, False, count)
                        store_row(a.y + (entry + s) * y_size, value, y_bf16, count)

    return rms_norm_forward


def build_backward(sources: int) -> Callable[[Any], None]:
    """Build the backward's Python function; `sources` identifies the code in numba's cache key.

    With r = 1 / sqrt(mean(x^2) + eps) and g = weight * dy: dx = r (g - x r^2 mean(g x)), and
    dweight is the sum over rows of dy x r.
    """

    def rms_norm_backward(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        scratch = a.scratch + worker * a.scratch_bytes  # (LANES, LANES)
        scales = scratch + LANES * _V  # (LANES,)
        shares = scales + _V  # (LANES,)
        eps, width, bf16, y_bf16 = load_float(a.eps), a.width, a.is_bf16 != 0, a.y_is_bf16 != 0
        size, y_size = 2 if bf16 else 4, 2 if y_bf16 else 4
        padded = (width + LANES - 1) // LANES * LANES  # width in whole vectors
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            d_weight = a.grad_weight + task * padded * 4  # (padded,) of this task
            for s in range(0, padded, LANES):
                store(d_weight + s * 4, broadcast(0.0))
            last = min(a.rows, (task + 1) * TASK_ROWS)
            for row in range(task * TASK_ROWS, last, LANES):
                _scales(scratch, a.x, row, last, width, bf16, eps, scales)
                for i in range(LANES):
                    total = broadcast(0.0)
                    if row + i < last:
                        entry = (row + i) * width
                        scale = broadcast_load(scales + i * 4)
                        for s in range(0, width, LANES):
                            count = min(LANES, width - s)
                            value = load_row(a.x + (entry + s) * size, bf16, count)
                            grad = load_row(a.y + (entry + s) * y_size, y_bf16, count)
                            product = grad * value
                            part = d_weight + s * 4
                            store(part, fma(product, scale, load(part)))
                            total = fma(product, load_row(a.weight + s * 4, False, count), total)
                    store(scratch + i * _V, total)
                store(shares, sums(scratch))
                for i in range(min(LANES, last - row)):
                    r = load_float(scales + i * 4)
                    share = broadcast(-r * r * r * (load_float(shares + i * 4) / width))
                    scale = broadcast(r)
                    entry = (row + i) * width
                    for s in range(0, width, LANES):
                        count = min(LANES, width - s)
                        value = load_row(a.x + (entry + s) * size, bf16, count)
                        grad = load_row(a.y + (entry + s) * y_size, y_bf16, count)
                        grad = grad * load_row(a.weight + s * 4, False, count) * scale
                        store_row(
                            a.grad_x + (entry + s) * size, fma(value, share, grad), bf16, count
                        )

    return rms_norm_backward


_FORWARD = Kernel(build_forward, NormArgs._fields)
_BACKWARD = Kernel(build_backward, NormArgs._fields)
_SCRATCH = (LANES + 2) * _V


def _scalar(value: float) -> Tensor:
    """Put a number in memory as float32, for a kernel that takes addresses."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _described(x: Tensor, weight: Tensor, eps: Tensor, y: Tensor) -> NormArgs:
    """Collect addresses, sizes and flags for the kernels; `eps` is a float32 scalar."""
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
    """Return y (..., d) of `dtype` for x (..., d), float32 or bfloat16 each, and weight (d,)."""
    x, weight, small = x.contiguous(), weight.contiguous(), _scalar(eps)
    y = empty(x.shape, dtype)
    args = _described(x, weight, small, y)
    _FORWARD.run(args, -(-args.rows // TASK_ROWS), _SCRATCH, x.numel() > _MIN_PARALLEL_VALUES)
    return y


def backward(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in its dtype, and of weight, float32, given that of y (..., d)."""
    x, weight, small = x.contiguous(), weight.contiguous(), _scalar(eps)
    grad_y = grad_y.contiguous()
    args = _described(x, weight, small, grad_y)
    tasks = -(-args.rows // TASK_ROWS)
    grad_x = empty(x.shape, x.dtype)
    parts = empty((tasks, -(-args.width // LANES) * LANES))
    args = args._replace(grad_x=grad_x.data_ptr(), grad_weight=parts.data_ptr())
    _BACKWARD.run(args, tasks, _SCRATCH, x.numel() > _MIN_PARALLEL_VALUES)
    return grad_x, parts.sum(0)[: args.width].contiguous()

"""Dropout into a sum on the CPU: kernels and what prepares their arguments.

A *task* is `TASK_VALUES` neighbouring values. PyTorch makes five passes forward and four backward
of what is one here, and keeps a mask; the backward reads the random draws again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.simd import (
    LANES,
    broadcast_load,
    carray,
    if_drawn,
    load_row,
    rounded,
    store_row,
)
from mambalab.ops.cpu.threads import take_ticket

TASK_VALUES = 2**14
_MIN_PARALLEL_VALUES = 2**15  # a second thread does not pay below


class DropoutArgs(NamedTuple):
    """What the kernels read after the runtime's header: sizes, flags, addresses.

    All tensors are contiguous and have as many values.
    """

    values: int
    least: int  # draws from here on are kept
    scale: int  # address of a float32
    draws: int  # int16
    x: int  # the backward writes its gradient here
    is_bf16: int  # x is bfloat16, else float32
    hidden: int  # float32, as the next
    y: int  # the backward reads its gradient here


def build_forward(sources: int) -> Callable[[Any], None]:
    """Build the Python function of y = hidden + (x * scale where kept, else 0).

    The product is rounded as x is. `sources` identifies the code in numba's cache key.
    """

    def dropped_sum_forward(block):
        _ = sources
        a = carray(block, 1)[0]
        take_ticket(a.tickets)
        bf16, scale = a.is_bf16 != 0, broadcast_load(a.scale)
        size = 2 if bf16 else 4
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            for i in range(task * TASK_VALUES, min(a.values, (task + 1) * TASK_VALUES), LANES):
                count = min(LANES, a.values - i)
                value = load_row(a.x + i * size, bf16, count) * scale
                value = if_drawn(a.draws + i * 2, a.least, rounded(value, bf16), count)
                store_row(
                    a.y + i * 4, load_row(a.hidden + i * 4, False, count) + value, False, count
                )

    return dropped_sum_forward


def build_backward(sources: int) -> Callable[[Any], None]:
    """Build the backward's Python function: dx = dy * scale where kept, else 0.

    dy is rounded as x is, before the product. `sources` identifies the code in numba's cache key.
    """

    def dropped_sum_backward(block):
        _ = sources
        a = carray(block, 1)[0]
        take_ticket(a.tickets)
        bf16, scale = a.is_bf16 != 0, broadcast_load(a.scale)
        size = 2 if bf16 else 4
        while True:
            task = take_ticket(a.tickets + 8)
            if task >= a.tasks:
                break
            for i in range(task * TASK_VALUES, min(a.values, (task + 1) * TASK_VALUES), LANES):
                count = min(LANES, a.values - i)
                grad = rounded(load_row(a.y + i * 4, False, count), bf16) * scale
                grad = if_drawn(a.draws + i * 2, a.least, grad, count)
                store_row(a.x + i * size, grad, bf16, count)

    return dropped_sum_backward


_FORWARD = Kernel(build_forward, DropoutArgs._fields)
_BACKWARD = Kernel(build_backward, DropoutArgs._fields)


def _run(
    kernel: Kernel, draws: Tensor, least: int, scale: float, x: Tensor, hidden: int, y: Tensor
) -> None:
    """Run a kernel; `hidden` is an address, 0 in the backward."""
    factor = torch.tensor(scale, dtype=torch.float32, device="cpu")
    args = DropoutArgs(
        x.numel(),
        least,
        factor.data_ptr(),
        draws.data_ptr(),
        x.data_ptr(),
        int(x.dtype == torch.bfloat16),
        hidden,
        y.data_ptr(),
    )
    kernel.run(args, -(-x.numel() // TASK_VALUES), 0, x.numel() > _MIN_PARALLEL_VALUES)


def forward(hidden: Tensor, x: Tensor, draws: Tensor, least: int, scale: float) -> Tensor:
    """Return the sum, float32; hidden float32, x float32 or bfloat16, draws int16, of one shape."""
    hidden, x, y = hidden.contiguous(), x.contiguous(), empty(x.shape)
    _run(_FORWARD, draws.contiguous(), least, scale, x, hidden.data_ptr(), y)
    return y


def backward(grad_y: Tensor, draws: Tensor, least: int, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the gradient of x, of `dtype`, given that of the sum, float32."""
    grad_x = empty(grad_y.shape, dtype)
    _run(_BACKWARD, draws.contiguous(), least, scale, grad_x, 0, grad_y.contiguous())
    return grad_x

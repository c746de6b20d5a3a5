"""Causal convolution on the CPU: prepares arguments and runs the compiled kernels (backend `cpu`).

float32 or bfloat16 rows whose last dimension is contiguous are read in place; all arithmetic is
float32. Nothing but the inputs is saved for the backward. The functions are those of
`interface.ConvImplementation`.
"""

import torch
from torch import Tensor

from mambalab.ops.common import contiguous_rows
from mambalab.ops.cpu.conv_kernels import (
    TASK_STEPS,
    ConvArgs,
    backward_scratch,
    build_backward,
    build_forward,
    forward_scratch,
)
from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.simd import LANES
from mambalab.ops.interface import ConvGradients

_FORWARD = Kernel(build_forward, ConvArgs._fields)
_BACKWARD = Kernel(build_backward, ConvArgs._fields)

_MIN_PARALLEL_VALUES = 2**15  # of x (b l d); a second thread does not pay below


def _described(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None,
    silu: bool,
    y: Tensor,
) -> ConvArgs:
    """Collect addresses, byte strides, sizes and flags for the kernels."""
    batch, length, d_inner = x.shape
    size = x.element_size()
    return ConvArgs(
        batch,
        length,
        d_inner,
        weight.shape[1],
        int(x.dtype == torch.bfloat16),
        int(silu),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if before is None else before.data_ptr(),
        x.data_ptr(),
        x.stride(0) * size,
        x.stride(1) * size,
        y.data_ptr(),
        y.stride(0) * size,
        y.stride(1) * size,
    )


def _time_first(state: Tensor | None) -> Tensor | None:
    """Transpose the state (b, d, k - 1) to (b, k - 1, d), float32 and contiguous."""
    return None if state is None else state.transpose(1, 2).float().contiguous()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> Tensor:
    """Return y (b, l, d) in x's dtype: x (b, l, d) convolved with weight (d, k), then SiLU."""
    batch, length, d_inner = x.shape
    x, weight, before = contiguous_rows(x), weight.contiguous(), _time_first(initial_state)
    bias = None if bias is None else bias.contiguous()
    y = empty(x.shape, x.dtype)
    args = _described(x, weight, bias, before, silu, y)
    tasks = batch * -(-length // TASK_STEPS)
    _FORWARD.run(
        args, tasks, forward_scratch(d_inner, weight.shape[1]), x.numel() > _MIN_PARALLEL_VALUES
    )
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> ConvGradients:
    """Return the gradients, each in the dtype of its tensor, given that of y (b, l, d)."""
    batch, length, d_inner = x.shape
    taps = weight.shape[1]
    x, grad_y, weight = contiguous_rows(x), contiguous_rows(grad_y), weight.contiguous()
    before = _time_first(initial_state)
    bias = None if bias is None else bias.contiguous()
    tasks, strips = batch * -(-length // TASK_STEPS), -(-d_inner // LANES)
    grad_x = empty(x.shape, x.dtype)
    grad_before = None if before is None else empty(before.shape)
    grad_weight = empty((tasks, strips, taps, LANES))
    grad_bias = empty((tasks, strips, LANES))
    args = _described(x, weight, bias, before, silu, grad_y)._replace(
        grad_x=grad_x.data_ptr(),
        grad_before=0 if grad_before is None else grad_before.data_ptr(),
        grad_weight=grad_weight.data_ptr(),
        grad_bias=grad_bias.data_ptr(),
    )
    _BACKWARD.run(args, tasks, backward_scratch(d_inner, taps), x.numel() > _MIN_PARALLEL_VALUES)
    by_channel = grad_weight.sum(0).transpose(1, 2).flatten(0, 1)  # (strips * LANES, k)
    grad_state = None
    if initial_state is not None and grad_before is not None:
        grad_state = empty(initial_state.shape, initial_state.dtype)
        grad_state.copy_(grad_before.transpose(1, 2))
    return ConvGradients(
        x=grad_x,
        weight=by_channel[:d_inner].contiguous(),
        bias=None if bias is None else grad_bias.sum(0).flatten()[:d_inner].contiguous(),
        initial_state=grad_state,
    )

"""Dropout of what is added to a sum, fused on the CPU."""

from typing import Any

import torch
from torch import Tensor

from mambalab.ops.backend import CPU_DTYPES, obstacle
from mambalab.ops.dispatch import plain_backward_needed


def fits(hidden: Tensor, x: Tensor) -> bool:
    """Whether `dropped_sum` takes a sum and what is added: on the CPU, of one shape, not empty."""
    return (
        hidden.device.type == x.device.type == "cpu"
        and hidden.dtype == torch.float32
        and x.dtype in CPU_DTYPES
        and hidden.shape == x.shape
        and x.numel() > 0
    )


def dropped_sum(hidden: Tensor, x: Tensor, draws: Tensor, cut: int) -> Tensor:
    """Inverted dropout of x, added to hidden; differentiable in both.

    Args:
        hidden: float32, of any shape.
        x: float32 or bfloat16, of the same shape; the product with 1 / (1 - p) is rounded as it is.
        draws: int16, of the same shape: entries of x whose draw is below cut - 32768 become 0.
        cut: 65536 p, 0 to 65535.

    Returns:
        float32, of the same shape.
    """
    return _sum(hidden, x, draws, cut)


def dropped(x: Tensor, draws: Tensor, cut: int) -> Tensor:
    """Inverted dropout of x by PyTorch's own operators; arguments as of `dropped_sum`."""
    return torch.where(draws >= cut - 32768, x * _scale(cut), 0.0)


def _scale(cut: int) -> float:
    """What is kept grows by this factor."""
    return 65536 / (65536 - cut)


@torch.library.custom_op("mambalab::dropped_sum", mutates_args=())
def _sum(hidden: Tensor, x: Tensor, draws: Tensor, cut: int) -> Tensor:
    """Custom operator of the forward; PyTorch's own operations where numba is missing."""
    if obstacle("cpu", x.device, x.dtype) is not None:
        return hidden + dropped(x, draws, cut)
    from mambalab.ops.cpu import dropout

    return dropout.forward(hidden, x, draws, cut - 32768, _scale(cut))


@_sum.register_fake
def _(hidden: Tensor, x: Tensor, draws: Tensor, cut: int) -> Tensor:
    return hidden.new_empty(hidden.shape)


@torch.library.custom_op("mambalab::dropped_sum_backward", mutates_args=())
def _sum_backward(grad_y: Tensor, draws: Tensor, cut: int, dtype: torch.dtype) -> Tensor:
    """Return the gradient of x, of its dtype."""
    if obstacle("cpu", grad_y.device, dtype) is not None:
        return dropped(grad_y.to(dtype), draws, cut)
    from mambalab.ops.cpu import dropout

    return dropout.backward(grad_y, draws, cut - 32768, _scale(cut), dtype)


@_sum_backward.register_fake
def _(grad_y: Tensor, draws: Tensor, cut: int, dtype: torch.dtype) -> Tensor:
    return grad_y.new_empty(grad_y.shape, dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what the backward needs."""
    _, x, draws, ctx.cut = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(draws)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """Return a gradient for each argument of `_sum`, None for draws and cut."""
    (draws,) = ctx.saved_tensors
    if plain_backward_needed():  # of this operator, which is linear: its backward in plain steps
        grad_x = dropped(grad_y.to(ctx.dtype), draws, ctx.cut)
    else:
        grad_x = _sum_backward(grad_y, draws, ctx.cut, ctx.dtype)
    return grad_y, grad_x, None, None


_sum.register_autograd(_backward, setup_context=_setup_context)

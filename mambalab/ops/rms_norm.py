"""Root-mean-square norm (arXiv 1910.07467), fused on the CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.backend import CPU_DTYPES, obstacle
from mambalab.ops.common import check_real
from mambalab.ops.dispatch import (
    can_bypass_dispatcher,
    plain_backward_needed,
    plain_gradients,
    plain_needed,
)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMS norm over the last dimension, differentiable: x / sqrt(mean(x^2) + eps) * weight.

    On a CPU with numba this is one kernel forward and one backward, for float32 and bfloat16;
    everywhere else PyTorch's own norm. All arithmetic is float32 (float64 where x is).

    Args:
        x: (..., d), any floating dtype.
        weight: (d,).
        eps: added to the mean square.
        dtype: of the result.

    Returns:
        (..., d) in `dtype`.

    Raises:
        ValueError: the weight does not fit; x or `dtype` is not floating point.
    """
    check_real(weight=weight)
    for name, kind in (("x", x.dtype), ("dtype", dtype)):
        if not kind.is_floating_point:
            raise ValueError(f"{name} must be floating point, not {kind}")
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"weight must be {tuple(x.shape[-1:])}, not {tuple(weight.shape)}")
    fused = x.device.type == "cpu" and x.dtype in CPU_DTYPES and dtype in CPU_DTYPES
    if not fused or not x.numel() or plain_needed():
        return _plain(x, weight, eps, dtype)
    weight = weight.float()
    differentiable = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    run = _run if not differentiable and can_bypass_dispatcher(x, weight) else _norm
    return run(x, weight, eps, dtype)


def _plain(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Compute the norm by PyTorch's own operator."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(dtype)


def _run(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Run the fused forward, or PyTorch's own norm where numba is missing."""
    if obstacle("cpu", x.device, x.dtype) is not None:
        return _plain(x, weight, eps, dtype)
    from mambalab.ops.cpu import norm

    return norm.forward(x, weight, eps, dtype)


@torch.library.custom_op("mambalab::rms_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Custom operator of the forward: y (..., d) in `dtype`."""
    return _run(x, weight, eps, dtype)


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


@torch.library.custom_op("mambalab::rms_norm_backward", mutates_args=())
def _norm_backward(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in its dtype, and of weight, float32."""
    if obstacle("cpu", x.device, x.dtype) is not None:
        wide, grad = x.float(), grad_y.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        share = (grad * weight * wide).mean(-1, keepdim=True) * scale**3
        dweight = (grad * wide * scale).reshape(-1, len(weight)).sum(0)
        return (grad * weight * scale - wide * share).to(x.dtype), dweight
    from mambalab.ops.cpu import norm

    return norm.backward(grad_y, x, weight, eps)


@_norm_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what the backward needs."""
    x, weight, ctx.eps, ctx.dtype = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """Return a gradient for each argument of `_norm`, None for eps and dtype."""
    if plain_backward_needed():

        def plain(x: Tensor, weight: Tensor) -> tuple[Tensor]:
            return (_plain(x, weight, ctx.eps, ctx.dtype),)

        return *plain_gradients(plain, ctx.saved_tensors, (grad_y,)), None, None
    dx, dweight = _norm_backward(grad_y, *ctx.saved_tensors, ctx.eps)
    return dx, dweight, None, None


_norm.register_autograd(_backward, setup_context=_setup_context)

"""Depthwise causal convolution over time, with SiLU, a state in and a state out."""

import importlib
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from mambalab.ops.backend import resolve
from mambalab.ops.common import check_real
from mambalab.ops.dispatch import (
    can_bypass_dispatcher,
    plain_backward_needed,
    plain_gradients,
    plain_needed,
)
from mambalab.ops.interface import ConvImplementation
from mambalab.ops.reference import causal_conv1d_reference, compute_dtype


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    activation: str | None = ...,
    initial_state: Tensor | None = ...,
    return_final_state: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    activation: str | None = ...,
    initial_state: Tensor | None = ...,
    return_final_state: bool = ...,
    backend: str = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise causal convolution over time, differentiable in every tensor.

    y_t = bias + sum_k weight[:, k] x_{t - (K - 1) + k}, k = 0 ... K - 1, then SiLU if
    `activation="silu"`.

    Args:
        x: (b, l, d) with l >= 1; float32, bfloat16, float16 or float64.
        weight: (d, k) with k >= 1; the last tap meets the newest input.
        bias: (d,).
        activation: None or "silu".
        initial_state: the k - 1 inputs before the first, (b, d, k - 1), newest last; zero if None.
        return_final_state: also return the last k - 1 inputs.
        backend: auto | triton | cpu | torch | reference.

    Returns:
        y (b, l, d) in x's dtype; with `return_final_state` also the state (b, d, k - 1), in x's
        dtype. Weight, bias and all arithmetic are float32 (float64 where x is).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
        UserError: the backend cannot run here.
    """
    _check(x, weight, bias, activation, initial_state)
    wide = compute_dtype(x.dtype)
    weight = weight.to(wide)
    bias = None if bias is None else bias.to(wide)
    initial_state = None if initial_state is None else initial_state.to(x.dtype)
    if backend == "reference" or plain_needed():
        y, state = causal_conv1d_reference(x, weight, bias, activation, initial_state)
        return (y, state) if return_final_state else y
    tensors = (x, weight, bias, initial_state)
    differentiable = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    )
    run = _run if not differentiable and can_bypass_dispatcher(*tensors) else _conv
    y = run(*tensors, activation == "silu", backend)
    if not return_final_state:
        return y
    return y, _last_inputs(x, initial_state, weight.shape[1] - 1)


def _last_inputs(x: Tensor, initial_state: Tensor | None, count: int) -> Tensor:
    """Take the last `count` inputs, (b, d, count), from x and the initial state or zeros."""
    length = x.shape[1]
    if length >= count:
        return x[:, length - count :].transpose(1, 2).clone(memory_format=torch.contiguous_format)
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], x.shape[2], count)
    return torch.cat([initial_state[:, :, length:], x.transpose(1, 2)], dim=2)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> None:
    """Raise ValueError, by name, for shapes, dtypes or devices that do not fit together."""
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"x must be (B, L, D) with L >= 1, not {tuple(x.shape)}")
    if not x.dtype.is_floating_point:
        raise ValueError(f"x must be floating point, not {x.dtype}")
    check_real(weight=weight, bias=bias, initial_state=initial_state)
    if activation not in (None, "silu"):
        raise ValueError(f'activation must be None or "silu", not {activation!r}')
    batch, _, d_inner = x.shape
    if weight.dim() != 2 or weight.shape[0] != d_inner or weight.shape[1] < 1:
        raise ValueError(f"weight must be ({d_inner}, K), not {tuple(weight.shape)}")
    expected = {
        "weight": (weight, tuple(weight.shape)),
        "bias": (bias, (d_inner,)),
        "initial_state": (initial_state, (batch, d_inner, weight.shape[1] - 1)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} but x on {x.device}")


# Modules that provide what `ConvImplementation` says, by backend; `torch` is in the folder `eager`.
_IMPLEMENTATIONS = {
    "triton": "mambalab.ops.triton.conv",
    "cpu": "mambalab.ops.cpu.conv",
    "torch": "mambalab.ops.eager.conv",
}


def _implementation(backend: str, x: Tensor) -> ConvImplementation:
    """Import the module of the backend for x; an empty tensor takes the torch backend."""
    chosen = resolve(backend, x.device, x.dtype)
    module = importlib.import_module(_IMPLEMENTATIONS[chosen if x.numel() else "torch"])
    return cast("ConvImplementation", module)


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
    backend: str,
) -> Tensor:
    """Run the forward of the chosen backend, with autocast off."""
    with torch.autocast(x.device.type, enabled=False):
        return _implementation(backend, x).forward(x, weight, bias, initial_state, silu)


@torch.library.custom_op("mambalab::causal_conv1d", mutates_args=())
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
    backend: str,
) -> Tensor:
    """Custom operator of the forward: y (b, l, d)."""
    return _run(x, weight, bias, initial_state, silu, backend)


@_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
    backend: str,
) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("mambalab::causal_conv1d_backward", mutates_args=())
def _conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state; empty for what was not given."""
    with torch.autocast(x.device.type, enabled=False):
        grads = _implementation(backend, x).backward(grad_y, x, weight, bias, initial_state, silu)
    dx, dweight, dbias, dstate = (weight.new_empty(0) if g is None else g for g in grads)
    return dx, dweight, dbias, dstate


@_conv_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias = weight.new_empty(0 if bias is None else bias.shape)
    if initial_state is None:
        dstate = weight.new_empty(0)
    else:
        dstate = initial_state.new_empty(initial_state.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dbias, dstate


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what the backward needs."""
    x, weight, bias, initial_state, ctx.silu, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias, initial_state)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """Return a gradient for each argument of `_conv`, None for absent ones and flags."""
    x, weight, bias, initial_state = ctx.saved_tensors
    if plain_backward_needed():

        def plain(x: Tensor, weight: Tensor, bias: Any, state: Any) -> tuple[Tensor]:
            activation = "silu" if ctx.silu else None
            return (causal_conv1d_reference(x, weight, bias, activation, state)[0],)

        return *plain_gradients(plain, ctx.saved_tensors, (grad_y,)), None, None
    dx, dweight, dbias, dstate = _conv_backward(
        grad_y, x, weight, bias, initial_state, ctx.silu, ctx.backend
    )
    return (
        dx,
        dweight,
        None if bias is None else dbias,
        None if initial_state is None else dstate,
        None,
        None,
    )


_conv.register_autograd(_backward, setup_context=_setup_context)

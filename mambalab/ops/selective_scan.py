"""The selective scan of Mamba as one differentiable operator with a state in and a state out."""

import importlib
import math
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from mambalab.ops.backend import resolve
from mambalab.ops.common import check_real, group_count
from mambalab.ops.dispatch import (
    can_bypass_dispatcher,
    plain_backward_needed,
    plain_gradients,
    plain_needed,
    transforming,
)
from mambalab.ops.interface import ScanImplementation
from mambalab.ops.reference import compute_dtype, selective_scan_reference

# Modules that provide what `ScanImplementation` says, by backend; `torch` is in the folder `eager`.
_IMPLEMENTATIONS = {
    "triton": "mambalab.ops.triton.scan",
    "cpu": "mambalab.ops.cpu.scan",
    "torch": "mambalab.ops.eager.scan",
}


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_final_state: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_final_state: bool = ...,
    backend: str = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan (arXiv 2312.00752, Algorithm 2), differentiable in every tensor.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;  y_t = C_t h_t + D u_t;  y_t silu(z_t) if gated,
    where delta is first shifted by `delta_bias` and, if `delta_softplus`, passed through softplus.

    Args:
        u: input, (b, l, d) with l >= 1; float32, bfloat16, float16 or float64.
        delta: step sizes, (b, l, d).
        A: (d, n), usually negative.
        B: input matrix of each step, (b, l, n), or (b, l, g, n) with g groups that divide d.
        C: output matrix of each step, shaped like B.
        D: skip weight of each channel, (d,).
        z: gate, (b, l, d).
        delta_bias: (d,).
        delta_softplus: delta = softplus(delta + delta_bias).
        initial_state: h before the first step, (b, d, n); zero if None.
        return_final_state: also return h after the last step.
        backend: auto | triton | cpu | torch | reference.

    Returns:
        y (b, l, d) in u's dtype; with `return_final_state` also the state (b, d, n). The state, A,
        D, delta_bias and all arithmetic are float32 (float64 where u is), whatever u's dtype.
        Feeding the state to the next call continues the sequence, gradients included.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
        UserError: the backend cannot run here.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    dtype = u.dtype
    activations = [delta, B, C] if z is None else [delta, B, C, z]
    if any(x.dtype != dtype for x in activations):  # rare; the kernels take one dtype
        wide = compute_dtype(dtype)
        u, delta, B, C = u.to(wide), delta.to(wide), B.to(wide), C.to(wide)
        z = None if z is None else z.to(wide)
    wide = compute_dtype(dtype)
    A = A.to(wide)
    D = None if D is None else D.to(wide)
    delta_bias = None if delta_bias is None else delta_bias.to(wide)
    initial_state = None if initial_state is None else initial_state.to(wide)

    if backend == "reference" or plain_needed():
        y, state = selective_scan_reference(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state
        )
    else:
        tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
        save_states = torch.is_grad_enabled() and (
            transforming()  # inside vmap a sample does not say that its batch wants a gradient
            or any(x is not None and x.requires_grad for x in tensors)
        )
        if not save_states and can_bypass_dispatcher(*tensors):
            y, state, _ = _run(*tensors, delta_softplus, return_final_state, False, backend)
        else:
            y, state, _ = _scan(*tensors, delta_softplus, return_final_state, save_states, backend)
    y = y.to(dtype)
    if not return_final_state:
        return y
    assert state is not None
    return y, state


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    """Raise ValueError, by name, for shapes, dtypes or devices that do not fit together."""
    if u.dim() != 3 or u.shape[1] < 1:
        raise ValueError(f"u must be (B, L, D) with L >= 1, not {tuple(u.shape)}")
    if not u.dtype.is_floating_point:
        raise ValueError(f"u must be floating point, not {u.dtype}")
    if any(x.is_complex() for x in (A, B, C)):
        raise ValueError("A, B and C must be real: complex state spaces are not supported")
    check_real(delta=delta, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    batch, length, d_inner = u.shape
    if A.dim() != 2 or A.shape[0] != d_inner or A.shape[1] < 1:
        raise ValueError(f"A must be ({d_inner}, N), not {tuple(A.shape)}")
    d_state = A.shape[1]
    if B.dim() == 4 and (B.shape[2] < 1 or d_inner % B.shape[2]):
        raise ValueError(f"{B.shape[2]} groups of B do not divide {d_inner} channels")
    rows = (batch, length, B.shape[2], d_state) if B.dim() == 4 else (batch, length, d_state)
    expected = {
        "delta": (delta, u.shape),
        "B": (B, rows),
        "C": (C, rows),
        "D": (D, (d_inner,)),
        "z": (z, u.shape),
        "delta_bias": (delta_bias, (d_inner,)),
        "initial_state": (initial_state, (batch, d_inner, d_state)),
    }
    for name, (x, shape) in expected.items():
        if x is None:
            continue
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, not {tuple(x.shape)}")
        if x.device != u.device:
            raise ValueError(f"{name} is on {x.device} but u on {u.device}")
    if A.device != u.device:
        raise ValueError(f"A is on {A.device} but u on {u.device}")


def _implementation(backend: str, u: Tensor, A: Tensor) -> ScanImplementation:
    """Import the module of the backend for u and A; an empty u takes the torch backend."""
    chosen = resolve(backend, u.device, u.dtype, A.shape[1])
    module = importlib.import_module(_IMPLEMENTATIONS[chosen if u.numel() else "torch"])
    return cast("ScanImplementation", module)


def _run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    return_final_state: bool,
    save_states: bool,
    backend: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the forward of the chosen backend, with autocast off."""
    with torch.autocast(u.device.type, enabled=False):
        return _implementation(backend, u, A).forward(
            *(u, delta, A, B, C, D, z, delta_bias, initial_state),
            *(delta_softplus, save_states, return_final_state),
        )


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """Replace None by an empty tensor: a custom operator cannot return None."""
    return like.new_empty(0) if x is None else x


@torch.library.custom_op("mambalab::selective_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    return_final_state: bool,
    save_states: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state, and the states for the backward; empty if not asked for.

    The states are flat: an axis of chunks would keep torch.export from lengths of one chunk.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    y, state, saved_states = _run(
        *tensors, delta_softplus, return_final_state, save_states, backend
    )
    return y, _or_empty(state, A), _or_empty(saved_states, A).flatten()


@_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    return_final_state: bool,
    save_states: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    state = A.new_empty((batch, d_inner, d_state) if return_final_state else 0)
    groups = group_count(B)
    shape = _implementation(backend, u, A).states_shape(batch, length, d_inner, d_state, groups)
    return u.new_empty(u.shape), state, A.new_empty(math.prod(shape) if save_states else 0)


@torch.library.custom_op("mambalab::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    saved_states: Tensor,
    delta_softplus: bool,
    backend: str,
    with_initial: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and the initial state."""
    run = _implementation(backend, u, A)
    batch, length, d_inner = u.shape
    shape = run.states_shape(batch, length, d_inner, A.shape[1], group_count(B))
    states = saved_states.view(shape)
    with torch.autocast(u.device.type, enabled=False):
        grads = run.backward(
            *(grad_y, grad_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, states),
            with_initial,
        )
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstate = (_or_empty(grad, A) for grad in grads)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dstate


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    saved_states: Tensor,
    delta_softplus: bool,
    backend: str,
    with_initial: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    du, ddelta, dA, dB, dC = (x.new_empty(x.shape) for x in (u, delta, A, B, C))
    dD, dz, dbias = (
        A.new_empty(0) if x is None else x.new_empty(x.shape) for x in (D, z, delta_bias)
    )
    dstate = A.new_empty((u.shape[0], *A.shape) if with_initial else 0)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dstate


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Save what the backward needs."""
    *tensors, softplus, with_state, save_states, backend = inputs
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    assert save_states, "a backward needs the states that save_states=True saves"
    ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, initial_state, output[2])
    ctx.set_materialize_grads(False)
    ctx.absent = [x is None for x in (D, z, delta_bias, initial_state)]
    ctx.softplus, ctx.with_state, ctx.backend = softplus, with_state, backend


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, grad_saved: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return a gradient for each argument of `_scan`, None for absent ones and flags."""
    *tensors, saved_states = ctx.saved_tensors
    u, delta, A, B, C, D, z, delta_bias, _ = tensors
    if not ctx.with_state:
        grad_state = None  # of the empty tensor that stands for it
    if plain_backward_needed():

        def plain(*tensors: Any) -> tuple[Tensor, Tensor]:
            *rest, state = tensors
            return selective_scan_reference(*rest, delta_softplus=ctx.softplus, initial_state=state)

        return *plain_gradients(plain, tensors, (grad_y, grad_state)), None, None, None, None
    if grad_y is None:
        grad_y = u.new_zeros(u.shape)
    du, ddelta, dA, dB, dC, *optional = _scan_backward(
        grad_y,
        grad_state,
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        saved_states,
        ctx.softplus,
        ctx.backend,
        not ctx.absent[3],
    )
    dD, dz, dbias, dstate = (
        None if absent else grad for absent, grad in zip(ctx.absent, optional, strict=True)
    )
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dstate, None, None, None, None


_scan.register_autograd(_backward, setup_context=_setup_context)

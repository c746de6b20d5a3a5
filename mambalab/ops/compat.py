"""Functions with the signatures of mamba_ssm and causal_conv1d, on mambalab's operators.

    from mambalab.ops.compat import selective_scan_fn, causal_conv1d_fn

Their layout has time last, (b, d, l); these functions hand transposed views to our operators, which
want channels last, so a copy is made where memory is not already in that order.
"""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from mambalab.ops.causal_conv1d import causal_conv1d
from mambalab.ops.selective_scan import selective_scan


@overload
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    return_last_state: Literal[False] = ...,
) -> Tensor: ...
@overload
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    return_last_state: bool = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """mamba_ssm's `selective_scan_fn`, differentiable in every tensor, on any device.

    Args:
        u: (b, d, l).
        delta: (b, d, l).
        A: (d, n), real.
        B: (d, n) the same at each step, or (b, n, l), or (b, g, n, l) for g groups of channels.
            Constant matrices differ from channel to channel and are expanded to (b, l, d, n).
        C: one of the same three forms, not necessarily that of B.
        D: (d,).
        z: gate, (b, d, l).
        delta_bias: (d,).
        delta_softplus: delta = softplus(delta + delta_bias).
        return_last_state: also return the last state.

    Returns:
        y (b, d, l) in u's dtype; with `return_last_state` also the state (b, d, n) float32.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a complex A.
    """
    if any(x.is_complex() for x in (A, B, C)):
        raise ValueError("A, B and C must be real: complex state spaces are not supported")
    if u.dim() != 3:
        raise ValueError(f"u must be (B, D, L), not {tuple(u.shape)}")
    batch, d_inner, length = u.shape
    matrices = [_grouped(name, x, batch, length, d_inner) for name, x in (("B", B), ("C", C))]
    groups = math.lcm(*(x.shape[2] for x in matrices))
    if d_inner % groups:
        raise ValueError(f"{groups} groups of B and C do not divide {d_inner} channels")
    B, C = (x.repeat_interleave(groups // x.shape[2], dim=2).contiguous() for x in matrices)
    y, state = selective_scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        B,
        C,
        D=D,
        z=None if z is None else z.transpose(1, 2),
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        return_final_state=True,
    )
    out = y.transpose(1, 2)
    return (out, state) if return_last_state else out


def _grouped(name: str, x: Tensor, batch: int, length: int, d_inner: int) -> Tensor:
    """Convert B or C from any of its forms to (b, l, g, n)."""
    if x.dim() == 2 and x.shape[0] == d_inner:
        return x.expand(batch, length, *x.shape)
    if x.dim() == 3 and (x.shape[0], x.shape[2]) == (batch, length):
        return x.transpose(1, 2).unsqueeze(2)
    if x.dim() == 4 and (x.shape[0], x.shape[3]) == (batch, length):
        return x.permute(0, 3, 1, 2)
    raise ValueError(
        f"{name} must be ({d_inner}, N), ({batch}, N, {length}) or ({batch}, G, N, {length}), "
        f"not {tuple(x.shape)}"
    )


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """causal_conv1d's `causal_conv1d_fn`: x (b, d, l), weight (d, k), bias (d,) to (b, d, l).

    Raises:
        ValueError: shapes or devices that do not fit together, an unknown activation.
    """
    activation = "silu" if activation == "swish" else activation
    y = causal_conv1d(x.transpose(1, 2), weight, bias, activation)
    assert isinstance(y, torch.Tensor)
    return y.transpose(1, 2)

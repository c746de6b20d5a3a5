"""Functions with the signatures of mamba_ssm and causal_conv1d, on mambalab's operators.

    from mambalab.ops.compat import selective_scan_fn, causal_conv1d_fn

Their layout has time last, (b, d, l); these functions hand transposed views to our operators, which
want channels last, so a copy is made where memory is not already in that order. What is not here of
theirs is refused in one line: complex A, the extra norms of FalconMamba.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.common import check_real
from mambalab.ops.compat_conv import causal_conv1d_fn, causal_conv1d_update, check_seq_idx
from mambalab.ops.selective_scan import selective_scan

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_state_update",
]


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
    seq_idx: Tensor | None = ...,
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
    seq_idx: Tensor | None = ...,
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
    seq_idx: Tensor | None = None,
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
        seq_idx: (b, l) integers: the sequence of each step, for several packed into one row. The
            state is zero where it changes. (mamba_ssm has this for Mamba-2 only.)

    Returns:
        y (b, d, l) in u's dtype; with `return_last_state` also the state (b, d, n) float32.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a complex A.
    """
    out, state = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, seq_idx, "auto")
    return (out, state) if return_last_state else out


def selective_scan_ref(
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
    """mamba_ssm's `selective_scan_ref`: as `selective_scan_fn`, by a plain loop over the steps.

    Shapes, results and errors are those of `selective_scan_fn`; float64 stays float64.
    """
    out, state = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, None, "reference")
    return (out, state) if return_last_state else out


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    seq_idx: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Scan with time last: y (b, d, l) and the last state (b, d, n)."""
    if any(x.is_complex() for x in (A, B, C)):
        raise ValueError("A, B and C must be real: complex state spaces are not supported")
    if u.dim() != 3:
        raise ValueError(f"u must be (B, D, L), not {tuple(u.shape)}")
    batch, d_inner, length = u.shape
    for name, x in (("delta", delta), ("z", z)):
        if x is not None and x.shape != u.shape:
            raise ValueError(f"{name} must be {tuple(u.shape)}, not {tuple(x.shape)}")
    matrices = [_grouped(name, x, batch, length, d_inner) for name, x in (("B", B), ("C", C))]
    groups = math.lcm(*(x.shape[2] for x in matrices))
    if d_inner % groups:
        raise ValueError(f"{groups} groups of B and C do not divide {d_inner} channels")
    B, C = (x.repeat_interleave(groups // x.shape[2], dim=2).contiguous() for x in matrices)
    rows = [
        u.transpose(1, 2),
        delta.transpose(1, 2),
        B,
        C,
        None if z is None else z.transpose(1, 2),
    ]

    def scan(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> tuple[Any, Any]:
        y, state = selective_scan(
            *(u, delta, A, B, C, D, z, delta_bias, delta_softplus),
            return_final_state=True,
            backend=backend,
        )
        return y, state

    if seq_idx is not None:
        check_seq_idx(seq_idx, batch, length)
    if seq_idx is None or not u.numel():
        y, state = scan(*rows)
    else:
        y, state = _apart(scan, rows, seq_idx)
    return y.transpose(1, 2), state


def _apart(
    scan: Callable[..., tuple[Tensor, Tensor]], rows: list[Any], seq_idx: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan each sequence of packed rows from a zero state; return y and each row's last state.

    Sequences of similar length (up to twice) go together, filled up with zeros at their beginning,
    which leave a zero state zero.
    """
    batch, length, _ = rows[0].shape
    begins = torch.ones_like(seq_idx, dtype=torch.bool)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    number = begins.flatten().cumsum(0) - 1  # of the sequence that each step belongs to
    starts = begins.flatten().nonzero().flatten()
    sizes = starts.diff(append=starts.new_tensor([batch * length]))
    step = torch.arange(batch * length, device=starts.device) - starts[number]
    kinds = (2 * sizes - 1).float().log2().floor()  # 1, 2, 3-4, 5-8, ... steps
    last = number.view(batch, length)[:, -1]
    y, state = torch.zeros_like(rows[0]).flatten(0, 1), None
    for kind in kinds.unique():
        chosen = kinds == kind
        longest = int(sizes[chosen].max())
        at = chosen[number].nonzero().flatten()  # steps of these sequences
        place = (chosen.cumsum(0) - 1)[number[at]] * longest  # each sequence ends at its row's end
        place = place + longest - sizes[number[at]] + step[at]
        count = int(chosen.sum())
        parts = [_spread(x, at, place, count, longest) for x in rows]
        found, ends = scan(*parts)
        y = y.index_copy(0, at, found.flatten(0, 1)[place])
        if state is None:
            state = ends.new_zeros(len(starts), *ends.shape[1:])
        state = state.index_copy(0, chosen.nonzero().flatten(), ends)
    assert state is not None
    return y.view(rows[0].shape), state[last]


def _spread(x: Tensor | None, at: Tensor, place: Tensor, count: int, longest: int) -> Tensor | None:
    """Copy steps `at` of x (b, l, ...) to `place` in zeros (count, longest, ...)."""
    if x is None:
        return None
    steps = x.flatten(0, 1)[at]
    wide = steps.new_zeros(count * longest, *x.shape[2:])
    return wide.index_copy(0, place, steps).view(count, longest, *x.shape[2:])


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


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """mamba_ssm's `selective_state_update`: one step of the scan, the state updated in place.

    Args:
        state: (b, d, n), or (b, h, d, n) for h heads of d channels; overwritten.
        x: input, (b, d) or (b, h, d).
        dt: step sizes, shaped as x.
        A: (d, n) or (h, d, n), real.
        B: (b, n), or (b, g, n) for g groups of channels (of heads, if there are any).
        C: shaped as B.
        D: (d,) or (h, d).
        z: gate, shaped as x.
        dt_bias: (d,) or (h, d).
        dt_softplus: dt = softplus(dt + dt_bias).
        state_batch_indices: (b,) integers, all different: the rows of a larger `state` that belong
            to the sequences of x.

    Returns:
        y, shaped as x, in its dtype. Gradients flow through it and through the updated state.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    if state.dim() not in (3, 4):
        raise ValueError(f"state must be (B, D, N) or (B, H, D, N), not {tuple(state.shape)}")
    check_real(state=state)
    old = state.clone() if state_batch_indices is None else state[state_batch_indices]
    channels, d_state = tuple(old.shape[1:-1]), old.shape[-1]
    shapes = {
        "x": (x, tuple(old.shape[:-1])),
        "dt": (dt, tuple(old.shape[:-1])),
        "A": (A, (*channels, d_state)),
        "D": (D, channels),
        "z": (z, tuple(old.shape[:-1])),
        "dt_bias": (dt_bias, channels),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
    if B.dim() not in (2, 3):
        raise ValueError(f"B must be (B, N) or (B, G, N), not {tuple(B.shape)}")
    y, new = selective_scan(
        x.flatten(1)[:, None],
        dt.flatten(1)[:, None],
        A.flatten(0, -2),
        B[:, None],
        C[:, None],
        D=None if D is None else D.flatten(),
        z=None if z is None else z.flatten(1)[:, None],
        delta_bias=None if dt_bias is None else dt_bias.flatten(),
        delta_softplus=dt_softplus,
        initial_state=old.flatten(1, -2),
        return_final_state=True,
    )
    if state_batch_indices is None:
        state.copy_(new.view(old.shape))
    else:
        state[state_batch_indices] = new.view(old.shape).to(state.dtype)
    return y.view(x.shape)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """mamba_ssm's `mamba_inner_fn`: all of a Mamba mixer between its two projections, and the last.

    Args:
        xz: input and gate, (b, 2 d, l).
        conv1d_weight: (d, 1, k) or (d, k).
        conv1d_bias: (d,).
        x_proj_weight: (r + 2 n, d), for rank r of delta.
        delta_proj_weight: (d, r).
        out_proj_weight: (d_model, d).
        out_proj_bias: (d_model,).
        A: (d, n), real.
        B: as in `selective_scan_fn`; from x_proj if None.
        C: as B.
        D: (d,).
        delta_bias: (d,).
        B_proj_bias: (n,), added to B from x_proj.
        C_proj_bias: (n,), added to C from x_proj.
        delta_softplus: delta = softplus(delta + delta_bias).
        checkpoint_lvl: has no effect: what the backward needs is kept.
        b_rms_weight: must be None, and so must c_rms_weight and dt_rms_weight.
        b_c_dt_rms_eps: has no effect.
        seq_idx: (b, l) integers: the sequence of each step, for several packed into one row.

    Returns:
        (b, l, d_model).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, a complex A, or a norm of
            B, C or delta.
    """
    del checkpoint_lvl, b_c_dt_rms_eps
    if any(x is not None for x in (b_rms_weight, c_rms_weight, dt_rms_weight)):
        raise ValueError("norms of B, C and delta (FalconMamba's *_rms_weight) are not supported")
    if xz.dim() != 3 or xz.shape[1] % 2:
        raise ValueError(f"xz must be (B, 2 D, L), not {tuple(xz.shape)}")
    rank, d_state = delta_proj_weight.shape[1], A.shape[-1]
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight, conv1d_bias, seq_idx=seq_idx, activation="silu")
    assert isinstance(x, Tensor)
    projected = F.linear(x.transpose(1, 2), x_proj_weight)  # (b, l, r + 2 n)
    delta = F.linear(projected[..., :rank], delta_proj_weight)
    if B is None:
        B = projected[..., rank : rank + d_state]
        B = (B if B_proj_bias is None else B + B_proj_bias.to(B.dtype)).transpose(1, 2)
    if C is None:
        C = projected[..., projected.shape[-1] - d_state :]
        C = (C if C_proj_bias is None else C + C_proj_bias.to(C.dtype)).transpose(1, 2)
    y = selective_scan_fn(
        x, delta.transpose(1, 2), A, B, C, D, z, delta_bias, delta_softplus, seq_idx=seq_idx
    )
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)

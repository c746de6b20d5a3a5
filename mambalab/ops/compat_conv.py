"""causal_conv1d's functions, with its signatures, on mambalab's convolution; time is last."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.causal_conv1d import causal_conv1d
from mambalab.ops.common import check_real
from mambalab.ops.reference import compute_dtype


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | str | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """causal_conv1d's `causal_conv1d_fn`, differentiable in every tensor, on any device.

    Args:
        x: (b, d, l) with l >= 1, any floating dtype.
        weight: (d, k), or (d, 1, k) as `nn.Conv1d` has it.
        bias: (d,).
        seq_idx: (b, l) integers: the sequence of each step, for several packed into one row. A tap
            reaches steps of its own sequence only; where negative (padding) the output is zero.
        initial_states: (b, d, k - 1), the inputs before the first, newest last; zero if None.
        return_final_states: also return the last k - 1 inputs.
        final_states_out: (b, d, k - 1), to write them to.
        activation: None, "silu" or "swish". Also taken as the fourth argument, where the first
            versions of causal_conv1d had it.

    Returns:
        y (b, d, l) in x's dtype; with `return_final_states` also the states (b, d, k - 1).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; an unknown activation;
            states together with `seq_idx`.
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    activation = _activation(activation)
    weight = _flat(weight)
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError("seq_idx goes without initial_states and return_final_states")
        return _packed(x, weight, bias, seq_idx, activation)
    if final_states_out is not None and not return_final_states:
        raise ValueError("final_states_out needs return_final_states=True")
    y, states = causal_conv1d(
        _time_first(x), weight, bias, activation, initial_states, return_final_state=True
    )
    if not return_final_states:
        return y.transpose(1, 2)
    if final_states_out is not None:
        _same_shape("final_states_out", final_states_out, states.shape)
        states = final_states_out.copy_(states)
    return y.transpose(1, 2), states


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """causal_conv1d's `causal_conv1d_update`: go on by some steps and update the state in place.

    Args:
        x: (b, d), or (b, d, l).
        conv_state: (b, d, s), the last s >= k - 1 inputs, newest last; overwritten.
        weight: (d, k) or (d, 1, k).
        bias: (d,).
        activation: None, "silu" or "swish".
        cache_seqlens: (b,) integers, steps that each sequence has behind it. With it the state is
            a ring: step t is at t modulo s.
        conv_state_indices: (b,) integers, all different: the rows of a larger `conv_state` that
            belong to the sequences of x.

    Returns:
        y, shaped as x, in its dtype. Gradients flow through it and through the updated state.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; an unknown activation.
    """
    activation, weight = _activation(activation), _flat(weight)
    steps = x.unsqueeze(-1) if x.dim() == 2 else x
    if conv_state.dim() != 3 or conv_state.shape[2] < weight.shape[1] - 1:
        least = weight.shape[1] - 1
        found = tuple(conv_state.shape)
        raise ValueError(f"conv_state must be (B, D, S) with S >= {least}, not {found}")
    rows = conv_state.clone() if conv_state_indices is None else conv_state[conv_state_indices]
    if steps.dim() != 3 or rows.shape[:2] != steps.shape[:2]:
        found = tuple(rows.shape[:2])
        raise ValueError(f"x must be {found} or (*{found}, L), not {tuple(x.shape)}")
    before, after = _moved(rows, steps, weight.shape[1] - 1, cache_seqlens)
    y = causal_conv1d(_time_first(steps), weight, bias, activation, before)
    assert isinstance(y, Tensor)
    if conv_state_indices is None:
        conv_state.copy_(after)
    else:
        conv_state[conv_state_indices] = after
    return y.transpose(1, 2).view(x.shape)


def _moved(
    rows: Tensor, steps: Tensor, taps: int, cache_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the last `taps` inputs of a state (b, d, s), and the state after `steps` (b, d, l)."""
    size, length = rows.shape[2], steps.shape[2]
    steps = steps.to(rows.dtype)
    if cache_seqlens is None:
        return rows[:, :, size - taps :], torch.cat((rows, steps), dim=2)[:, :, length:]
    if not size:
        return rows, rows
    _same_shape("cache_seqlens", cache_seqlens, rows.shape[:1])

    def places(start: int, stop: int) -> Tensor:
        offsets = torch.arange(start, stop, device=rows.device)
        found = torch.remainder(cache_seqlens[:, None].long() + offsets, size)
        return found[:, None].expand(-1, rows.shape[1], -1)

    kept = min(length, size)  # of more steps than the ring holds the newest stay
    newest = steps[:, :, length - kept :]
    return rows.gather(2, places(-taps, 0)), rows.scatter(2, places(length - kept, length), newest)


def _packed(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor, activation: str | None
) -> Tensor:
    """Convolve rows (b, d, l) that hold several sequences; no tap reaches into another."""
    check_real(weight=weight, bias=bias)
    taps = weight.shape[1]
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x must be (B, D, L) and floating point, not {tuple(x.shape)} {x.dtype}")
    _same_shape("weight", weight, (x.shape[1], taps))
    check_seq_idx(seq_idx, x.shape[0], x.shape[2])
    wide, length = compute_dtype(x.dtype), x.shape[2]
    inputs = F.pad(x.to(wide), (taps - 1, 0))
    owners = F.pad(seq_idx, (taps - 1, 0), value=-1)
    y = torch.zeros_like(x, dtype=wide)
    for k in range(taps):
        own = ((owners[:, k : k + length] == seq_idx) & (seq_idx >= 0))[:, None]
        y = y + weight[:, k, None].to(wide) * inputs[:, :, k : k + length].where(own, 0.0)
    if bias is not None:
        y = y + bias[:, None].to(wide)
    if activation == "silu":
        y = F.silu(y)
    return y.where((seq_idx >= 0)[:, None], 0.0).to(x.dtype)


def check_seq_idx(seq_idx: Tensor, batch: int, length: int) -> None:
    """Raise ValueError unless `seq_idx` is (b, l) whole numbers."""
    _same_shape("seq_idx", seq_idx, (batch, length))
    if seq_idx.is_floating_point() or seq_idx.is_complex():
        raise ValueError(f"seq_idx must be whole numbers, not {seq_idx.dtype}")


def _same_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError, by name, for a shape that does not fit."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, not {tuple(x.shape)}")


def _activation(name: str | None) -> str | None:
    """Take "swish" for "silu"."""
    return "silu" if name == "swish" else name


def _flat(weight: Tensor) -> Tensor:
    """Take (d, 1, k) for (d, k)."""
    return weight.squeeze(1) if weight.dim() == 3 and weight.shape[1] == 1 else weight


def _time_first(x: Tensor) -> Tensor:
    """View (b, d, l) as (b, l, d).

    Raises:
        ValueError: another number of dimensions.
    """
    if x.dim() != 3:
        raise ValueError(f"x must be (B, D, L), not {tuple(x.shape)}")
    return x.transpose(1, 2)

"""Depthwise causal convolution over time, with SiLU, a state in and a state out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.backend import resolve
from mambalab.ops.reference import causal_conv1d_reference, compute_dtype


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Each channel of each step is a weighted sum of its last K inputs, differentiably.

    y_t = bias + sum_k weight[:, k] x_{t - (K - 1) + k}, then SiLU if `activation="silu"`.

    Args:
        x: (B, L, D) with L >= 1; float32, bfloat16, float16 or float64.
        weight: (D, K) with K >= 1; the last tap meets the newest input.
        bias: (D,).
        activation: None or "silu".
        initial_state: the K - 1 inputs before the first, (B, D, K - 1), newest last; zero if None.
        return_final_state: also return the last K - 1 inputs.
        backend: auto | triton | cpu | torch | reference.

    Returns:
        y (B, L, D) in x's dtype; with `return_final_state` also the state (B, D, K - 1), in x's
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
    with torch.autocast(x.device.type, enabled=False):
        if resolve(backend, x.device, x.dtype) == "reference":
            y, state = causal_conv1d_reference(x, weight, bias, activation, initial_state)
        else:
            y, state = _torch_conv(x, weight, bias, activation, initial_state)
    return (y, state) if return_final_state else y


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"x must be (B, L, D) with L >= 1, not {tuple(x.shape)}")
    if not x.dtype.is_floating_point:
        raise ValueError(f"x must be floating point, not {x.dtype}")
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


def _torch_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """torch's depthwise convolution, for any device; y and the last K - 1 inputs."""
    d_inner, taps = weight.shape
    if initial_state is None:
        padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
    else:
        padded = torch.cat([initial_state, x.transpose(1, 2)], dim=2)  # (B, D, K - 1 + L)
    y = F.conv1d(padded.to(weight.dtype), weight.unsqueeze(1), bias, groups=d_inner)
    if activation == "silu":
        y = F.silu(y)
    return y.transpose(1, 2).to(x.dtype), padded[:, :, x.shape[1] :]

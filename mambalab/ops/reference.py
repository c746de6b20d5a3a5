"""Reference implementations (oracles): a plain loop, any floating dtype, torch's autograd.

Nothing here is fast. Every other backend is tested against these two functions in float64.

Shapes: u, delta, z (b, l, d); A (d, n); B, C (b, l, n) or (b, l, g, n), where channel i belongs to
group i // (d / g); D, delta_bias (d,); state (b, d, n); x (b, l, d), weight (d, k), bias (d,), conv
state (b, d, k - 1), its last column the newest input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state and of all arithmetic: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def softplus(x: Tensor) -> Tensor:
    """Softplus log(1 + exp(x)), exact in both tails."""
    return F.softplus(x, threshold=40.0)


def per_channel(x: Tensor, channels: int) -> Tensor:
    """Expand (b, n) or (b, g, n) to (b, d, n), repeating each group for its channels."""
    if x.dim() == 2:
        return x.unsqueeze(1).expand(-1, channels, -1)
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def selective_scan_reference(
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
) -> tuple[Tensor, Tensor]:
    """Selective scan of Mamba (arXiv 2312.00752, Algorithm 2), one step after the other.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;  y_t = C_t h_t + D u_t;  y_t silu(z_t) if gated.

    Returns y (b, l, d) in u's dtype and the last state (b, d, n) in float32 (float64 for float64).
    """
    batch, length, d_inner = u.shape
    dtype = compute_dtype(u.dtype)
    inputs, steps, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        steps = steps + delta_bias.to(dtype)
    if delta_softplus:
        steps = softplus(steps)
    if initial_state is None:
        state = inputs.new_zeros(batch, d_inner, A.shape[1])
    else:
        state = initial_state.to(dtype)

    outputs = []
    for t in range(length):
        step = steps[:, t].unsqueeze(-1)  # (b, d, 1)
        drive = step * inputs[:, t].unsqueeze(-1) * per_channel(B[:, t], d_inner)
        state = torch.exp(step * A) * state + drive
        outputs.append((state * per_channel(C[:, t], d_inner)).sum(-1))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * inputs
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution, one tap after the other, then SiLU if `activation="silu"`.

    y_t = bias + sum_k weight[:, k] x_{t - (K - 1) + k}, reading `initial_state` before the start.

    Returns y (b, l, d) in x's dtype and the last k - 1 inputs as (b, d, k - 1), in x's dtype.
    """
    batch, length, d_inner = x.shape
    dtype = compute_dtype(x.dtype)
    taps = weight.shape[1]
    if initial_state is None:
        before = x.new_zeros(batch, taps - 1, d_inner)
    else:
        before = initial_state.to(x.dtype).transpose(1, 2)
    padded = torch.cat([before, x], dim=1)  # (b, k - 1 + l, d)
    y = x.new_zeros((batch, length, d_inner), dtype=dtype)
    for k in range(taps):
        y = y + weight[:, k].to(dtype) * padded[:, k : k + length].to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(x.dtype), padded[:, length:].transpose(1, 2)

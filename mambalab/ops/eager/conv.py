"""Causal convolution in plain PyTorch, one tap after the other: any device, any floating dtype.

Nothing but the inputs is saved for the backward. The functions are those of
`interface.ConvImplementation`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.interface import ConvGradients


def _padded(x: Tensor, weight: Tensor, initial_state: Tensor | None) -> Tensor:
    """Prepend the state or zeros to x: (b, k - 1 + l, d) in the weight's dtype."""
    x = x.to(weight.dtype)
    if initial_state is None:
        return F.pad(x, (0, 0, weight.shape[1] - 1, 0))
    return torch.cat([initial_state.transpose(1, 2).to(weight.dtype), x], dim=1)


def _convolved(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (b, k - 1 + l, d) with weight (d, k): (b, l, d), before SiLU."""
    taps = weight.shape[1]
    length = padded.shape[1] - taps + 1
    y = padded[:, :length] * weight[:, 0]
    for k in range(1, taps):
        y.addcmul_(padded[:, k : k + length], weight[:, k])
    return y if bias is None else y.add_(bias)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> Tensor:
    """Return y (b, l, d) in x's dtype: x (b, l, d) convolved with weight (d, k), then SiLU."""
    y = _convolved(_padded(x, weight, initial_state), weight, bias)
    return (F.silu(y) if silu else y).to(x.dtype)


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> ConvGradients:
    """Return the gradients, each in the dtype of its tensor, given that of y (b, l, d)."""
    length, taps = x.shape[1], weight.shape[1]
    padded = _padded(x, weight, initial_state)
    grad = grad_y.to(weight.dtype)
    if silu:
        y = _convolved(padded, weight, bias)
        share = torch.sigmoid(y)
        grad = grad * share * (1 + y * (1 - share))
    grad_padded = torch.zeros_like(padded)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for k in range(taps):
        grad_padded[:, k : k + length].addcmul_(grad, weight[:, k])
        grad_weight[:, k] = (grad * padded[:, k : k + length]).sum((0, 1))
    grad_state = None
    if initial_state is not None:
        grad_state = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
        grad_state.copy_(grad_padded[:, : taps - 1].transpose(1, 2))
    return ConvGradients(
        x=grad_padded[:, taps - 1 :].to(x.dtype).contiguous(),
        weight=grad_weight,
        bias=None if bias is None else grad.sum((0, 1)),
        initial_state=grad_state,
    )

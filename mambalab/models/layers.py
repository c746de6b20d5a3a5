"""RMS norm and feed-forward network, shared by the kinds of layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.ops import rms_norm


def as_built(linear: nn.Module) -> bool:
    """True if calling a linear layer would do no more than `F.linear` with its weight and bias.

    Not so with hooks, an adapter (LoRA), a parametrisation, a quantised layer in its place, or a
    `forward` put over its own.
    """
    return type(linear) is nn.Linear and untouched(linear)


def untouched(module: nn.Module) -> bool:
    """True if calling a module runs the forward of its class and nothing else.

    Not so with hooks on the module or on all modules, or a `forward` put over its own.
    """
    everywhere: Any = torch.nn.modules.module
    return not (
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
    )


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (arXiv 1910.07467).

    All arithmetic is float32 (float64 for float64); the result has the dtype of the weight, which
    is that of the projection after it.

    Args:
        d_model: size of the last dimension.
        eps: added to the mean square.
        wide: the result keeps the weight's dtype even under autocast; otherwise it has autocast's,
            which the matrix product after it would convert it to.
    """

    def __init__(self, d_model: int, eps: float, wide: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.wide = wide
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., d_model) of any floating dtype, to the weight's dtype or autocast's."""
        kind, dtype = x.device.type, self.weight.dtype
        if not self.wide and dtype != torch.float64 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return rms_norm(x, self.weight, self.eps, dtype)


class FeedForward(nn.Module):
    """FFN of a Transformer layer: two linear layers without biases, a GELU between them."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff, bias=False)
        self.fc2 = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model)."""
        return self.fc2(F.gelu(self.fc1(x)))

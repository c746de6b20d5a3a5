"""Norms, feed-forward networks and the patch embedding, shared by the kinds of layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.ops import rms_norm
from mambalab.ops.reference import compute_dtype


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
    """FFN of an A layer: two linear layers without biases, a GELU between them."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff, bias=False)
        self.fc2 = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Gated FFN (arXiv 2002.05202, section 2): W2 (silu(W1 x) * W3 x), no biases.

    W1 and W3 are one matrix, `fc1` (2 * d_ff, d_model), W1 first; W2 is `fc2`.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.fc2 = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model)."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (arXiv 1607.06450) over the last dimension, epsilon 1e-5.

    Arithmetic and result are float32 (float64 for float64), under autocast and in half models, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., d) of any floating dtype."""
        dtype = compute_dtype(x.dtype)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps)


class PatchEmbedding(nn.Module):
    """Embedding of patches: LayerNorm over a patch's values, linear, LayerNorm."""

    def __init__(self, input_dim: int, d_model: int) -> None:
        super().__init__()
        self.norm = LayerNorm(input_dim)
        self.linear = nn.Linear(input_dim, d_model)
        self.norm2 = LayerNorm(d_model)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (b, l, input_dim) to (b, l, d_model), at least float32."""
        return self.norm2(self.linear(self.norm(patches).to(patches.dtype)))

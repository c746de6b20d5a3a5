"""RMS norm and feed-forward network, shared by the kinds of layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.ops import rms_norm


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (arXiv 1910.07467), in float32.

    Args:
        d_model: size of the last dimension.
        eps: added to the mean square.
        wide: the result is float32 even under autocast; otherwise it has autocast's dtype, which
            the matrix product after it would convert it to.
    """

    def __init__(self, d_model: int, eps: float, wide: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.wide = wide
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., d_model) of any floating dtype; the result is float32 or autocast's."""
        kind = x.device.type
        narrow = not self.wide and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if narrow else torch.float32
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

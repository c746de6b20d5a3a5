"""Small parts shared by every kind of layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (arXiv 1910.07467), in float32.

    Args:
        d_model: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) of any floating dtype to (..., d_model) float32."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


class FeedForward(nn.Module):
    """Two matrices with a GELU between them, without biases."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff, bias=False)
        self.fc2 = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d_model) to (B, L, d_model)."""
        return self.fc2(F.gelu(self.fc1(x)))

"""`transformer_equal_depth` written plainly, to show that ours is not a slow one.

Layers of the same kind and size in nothing but PyTorch's own modules and functions, without
dropout, caches, masks or settings: what one writes by hand for a benchmark.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Layer(nn.Module):
    """Pre-norm attention with rotary positions, then an FFN with GELU; no biases."""

    def __init__(self, d_model: int, n_head: int, d_ff: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.norm1, self.norm2 = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, d_model = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.n_head, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, d_model))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class PlainTransformer(nn.Module):
    """(b, l) tokens to (b, l, vocabulary) logits; embedding and output share their weights."""

    def __init__(self, vocabulary: int, d_model: int, n_layer: int, n_head: int, d_ff: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, n_head, d_ff) for _ in range(n_layer))
        self.norm = nn.RMSNorm(d_model)
        self.head_dim = d_model // n_head

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, l) to logits (b, l, vocabulary)."""
        step = torch.arange(tokens.shape[1], device=tokens.device)
        power = torch.arange(0, self.head_dim, 2, device=tokens.device) / self.head_dim
        angle = step[:, None] * 10000.0**-power
        x = self.embedding(tokens)
        cos, sin = angle.cos(), angle.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight)

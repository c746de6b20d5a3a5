"""Multi-head self-attention with rotary positions: the mixer of the Transformer baseline."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.models import mamba
from mambalab.models.state import AttentionState, check_once
from mambalab.ops.reference import compute_dtype
from mambalab.settings.model import ModelSettings


class Attention(nn.Module):
    """Multi-head self-attention: fused qkv, rotary positions (arXiv 2104.09864), no biases.

    There is no dropout on the attention probabilities: with it PyTorch leaves its fast kernels.

    Args:
        settings: d_model, n_head, rope_theta and n_layer (for the scale of out_proj) are read.
        causal: False lets every position attend to the whole sequence.
    """

    def __init__(self, settings: ModelSettings, causal: bool = True) -> None:
        super().__init__()
        self.n_head = n_head(settings)
        self.head_dim = settings.d_model // self.n_head
        self.rope_theta = settings.rope_theta
        self.causal = causal
        self.in_proj = nn.Linear(settings.d_model, 3 * settings.d_model, bias=False)
        self.out_proj = nn.Linear(settings.d_model, settings.d_model, bias=False)

    def initial_state(self, batch_size: int, max_len: int) -> AttentionState:
        """Empty key-value cache for `max_len` positions."""
        shape = (batch_size, self.n_head, max_len, self.head_dim)
        weight: Any = self.in_proj.weight
        weight = weight() if callable(weight) else weight  # of a quantised layer
        kind = weight.device.type
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        if torch.is_autocast_enabled(kind):  # of what will be stored: no conversion at each step
            dtype = torch.get_autocast_dtype(kind)
        key, value = (torch.zeros(shape, dtype=dtype, device=weight.device) for _ in range(2))
        return AttentionState(key, value, [0] * batch_size)

    def forward(
        self, hidden: Tensor, state: AttentionState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model); continue from `state` and update it if given.

        Without `causal`, positions from `lengths` (b,) int64 on are not attended to.
        """
        batch, length, d_model = hidden.shape
        qkv = self.in_proj(hidden).view(batch, length, 3, self.n_head, self.head_dim)
        if state is not None:
            check_once(state)
        start = state.positions() if state else 0
        cos, sin = rotary_angles(
            start, length, self.head_dim, self.rope_theta, hidden.device, compute_dtype(qkv.dtype)
        )
        query, key = rotate(qkv[:, :, :2], cos, sin).permute(2, 0, 3, 1, 4).unbind(0)
        value = qkv[:, :, 2].transpose(1, 2)
        mask = None
        if lengths is not None and not self.causal:
            inside = torch.arange(length, device=hidden.device) < lengths[:, None]
            mask = inside[:, None, None]
        if state is not None:
            key, value, mask = state.append(key, value)
            key, value = key.to(query.dtype), value.to(query.dtype)
            if isinstance(start, int) and start and length > 1:
                seen = torch.arange(start + length, device=hidden.device)
                mask = seen <= start + torch.arange(length, device=hidden.device)[:, None]
        plain = self.causal and mask is None
        if length < 2:  # asked, not computed: compiled code takes no symbol for `is_causal`
            plain = False
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, d_model))


def rotary_angles(
    start: int | Tensor,
    length: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of positions start ... start + l - 1, (l, 1, 1, head_dim / 2) in `dtype`.

    With a `start` for each sequence, (b, 1, 1, 1, 1), both are (b, l, 1, 1, head_dim / 2).
    """
    exponent = torch.arange(0, head_dim, 2, dtype=dtype, device=device) / head_dim
    position = torch.arange(length, dtype=dtype, device=device)[:, None, None, None] + start
    angle = position * theta**-exponent
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim / 2) of x (b, l, 2, n_head, head_dim) by its angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def n_head(settings: ModelSettings) -> int:
    """Number of attention heads; `auto` makes heads of 64 channels where d_model allows it."""
    if settings.n_head != "auto":
        return int(settings.n_head)
    wanted = max(1, settings.d_model // 64)
    fitting = (n for n in range(wanted, 0, -1) if settings.d_model % (2 * n) == 0)
    return next(fitting, 1)  # an odd width has none; `ModelSettings.check` refuses it


def d_ff(settings: ModelSettings) -> int:
    """FFN width; `auto` gives the layer as many parameters as a Mamba layer of equal d_model."""
    if settings.d_ff != "auto":
        return int(settings.d_ff)
    d_model = settings.d_model
    spare = mamba.parameter_count(settings) - 4 * d_model**2 - d_model
    step = 16 if d_model >= 128 else 4
    return max(step, step * math.floor(spare / (2 * d_model) / step + 0.5))

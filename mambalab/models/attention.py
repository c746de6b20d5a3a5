"""Multi-head self-attention with rotary positions: the mixer of the Transformer baselines."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.models import mamba
from mambalab.models.layers import RMSNorm
from mambalab.models.state import AttentionState, check_once
from mambalab.ops.reference import compute_dtype
from mambalab.settings.model import ModelSettings, Rotary


class Attention(nn.Module):
    """Multi-head self-attention: fused qkv, rotary positions (arXiv 2104.09864), no biases.

    There is no dropout on the attention probabilities: with it PyTorch leaves its fast kernels.

    Args:
        settings: d_model, n_head, rope_theta, rotary, qk_norm and norm_eps are read.
        causal: False lets every position attend to the whole sequence.
        kind: letter of the layer, `A` or `S`: what `n_head=auto` means.
        grid: rows and columns of the patches that the steps are; None if they are none.

    Raises:
        UserError: `rotary=grid` without a grid; heads that rows and columns cannot share.
    """

    def __init__(
        self,
        settings: ModelSettings,
        causal: bool = True,
        kind: str = "A",
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.n_head = n_head(settings, kind)
        self.head_dim = settings.d_model // self.n_head
        self.rope_theta = settings.rope_theta
        self.columns = _columns(settings, grid, self.head_dim)
        self.causal = causal
        self.in_proj = nn.Linear(settings.d_model, 3 * settings.d_model, bias=False)
        self.out_proj = nn.Linear(settings.d_model, settings.d_model, bias=False)
        self.q_norm = self.k_norm = None
        if settings.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, settings.norm_eps)
            self.k_norm = RMSNorm(self.head_dim, settings.norm_eps)

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

    def split(self, qkv: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Split the output of in_proj, (b, l, 3 * d_model), into what the product takes.

        Args:
            qkv: of positions `start` ... `start` + l - 1.
            start: as `rotary_angles` takes it.

        Returns:
            Queries and keys, normalised and rotated, and values, each (b, n_head, l, head_dim).
        """
        batch, length, _ = qkv.shape
        qkv = qkv.view(batch, length, 3, self.n_head, self.head_dim)
        both = qkv[:, :, :2]
        if self.q_norm is not None and self.k_norm is not None:
            both = torch.stack((self.q_norm(qkv[:, :, 0]), self.k_norm(qkv[:, :, 1])), dim=2)
        cos, sin = rotary_angles(
            start,
            length,
            self.head_dim,
            self.rope_theta,
            qkv.device,
            compute_dtype(qkv.dtype),
            self.columns,
        )
        query, key = rotate(both, cos, sin).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, qkv[:, :, 2].transpose(1, 2)

    def forward(
        self, hidden: Tensor, state: AttentionState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model); continue from `state` and update it if given.

        Without `causal`, positions from `lengths` (b,) int64 on are not attended to.
        """
        batch, length, d_model = hidden.shape
        if state is not None:
            check_once(state)
        start = state.positions() if state else 0
        query, key, value = self.split(self.in_proj(hidden), start)
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
    columns: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of positions start ... start + l - 1, (l, 1, 1, head_dim / 2) in `dtype`.

    With a `start` for each sequence, (b, 1, 1, 1, 1), both are (b, l, 1, 1, head_dim / 2). With
    `columns` position p is a patch of a grid: the first half of the angles is that of its row,
    p // columns, the second that of its column, p % columns.
    """
    width = head_dim if columns is None else head_dim // 2  # channels that one count turns
    exponent = torch.arange(0, width, 2, dtype=dtype, device=device) / width
    position = torch.arange(length, dtype=dtype, device=device)[:, None, None, None] + start
    if columns is None:
        angle = position * theta**-exponent
    else:
        places = position.div(columns, rounding_mode="floor"), position.remainder(columns)
        angle = torch.cat([place * theta**-exponent for place in places], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim / 2) of x (b, l, 2, n_head, head_dim) by its angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _columns(settings: ModelSettings, grid: tuple[int, int] | None, head_dim: int) -> int | None:
    """Columns of the grid by which positions turn queries and keys; None: by the sequence."""
    if settings.rotary is Rotary.sequence or (settings.rotary is Rotary.auto and grid is None):
        return None
    if grid is None:
        raise UserError(
            "model.rotary=grid: the steps of this task are no grid of patches (rows and columns, "
            "more than one of each); use model.rotary=sequence"
        )
    if head_dim % 4:
        raise UserError(
            f"model.rotary={settings.rotary.name}: rows and columns of patches need heads whose "
            f"width is a multiple of 4, model.d_model={settings.d_model} and model.n_head="
            f"{settings.n_head} give {head_dim}; change one of them, or use model.rotary=sequence"
        )
    return grid[1]


def n_head(settings: ModelSettings, kind: str = "A") -> int:
    """Number of attention heads in a layer of `kind`, `A` or `S`.

    `auto` makes heads of 64 channels where d_model allows it; in an S layer at least four from
    d_model 64 on, heads of 16 below. Heads are of even width, in S layers of a multiple of 4 if
    they can be.
    """
    if settings.n_head != "auto":
        return int(settings.n_head)
    d_model = settings.d_model
    wanted = max(1, d_model // 64)
    if kind == "A":
        fitting = (n for n in range(wanted, 0, -1) if d_model % (2 * n) == 0)
        return next(fitting, 1)  # an odd width has none; `ModelSettings.check` refuses it
    wanted = max(wanted, min(4, d_model // 16), 1)
    nearest = [*range(wanted, 2 * wanted + 1), *range(wanted - 1, 0, -1)]
    fitting = (n for part in (4, 2) for n in nearest if d_model % (part * n) == 0)
    return next(fitting, 1)


def d_ff(settings: ModelSettings) -> int:
    """FFN width of an A layer; `auto` gives it as many parameters as a Mamba layer has."""
    d_model = settings.d_model
    return _width(settings, mamba.parameter_count(settings) - 4 * d_model**2 - d_model, 2)


def gated_d_ff(settings: ModelSettings) -> int:
    """FFN width of an F layer; `auto` gives it and an S layer as many parameters as two Mamba
    layers have."""
    scales = 2 * (settings.d_model // n_head(settings, "S")) if settings.qk_norm else 0
    attention = 4 * settings.d_model**2 + scales
    return _width(settings, 2 * mamba.parameter_count(settings) - attention, 3)


def _width(settings: ModelSettings, spare: int, matrices: int) -> int:
    """FFN width: as given, or what spends `spare` parameters on so many matrices, rounded."""
    if settings.d_ff != "auto":
        return int(settings.d_ff)
    d_model = settings.d_model
    step = 16 if d_model >= 128 else 4
    return max(step, step * math.floor(spare / (matrices * d_model) / step + 0.5))

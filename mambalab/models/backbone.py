"""One backbone for every model: layers whose kinds follow a pattern such as M, A or MMA."""

import math
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.models.attention import Attention, d_ff
from mambalab.models.dropout import NO_DROPOUT, Dropout, SSMDropout
from mambalab.models.layers import FeedForward, RMSNorm
from mambalab.models.mamba import Mamba
from mambalab.models.state import LayerState, ModelState
from mambalab.ops.reference import compute_dtype
from mambalab.settings.model import DropoutSettings, ModelSettings
from mambalab.spec import ModelSpec


class MambaBlock(nn.Module):
    """Residual block of a Mamba layer: norm -> Mamba -> dropout, added to the residual stream.

    Args:
        settings: all that `Mamba` reads, and norm_eps.
        dropout: probabilities at training time; none by default.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings | None = None) -> None:
        super().__init__()
        dropout = dropout or NO_DROPOUT
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mixer = Mamba(settings, SSMDropout(dropout.ssm_p, dropout.reset_A))
        self.dropout = Dropout(dropout.p)

    def forward(
        self, hidden: Tensor, state: LayerState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to the same; continue from `state` and update it if given."""
        return hidden + self.dropout(self.mixer(self.norm(hidden), state, lengths))


class AttentionBlock(nn.Module):
    """Residual block of a Transformer layer: attention, then an FFN.

    norm -> attention -> dropout and norm -> FFN -> dropout are each added to the residual stream.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, causal: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mixer = Attention(settings, causal)
        self.norm2 = RMSNorm(settings.d_model, settings.norm_eps)
        self.mlp = FeedForward(settings.d_model, d_ff(settings))
        self.dropout = Dropout(dropout.p)
        # GPT-2's initialisation: each layer adds to the residual stream twice.
        for linear in (self.mixer.in_proj, self.mlp.fc1):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.mixer.out_proj, self.mlp.fc2):
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * settings.n_layer))

    def forward(
        self, hidden: Tensor, state: LayerState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to the same; continue from `state` and update it if given."""
        hidden = hidden + self.dropout(self.mixer(self.norm(hidden), state, lengths))
        return hidden + self.dropout(self.mlp(self.norm2(hidden)))


class Backbone(nn.Module):
    """Embedding, layers, final norm: maps tokens or vectors to features (b, l, d_model).

    Tokens are looked up in a table, vectors (pixels, patches) go through a linear layer. Learned
    positions, with `position_embedding`, are added to either; they make `spec.seq_len` the longest
    input.

    Args:
        settings: sizes and the layer pattern.
        dropout: probabilities at training time.
        spec: vocab_size, or input_dim, and seq_len are read.
        causal: False lets attention layers see the whole sequence.
    """

    def __init__(
        self,
        settings: ModelSettings,
        dropout: DropoutSettings,
        spec: ModelSpec,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if spec.input_dim:
            self.embedding = nn.Linear(spec.input_dim, settings.d_model)
        else:
            self.embedding = nn.Embedding(spec.vocab_size, settings.d_model)
            nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = None
        if settings.position_embedding:
            self.positions = nn.Parameter(0.02 * torch.randn(spec.seq_len, settings.d_model))
        self.dropout = Dropout(dropout.p)
        blocks = {
            "M": lambda: MambaBlock(settings, dropout),
            "A": lambda: AttentionBlock(settings, dropout, causal),
        }
        kinds = islice(cycle(settings.pattern), settings.n_layer)
        self.layers = nn.ModuleList(blocks[kind]() for kind in kinds)
        self.norm_f = RMSNorm(settings.d_model, settings.norm_eps, wide=True)

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State of all layers at the start of sequences of at most `max_len` tokens."""
        mixers: list[Any] = [layer.mixer for layer in self.layers]
        return ModelState([mixer.initial_state(batch_size, max_len) for mixer in mixers])

    def forward(
        self, inputs: Tensor, state: ModelState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map tokens (b, l) int64 or vectors (b, l, input_dim) to features (b, l, d_model).

        Features are float32, or what the parameters are converted to; the stream of sums, into and
        out of every layer, is at least float32, whatever the inputs and autocast. Continues from
        `state` and updates it if given: in place without gradients. Inputs beyond `lengths` (b,)
        int64 do not affect features before it.
        """
        hidden = self.embedding(inputs)
        hidden = hidden.to(compute_dtype(hidden.dtype))  # half under autocast, or as its weights
        if self.positions is not None:
            hidden = hidden + self.positions[: hidden.shape[1]]
        hidden = self.dropout(hidden)
        states = state.layers if state else [None] * len(self.layers)
        for layer, layer_state in zip(self.layers, states, strict=True):
            hidden = layer(hidden, layer_state, lengths)
        return self.norm_f(hidden)

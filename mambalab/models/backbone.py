"""One backbone for every model: layers whose kinds follow a pattern such as M, A or MMA."""

import math
from itertools import cycle, islice
from typing import Any

from torch import Tensor, nn

from mambalab.models.attention import Attention, d_ff
from mambalab.models.dropout import Dropout, SSMDropout
from mambalab.models.layers import FeedForward, RMSNorm
from mambalab.models.mamba import Mamba
from mambalab.models.settings import DropoutSettings, ModelSettings
from mambalab.models.state import LayerState, ModelState


class MambaBlock(nn.Module):
    """norm -> Mamba -> dropout, added to the residual stream."""

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings) -> None:
        super().__init__()
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mixer = Mamba(settings, SSMDropout(dropout.ssm_p, dropout.reset_A))
        self.dropout = Dropout(dropout.p)

    def forward(self, hidden: Tensor, state: LayerState | None = None) -> Tensor:
        """(B, L, d_model) float32 to the same."""
        return hidden + self.dropout(self.mixer(self.norm(hidden), state))


class AttentionBlock(nn.Module):
    """norm -> attention -> dropout, then norm -> FFN -> dropout, each added to the residual."""

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

    def forward(self, hidden: Tensor, state: LayerState | None = None) -> Tensor:
        """(B, L, d_model) float32 to the same."""
        hidden = hidden + self.dropout(self.mixer(self.norm(hidden), state))
        return hidden + self.dropout(self.mlp(self.norm2(hidden)))


class Backbone(nn.Module):
    """Embedding, layers, final norm: (B, L) tokens to (B, L, d_model) features.

    Args:
        settings: sizes and the layer pattern.
        dropout: probabilities at training time.
        vocab_size: rows of the embedding.
        causal: False lets attention layers see the whole sequence.
    """

    def __init__(
        self,
        settings: ModelSettings,
        dropout: DropoutSettings,
        vocab_size: int,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, settings.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = Dropout(dropout.p)
        blocks = {
            "M": lambda: MambaBlock(settings, dropout),
            "A": lambda: AttentionBlock(settings, dropout, causal),
        }
        kinds = islice(cycle(settings.pattern), settings.n_layer)
        self.layers = nn.ModuleList(blocks[kind]() for kind in kinds)
        self.norm_f = RMSNorm(settings.d_model, settings.norm_eps)

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """States of all layers at the start of a sequence of at most `max_len` tokens."""
        mixers: list[Any] = [layer.mixer for layer in self.layers]
        return ModelState([mixer.initial_state(batch_size, max_len) for mixer in mixers])

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """(B, L) int64 to (B, L, d_model) float32; updates `state` in place if given."""
        hidden = self.dropout(self.embedding(tokens))
        states = state.layers if state else [None] * len(self.layers)
        for layer, layer_state in zip(self.layers, states, strict=True):
            hidden = layer(hidden, layer_state)
        return self.norm_f(hidden)

"""One backbone for every model: layers whose kinds follow a pattern such as M, SF or MMA."""

import math
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.models.attention import Attention, d_ff, gated_d_ff
from mambalab.models.dropout import NO_DROPOUT, Dropout, SSMDropout
from mambalab.models.layers import FeedForward, PatchEmbedding, RMSNorm, SwiGLU
from mambalab.models.mamba import Mamba
from mambalab.models.state import EmptyState, LayerState, ModelState, check_once
from mambalab.ops.reference import compute_dtype
from mambalab.settings.model import DropoutSettings, ModelSettings
from mambalab.spec import ModelSpec


class MixerBlock(nn.Module):
    """Residual block around a mixer: norm -> mixer -> dropout, added to the residual stream.

    Args:
        settings: d_model and norm_eps are read.
        mixer: of an M or S layer.
        p: probability of dropout at training time.
    """

    def __init__(self, settings: ModelSettings, mixer: Mamba | Attention, p: float) -> None:
        super().__init__()
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mixer: Any = mixer
        self.dropout = Dropout(p)

    def forward(
        self, hidden: Tensor, state: LayerState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to the same; continue from `state` and update it if given."""
        return self.dropout.add(hidden, self.mixer(self.norm(hidden), state, lengths))

    def initial_state(self, batch_size: int, max_len: int) -> LayerState:
        """State at the start of sequences of at most `max_len` tokens."""
        return self.mixer.initial_state(batch_size, max_len)


class MambaBlock(MixerBlock):
    """Residual block of an M layer.

    Args:
        settings: all that `Mamba` reads, and norm_eps.
        dropout: probabilities at training time; none by default.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings | None = None) -> None:
        dropout = dropout or NO_DROPOUT
        mixer = Mamba(settings, SSMDropout(dropout.ssm_p, dropout.reset_A))
        super().__init__(settings, mixer, dropout.p)


class SelfAttentionBlock(MixerBlock):
    """Residual block of an S layer.

    Args:
        settings, causal, grid: as `Attention` takes them.
        dropout: probabilities at training time.
    """

    def __init__(
        self,
        settings: ModelSettings,
        dropout: DropoutSettings,
        causal: bool,
        grid: tuple[int, int] | None = None,
    ) -> None:
        mixer = Attention(settings, causal, "S", grid)
        _initialise(mixer.in_proj, mixer.out_proj, settings)
        super().__init__(settings, mixer, dropout.p)


class FeedForwardBlock(nn.Module):
    """Residual block of an F layer: norm -> SwiGLU -> dropout, added to the residual stream."""

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings) -> None:
        super().__init__()
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mlp = SwiGLU(settings.d_model, gated_d_ff(settings))
        self.dropout = Dropout(dropout.p)
        _initialise(self.mlp.fc1, self.mlp.fc2, settings)

    def initial_state(self, batch_size: int, max_len: int) -> LayerState:
        """Nothing: each position is mapped by itself."""
        del batch_size, max_len
        return EmptyState()

    def forward(
        self, hidden: Tensor, state: LayerState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to the same; `state` and `lengths` change nothing."""
        del state, lengths
        return self.dropout.add(hidden, self.mlp(self.norm(hidden)))


def _initialise(inner: nn.Linear, outer: nn.Linear, settings: ModelSettings) -> None:
    """Draw the weights of an S or F layer: what enters it, and what it adds to the stream.

    Normal with standard deviation 0.02 as in GPT-2 and Llama, and as the embedding: outputs are
    divided by the square root of the number of additions to the stream (GPT-2, section 2.3).
    """
    # 0.02 was chosen for widths of 768 and more; 1 / sqrt(d_model), 0.07 to 0.13 at widths of 64
    # to 192, is the alternative. Measured at width 128 on tiny Shakespeare, it was worse: the
    # embedding starts at 0.02, and larger layers drown it.
    additions = settings.n_layer + settings.layers().count("A")
    nn.init.normal_(inner.weight, std=0.02)
    nn.init.normal_(outer.weight, std=0.02 / math.sqrt(additions))


class AttentionBlock(nn.Module):
    """Residual block of an A layer: attention, then an FFN with a GELU.

    norm -> attention -> dropout and norm -> FFN -> dropout are each added to the residual stream.
    """

    def __init__(
        self,
        settings: ModelSettings,
        dropout: DropoutSettings,
        causal: bool,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(settings.d_model, settings.norm_eps)
        self.mixer = Attention(settings, causal, "A", grid)
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
        hidden = self.dropout.add(hidden, self.mixer(self.norm(hidden), state, lengths))
        return self.dropout.add(hidden, self.mlp(self.norm2(hidden)))

    def initial_state(self, batch_size: int, max_len: int) -> LayerState:
        """Empty key-value cache for `max_len` positions."""
        return self.mixer.initial_state(batch_size, max_len)


class Backbone(nn.Module):
    """Embedding, layers, final norm: maps tokens or vectors to features (b, l, d_model).

    Tokens are looked up in a table, vectors (pixels, patches) go through a linear layer, with
    `patch_norm` between two LayerNorms. Learned positions, with `position_embedding`, are added to
    either; they make `spec.seq_len` the longest input.

    Args:
        settings: sizes and the layer pattern.
        dropout: probabilities at training time.
        spec: vocab_size, or input_dim, seq_len and the grid of patches are read.
        causal: False lets attention layers see the whole sequence.

    Raises:
        UserError: `patch_norm=true` for what it cannot norm; and as `Attention` does.
    """

    def __init__(
        self,
        settings: ModelSettings,
        dropout: DropoutSettings,
        spec: ModelSpec,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embedding: Any
        if _has_patch_norm(settings, spec):
            self.embedding = PatchEmbedding(spec.input_dim, settings.d_model)
        elif spec.input_dim:
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
            "S": lambda: SelfAttentionBlock(settings, dropout, causal, spec.grid),
            "F": lambda: FeedForwardBlock(settings, dropout),
            "A": lambda: AttentionBlock(settings, dropout, causal, spec.grid),
        }
        kinds = islice(cycle(settings.pattern), settings.n_layer)
        self.layers = nn.ModuleList(blocks[kind]() for kind in kinds)
        self.norm_f = RMSNorm(settings.d_model, settings.norm_eps, wide=True)

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State of all layers at the start of sequences of at most `max_len` tokens."""
        layers: list[Any] = list(self.layers)
        states = [layer.initial_state(batch_size, max_len) for layer in layers]
        return ModelState(states, None if self.positions is None else [0] * batch_size)

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
            hidden = hidden + self.next_positions(hidden.shape[1], state)
        hidden = self.dropout(hidden)
        states = state.layers if state else [None] * len(self.layers)
        for layer, layer_state in zip(self.layers, states, strict=True):
            hidden = layer(hidden, layer_state, lengths)
        if state is not None:
            state.advance(hidden.shape[1])
        return self.norm_f(hidden)

    def next_positions(self, length: int, state: ModelState | None) -> Tensor:
        """Look up the learned positions of the steps that come next.

        Returns:
            (length, d_model), or (b, length, d_model) if sequences have read unequally much.

        Raises:
            ValueError: more steps than there are positions, or `state` does not count steps.
            RuntimeError: as `check_once`.
        """
        assert self.positions is not None, "with model.position_embedding only"
        starts, places = [0], None
        if state is not None:
            check_once(state)
            starts, places = state.counts() or starts, state.places  # none in a batch of none
        if places is None:
            self.check_positions(max(starts) + length)
            if min(starts) == max(starts):
                return self.positions[starts[0] : starts[0] + length]
            places = torch.tensor(starts, device=self.positions.device)
        return self.positions[places[:, None] + torch.arange(length, device=places.device)]

    def check_positions(self, last: int) -> None:
        """Raise ValueError if learned positions end before a sequence has `last` steps."""
        if self.positions is not None and last > len(self.positions):
            raise ValueError(f"the model has learnt {len(self.positions)} positions, not {last}")


def _has_patch_norm(settings: ModelSettings, spec: ModelSpec) -> bool:
    """Whether LayerNorms stand before and after the embedding of vectors.

    Raises:
        UserError: `patch_norm=true` for tokens, or for steps of one value, of which a norm leaves
            nothing.
    """
    if settings.patch_norm == "auto":
        return spec.grid is not None and spec.input_dim > 1
    if settings.patch_norm and spec.input_dim < 2:
        given = "steps of one value, of which a norm leaves 0" if spec.input_dim else "tokens"
        raise UserError(
            f"model.patch_norm=true: this task gives {given}; use model.patch_norm=auto or false"
        )
    return bool(settings.patch_norm)

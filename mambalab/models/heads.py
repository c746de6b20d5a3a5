"""Heads: models that map the backbone's features to the outputs of a task."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.models.backbone import Backbone
from mambalab.models.state import ModelState
from mambalab.settings.model import DropoutSettings, ModelSettings, Pooling
from mambalab.spec import ModelSpec


class LanguageModel(nn.Module):
    """Language model: next-token prediction on a causal backbone.

    Args:
        settings: the backbone; `tie_embeddings` shares the embedding with the output projection.
        dropout: probabilities at training time.
        spec: vocabulary and training length of the task.

    Attributes:
        context_limit: length of the training sequences, beyond which attention with rotary
            positions degrades, and learned positions end; None for models of Mamba layers only
            without these, which have no limit.

    Raises:
        UserError: bidirectional (it would see what it has to predict), or learned positions where
            sequences can be of any length.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, spec: ModelSpec) -> None:
        super().__init__()
        if settings.bidirectional and "M" in settings.layers():
            raise UserError(
                "model.bidirectional=true: this task predicts each token from those before it; "
                "use model.bidirectional=false"
            )
        if settings.position_embedding and not spec.fixed:
            raise UserError(
                "model.position_embedding=true: learned positions are for sequences of one length "
                "(pictures, classification); texts go on without end, and attention has rotary "
                "positions here, Mamba needs none"
            )
        self.backbone = Backbone(settings, dropout, spec)
        self.lm_head = nn.Linear(settings.d_model, spec.vocab_size, bias=False)
        if settings.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        limited = settings.attends() or settings.position_embedding
        self.context_limit = spec.seq_len if limited else None

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State at the start of `batch_size` sequences of at most `max_len` tokens."""
        return self.backbone.initial_state(batch_size, max_len)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """Map tokens (b, l) int64 to logits (b, l, v); `state` is continued from and updated."""
        return self.lm_head(self.backbone(tokens, state))

    def last_logits(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """Compute the logits (b, v) of the token after the last one; `state` as in `forward`."""
        return self.lm_head(self.backbone(tokens, state)[:, -1])


class Denoiser(nn.Module):
    """Model of hidden tokens: each position's own token, predicted from the whole sequence.

    Attention layers see all positions; Mamba layers read the sequence from both ends, and without
    any `d_ff=auto` matches such a one.

    Args:
        settings: the backbone; `tie_embeddings` shares the embedding with the output projection.
        dropout: probabilities at training time.
        spec: vocabulary and training length of the task.

    Raises:
        UserError: no layer sees what comes after a position.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, spec: ModelSpec) -> None:
        super().__init__()
        if not settings.bidirectional and not settings.attends():
            raise UserError(
                "model.bidirectional=false: this task fills in what is hidden from both sides, and "
                f"model={settings.name} reads one way only; use model.bidirectional=true, or a "
                "model with attention"
            )
        if "M" not in settings.layers():  # FFNs as wide as beside the Mamba that can do this task
            settings = replace(settings, bidirectional=True)
        self.backbone = Backbone(settings, dropout, spec, causal=False)
        self.lm_head = nn.Linear(settings.d_model, spec.vocab_size, bias=False)
        if settings.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, l) int64, some of them hidden, to logits (b, l, v) of what stands there.

        Logits of tokens that are no values, such as the mask, mean nothing: the task leaves them
        out.
        """
        return self.lm_head(self.backbone(tokens))


class Classifier(nn.Module):
    """Classifier of sequences: features pooled over the true length, then a linear layer.

    Attention layers see the whole sequence; Mamba layers read it from the start, and from the end,
    too, with `bidirectional`.

    Args:
        settings: the backbone, and how to pool.
        dropout: probabilities at training time.
        spec: inputs, training length and classes of the task.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = Backbone(settings, dropout, spec, causal=False)
        self.pooling = settings.pooling
        self.head = nn.Linear(settings.d_model, spec.classes)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map tokens (b, l) or vectors (b, l, input_dim) to logits (b, classes).

        Inputs beyond `lengths` (b,) int64 >= 1 are ignored; None means no padding.
        """
        features = self.backbone(inputs, lengths=lengths)
        return self.head(pool(features, lengths, self.pooling))


class PairClassifier(nn.Module):
    """Classifier of pairs of sequences (LRA retrieval, arXiv 2011.04006, section 2.2.3).

    Both go through the same backbone; a small network compares the pooled vectors u and v as
    [u, v, u * v, |u - v|].

    Args:
        settings: the backbone, and how to pool.
        dropout: probabilities at training time.
        spec: inputs, training length and classes of the task.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = Backbone(settings, dropout, spec, causal=False)
        self.pooling = settings.pooling
        self.compare = nn.Linear(4 * settings.d_model, 2 * settings.d_model)
        self.head = nn.Linear(2 * settings.d_model, spec.classes)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map (b, 2, l) tokens or (b, 2, l, input_dim) vectors, lengths (b, 2), to (b, classes)."""
        ends = None if lengths is None else lengths.flatten()
        features = self.backbone(inputs.flatten(0, 1), lengths=ends)
        first, second = pool(features, ends, self.pooling).unflatten(0, (-1, 2)).unbind(1)
        both = torch.cat((first, second, first * second, (first - second).abs()), dim=-1)
        return self.head(F.gelu(self.compare(both)))


def pool(features: Tensor, lengths: Tensor | None, pooling: Pooling) -> Tensor:
    """Pool features (b, l, d_model) to one vector (b, d_model) a sequence, padding left out.

    Args:
        features: of all steps.
        lengths: (b,) int64 true lengths >= 1, or None if all are l.
        pooling: mean of all steps, the last step, or the maximum of each channel.
    """
    if lengths is None:
        if pooling is Pooling.mean:
            return features.mean(1)
        return features[:, -1] if pooling is Pooling.last else features.amax(1)
    if pooling is Pooling.last:
        return features[torch.arange(len(features), device=features.device), lengths - 1]
    outside = torch.arange(features.shape[1], device=features.device) >= lengths[:, None]
    if pooling is Pooling.max:
        return features.masked_fill(outside[..., None], float("-inf")).amax(1)
    return features.masked_fill(outside[..., None], 0.0).sum(1) / lengths[:, None]


def head_class(spec: ModelSpec) -> type[nn.Module]:
    """Choose the class of model that a task needs (`model._target_=auto`)."""
    if not spec.classes:
        return Denoiser if spec.masked else LanguageModel
    return PairClassifier if spec.pair else Classifier


def count_parameters(model: nn.Module) -> int:
    """Count trainable parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)

"""Heads: what turns the backbone's features into a task's outputs."""

from torch import Tensor, nn

from mambalab.models.backbone import Backbone
from mambalab.models.settings import DropoutSettings, ModelSettings
from mambalab.models.state import ModelState
from mambalab.spec import ModelSpec


class LanguageModel(nn.Module):
    """Next-token prediction on a causal backbone.

    Args:
        settings: the backbone; `tie_embeddings` shares the embedding with the output projection.
        dropout: probabilities at training time.
        spec: vocabulary and training length of the task.

    Attributes:
        context_limit: longest sequence the model was trained for, or None where any length will
            do (Mamba); attention with rotary positions degrades beyond it.
    """

    def __init__(self, settings: ModelSettings, dropout: DropoutSettings, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = Backbone(settings, dropout, spec.vocab_size)
        self.lm_head = nn.Linear(settings.d_model, spec.vocab_size, bias=False)
        if settings.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        self.context_limit = spec.seq_len if "A" in settings.pattern else None

    def initial_state(self, batch_size: int, max_len: int) -> ModelState:
        """State at the start of `batch_size` sequences of at most `max_len` tokens."""
        return self.backbone.initial_state(batch_size, max_len)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        """(B, L) int64 tokens to (B, L, V) logits; continues from and updates `state` if given."""
        return self.lm_head(self.backbone(tokens, state))


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)

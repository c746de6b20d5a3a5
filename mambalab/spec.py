"""What a task asks of a model: the only thing both sides must agree on before they meet."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a task, as seen by the model that is built for it.

    Attributes:
        vocab_size: number of distinct tokens; the model maps (B, L) int64 tokens to
            (B, L, vocab_size) logits of the next token.
        seq_len: L during training; an upper bound only for models that need one.
    """

    vocab_size: int
    seq_len: int

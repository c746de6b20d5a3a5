"""What a task asks of a model: the only thing both sides must agree on before they meet."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a task, as seen by the model that is built for it.

    *Inputs*: (B, L) int64 tokens below `vocab_size`, or (B, L, input_dim) float32 vectors; just
    one of the two sizes is set. *Outputs*: (B, L, vocab_size) logits of the next token, or, with
    `classes`, (B, classes) logits of what the whole sequence is. A classifier is called as
    `model(inputs, lengths)`: `lengths` (B,) int64 tells where each sequence ends, None that none
    is padded. With `pair` it sees two sequences at once: inputs (B, 2, L[, input_dim]), lengths
    (B, 2).

    Attributes:
        vocab_size: number of distinct tokens; 0 if the inputs are vectors.
        seq_len: L during training; an upper bound only for models that need one.
        input_dim: values in a step; 0 if the inputs are tokens.
        classes: number of classes; 0 for next-token prediction.
        pair: whether the class is that of two sequences.
    """

    vocab_size: int
    seq_len: int
    input_dim: int = 0
    classes: int = 0
    pair: bool = False

    def __post_init__(self) -> None:
        assert (self.vocab_size > 0) != (self.input_dim > 0), "tokens or vectors, not both"
        assert self.classes or not (self.input_dim or self.pair), "only tokens have a next one"

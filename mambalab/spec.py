"""`ModelSpec`, what a task asks of a model: the only thing that tasks and models share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """Inputs and outputs of a task, for the model that is built for it.

    *Inputs*: tokens (b, l) int64 below `vocab_size`, or vectors (b, l, input_dim) float32; just
    one of the two sizes is set. *Outputs*: logits of the next token (b, l, vocab_size), or, with
    `classes`, logits of the class of the whole sequence (b, classes). A classifier is called as
    `model(inputs, lengths)`: `lengths` (b,) int64 is where each sequence ends, None if none is
    padded. With `pair` it gets two sequences at once: inputs (b, 2, l[, input_dim]), lengths
    (b, 2). With `masked` the logits at a position are of its own token, told from the whole
    sequence, in which the last token of the vocabulary, `mask`, hides others.

    Attributes:
        vocab_size: number of distinct tokens; 0 if the inputs are vectors.
        seq_len: l during training; an upper bound only for models that need one.
        input_dim: values in a step; 0 if the inputs are tokens.
        classes: number of classes; 0 for next-token prediction.
        pair: True if a class is that of two sequences.
        rows, columns: of the grid of patches that the steps are, read row by row; 0 for steps
            that are no patches.
        masked: True if hidden tokens are predicted from both sides.
        fixed: True if no sequence is longer than `seq_len` where the next token is predicted, so
            that a vector can be learnt for each place.
    """

    vocab_size: int
    seq_len: int
    input_dim: int = 0
    classes: int = 0
    pair: bool = False
    rows: int = 0
    columns: int = 0
    masked: bool = False
    fixed: bool = False

    def __post_init__(self) -> None:
        assert (self.vocab_size > 0) != (self.input_dim > 0), "tokens or vectors, not both"
        assert self.classes or not (self.input_dim or self.pair), "only tokens have a next one"
        if self.rows or self.columns:
            assert self.input_dim, "patches are vectors"
            assert self.rows * self.columns == self.seq_len, "a step for each patch of the grid"
        assert not self.masked or (self.vocab_size > 1 and not self.classes), "tokens and a mask"

    @property
    def mask(self) -> int:
        """The token that hides another one, with `masked`: the last of the vocabulary."""
        assert self.masked, "nothing is hidden from this model"
        return self.vocab_size - 1

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches, if there is more than one of each; else None."""
        return (self.rows, self.columns) if min(self.rows, self.columns) > 1 else None

"""Settings of models and of their dropout (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from mambalab.errors import UserError
from mambalab.settings.rules import NAME, NAME_HINT, option

AUTO = "auto"  # model._target_: the head that the task needs
ATTENTION = frozenset("AS")  # letters of `pattern` whose layers attend


class ScanBackend(Enum):
    """Implementations of the selective scan; `auto` picks the fastest that runs."""

    auto = "auto"
    triton = "triton"
    cpu = "cpu"
    torch = "torch"
    reference = "reference"


class Rotary(Enum):
    """What the rotary positions of attention count."""

    sequence = "sequence"
    grid = "grid"
    auto = "auto"


class Pooling(Enum):
    """How a classifier makes one vector of a sequence's features."""

    mean = "mean"
    last = "last"
    max = "max"


@dataclass
class ModelSettings:
    """A backbone of `n_layer` layers whose kinds follow `pattern`, repeated."""

    name: str = option("name of the model in run folders and reports", match=NAME, hint=NAME_HINT)
    _target_: str = option("auto = the head that the task needs; your own class may stand here")
    pattern: str = option(
        "kinds of layer, repeated to n_layer: M = Mamba, S = self-attention, F = SwiGLU FFN, "
        "A = attention + GELU FFN in one layer",
        match="[MASF]+",
        hint="a word of the letters M (Mamba), S (self-attention), F (FFN) and A (attention + "
        "FFN), such as M, SF or MMA",
    )
    d_model: int = option("width of the residual stream", ge=1)
    n_layer: int = option("number of layers", ge=1, le=10_000)
    d_state: int = option("Mamba: N, states per channel", ge=1)
    d_conv: int = option("Mamba: width of the causal convolution", ge=1)
    expand: int = option("Mamba: d_inner = expand * d_model", ge=1)
    dt_rank: Any = option(
        "Mamba: rank of the delta projection; auto = ceil(d_model / 16)", auto=True, ge=1
    )
    dt_min: float = option("Mamba: smallest initial delta", gt=0)
    dt_max: float = option("Mamba: largest initial delta", gt=0)
    dt_init_floor: float = option("Mamba: initial deltas below this are raised to it", gt=0)
    scan_backend: ScanBackend = option("Mamba: implementation of the scan; auto = the fastest")
    bidirectional: bool = option(
        "Mamba: read the sequence from both ends (classification, diffusion)"
    )
    n_head: Any = option(
        "attention: heads; auto = d_model / 64, in S layers at least four from d_model 64 on",
        auto=True,
        ge=1,
    )
    d_ff: Any = option(
        "FFN width; auto: A has as many parameters as a Mamba layer, S + F as many as two",
        auto=True,
        ge=1,
    )
    rope_theta: float = option("attention: base of the rotary position angles", gt=1)
    rotary: Rotary = option(
        "attention: positions by sequence, or by row and column of the grid of patches; auto = "
        "grid where the task has one"
    )
    qk_norm: bool = option("attention: RMS norm of each head's queries and keys")
    norm_eps: float = option("epsilon of the RMS norms", gt=0)
    tie_embeddings: bool = option("text: share the embedding with the output projection")
    patch_norm: Any = option(
        "LayerNorm before and after the patch embedding; auto = where the task gives patches",
        auto=True,
        truth=True,
    )
    position_embedding: bool = option("add a learned vector to each step (fixed lengths, images)")
    pooling: Pooling = option("classification: mean, last or max over the steps")
    vocab_size: int | None = option(
        "text: rows of the embedding; null = one for each token of the task", ge=1
    )
    pretrained: str | None = option(
        "text: begin with this checkpoint, a folder or owner/name on the hub; null = anew",
        path=True,
    )
    params: dict[str, Any] = option("free options for a class of your own")

    def layers(self) -> str:
        """The kinds of all layers, one letter each: `pattern` repeated to `n_layer`."""
        repeats = -(-self.n_layer // len(self.pattern))
        return (self.pattern * repeats)[: self.n_layer]

    def attends(self) -> bool:
        """Whether any layer is attention, with its FFN or alone."""
        return any(kind in self.layers() for kind in ATTENTION)

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        if self.pretrained == "":
            raise UserError(
                "model=pretrained needs model.pretrained=FOLDER (or owner/name on the hub)"
            )
        if self.dt_min > self.dt_max:
            raise UserError(
                f"model.dt_min={self.dt_min:g} is above model.dt_max={self.dt_max:g}: swap them"
            )
        size = len(self.pattern)
        if set("SF") & set(self.pattern) and self.n_layer % size:
            whole = [n for n in (self.n_layer // size * size, -(-self.n_layer // size) * size) if n]
            raise UserError(
                f"model.n_layer={self.n_layer}: with S or F the pattern is repeated whole, and "
                f"model.pattern={self.pattern} has {size} layers (attention S and its FFN F count "
                f"one each); give model.n_layer={' or '.join(map(str, whole))}"
            )
        if absent := sorted(set(self.pattern) - set(self.layers())):
            raise UserError(
                f"model.n_layer={self.n_layer}: of model.pattern={self.pattern} no layer of kind "
                f"{absent[0]} is left; give n_layer={len(self.pattern)} or another pattern"
            )
        if not self.attends():
            return
        heads = 1 if self.n_head == "auto" else self.n_head
        if self.d_model % heads:
            raise UserError(f"model.n_head={heads}: must divide model.d_model={self.d_model}")
        if (self.d_model // heads) % 2:
            raise UserError(
                f"model.d_model={self.d_model}: rotary positions need heads of even width, "
                f"model.n_head={self.n_head} gives {self.d_model // heads}"
            )


@dataclass
class DropoutSettings:
    """Where and how strongly to drop, at training time only."""

    name: str = option("name of the variant in run folders and reports", match=NAME, hint=NAME_HINT)
    p: float = option("ordinary dropout on the embedding and on each block's output", ge=0, lt=1)
    ssm_p: float = option("SSM dropout on B, C and A of every Mamba layer", ge=0, lt=1)
    reset_A: bool = option(
        "dropped entries of A_log return to log(n), as in a new model, also when fine-tuning "
        "(else inverted dropout)"
    )

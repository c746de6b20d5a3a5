"""Settings of models and of their dropout (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from mambalab.settings import option


class ScanBackend(Enum):
    """Implementations of the selective scan; `auto` picks the fastest that runs."""

    auto = "auto"
    triton = "triton"
    cpu = "cpu"
    torch = "torch"
    reference = "reference"


@dataclass
class ModelSettings:
    """A backbone of `n_layer` layers whose kinds follow `pattern`, repeated."""

    name: str = option("name of the model in run folders and reports")
    _target_: str = option("class that builds the model; your own class may stand here")
    pattern: str = option("kinds of layer, repeated to n_layer: M = Mamba, A = attention + FFN")
    d_model: int = option("width of the residual stream")
    n_layer: int = option("number of layers")
    d_state: int = option("Mamba: N, states per channel")
    d_conv: int = option("Mamba: width of the causal convolution")
    expand: int = option("Mamba: d_inner = expand * d_model")
    dt_rank: Any = option("Mamba: rank of the delta projection; auto = ceil(d_model / 16)")
    dt_min: float = option("Mamba: smallest initial delta")
    dt_max: float = option("Mamba: largest initial delta")
    dt_init_floor: float = option("Mamba: initial deltas below this are raised to it")
    scan_backend: ScanBackend = option("Mamba: auto | triton | cpu | torch | reference")
    n_head: Any = option("attention: heads; auto = d_model / 64, at least one")
    d_ff: Any = option("attention: FFN width; auto = as many parameters as a Mamba layer")
    rope_theta: float = option("attention: base of the rotary position angles")
    norm_eps: float = option("epsilon of the RMS norms")
    tie_embeddings: bool = option("share the embedding with the output projection")
    params: dict[str, Any] = option("free options for a class of your own")


@dataclass
class DropoutSettings:
    """Where and how strongly to drop, at training time only."""

    name: str = option("name of the variant in run folders and reports")
    p: float = option("ordinary dropout on the embedding and on each block's output, 0 <= p < 1")
    ssm_p: float = option("SSM dropout on B, C and A of every Mamba layer, 0 <= ssm_p < 1")
    reset_A: bool = option(
        "dropped entries of A_log return to their initial value"
    )

"""What a model computes inside while it reads a sequence, by hooks on its own modules.

The model's own forward pass runs; nothing of it is written a second time but softmax(q k), which
PyTorch's fused attention never returns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.models.attention import Attention
from mambalab.models.dropout import s4d_real_log
from mambalab.models.mamba import Mamba, SelectiveSSM
from mambalab.ops import selective_scan
from mambalab.ops.reference import softplus


@dataclass
class ScanTrace:
    """One direction of a Mamba layer; steps are in the order of the sequence in both directions.

    Attributes:
        layer: its number, from 1.
        backward: whether it reads the sequence from its end.
        delta: (l, d) step sizes, after softplus.
        A: (d, n) rates, negative.
        A_log_shift: (d, n) A_log less its initial value.
        norm: (l, d) Euclidean norm over n of the state after each step.
    """

    layer: int
    backward: bool
    delta: np.ndarray
    A: np.ndarray
    A_log_shift: np.ndarray
    norm: np.ndarray

    @property
    def name(self) -> str:
        """The layer as the page names it."""
        return f"layer {self.layer}, Mamba" + (", from the end" if self.backward else "")


@dataclass
class AttentionTrace:
    """An attention layer.

    Attributes:
        layer: its number, from 1.
        weights: (n_head, l, l), how much each step (row) takes from each (column); rows sum to 1.
    """

    layer: int
    weights: np.ndarray

    @property
    def name(self) -> str:
        """The layer as the page names it."""
        return f"layer {self.layer}, attention"


LayerTrace = ScanTrace | AttentionTrace
_NOT_FINITE = (
    "NaN or Inf on this sequence, which cannot be shown: the weights are too large, or damaged"
)


@torch.no_grad()
def record(
    model: nn.Module,
    inputs: Tensor,
    lengths: Tensor | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, list[LayerTrace]]:
    """Run a model on one example and write down what its layers do.

    Args:
        model: in evaluation mode, float32.
        inputs: (1, l) tokens or (1, l, input_dim) vectors; of a pair (1, 2, l) or with input_dim.
        lengths: (1,) or (1, 2), where sequences end; None: the model is not given any.
        layers: numbers of the layers to look at, from 1; None for all.

    Returns:
        The model's output, and a trace for each attention layer and for each direction of each
        Mamba layer, in order. A pair is traced as one long sequence, without padding.

    Raises:
        UserError: the model holds no such layer, or computes what is no number.
    """
    assert not model.training, "dropout would be seen"
    assert len(inputs) == 1, "one example at a time"
    mixers = [m for m in model.modules() if isinstance(m, (Mamba, Attention))]
    if not mixers:
        raise UserError(
            f"nothing to look into: {type(model).__name__} has no Mamba or Attention layer of "
            "mambalab.models"
        )
    wanted = range(1, len(mixers) + 1) if layers is None else sorted(set(layers))
    if wanted[0] < 1 or wanted[-1] > len(mixers):
        raise UserError(f"layers={list(wanted)}: this model has the layers 1 to {len(mixers)}")
    with torch.autocast(inputs.device.type, enabled=False), _listening(model) as heard:
        output = model(inputs) if lengths is None else model(inputs, lengths)
        found: list[LayerTrace] = []
        for layer in wanted:
            mixer = mixers[layer - 1]
            if isinstance(mixer, Attention):
                found.append(_attention_trace(layer, mixer, heard[mixer.in_proj][1], lengths))
                continue
            for ssm in filter(None, (mixer, mixer.reverse)):
                u, projected = heard[ssm.x_proj]
                backward = ssm is mixer.reverse
                found.append(_scan_trace(layer, ssm, u, projected, backward, lengths))
    _check_finite(output, found)
    return output, found


def _check_finite(output: Tensor, traces: list[LayerTrace]) -> None:
    """Raise UserError if a layer or the model computed what is no number and cannot be drawn."""
    for trace in traces:
        scan = isinstance(trace, ScanTrace)
        drawn = (trace.delta, trace.A_log_shift) if scan else (trace.weights,)
        if not all(np.isfinite(values).all() for values in drawn):
            raise UserError(f"{trace.name}: {_NOT_FINITE}")
    if not (output.isfinite() | output.isneginf()).all():
        raise UserError(f"the model's output: {_NOT_FINITE}")


@contextmanager
def _listening(model: nn.Module) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """While it lasts, inputs and outputs of the projections of all mixers, by module."""
    heard: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def hear(module: nn.Module, args: Any, output: Tensor) -> None:
        heard[module] = args[0], output

    parts = [m.x_proj for m in model.modules() if isinstance(m, SelectiveSSM)]
    parts += [m.in_proj for m in model.modules() if isinstance(m, Attention)]
    hooks = [part.register_forward_hook(hear) for part in parts]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _ends(x: Tensor, lengths: Tensor | None) -> list[int]:
    """Where each sequence of x (s, l, ...) ends."""
    return [x.shape[1]] * len(x) if lengths is None else lengths.flatten().tolist()


def _scan_trace(
    layer: int,
    ssm: SelectiveSSM,
    u: Tensor,
    projected: Tensor,
    backward: bool,
    lengths: Tensor | None,
) -> ScanTrace:
    """The trace of one direction of a layer.

    Args:
        layer: number of the layer, from 1.
        ssm: the direction's module.
        u: (s, l, d), input of its scan, in the order in which the direction reads: backwards, a
            sequence is reversed, before its padding.
        projected: (s, l, dt_rank + 2 n), output of its x_proj.
        backward: whether it reads from the end.
        lengths: true lengths of the s sequences, or None.
    """
    low_rank, B, C = projected.split([ssm.dt_rank, ssm.d_state, ssm.d_state], dim=-1)
    delta, bias = ssm.delta(low_rank)
    delta = softplus(delta.float() if bias is None else delta.float() + bias)
    A_log = ssm.A_log.float()
    A = -torch.exp(A_log)
    norm = state_norms(u, delta, A, B, C, ssm.backend)
    ends = list(enumerate(_ends(u, lengths)))
    delta, norm = (
        torch.cat([x[s, :end].flip(0) if backward else x[s, :end] for s, end in ends])
        for x in (delta, norm)
    )
    A_log_shift = A_log - s4d_real_log(ssm.d_inner, ssm.d_state, A_log.device)
    return ScanTrace(layer, backward, *map(_numpy, (delta, A, A_log_shift, norm)))


def _attention_trace(
    layer: int, attention: Attention, qkv: Tensor, lengths: Tensor | None
) -> AttentionTrace:
    """The trace of a layer from its qkv (s, l, 3 * d_model): each sequence sees itself alone."""
    ends = _ends(qkv, lengths)
    total = sum(ends)
    weights, start = qkv.new_zeros(attention.n_head, total, total), 0
    for s, end in enumerate(ends):
        own = slice(start, start := start + end)
        weights[:, own, own] = attention_weights(attention, qkv[s : s + 1, :end])[0]
    return AttentionTrace(layer, _numpy(weights))


def state_norms(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, backend: str = "auto"
) -> Tensor:
    """Euclidean norm over n of the state after each step, (b, l, d), by scanning step by step.

    Args:
        u, delta, A, B, C, backend: as in `selective_scan`; delta after softplus.
    """
    state, norms = None, []
    for t in range(u.shape[1]):
        now = slice(t, t + 1)
        _, state = selective_scan(
            u[:, now],
            delta[:, now],
            A,
            B[:, now],
            C[:, now],
            initial_state=state,
            return_final_state=True,
            backend=backend,
        )
        norms.append(state.norm(dim=-1))
    return torch.stack(norms, dim=1)


def attention_weights(attention: Attention, qkv: Tensor) -> Tensor:
    """Attention probabilities (b, n_head, l, l) of the output of in_proj, (b, l, 3 * d_model)."""
    length = qkv.shape[1]
    query, key, _ = attention.split(qkv)
    scores = query @ key.transpose(-1, -2) * attention.head_dim**-0.5
    if attention.causal:
        later = torch.ones(length, length, dtype=torch.bool, device=qkv.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(-1)


def _numpy(x: Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    return x.float().cpu().numpy()

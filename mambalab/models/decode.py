"""Fused decoding on the CPU: one token a sequence through the whole model in one call.

Stretches of Mamba layers, and the head, go through `mambalab.ops.cpu_step`; attention layers
between them go their usual way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mambalab.models.backbone import MambaBlock
from mambalab.models.heads import LanguageModel
from mambalab.models.state import LayerState, ModelState
from mambalab.ops import backend

if TYPE_CHECKING:
    from mambalab.ops.cpu_step import StepWeights

LARGEST_BATCH = 32
"""Sequences beyond which matrix products as such are faster."""

Decoder = Callable[[Tensor], Tensor]
"""(B,) int64 tokens to the logits (B, V) behind them; updates the state it was made for."""


def fused(model: object, state: ModelState, batch: int) -> Decoder | None:
    """A fused decoder of a model in evaluation mode, bound to a state; None where there is none.

    There is one on a CPU that runs the compiled kernels (backend `cpu`), for up to LARGEST_BATCH
    sequences and language models of this package with Mamba layers. Under autocast to bfloat16 its
    matrices are bfloat16, and its sums more exact than those of autocast. It is made for the
    weights as they are: make a new one when they have changed.
    """
    if type(model) is not LanguageModel or model.training or batch > LARGEST_BATCH:
        return None
    mixers = [layer.mixer for layer in model.backbone.layers if isinstance(layer, MambaBlock)]
    device = model.lm_head.weight.device
    if not mixers or device.type != "cpu":
        return None
    half = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if half else torch.float32
    if dtype not in backend.CPU_DTYPES or mixers[0].A_log.dtype != torch.float32:
        return None
    if backend.resolve(mixers[0].backend, device, dtype) != "cpu":
        return None
    return _Fused(model, state, batch, dtype)


class _Fused:
    """A model cut into stretches of layers of one kind, with the head behind the last."""

    def __init__(
        self, model: LanguageModel, state: ModelState, batch: int, dtype: torch.dtype
    ) -> None:
        from mambalab.ops.cpu_step import Steps  # needs numba

        norm_f = model.backbone.norm_f
        head = (norm_f.weight, model.lm_head.weight)
        make = partial(Steps, eps=norm_f.eps, dtype=dtype, batch=batch)
        self.embedding = model.backbone.embedding
        self.parts: list[Callable[[Tensor], Tensor]] = []
        pairs: list[tuple[Any, Any]] = list(zip(model.backbone.layers, state.layers, strict=True))
        stretches = [list(part) for _, part in groupby(pairs, lambda pair: type(pair[0]))]
        for stretch in stretches:
            if isinstance(stretch[0][0], MambaBlock):
                weights = [step_weights(block) for block, _ in stretch]
                states = [(carried.conv, carried.ssm) for _, carried in stretch]
                self.parts.append(make(weights, states, head if stretch is stretches[-1] else None))
            else:
                self.parts += [partial(_one, *pair) for pair in stretch]
        if not isinstance(pairs[-1][0], MambaBlock):
            self.parts.append(make([], [], head))

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B,) tokens to (B, V) logits."""
        values = self.embedding(tokens).float()
        for part in self.parts:
            values = part(values)
        return values


def _one(block: nn.Module, state: LayerState, hidden: Tensor) -> Tensor:
    """(B, d_model) through a layer the usual way."""
    return block(hidden[:, None], state)[:, 0].contiguous()


def step_weights(block: MambaBlock) -> StepWeights:
    """A block's weights as `Steps` takes them."""
    from mambalab.ops.cpu_step import StepWeights

    mixer = block.mixer
    return StepWeights(
        norm=block.norm.weight,
        in_proj=mixer.in_proj.weight,
        conv_weight=mixer.conv1d.weight.squeeze(1),
        conv_bias=mixer.conv1d.bias,
        x_proj=mixer.x_proj.weight,
        dt_proj=mixer.dt_proj.weight,
        dt_bias=mixer.dt_proj.bias,
        A_log=mixer.A_log,
        D=mixer.D,
        out_proj=mixer.out_proj.weight,
    )


def narrowed(model: LanguageModel) -> LanguageModel:
    """The same model for use under autocast to bfloat16: the matrices of its linear layers are
    bfloat16 already, everything else is shared with `model`.

    Autocast would convert each matrix whenever it is used, which costs more than one token's
    product with it. Results are the same.
    """
    shared: dict[int, Any] = {id(p): p for p in (*model.parameters(), *model.buffers())}
    embedding = model.backbone.embedding.weight
    for module in model.modules():
        if isinstance(module, nn.Linear):
            half = nn.Parameter(module.weight.detach().bfloat16(), requires_grad=False)
            shared[id(module.weight)] = half
    copied = copy.deepcopy(model, shared)
    copied.backbone.embedding.weight = embedding  # a tied one has stayed wide here
    return copied

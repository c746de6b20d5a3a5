"""Fused decoding on the CPU: one token a sequence through all layers in one call.

Stretches of Mamba layers, and the head, run in `mambalab.ops.cpu.step`; attention layers between
them run as in training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mambalab.models.backbone import Backbone, MambaBlock
from mambalab.models.dropout import Dropout, SSMDropout
from mambalab.models.heads import LanguageModel
from mambalab.models.layers import RMSNorm, untouched
from mambalab.models.mamba import DepthwiseConv1d, Mamba
from mambalab.models.state import LayerState, MambaState, ModelState
from mambalab.ops import backend

if TYPE_CHECKING:
    from mambalab.ops.cpu.step import StepWeights

MAX_BATCH = 32
"""Largest number of sequences; with more, ordinary matrix products are faster."""

_KNOWN = (MambaBlock, Mamba, DepthwiseConv1d, nn.Linear, RMSNorm, Dropout, SSMDropout)

Decoder = Callable[[Tensor], Tensor]
"""Maps tokens (b,) int64 to the logits (b, v) of the next ones; updates a state in place."""


def fused(model: object, state: ModelState, batch: int) -> Decoder | None:
    """Return a fused decoder of a model in evaluation mode, bound to a state; None without one.

    There is one on a CPU that runs the compiled kernels (backend `cpu`), for up to MAX_BATCH
    sequences and language models of this package with Mamba layers, as they were built: none for a
    model with other layers or hooks put in, or for a state of another type. Under autocast to
    bfloat16 its matrices are bfloat16, and its sums more exact than those of autocast. It uses
    the weights as they are now: make a new one after they change. Nothing is differentiated.
    """
    if type(model) is not LanguageModel or batch > MAX_BATCH:
        return None
    blocks = [layer for layer in model.backbone.layers if isinstance(layer, MambaBlock)]
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
    if not blocks or dtype not in backend.CPU_DTYPES:
        return None
    if not (as_built(model, blocks) and _readable(model, blocks, state, dtype)):
        return None
    if backend.resolve(blocks[0].mixer.backend, torch.device("cpu"), dtype) != "cpu":
        return None
    return _Fused(model, state, batch, dtype)


def as_built(model: LanguageModel, blocks: list[MambaBlock]) -> bool:
    """True if the layers compute what the kernel does, in eval().

    No module or method is replaced, no hook would be passed over, no bias is missing.
    """
    backbone = model.backbone
    parts = (*blocks, backbone.dropout, backbone.norm_f, model.lm_head)
    inner = [module for part in parts for module in part.modules()]
    if type(backbone) is not Backbone or not all(type(module) in _KNOWN for module in inner):
        return False
    if not all(untouched(module) for module in (backbone, *inner)):
        return False
    called = (model, backbone, *inner)
    if any(hasattr(type(m), name) for m in called for name in vars(m)):
        return False  # a method put over that of the class
    if any(module.training for module in model.modules()):
        return False
    mixers = [block.mixer for block in blocks]
    plain = [model.lm_head, *(m for x in mixers for m in (x.in_proj, x.x_proj, x.out_proj))]
    eps = {backbone.norm_f.eps, *(block.norm.eps for block in blocks)}
    alike = {
        (x.backend, x.A_log.shape, x.conv1d.weight.shape, x.dt_proj.weight.shape) for x in mixers
    }
    biased = [part for x in mixers for part in (x.dt_proj, x.conv1d)]
    return (
        len(eps) == len(alike) == 1
        and all(linear.bias is None for linear in plain)
        and all(part.bias is not None for part in biased)
    )


def _readable(
    model: LanguageModel, blocks: list[MambaBlock], state: ModelState, dtype: torch.dtype
) -> bool:
    """True if the kernel can read weights and state in place: on the CPU, with known dtypes.

    A subclass of Tensor (a quantised or distributed weight) need not have memory of its own.
    """
    parts = (*blocks, model.backbone.norm_f, model.lm_head)
    weights = [p for part in parts for p in part.parameters()]
    states = [x for s in state.layers if isinstance(s, MambaState) for x in (s.conv, s.ssm)]
    return (
        all(type(values) in (Tensor, nn.Parameter) for values in weights + states)
        and all(values.device.type == "cpu" for values in weights + states)
        and all(weight.dtype in (torch.float32, dtype) for weight in weights)
        and all(x.dtype == torch.float32 and x.is_contiguous() for x in states)
        and not any(x.requires_grad for x in states)
    )


class _Fused:
    """Decoder that runs a model as stretches of layers of one kind, and the head after the last."""

    def __init__(
        self, model: LanguageModel, state: ModelState, batch: int, dtype: torch.dtype
    ) -> None:
        from mambalab.ops.cpu.step import Steps  # needs numba

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
        """Map tokens (b,) int64 to logits (b, v) float32; update the state."""
        values = self.embedding(tokens).float()
        for part in self.parts:
            values = part(values)
        return values


def _one(block: nn.Module, state: LayerState, hidden: Tensor) -> Tensor:
    """Run one layer on `hidden` (b, d_model), as in training, and update its state."""
    return block(hidden[:, None], state)[:, 0].contiguous()


def step_weights(block: MambaBlock) -> StepWeights:
    """Collect a block's weights as `Steps` takes them."""
    from mambalab.ops.cpu.step import StepWeights

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
    """Copy a model for use under autocast to bfloat16, with the matrices in bfloat16 already.

    Those are the weights of linear layers; everything else is shared with `model`. Autocast would
    convert each matrix whenever it is used, which costs more than one token's product with it.
    Results are the same.
    """
    shared: dict[int, Any] = {id(p): p for p in (*model.parameters(), *model.buffers())}
    embedding = model.backbone.embedding.weight
    for module in model.modules():
        if isinstance(module, nn.Linear):
            matrix = nn.Parameter(module.weight.detach().bfloat16(), requires_grad=False)
            shared[id(module.weight)] = matrix
    copied = copy.deepcopy(model, shared)
    copied.backbone.embedding.weight = embedding  # a tied one has stayed wide here
    return copied

"""Fused decoding on the CPU: one token a sequence through all layers in one call.

The layers and the head run in `mambalab.ops.cpu.step`: Mamba, attention with its key-value cache,
and FFNs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mambalab.models.attention import Attention, rotary_angles
from mambalab.models.backbone import (
    AttentionBlock,
    Backbone,
    FeedForwardBlock,
    MambaBlock,
    SelfAttentionBlock,
)
from mambalab.models.dropout import Dropout, SSMDropout
from mambalab.models.heads import LanguageModel
from mambalab.models.layers import FeedForward, RMSNorm, SwiGLU, untouched
from mambalab.models.mamba import DepthwiseConv1d, Mamba
from mambalab.models.state import AttentionState, MambaState, ModelState
from mambalab.ops import backend

if TYPE_CHECKING:
    from mambalab.ops.cpu.step import AttentionStep, FeedForwardStep, MambaStep, Step

MAX_BATCH = 32
"""Largest number of sequences; with more, ordinary matrix products are faster."""

_BLOCKS = (MambaBlock, SelfAttentionBlock, FeedForwardBlock, AttentionBlock)
_KNOWN = (
    *_BLOCKS,
    *(Mamba, DepthwiseConv1d, Attention, SwiGLU, FeedForward),
    *(nn.Linear, RMSNorm, Dropout, SSMDropout),
)

Decoder = Callable[[Tensor], Tensor]
"""Maps tokens (b,) int64 to the logits (b, v) of the next ones; updates a state in place."""


def fused(model: object, state: ModelState, batch: int) -> Decoder | None:
    """Return a fused decoder of a model in evaluation mode, bound to a state; None without one.

    There is one on a CPU that runs the compiled kernels (backend `cpu`), for up to MAX_BATCH
    sequences and language models of this package, as they were built: none for a model with other
    layers or hooks put in, or for a state of another type. Under autocast to bfloat16 its matrices
    and caches are bfloat16, and its sums more exact than those of autocast. It uses the weights as
    they are now: make a new one after they change. Nothing is differentiated.
    """
    if type(model) is not LanguageModel or batch > MAX_BATCH:
        return None
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
    if dtype not in backend.CPU_DTYPES:
        return None
    if not (as_built(model) and _readable(model, state, batch, dtype)):
        return None
    cpu = torch.device("cpu")
    wanted = {b.mixer.backend for b in model.backbone.layers if isinstance(b, MambaBlock)}
    if any(backend.resolve(name, cpu, dtype) != "cpu" for name in wanted or {"auto"}):
        return None
    return _Fused(model, state, batch, dtype)


def as_built(model: LanguageModel) -> bool:
    """True if the layers compute what the kernel does, in eval().

    No module or method is replaced, no hook would be passed over, no bias is missing or added.
    """
    backbone = model.backbone
    blocks = list(backbone.layers)
    parts = (*blocks, backbone.dropout, backbone.norm_f, model.lm_head)
    inner = [module for part in parts for module in part.modules()]
    if type(backbone) is not Backbone or not all(type(module) in _KNOWN for module in inner):
        return False
    if not all(type(block) in _BLOCKS for block in blocks):
        return False
    if not all(untouched(module) for module in (backbone, *inner)):
        return False
    called = (model, backbone, *inner)
    if any(hasattr(type(m), name) for m in called for name in vars(m)):
        return False  # a method put over that of the class
    if any(module.training for module in model.modules()):
        return False
    mixers = [block.mixer for block in blocks if isinstance(block, MambaBlock)]
    biased = [part for x in mixers for part in (x.dt_proj, x.conv1d)]
    plain = {m for m in inner if isinstance(m, nn.Linear)} - {x.dt_proj for x in mixers}
    alike = {
        (x.backend, x.A_log.shape, x.conv1d.weight.shape, x.dt_proj.weight.shape) for x in mixers
    }
    return (
        len({module.eps for module in inner if isinstance(module, RMSNorm)}) == 1
        and len(alike) <= 1
        and all(linear.bias is None for linear in plain)
        and all(part.bias is not None for part in biased)
        and all(module.causal for module in inner if isinstance(module, Attention))
    )


def _readable(model: LanguageModel, state: ModelState, batch: int, dtype: torch.dtype) -> bool:
    """True if the kernel can read weights and state in place: on the CPU, with known dtypes.

    A subclass of Tensor (a quantised or distributed weight) need not have memory of its own.
    """
    parts = (*model.backbone.layers, model.backbone.norm_f, model.lm_head)
    weights = [p for part in parts for p in part.parameters()]
    states = _tensors(state)
    caches = [layer for layer in state.layers if isinstance(layer, AttentionState)]
    cached = {id(x) for cache in caches for x in (cache.key, cache.value)}
    return (
        all(type(values) in (Tensor, nn.Parameter) for values in (*weights, *states))
        and all(values.device.type == "cpu" for values in (*weights, *states))
        and all(weight.dtype in (torch.float32, dtype) for weight in weights)
        and all(x.dtype == (dtype if id(x) in cached else torch.float32) for x in states)
        and all(x.is_contiguous() and not x.requires_grad for x in states)
        and all(len(cache.filled) == len(cache.key) == batch for cache in caches)
    )


def _tensors(state: ModelState) -> list[Tensor]:
    """The tensors of all layers' states."""
    found: list[Tensor] = []
    for layer in state.layers:
        if isinstance(layer, MambaState):
            found += (layer.conv, layer.ssm)
        elif isinstance(layer, AttentionState):
            found += (layer.key, layer.value)
    return found


class _Fused:
    """Decoder that runs all layers and the head in one call."""

    def __init__(
        self, model: LanguageModel, state: ModelState, batch: int, dtype: torch.dtype
    ) -> None:
        from mambalab.ops.cpu.step import Steps  # needs numba

        norm_f = model.backbone.norm_f
        self.backbone = model.backbone
        self.caches = [layer for layer in state.layers if isinstance(layer, AttentionState)]
        self.state, self.memory = state, _tensors(state)
        angles: dict[object, tuple[Tensor, Tensor]] = {}
        layers: list[Step] = []
        for block, carried in zip(model.backbone.layers, state.layers, strict=True):
            if isinstance(block, MambaBlock):
                assert isinstance(carried, MambaState)
                layers.append(mamba_step(block, carried))
            if isinstance(block, SelfAttentionBlock | AttentionBlock):
                assert isinstance(carried, AttentionState)
                layers.append(attention_step(block, carried, angles))
            if isinstance(block, FeedForwardBlock | AttentionBlock):
                layers.append(feed_forward_step(block))
        head = (norm_f.weight, model.lm_head.weight)
        self.steps = Steps(layers, head, eps=norm_f.eps, dtype=dtype, batch=batch)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Map tokens (b,) int64 to logits (b, v) float32; update the state.

        Raises:
            ValueError: no more positions are free in a cache, or have been learnt.
            RuntimeError: the state has other tensors than when this decoder was made.
        """
        if any(a is not b for a, b in zip(_tensors(self.state), self.memory, strict=True)):
            raise RuntimeError("the state got new tensors: make a new decoder of it (`stepper`)")
        hidden = self.backbone.embedding(tokens).float()
        if self.backbone.positions is not None:
            hidden = hidden + self.backbone.next_positions(1, self.state).squeeze(-2)
        logits = self.steps(hidden, [c.filled for c in self.caches])
        for cache in self.caches:
            cache.filled = [filled + 1 for filled in cache.filled]
        self.state.advance(1)
        return logits


def mamba_step(block: MambaBlock, state: MambaState) -> MambaStep:
    """Collect an M layer's weights and state as `Steps` takes them."""
    from mambalab.ops.cpu.step import MambaStep

    mixer = block.mixer
    return MambaStep(
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
        conv=state.conv,
        ssm=state.ssm,
    )


def attention_step(
    block: SelfAttentionBlock | AttentionBlock,
    state: AttentionState,
    angles: dict[object, tuple[Tensor, Tensor]],
) -> AttentionStep:
    """Collect an attention layer's weights and cache as `Steps` takes them.

    `angles` keeps what layers share: cosine and sine of all places of a cache.
    """
    from mambalab.ops.cpu.step import AttentionStep

    mixer = block.mixer
    assert isinstance(mixer, Attention)
    key = state.key.shape[2], mixer.head_dim, mixer.rope_theta, mixer.columns
    if key not in angles:
        cos, sin = rotary_angles(0, *key[:3], torch.device("cpu"), columns=mixer.columns)
        angles[key] = cos[:, 0, 0].contiguous(), sin[:, 0, 0].contiguous()
    return AttentionStep(
        norm=block.norm.weight,
        in_proj=mixer.in_proj.weight,
        out_proj=mixer.out_proj.weight,
        q_norm=mixer.q_norm.weight if mixer.q_norm is not None else None,
        k_norm=mixer.k_norm.weight if mixer.k_norm is not None else None,
        key=state.key,
        value=state.value,
        cos=angles[key][0],
        sin=angles[key][1],
    )


def feed_forward_step(block: FeedForwardBlock | AttentionBlock) -> FeedForwardStep:
    """Collect an FFN's weights as `Steps` takes them."""
    from mambalab.ops.cpu.step import FeedForwardStep

    norm = block.norm2 if isinstance(block, AttentionBlock) else block.norm
    fc1, fc2 = block.mlp.fc1.weight, block.mlp.fc2.weight
    return FeedForwardStep(norm.weight, fc1, fc2, gated=isinstance(block.mlp, SwiGLU))


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

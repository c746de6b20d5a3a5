"""One token through a stack of layers on the CPU: prepares arguments and runs the kernel.

This is not an operator: nothing is differentiated, states change in place. `Steps` has the weights
as the kernel reads them, so that a step costs one call, whatever the number of layers.
"""

from array import array
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu import step_layout as layout
from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.step_kernel import build_step

_MIN_PARALLEL_WEIGHTS = 2**16  # of all layers; a second thread does not pay below
_HIDDEN, _LOGITS = map(layout.StepArgs._fields.index, ("hidden", "logits"))
_KERNELS = {
    torch.float32: Kernel(partial(build_step, bf16=False), layout.StepArgs._fields),
    torch.bfloat16: Kernel(partial(build_step, bf16=True), layout.StepArgs._fields),
}


class MambaStep(NamedTuple):
    """Weights of one Mamba layer, by mamba_ssm's names, and its state.

    Attributes:
        norm: (d_model,).
        in_proj: (2 d_inner, d_model).
        conv_weight: (d_inner, d_conv).
        conv_bias: (d_inner,).
        x_proj: (dt_rank + 2 d_state, d_inner).
        dt_proj: (d_inner, dt_rank).
        dt_bias: (d_inner,).
        A_log: (d_inner, d_state).
        D: (d_inner,).
        out_proj: (d_model, d_inner).
        conv: (b, d_inner, d_conv - 1) float32, contiguous; updated by every step.
        ssm: (b, d_inner, d_state), the same.
    """

    norm: Tensor
    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_proj: Tensor
    conv: Tensor
    ssm: Tensor


class AttentionStep(NamedTuple):
    """Weights of one attention layer, its cache, and the angles of its rotary positions.

    Attributes:
        norm: (d_model,).
        in_proj: (3 d_model, d_model): queries, keys and values, head by head.
        out_proj: (d_model, d_model).
        q_norm, k_norm: (head_dim,), or None.
        key, value: (b, n_head, capacity, head_dim) in the dtype of the matrices, contiguous;
            updated by every step.
        cos, sin: (capacity, head_dim / 2) float32, contiguous.
    """

    norm: Tensor
    in_proj: Tensor
    out_proj: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    key: Tensor
    value: Tensor
    cos: Tensor
    sin: Tensor


class FeedForwardStep(NamedTuple):
    """Weights of one FFN: with a GELU, or `gated`, a SwiGLU.

    Attributes:
        norm: (d_model,).
        fc1: (d_ff, d_model); gated (2 d_ff, d_model), the gate first.
        fc2: (d_model, d_ff).
        gated: which of the two.
    """

    norm: Tensor
    fc1: Tensor
    fc2: Tensor
    gated: bool


Step = MambaStep | AttentionStep | FeedForwardStep


class Steps:
    """A stack of layers, followed by the head, that takes one token at a time.

    Matrices that have `dtype` already, and everything else in float32, are read in place; others
    are copied. Sums and Mamba's state are float32.

    Args:
        layers: weights and state of each.
        head: weight of the last norm (d_model,) and of the projection (vocab_size, d_model).
        eps: of the norms.
        dtype: in which matrices and caches are read, float32 or bfloat16.
        batch: b, the number of sequences.
    """

    def __init__(
        self,
        layers: Sequence[Step],
        head: tuple[Tensor, Tensor],
        *,
        eps: float,
        dtype: torch.dtype,
        batch: int,
    ) -> None:
        self._kernel = _KERNELS[dtype]
        self._dtype = dtype
        self._referenced: list[Tensor] = []  # weights and states that the kernel has addresses of
        self._others: list[Tensor] = []  # caches, and memory to work in
        self._batch = batch
        norm_f, projection = head
        mamba = [layer for layer in layers if isinstance(layer, MambaStep)]
        attention = [layer for layer in layers if isinstance(layer, AttentionStep)]
        d_inner, d_state = mamba[0].A_log.shape if mamba else (0, 0)
        rank = mamba[0].dt_proj.shape[1] if mamba else 0
        d_model = self._d_model = len(norm_f)
        self._vocab_size = len(projection)
        self._capacities = [layer.key.shape[2] for layer in attention]
        self._a_position = sum(2 * layer.key[:, :, 0].numel() for layer in attention)
        self._filled = array("q", [0]) * max(1, batch * len(attention))
        kinds = [kind for layer in layers for kind in _phases(layer)] + [layout.HEAD]
        heads = [layer.key.shape[1] for layer in attention]
        size = (len(kinds) + 1) * layout.COUNTER_BYTES // 8  # one more: to align the first
        self._counters = empty((size + batch * sum(heads),), torch.int64)
        counters = self._counters.data_ptr()
        counters += -counters % layout.COUNTER_BYTES
        arrived = counters + len(kinds) * layout.COUNTER_BYTES
        filled = self._filled.buffer_info()[0]
        self._rows: list[array[int]] = []
        program = array("q")
        for layer in layers:
            if isinstance(layer, MambaStep):
                row: tuple[int, ...] = self._mamba(layer)
            elif isinstance(layer, FeedForwardStep):
                row = self._feed_forward(layer)
            else:
                row = self._attention(layer, filled, arrived)
                filled += 8 * batch
                arrived += 8 * batch * layer.key.shape[1]
            self._rows.append(array("q", row))
            for kind in _phases(layer):
                program.extend((kind, self._rows[-1].buffer_info()[0]))
        program.extend((layout.HEAD, 0))
        self._program = program
        d_ff = max((x.fc2.shape[1] for x in layers if isinstance(x, FeedForwardStep)), default=0)
        head_dim = max((layer.key.shape[3] for layer in attention), default=0)
        parts = max(map(_part_bytes, attention), default=0) // 4
        self._eps = torch.tensor([eps], dtype=torch.float32, device="cpu")
        self._scratch = layout.scratch_bytes(batch, d_model, head_dim)
        args = layout.StepArgs(
            batch=batch,
            d_model=d_model,
            d_inner=d_inner,
            d_state=d_state,
            d_conv=mamba[0].conv_weight.shape[1] if mamba else 1,
            rank=rank,
            phases=len(kinds),
            eps=self._eps.data_ptr(),
            counters=counters,
            program=program.buffer_info()[0],
            hidden=0,
            x=self._work(batch, d_inner),
            gate=self._work(batch, d_inner),
            y=self._work(batch, d_inner),
            dt_B_C=self._work(batch, rank + 2 * d_state),
            qkv=self._work(batch, 3 * d_model if attention else 0),
            parts=self._work(parts),
            mixed=self._work(batch, d_model if attention else 0),
            inner=self._work(batch, d_ff),
            norm_f=self._vector(norm_f),
            head=self._matrix(projection),
            vocab_size=self._vocab_size,
            logits=0,
        )
        self._args = list(args)
        self._weights = sum(w.numel() for w in self._referenced)

    def __call__(self, hidden: Tensor, filled: Sequence[Sequence[int]] = ()) -> Tensor:
        """Take a step; return the logits (b, vocab_size) float32.

        Args:
            hidden: (b, d_model) float32, contiguous; changed in place.
            filled: of each attention layer, the positions that its cache has of each sequence: the
                new one is stored behind them.

        Raises:
            ValueError: no more positions are free in a cache.
        """
        _check(hidden, (self._batch, self._d_model), torch.float32)
        longest = 0
        assert len(filled) == len(self._capacities)
        for i, (lengths, capacity) in enumerate(zip(filled, self._capacities, strict=True)):
            assert len(lengths) == self._batch
            assert min(lengths) >= 0
            if max(lengths) >= capacity:
                raise ValueError(
                    f"the key-value cache holds {capacity} positions, not {max(lengths) + 1}"
                )
            longest = max(longest, *lengths)
            self._filled[i * self._batch : (i + 1) * self._batch] = array("q", lengths)
        logits = empty((self._batch, self._vocab_size))
        self._counters.zero_()
        self._args[_HIDDEN], self._args[_LOGITS] = hidden.data_ptr(), logits.data_ptr()
        parallel = self._weights + longest * self._a_position > _MIN_PARALLEL_WEIGHTS
        self._kernel.run(self._args, torch.get_num_threads(), self._scratch, parallel)
        return logits

    def _mamba(self, layer: MambaStep) -> layout.MambaRow:
        """Check a layer's state and collect the addresses of its weights and state."""
        d_inner, d_conv = layer.conv_weight.shape
        _check(layer.conv, (self._batch, d_inner, d_conv - 1), torch.float32)
        _check(layer.ssm, (self._batch, *layer.A_log.shape), torch.float32)
        self._referenced += [layer.conv, layer.ssm]
        return layout.MambaRow(
            norm=self._vector(layer.norm),
            in_proj=self._matrix(layer.in_proj),
            conv_weight=self._vector(layer.conv_weight),
            conv_bias=self._vector(layer.conv_bias),
            x_proj=self._matrix(layer.x_proj),
            dt_proj=self._matrix(layer.dt_proj),
            dt_bias=self._vector(layer.dt_bias),
            A=self._vector(-LOG2E * torch.exp(layer.A_log.detach().float())),
            D=self._vector(layer.D),
            out_proj=self._matrix(layer.out_proj),
            conv_state=layer.conv.data_ptr(),
            ssm_state=layer.ssm.data_ptr(),
        )

    def _attention(self, layer: AttentionStep, filled: int, arrived: int) -> layout.AttentionRow:
        """Check a layer's cache and collect the addresses of its weights, cache and counters."""
        _, n_head, capacity, head_dim = layer.key.shape
        assert n_head * head_dim == len(layer.norm)
        for cache in (layer.key, layer.value):
            _check(cache, (self._batch, n_head, capacity, head_dim), self._dtype)
        for angles in (layer.cos, layer.sin):
            _check(angles, (capacity, head_dim // 2), torch.float32)
        self._others += [layer.key, layer.value, layer.cos, layer.sin]
        return layout.AttentionRow(
            norm=self._vector(layer.norm),
            in_proj=self._matrix(layer.in_proj),
            out_proj=self._matrix(layer.out_proj),
            q_norm=0 if layer.q_norm is None else self._vector(layer.q_norm),
            k_norm=0 if layer.k_norm is None else self._vector(layer.k_norm),
            cos=layer.cos.data_ptr(),
            sin=layer.sin.data_ptr(),
            key=layer.key.data_ptr(),
            value=layer.value.data_ptr(),
            filled=filled,
            arrived=arrived,
            n_head=n_head,
            head_dim=head_dim,
            capacity=capacity,
        )

    def _feed_forward(self, layer: FeedForwardStep) -> layout.FeedForwardRow:
        """Collect the addresses of an FFN's weights."""
        return layout.FeedForwardRow(
            norm=self._vector(layer.norm),
            fc1=self._matrix(layer.fc1),
            fc2=self._matrix(layer.fc2),
            d_ff=layer.fc2.shape[1],
        )

    def _work(self, *shape: int) -> int:
        """Address of memory to work in, float32."""
        self._others.append(empty(shape))
        return self._others[-1].data_ptr()

    def _vector(self, values: Tensor) -> int:
        """Address of values in float32."""
        return self._keep(values, torch.float32)

    def _matrix(self, values: Tensor) -> int:
        """Address of values in the dtype of matrices."""
        return self._keep(values, self._dtype)

    def _keep(self, values: Tensor, dtype: torch.dtype) -> int:
        """Address of `values` in `dtype`, contiguous; they live as long as this object."""
        values = values.detach().to(dtype).contiguous()
        self._referenced.append(values)
        return values.data_ptr()


def _phases(layer: Step) -> tuple[int, ...]:
    """The phases that a layer takes."""
    if isinstance(layer, MambaStep):
        return layout.MAMBA_PHASES
    if isinstance(layer, AttentionStep):
        return layout.ATTENTION_PHASES
    return layout.GATED_PHASES if layer.gated else layout.PLAIN_PHASES


def _part_bytes(layer: AttentionStep) -> int:
    """Memory of a layer's attention to all chunks of a full cache."""
    batch, n_head, capacity, head_dim = layer.key.shape
    return batch * n_head * -(-capacity // layout.CHUNK) * layout.part_bytes(head_dim)


def _check(values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Assert that memory which the kernel uses by address is what it takes it for."""
    assert values.dtype == dtype, values.dtype
    assert values.is_contiguous()
    assert values.shape == shape, f"{tuple(values.shape)}, not {shape}"

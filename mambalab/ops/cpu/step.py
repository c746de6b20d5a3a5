"""One token through a stack of Mamba layers on the CPU: prepares arguments and runs the kernel.

This is not an operator: nothing is differentiated, the state changes in place. `Steps` has the
weights as the kernel reads them, so that a step costs one call, whatever the number of layers.
"""

from array import array
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.step_kernel import (
    COUNTER_BYTES,
    PHASES_PER_LAYER,
    Layer,
    StepArgs,
    build_step,
    scratch_bytes,
)

_MIN_PARALLEL_WEIGHTS = 2**16  # of all layers; a second thread does not pay below
_KERNELS = {
    torch.float32: Kernel(partial(build_step, bf16=False), StepArgs._fields),
    torch.bfloat16: Kernel(partial(build_step, bf16=True), StepArgs._fields),
}


class StepWeights(NamedTuple):
    """Weights of one Mamba layer, by mamba_ssm's names.

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


class Steps:
    """A stack of Mamba layers, perhaps followed by the head, that takes one token at a time.

    Matrices that have `dtype` already, and everything else in float32, are read in place; others
    are copied. Sums and the state are float32.

    Args:
        layers: weights of each layer; none is allowed if there is a head.
        states: of each layer (b, d_inner, d_conv - 1) and (b, d_inner, d_state), float32 and
            contiguous; updated by every step.
        head: weight of the last norm (d_model,) and of the projection (vocab_size, d_model).
        eps: of the norms.
        dtype: in which matrices are read, float32 or bfloat16.
        batch: b, the number of sequences.
    """

    def __init__(
        self,
        layers: Sequence[StepWeights],
        states: Sequence[tuple[Tensor, Tensor]],
        head: tuple[Tensor, Tensor] | None,
        *,
        eps: float,
        dtype: torch.dtype,
        batch: int,
    ) -> None:
        self._kernel = _KERNELS[dtype]
        self._dtype = dtype
        self._referenced: list[Tensor] = []  # what the kernel has addresses of
        self._batch = batch
        self.vocab_size = 0 if head is None else len(head[1])
        table = array("q")
        for weights, state in zip(layers, states, strict=True):
            table.extend(self._layer(weights, *state))
        self._table = table
        norm_f, projection = head if head is not None else (empty((0,)), empty((0,)))
        d_model = len(layers[0].norm) if layers else len(norm_f)
        d_inner, d_state = layers[0].A_log.shape if layers else (0, 0)
        rank = layers[0].dt_proj.shape[1] if layers else 0
        self._eps = torch.tensor([eps], dtype=torch.float32, device="cpu")
        phases = PHASES_PER_LAYER * len(layers) + 1
        self._counters = empty(((phases + 1) * COUNTER_BYTES // 8,), torch.int64)
        x, gate, y = (empty((batch, d_inner)) for _ in range(3))
        dt_B_C = empty((batch, rank + 2 * d_state))
        self._referenced += [x, gate, y, dt_B_C]
        self._scratch = scratch_bytes(batch, d_model)
        self._args = StepArgs(
            batch=batch,
            d_model=d_model,
            d_inner=d_inner,
            d_state=d_state,
            d_conv=layers[0].conv_weight.shape[1] if layers else 1,
            rank=rank,
            layers=len(layers),
            eps=self._eps.data_ptr(),
            counters=self._counters.data_ptr() + -self._counters.data_ptr() % COUNTER_BYTES,
            table=table.buffer_info()[0] if layers else 0,
            hidden=0,
            x=x.data_ptr(),
            gate=gate.data_ptr(),
            y=y.data_ptr(),
            dt_B_C=dt_B_C.data_ptr(),
            norm_f=self._vector(norm_f),
            head=self._matrix(projection) if head is not None else 0,
            vocab_size=self.vocab_size,
            logits=0,
        )
        self._parallel = sum(w.numel() for w in self._referenced) > _MIN_PARALLEL_WEIGHTS

    def __call__(self, hidden: Tensor) -> Tensor:
        """Take a step; return the logits (b, vocab_size) float32, or `hidden` without a head.

        `hidden` (b, d_model) float32, contiguous, is changed in place.
        """
        args = self._args
        _check(hidden, (args.batch, args.d_model))
        logits = empty((args.batch, self.vocab_size)) if self.vocab_size else hidden
        self._counters.zero_()
        args = args._replace(hidden=hidden.data_ptr(), logits=logits.data_ptr())
        self._kernel.run(args, torch.get_num_threads(), self._scratch, self._parallel)
        return logits

    def _layer(self, weights: StepWeights, conv: Tensor, ssm: Tensor) -> Layer:
        """Check a layer's state and collect the addresses of its weights and state."""
        w = weights
        d_inner, d_conv = w.conv_weight.shape
        _check(conv, (self._batch, d_inner, d_conv - 1))
        _check(ssm, (self._batch, *w.A_log.shape))
        self._referenced += [conv, ssm]
        return Layer(
            norm=self._vector(w.norm),
            in_proj=self._matrix(w.in_proj),
            conv_weight=self._vector(w.conv_weight),
            conv_bias=self._vector(w.conv_bias),
            x_proj=self._matrix(w.x_proj),
            dt_proj=self._matrix(w.dt_proj),
            dt_bias=self._vector(w.dt_bias),
            A=self._vector(-LOG2E * torch.exp(w.A_log.detach().float())),
            D=self._vector(w.D),
            out_proj=self._matrix(w.out_proj),
            conv_state=conv.data_ptr(),
            ssm_state=ssm.data_ptr(),
        )

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


def _check(values: Tensor, shape: tuple[int, ...]) -> None:
    """Assert that memory which the kernel writes by address is what it takes it for."""
    assert values.dtype == torch.float32, values.dtype
    assert values.is_contiguous()
    assert values.shape == shape, f"{tuple(values.shape)}, not {shape}"

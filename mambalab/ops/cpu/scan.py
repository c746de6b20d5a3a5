"""Selective scan on the CPU: prepares arguments and runs the compiled kernels (backend `cpu`).

float32 or bfloat16 tensors whose last dimension is contiguous are read in place, whatever their
other strides; all arithmetic is float32. Saved for the backward: d_state float32 a channel for each
`CHUNK` steps. The functions are those of `interface.ScanImplementation`.
"""

import torch
from torch import Tensor

from mambalab.ops.common import contiguous_rows, group_count
from mambalab.ops.cpu import scan_backward, scan_forward
from mambalab.ops.cpu.runtime import Kernel, empty
from mambalab.ops.cpu.scan_layout import CHUNK, ScanArgs, padded_states, strips_per_group
from mambalab.ops.cpu.simd import LANES
from mambalab.ops.interface import ScanGradients

_FORWARD = Kernel(scan_forward.build, ScanArgs._fields)
_BACKWARD = Kernel(scan_backward.build, ScanArgs._fields)

_MIN_PARALLEL_UPDATES = 2**16  # of states (b l d n); a second thread does not pay below
_MIN_TASKS = 16  # whatever the machine: results must not depend on its number of cores
_MAX_PACK_STRIPS = 8  # their staged rows take 9 * CHUNK * VECTOR_BYTES bytes each


def states_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """Shape (b, chunks, strips, n, LANES) of the states that `forward` saves for `backward`."""
    strips = groups * strips_per_group(d_inner, groups)
    return batch, -(-length // CHUNK), strips, padded_states(d_state), LANES


def _pack(batch: int, groups: int, strips: int) -> int:
    """Choose the strips of a task: many share the sums of dB and dC, few feed more threads."""
    pack = min(2, strips)
    while 2 * pack <= min(_MAX_PACK_STRIPS, strips):
        if batch * groups * -(-strips // (2 * pack)) < _MIN_TASKS:
            break
        pack *= 2
    return pack


def _address(x: Tensor | None) -> int:
    """Address of a tensor's first element; 0 for an absent tensor."""
    return 0 if x is None else x.data_ptr()


def _strides(x: Tensor | None, dims: int) -> list[int]:
    """Strides of the leading `dims` dimensions, in bytes; zeros for an absent tensor."""
    return [0] * dims if x is None else [s * x.element_size() for s in x.stride()[:dims]]


def _matrix(x: Tensor) -> list[int]:
    """Address of B or C, and its strides over batch, time and groups, in bytes."""
    batch, row, *group = _strides(x, x.dim() - 1)
    return [x.data_ptr(), batch, row, *(group or [0])]


def _described(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    y: Tensor,
    initial: Tensor | None,
    final: Tensor | None,
    saved_states: Tensor | None,
    delta_softplus: bool,
    pack: int,
) -> ScanArgs:
    """Collect addresses, byte strides, sizes and flags for the kernels."""
    batch, length, d_inner = u.shape
    groups = group_count(B)
    values = [batch, length, d_inner, A.shape[1], groups, pack]
    values += [int(u.dtype == torch.bfloat16), int(delta_softplus)]
    values += [_address(x) for x in (A, D, delta_bias, initial, final, saved_states)]
    values += [u.data_ptr(), *_strides(u, 2), delta.data_ptr(), *_strides(delta, 2)]
    values += _matrix(B) + _matrix(C)
    values += [_address(z), *_strides(z, 2), y.data_ptr(), *_strides(y, 2)]
    return ScanArgs(*values)


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    save_states: bool,
    with_final: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return y (b, l, d) in u's dtype, the last state (b, d, n) and the saved states, or None."""
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    groups = group_count(B)
    u, delta, B, C = (contiguous_rows(x) for x in (u, delta, B, C))
    z = None if z is None else contiguous_rows(z)
    A = A.contiguous()
    D, delta_bias, initial_state = (
        None if x is None else x.contiguous() for x in (D, delta_bias, initial_state)
    )
    y = empty(u.shape, u.dtype)
    state = empty((batch, d_inner, d_state))
    saved_states = None
    if save_states:
        saved_states = empty(states_shape(batch, length, d_inner, d_state, groups))
    strips = strips_per_group(d_inner, groups)
    pack = _pack(batch, groups, strips)
    args = _described(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        y,
        initial_state,
        state,
        saved_states,
        delta_softplus,
        pack,
    )
    tasks = batch * groups * -(-strips // pack)
    scratch = scan_forward.scratch_bytes(d_state, pack)
    _FORWARD.run(args, tasks, scratch, u.numel() * d_state > _MIN_PARALLEL_UPDATES)
    return y, state if with_final else None, saved_states


def backward(
    grad_y: Tensor,
    grad_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    saved_states: Tensor,
    with_initial: bool = True,
) -> ScanGradients:
    """Return the gradients, given those of y (b, l, d) and of the last state (b, d, n) or None.

    Those of u, delta, B, C, z have the dtype of their tensor, the others are float32.
    """
    batch, _, d_inner = u.shape
    d_state = A.shape[1]
    groups = group_count(B)
    grad_y, u, delta, B, C = (contiguous_rows(x) for x in (grad_y, u, delta, B, C))
    z = None if z is None else contiguous_rows(z)
    A = A.contiguous()
    D, delta_bias, grad_state = (
        None if x is None else x.contiguous() for x in (D, delta_bias, grad_state)
    )
    strips = strips_per_group(d_inner, groups)
    pack = _pack(batch, groups, strips)
    packs = -(-strips // pack)

    grad_u, grad_delta = (empty(u.shape, u.dtype) for _ in range(2))
    grad_z = None if z is None else empty(z.shape, z.dtype)
    grad_initial = empty((batch, d_inner, d_state))
    by_strip = (batch, groups, strips)
    grad_A = empty((*by_strip, padded_states(d_state), LANES))
    grad_D, grad_bias = empty((*by_strip, LANES)), empty((*by_strip, LANES))
    grad_B, grad_C = empty((packs, *B.shape)), empty((packs, *C.shape))

    args = _described(
        u, delta, A, B, C, D, z, delta_bias, grad_y, grad_initial, grad_state, saved_states,
        delta_softplus, pack,
    )  # fmt: skip
    args = args._replace(
        grad_u=grad_u.data_ptr(),
        grad_delta=grad_delta.data_ptr(),
        grad_z=_address(grad_z),
        grad_A=grad_A.data_ptr(),
        grad_D=grad_D.data_ptr(),
        grad_bias=grad_bias.data_ptr(),
        grad_B=grad_B.data_ptr(),
        grad_C=grad_C.data_ptr(),
    )
    scratch = scan_backward.scratch_bytes(d_state, pack)
    _BACKWARD.run(
        args, batch * groups * packs, scratch, u.numel() * d_state > _MIN_PARALLEL_UPDATES
    )

    def of_channels(x: Tensor) -> Tensor:  # (b, g, strips, LANES) -> (d,)
        return x.sum(0).flatten(1)[:, : d_inner // groups].reshape(-1)

    def of_matrix(x: Tensor, like: Tensor) -> Tensor:  # (packs, ...) -> (...)
        return (x[0] if packs == 1 else x.sum(0)).to(like.dtype)

    by_channel = grad_A.sum(0).transpose(2, 3).flatten(1, 2)  # (g, strips * LANES, padded n)
    return ScanGradients(
        u=grad_u,
        delta=grad_delta,
        A=by_channel[:, : d_inner // groups, :d_state].reshape(d_inner, d_state).contiguous(),
        B=of_matrix(grad_B, B),
        C=of_matrix(grad_C, C),
        D=None if D is None else of_channels(grad_D),
        z=grad_z,
        delta_bias=None if delta_bias is None else of_channels(grad_bias),
        initial_state=grad_initial if with_initial else None,
    )

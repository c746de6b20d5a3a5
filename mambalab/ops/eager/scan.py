"""Selective scan in plain PyTorch: any device, any floating dtype, bounded memory.

Time is cut into chunks of `CHUNK` steps. Inside a chunk everything but the recurrence itself (one
fused multiply-add over all channels and states a step) runs on (b, t, d, n) tensors. Only the state
at the start of each chunk is saved for the backward, which recomputes the rest chunk by chunk, so
nothing of size (b, l, d, n) ever exists.

The functions are those of `interface.ScanImplementation`; all arithmetic has the dtype of
`reference.compute_dtype`. Inside, d is split into (g, p): g groups of p channels that share a row
of B and of C.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.ops.common import group_count
from mambalab.ops.interface import ScanGradients
from mambalab.ops.reference import compute_dtype, softplus

CHUNK = 32  # steps between two saved states


class _Chunk(NamedTuple):
    """Inputs of one chunk of t steps, in the compute dtype."""

    u: Tensor  # (b, t, g, p)
    raw: Tensor  # (b, t, g, p): delta before softplus
    delta: Tensor  # (b, t, g, p)
    drive: Tensor  # (b, t, g, p): delta * u
    B: Tensor  # (b, t, g, n)
    C: Tensor  # (b, t, g, n)
    z: Tensor | None  # (b, t, g, p)


def states_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """Shape (b, chunks, d, n) of the states that `forward` saves for `backward`."""
    return batch, -(-length // CHUNK), d_inner, d_state


def _spans(length: int) -> list[slice]:
    """Cut a sequence into the slices of its chunks."""
    return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def _chunks(
    spans: list[slice],
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Iterator[_Chunk]:
    """Yield the inputs of each chunk in the compute dtype, bias and softplus applied."""
    dtype, groups = compute_dtype(u.dtype), group_count(B)

    def rows(x: Tensor, span: slice) -> Tensor:  # (b, l, d) or (b, l, [g,] n) -> (b, t, g, p or n)
        part = x[:, span]
        if part.dim() == 3:
            part = part.unflatten(-1, (groups, -1))
        return part.to(dtype)

    for span in spans:
        raw = rows(delta, span)
        if delta_bias is not None:
            raw = raw + delta_bias.to(dtype).view(groups, -1)
        steps = softplus(raw) if delta_softplus else raw
        inputs = rows(u, span)
        gate = None if z is None else rows(z, span)
        yield _Chunk(inputs, raw, steps, steps * inputs, rows(B, span), rows(C, span), gate)


def _states(chunk: _Chunk, A: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the decays exp(delta A) and the states h of a chunk, both (b, t, g, p, n)."""
    decay = torch.exp(chunk.delta.unsqueeze(-1) * A)
    states = chunk.drive.unsqueeze(-1) * chunk.B.unsqueeze(-2)
    for t in range(states.shape[1]):
        states[:, t].addcmul_(decay[:, t], before)
        before = states[:, t]
    return decay, states


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
    d_state, groups, dtype = A.shape[1], group_count(B), compute_dtype(u.dtype)
    A = A.to(dtype).view(groups, -1, d_state)
    skip = None if D is None else D.to(dtype).view(groups, -1)
    state = u.new_zeros((batch, *A.shape), dtype=dtype)
    if initial_state is not None:
        state.copy_(initial_state.view_as(state))
    saved_states = None
    if save_states:
        saved_states = u.new_empty(states_shape(batch, length, d_inner, d_state), dtype=dtype)
    y = u.new_empty(u.shape)

    spans = _spans(length)
    chunks = _chunks(spans, u, delta, B, C, z, delta_bias, delta_softplus)
    for i, (span, chunk) in enumerate(zip(spans, chunks, strict=True)):
        if saved_states is not None:
            saved_states[:, i] = state.flatten(1, 2)
        _, states = _states(chunk, A, state)
        state = states[:, -1].clone()  # a view would keep the whole chunk alive
        out = torch.einsum("btgpn,btgn->btgp", states, chunk.C)
        if skip is not None:
            out = out + skip * chunk.u
        if chunk.z is not None:
            out = out * F.silu(chunk.z)
        y[:, span] = out.flatten(2)
    return y, state.flatten(1, 2) if with_final else None, saved_states


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

    Those of u, delta, B, C, z have the dtype of their tensor, the others the compute dtype.
    """
    batch, length, _ = u.shape
    d_state, groups, dtype = A.shape[1], group_count(B), compute_dtype(u.dtype)
    shape_A = A.shape
    A = A.to(dtype).view(groups, -1, d_state)
    skip = None if D is None else D.to(dtype).view(groups, -1)
    grads = ScanGradients(
        u=u.new_empty(u.shape),
        delta=delta.new_empty(delta.shape),
        A=A.new_zeros(A.shape),
        B=B.new_empty(B.shape),
        C=C.new_empty(C.shape),
        D=None if skip is None else skip.new_zeros(skip.shape),
        z=None if z is None else z.new_empty(z.shape),
        delta_bias=None if delta_bias is None else A.new_zeros(A.shape[:2]),
        initial_state=None,
    )
    carry = grads.A.new_zeros((batch, *A.shape))  # gradient of the state after the chunk at hand
    if grad_state is not None:
        carry.copy_(grad_state.view_as(carry))

    spans = _spans(length)[::-1]
    chunks = _chunks(spans, u, delta, B, C, z, delta_bias, delta_softplus)
    for i, (span, chunk) in enumerate(zip(spans, chunks, strict=True)):
        before = saved_states[:, -1 - i].view_as(carry)
        decay, states = _states(chunk, A, before)
        grad = grad_y[:, span].to(dtype).unflatten(-1, (groups, -1))
        if chunk.z is not None:
            assert grads.z is not None
            out = torch.einsum("btgpn,btgn->btgp", states, chunk.C)
            if skip is not None:
                out = out + skip * chunk.u
            gate = torch.sigmoid(chunk.z)
            slope = gate * (1 + chunk.z * (1 - gate))
            grads.z[:, span] = (grad * out * slope).flatten(2)
            grad = grad * chunk.z * gate

        into = grad.unsqueeze(-1) * chunk.C.unsqueeze(-2)  # (b, t, g, p, n): gradient of h_t
        into[:, -1] += carry
        for t in range(into.shape[1] - 1, 0, -1):
            into[:, t - 1].addcmul_(decay[:, t], into[:, t])
        torch.mul(decay[:, 0], into[:, 0], out=carry)

        grads.C[:, span] = torch.einsum("btgpn,btgp->btgn", states, grad).view_as(C[:, span])
        grads.B[:, span] = torch.einsum("btgpn,btgp->btgn", into, chunk.drive).view_as(B[:, span])
        grad_drive = torch.einsum("btgpn,btgn->btgp", into, chunk.B)
        # Gradient of the exponent delta A is grad h_t * decay_t * h_{t-1}; built in decay's memory.
        exponent = decay.mul_(into)
        exponent[:, 1:] *= states[:, :-1]
        exponent[:, 0] *= before
        grads.A.add_(torch.einsum("btgpn,btgp->gpn", exponent, chunk.delta))
        grad_delta = torch.einsum("btgpn,gpn->btgp", exponent, A) + grad_drive * chunk.u
        if delta_softplus:
            grad_delta = grad_delta * torch.sigmoid(chunk.raw)
        grad_u = grad_drive * chunk.delta
        if skip is not None:
            grad_u = grad_u + skip * grad
        if grads.D is not None:
            grads.D.add_((grad * chunk.u).sum((0, 1)))
        if grads.delta_bias is not None:
            grads.delta_bias.add_(grad_delta.sum((0, 1)))
        grads.u[:, span] = grad_u.flatten(2)
        grads.delta[:, span] = grad_delta.flatten(2)

    return grads._replace(
        A=grads.A.view(shape_A),
        D=None if grads.D is None else grads.D.flatten(),
        delta_bias=None if grads.delta_bias is None else grads.delta_bias.flatten(),
        initial_state=carry.flatten(1, 2) if with_initial else None,
    )

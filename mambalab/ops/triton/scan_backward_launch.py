# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Gradients of the selective scan on an NVIDIA GPU: launches the kernels of the backward.

Memory, freed at the end: scratch of 6 * CHUNK + (CHUNK / 2 + 4) * n floats a channel, sequence and
segment; partial gradients of B and C, 2 * g * n floats a step and sequence for each block of
channels. The latter are bounded: long sequences and large batches go in rounds, each over some of
the steps of some of the sequences, the last steps first.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mambalab.ops.common import contiguous_rows
from mambalab.ops.interface import ScanGradients
from mambalab.ops.triton import scan_backward as kernels
from mambalab.ops.triton import scan_segments, sums
from mambalab.ops.triton.plans import Plan, choose
from mambalab.ops.triton.shapes import (
    CHUNK,
    COMPILED,
    matrix,
    on_its_device,
    segments,
    tile,
    vector,
)

PARTIAL_BYTES = 64 << 20
"""Most memory for partial gradients of B and C at once, unless one chunk of one sequence needs
more: 16 n d bytes."""

BLOCK_T = 4


class Rounds(NamedTuple):
    """How a backward is cut: sequences and steps of a round."""

    batches: int
    steps: int


def rounds(batch: int, length: int, bytes_a_step: int, limit: int) -> Rounds:
    """Cut a backward so that a round needs at most `limit` bytes, if that is a chunk's at least.

    Args:
        batch, length: sequences, and steps of each.
        bytes_a_step: what one step of one sequence needs.
        limit: bytes.
    """
    batches = max(1, min(batch, limit // (bytes_a_step * min(length, CHUNK))))
    batches = triton.cdiv(batch, triton.cdiv(batch, batches))
    if batches * length * bytes_a_step <= limit:
        return Rounds(batches, length)
    chunks = max(1, limit // (bytes_a_step * batches * CHUNK))
    count = triton.cdiv(triton.cdiv(length, CHUNK), chunks)
    return Rounds(batches, CHUNK * triton.cdiv(triton.cdiv(length, count), CHUNK))


@on_its_device
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
    parts: int | None = None,
    limit: int = PARTIAL_BYTES,
    plan: Plan | None = None,
) -> ScanGradients:
    """Return the gradients, given those of y (b, l, d) and of the last state (b, d, n) or None.

    Those of u, delta, B, C, z have the dtype of their tensor, the others are float32; that of the
    initial state is None unless `with_initial`. `parts` is the number of segments of a round that
    run side by side, `limit` the bytes of partial gradients, `plan` how a program is cut; None
    chooses by shape and device.
    """
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    grad_y, u, delta = contiguous_rows(grad_y), contiguous_rows(u), contiguous_rows(delta)
    gate = u if z is None else contiguous_rows(z)
    A, wide_B, wide_C = A.contiguous(), matrix(B), matrix(C)
    groups = wide_B.shape[2]
    channels = d_inner // groups
    sizes = tile(d_state)
    warps = sizes["num_warps"]
    if plan is None:
        plan = choose(batch * groups * channels * warps, d_state, u.device)
    block_d = plan.block_d
    blocks = triton.cdiv(channels, block_d)
    cut = rounds(batch, length, 8 * groups * d_state * blocks, limit)
    if parts is None:
        programs = cut.batches * groups * blocks
        parts = segments(programs * warps, cut.steps, u.device, plan.fill, least=2)
    segment = CHUNK * triton.cdiv(triton.cdiv(cut.steps, parts), CHUNK)
    parts = triton.cdiv(cut.steps, segment)
    D, delta_bias = vector(D), vector(delta_bias)
    ending = None if grad_state is None else grad_state.contiguous()

    def like(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)

    grad_u, grad_delta = like(u), like(delta)
    grad_z = None if z is None else like(z)
    grad_B, grad_C = like(wide_B), like(wide_C)
    totals = A.new_empty(batch, parts, d_state + 2, d_inner)
    carried = None  # gradient of the state before a round
    if with_initial or cut.steps < length:
        carried = A.new_empty(batch, d_inner, d_state)
    floats = (6 * CHUNK + (CHUNK // 2 + 4) * sizes["BLOCK_N"]) * block_d
    scratch = A.new_empty(cut.batches * groups * blocks * parts, floats)
    flags = {
        "BLOCK_T": BLOCK_T, "BLOCK_D": block_d, "HAS_Z": z is not None,
        "HAS_BIAS": delta_bias is not None, "SOFTPLUS": delta_softplus, **sizes, **COMPILED,
    }  # fmt: skip
    if plan.registers is not None:
        flags["maxnreg"] = plan.registers

    def run(rows: slice, low: int, high: int, ending: Tensor | None) -> None:
        """Run the steps from `low` to `high` of the sequences `rows`."""

        def of(x: Tensor | None, other: Tensor = A) -> Tensor:  # one that will not be read
            return other if x is None else x[rows]

        some_y, some_u, some_delta, some_gate = (x[rows] for x in (grad_y, u, delta, gate))
        some_B, some_C = wide_B[rows], wide_C[rows]
        count = len(some_u)
        programs = count * groups * blocks
        ending = None if ending is None else ending[rows]
        bias = A if delta_bias is None else delta_bias
        shape = (groups, channels, segment)
        strides = (*grad_y.stride()[:2], *delta.stride()[:2], *gate.stride()[:2])
        if parts > 1:
            local = A.new_empty(count, parts, d_inner, d_state)
            total = A.new_empty(count, parts, d_inner)
            scan_segments.carry_kernel[(programs, parts)](
                some_y, some_delta, some_gate, A, some_C, bias, local, total,
                low, high, d_inner, *shape, *strides, *wide_C.stride()[:3],
                **{k: v for k, v in flags.items() if k != "maxnreg"},
            )  # fmt: skip
            last, ending = ending, torch.empty_like(local)
            scan_segments.combine_kernel[(triton.cdiv(d_inner, 32), count)](
                A, total, local, A if last is None else last, ending, d_inner, parts,
                BLOCK_D=32, HAS_INITIAL=last is not None, REVERSE=True, **sizes, **COMPILED,
            )  # fmt: skip
        parts_B, parts_C = (
            A.new_empty(blocks, count, high - low, groups, d_state) for _ in range(2)
        )
        hand_on = carried is not None and (with_initial or low > 0)
        kernels.scan_backward_kernel[(programs, parts)](
            some_y, some_u, some_delta, some_gate, A, some_B, some_C, A if D is None else D, bias,
            saved_states[rows], A if ending is None else ending, scratch,
            of(grad_u), of(grad_delta), of(grad_z, grad_u), parts_B, parts_C, totals[rows],
            of(carried), count, length, low, high, d_inner, *shape,
            *grad_y.stride()[:2], *u.stride()[:2], *delta.stride()[:2], *gate.stride()[:2],
            *wide_B.stride()[:3], *wide_C.stride()[:3],
            CHUNK=CHUNK, EVEN_D=channels % block_d == 0, HAS_D=D is not None,
            HAS_CARRY=ending is not None, HAND_ON=hand_on, **flags,
        )  # fmt: skip
        sums.add_matrices(parts_B, parts_C, (of(grad_B), of(grad_C)), low, high - low)

    for first in range(0, batch, cut.batches):
        rows = slice(first, min(batch, first + cut.batches))
        for low in range((length - 1) // cut.steps * cut.steps, -1, -cut.steps):
            high = min(length, low + cut.steps)
            run(rows, low, high, ending if high == length else carried)
    grad_A, grad_D, grad_bias = sums.add_channels(
        totals.flatten(0, 1), d_state, D is not None, delta_bias is not None
    )
    return ScanGradients(
        u=grad_u,
        delta=grad_delta,
        A=grad_A,
        B=grad_B.view(B.shape),
        C=grad_C.view(C.shape),
        D=grad_D,
        z=grad_z,
        delta_bias=grad_bias,
        initial_state=carried if with_initial else None,
    )

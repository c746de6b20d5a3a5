# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Gradients of the selective scan on an NVIDIA GPU: launches the kernels of the backward.

Memory, freed at the end: scratch of 6 * CHUNK + (CHUNK / 2 + 3) * n floats a channel, sequence and
segment; partial gradients of B and C, 2 * b * l * g * n floats for each block of channels.
"""

import torch
import triton
from torch import Tensor

from mambalab.ops.common import LOG2E, contiguous_rows
from mambalab.ops.interface import ScanGradients
from mambalab.ops.triton import scan_backward as kernels
from mambalab.ops.triton.scan_forward import combine_kernel
from mambalab.ops.triton.shapes import CHUNK, matrix, segments, tile, vector

BLOCK_D = 32
BLOCK_T = 4


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
    parts: int | None = None,
) -> ScanGradients:
    """Return the gradients, given those of y (b, l, d) and of the last state (b, d, n) or None.

    Those of u, delta, B, C, z have the dtype of their tensor, the others are float32. `parts` is
    the number of segments that run side by side; None chooses by shape and device.
    """
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    grad_y, u, delta = contiguous_rows(grad_y), contiguous_rows(u), contiguous_rows(delta)
    gate = u if z is None else contiguous_rows(z)
    wide_B, wide_C = matrix(B), matrix(C)
    groups = wide_B.shape[2]
    channels = d_inner // groups
    blocks = triton.cdiv(channels, BLOCK_D)
    programs = batch * groups * blocks
    if parts is None:
        parts = segments(programs, length, u.device)
    segment = CHUNK * triton.cdiv(triton.cdiv(length, parts), CHUNK)
    parts = triton.cdiv(length, segment)
    rates = (A.t() * LOG2E).contiguous()
    D, delta_bias = vector(D), vector(delta_bias)
    ending = None if grad_state is None else grad_state.transpose(1, 2).contiguous()
    sizes = tile(d_state)

    if parts > 1:
        local = rates.new_empty(batch, parts, d_state, d_inner)
        total = rates.new_empty(batch, parts, d_inner)
        kernels.carry_kernel[(programs, parts)](
            grad_y, delta, gate, rates, wide_C, rates if delta_bias is None else delta_bias,
            local, total, length, d_inner, groups, channels, segment,
            *grad_y.stride()[:2], *delta.stride()[:2], *gate.stride()[:2],
            BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, HAS_Z=z is not None,
            HAS_BIAS=delta_bias is not None, SOFTPLUS=delta_softplus,
            enable_fp_fusion=True, **sizes,
        )  # fmt: skip
        initial, ending = ending, torch.empty_like(local)
        combine_kernel[(triton.cdiv(d_inner, 32), batch)](
            rates, total, local, rates if initial is None else initial, ending, d_inner, parts,
            BLOCK_D=32, HAS_INITIAL=initial is not None, REVERSE=True, **sizes,
        )  # fmt: skip

    def like(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)

    grad_u, grad_delta = like(u), like(delta)
    grad_z = None if z is None else like(z)
    grad_B, grad_C = (rates.new_empty(blocks, *wide_B.shape) for _ in range(2))
    grad_A = rates.new_empty(batch, parts, d_state, d_inner)
    grad_D, grad_bias = (rates.new_empty(batch, parts, d_inner) for _ in range(2))
    grad_initial = rates.new_empty(batch, d_state, d_inner)
    floats = (6 * CHUNK + (CHUNK // 2 + 3) * sizes["BLOCK_N"]) * BLOCK_D
    scratch = rates.new_empty(programs * parts, floats)
    kernels.scan_backward_kernel[(programs, parts)](
        grad_y, u, delta, gate, rates, wide_B, wide_C,
        rates if D is None else D, rates if delta_bias is None else delta_bias,
        saved_states, rates if ending is None else ending, scratch,
        grad_u, grad_delta, grad_u if grad_z is None else grad_z,
        grad_B, grad_C, grad_A, grad_D, grad_bias, grad_initial,
        batch, length, d_inner, groups, channels, segment,
        *grad_y.stride()[:2], *u.stride()[:2], *delta.stride()[:2], *gate.stride()[:2],
        BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, CHUNK=CHUNK, EVEN_D=channels % BLOCK_D == 0,
        HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=delta_bias is not None,
        HAS_CARRY=ending is not None, SOFTPLUS=delta_softplus,
        enable_fp_fusion=True, **sizes,
    )  # fmt: skip
    return ScanGradients(
        u=grad_u,
        delta=grad_delta,
        A=grad_A.sum((0, 1)).t().contiguous(),
        B=grad_B.sum(0).to(B.dtype).view_as(B),
        C=grad_C.sum(0).to(C.dtype).view_as(C),
        D=None if D is None else grad_D.sum((0, 1)),
        z=grad_z,
        delta_bias=None if delta_bias is None else grad_bias.sum((0, 1)),
        initial_state=grad_initial.transpose(1, 2).contiguous(),
    )

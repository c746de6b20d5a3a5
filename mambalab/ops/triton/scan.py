# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Selective scan on an NVIDIA GPU: prepares arguments and launches the Triton kernels.

float32, bfloat16 or float16 tensors whose last dimension is contiguous are read in place, whatever
their other strides; all arithmetic is float32. One launch a call, three where the sequence is cut
into segments. Saved for the backward: d_state float32 a channel for each `CHUNK` steps. The
functions are those of `interface.ScanImplementation`.
"""

import torch
import triton
from torch import Tensor

from mambalab.ops.common import contiguous_rows
from mambalab.ops.triton import scan_forward as kernels
from mambalab.ops.triton import scan_segments
from mambalab.ops.triton.scan_backward_launch import backward
from mambalab.ops.triton.shapes import (
    CHUNK,
    COMPILED,
    matrix,
    on_its_device,
    segments,
    tile,
    vector,
)

__all__ = ["backward", "forward", "states_shape"]

BLOCK_D = 16
BLOCK_T = 8


def states_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """Shape (b, chunks, n, d) of the states that `forward` saves for `backward`."""
    del groups
    return batch, -(-length // CHUNK), d_state, d_inner


@on_its_device
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
    parts: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return y (b, l, d) in u's dtype, the last state (b, d, n), the saved states or None.

    The last state is None unless `with_final`. `parts` is the number of segments that run side by
    side; None chooses by shape and device.
    """
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    u, delta = contiguous_rows(u), contiguous_rows(delta)
    gate = u if z is None else contiguous_rows(z)
    A, B, C = A.contiguous(), matrix(B), matrix(C)
    groups = B.shape[2]
    channels = d_inner // groups
    programs = batch * groups * triton.cdiv(channels, BLOCK_D)
    sizes = tile(d_state)
    if parts is None:
        parts = segments(programs * sizes["num_warps"], length, u.device)
    segment = CHUNK * triton.cdiv(triton.cdiv(length, parts), CHUNK)
    parts = triton.cdiv(length, segment)
    D, delta_bias = vector(D), vector(delta_bias)
    start = None if initial_state is None else initial_state.contiguous()
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    final = A.new_empty(batch, d_inner, d_state) if with_final else None
    saved_states = (
        A.new_empty(states_shape(batch, length, d_inner, d_state)) if save_states else None
    )

    def run(start: Tensor | None, final: Tensor | None, saved: Tensor | None, output: bool) -> None:
        kernels.scan_kernel[(programs, parts)](
            u, delta, gate, A, B, C,
            A if D is None else D, A if delta_bias is None else delta_bias,
            A if start is None else start, y, A if final is None else final,
            A if saved is None else saved,
            length, d_inner, groups, channels, segment,
            *u.stride()[:2], *delta.stride()[:2], *gate.stride()[:2],
            *B.stride()[:3], *C.stride()[:3],
            BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, CHUNK=CHUNK, EVEN_D=channels % BLOCK_D == 0,
            HAS_D=D is not None and output, HAS_Z=z is not None and output,
            HAS_BIAS=delta_bias is not None, HAS_START=start is not None,
            SOFTPLUS=delta_softplus, KEEP=saved is not None and output,
            FINAL=final is not None, OUTPUT=output, **sizes, **COMPILED,
        )  # fmt: skip

    if parts > 1:
        local = A.new_empty(batch, parts, d_inner, d_state)
        total = A.new_empty(batch, parts, d_inner)
        run(None, local, total, output=False)
        initial, start = start, torch.empty_like(local)
        scan_segments.combine_kernel[(triton.cdiv(d_inner, 32), batch)](
            A, total, local, A if initial is None else initial, start, d_inner, parts,
            BLOCK_D=32, HAS_INITIAL=initial is not None, REVERSE=False, **sizes, **COMPILED,
        )  # fmt: skip
    run(start, final, saved_states, output=True)
    return y, final, saved_states

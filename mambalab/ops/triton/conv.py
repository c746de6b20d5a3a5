# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Causal convolution with SiLU on an NVIDIA GPU: Triton kernels and their launches.

A program computes one tile (BLOCK_T, BLOCK_D) of outputs and reads its inputs once for each tap,
from cache after the first. The backward goes twice over the data: first the gradient before SiLU
and, for each tile, its part of the gradients of weight and bias; then the gradient of the input. No
atomics: parts are added up in a fixed order, so results are bitwise reproducible. The functions are
those of `interface.ConvImplementation`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mambalab.ops.common import contiguous_rows
from mambalab.ops.interface import ConvGradients
from mambalab.ops.triton import sums
from mambalab.ops.triton.common import product, sigmoid
from mambalab.ops.triton.shapes import COMPILED, on_its_device

_TILE = {"BLOCK_T": 16, "BLOCK_D": 64, "num_warps": 4, **COMPILED}


@triton.jit
def _inputs(
    x_at, x_row, state_at, row, d, length, d_inner, K: tl.constexpr, HAS_STATE: tl.constexpr
):
    """Load x at the times `row`, float32; the state for those before the first, zeros elsewhere."""
    real = (d < d_inner)[None, :]
    now = ((row >= 0) & (row < length))[:, None] & real
    x = tl.load(x_at + row.to(tl.int64)[:, None] * x_row + d[None, :], mask=now, other=0.0)
    x = x.to(tl.float32)
    if HAS_STATE:
        before = ((row < 0) & (row >= 1 - K))[:, None] & real
        place = d[None, :] * (K - 1) + (row + K - 1)[:, None]
        x += tl.load(state_at + place, mask=before, other=0.0).to(tl.float32)
    return x


@triton.jit
def conv_kernel(
    x_ptr,  # (b, l, d)
    weight_ptr,  # (d, k) float32, contiguous
    bias_ptr,  # (d,) float32
    state_ptr,  # (b, d, k - 1), contiguous
    y_ptr,  # (b, l, d), contiguous
    length,
    d_inner,
    x_batch,
    x_row,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    SILU: tl.constexpr,
):
    """Compute one tile (BLOCK_T, BLOCK_D) of outputs."""
    times, blocks = tl.cdiv(length, BLOCK_T), tl.cdiv(d_inner, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // (times * blocks)).to(tl.int64)
    t = program // blocks % times * BLOCK_T + tl.arange(0, BLOCK_T)
    d = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    x_at, state_at = x_ptr + batch * x_batch, state_ptr + batch * d_inner * (K - 1)
    y = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for k in tl.static_range(K):
        weight = tl.load(weight_ptr + d * K + k, mask=d < d_inner, other=0.0)  # (BLOCK_D,)
        x = _inputs(x_at, x_row, state_at, t + (k + 1 - K), d, length, d_inner, K, HAS_STATE)
        y += x * weight[None, :]
    if HAS_BIAS:
        y += tl.load(bias_ptr + d, mask=d < d_inner, other=0.0)[None, :]
    if SILU:
        y *= sigmoid(y)
    to = (batch * length + t)[:, None] * d_inner + d[None, :]
    inside = (t < length)[:, None] & (d < d_inner)[None, :]
    tl.store(y_ptr + to, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def conv_weight_kernel(
    grad_y_ptr,  # (b, l, d)
    x_ptr,  # (b, l, d)
    weight_ptr,  # (d, k) float32, contiguous
    bias_ptr,  # (d,) float32
    state_ptr,  # (b, d, k - 1), contiguous
    grad_ptr,  # (b, l, d) float32, contiguous: gradient before SiLU
    grad_weight_ptr,  # (b, times, k + 1, d) float32; the last row is the bias's
    length,
    d_inner,
    y_batch,
    y_row,
    x_batch,
    x_row,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    SILU: tl.constexpr,
):
    """Compute one tile's gradient before SiLU, and its part of the gradients of weight and bias."""
    times, blocks = tl.cdiv(length, BLOCK_T), tl.cdiv(d_inner, BLOCK_D)
    program = tl.program_id(0)
    line = program // blocks  # of a batch entry and a stretch of time
    batch = (line // times).to(tl.int64)
    t = line % times * BLOCK_T + tl.arange(0, BLOCK_T)
    d = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    real = d < d_inner
    inside = (t < length)[:, None] & real[None, :]
    x_at, state_at = x_ptr + batch * x_batch, state_ptr + batch * d_inner * (K - 1)
    from_ = batch * y_batch + t.to(tl.int64)[:, None] * y_row + d[None, :]
    grad = tl.load(grad_y_ptr + from_, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        y = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
        for k in tl.static_range(K):
            weight = tl.load(weight_ptr + d * K + k, mask=real, other=0.0)
            x = _inputs(x_at, x_row, state_at, t + (k + 1 - K), d, length, d_inner, K, HAS_STATE)
            y += x * weight[None, :]
        if HAS_BIAS:
            y += tl.load(bias_ptr + d, mask=real, other=0.0)[None, :]
        share = sigmoid(y)
        grad = product(grad, share * (1.0 + y * (1.0 - share)))
    tl.store(grad_ptr + (batch * length + t)[:, None] * d_inner + d[None, :], grad, mask=inside)
    part = grad_weight_ptr + line.to(tl.int64) * (K + 1) * d_inner + d
    for k in tl.static_range(K):
        x = _inputs(x_at, x_row, state_at, t + (k + 1 - K), d, length, d_inner, K, HAS_STATE)
        tl.store(part + k * d_inner, tl.sum(product(grad, x), axis=0), mask=real)
    tl.store(part + K * d_inner, tl.sum(grad, axis=0), mask=real)


@triton.jit
def conv_input_kernel(
    grad_ptr,  # (b, l, d) float32, contiguous: gradient before SiLU
    weight_ptr,  # (d, k) float32, contiguous
    grad_x_ptr,  # (b, l, d), contiguous
    grad_state_ptr,  # (b, d, k - 1), contiguous
    length,
    d_inner,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_STATE: tl.constexpr,
):
    """Compute the gradient of one tile of inputs; time begins K - 1 steps early, with the state."""
    times, blocks = tl.cdiv(length + K - 1, BLOCK_T), tl.cdiv(d_inner, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // (times * blocks)).to(tl.int64)
    t = program // blocks % times * BLOCK_T + tl.arange(0, BLOCK_T) - (K - 1)
    d = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    real = (d < d_inner)[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for k in tl.static_range(K):
        row = t + (K - 1 - k)
        weight = tl.load(weight_ptr + d * K + k, mask=d < d_inner, other=0.0)
        known = ((row >= 0) & (row < length))[:, None] & real
        at = (batch * length + row)[:, None] * d_inner + d[None, :]
        total += tl.load(grad_ptr + at, mask=known, other=0.0) * weight[None, :]
    to = (batch * length + t)[:, None] * d_inner + d[None, :]
    inside = ((t >= 0) & (t < length))[:, None] & real
    tl.store(grad_x_ptr + to, total.to(grad_x_ptr.dtype.element_ty), mask=inside)
    if HAS_STATE:
        to = (batch * d_inner + d)[None, :] * (K - 1) + (t + K - 1)[:, None]
        before = (t < 0)[:, None] & real
        tl.store(grad_state_ptr + to, total.to(grad_state_ptr.dtype.element_ty), mask=before)


def _programs(batch: int, length: int, d_inner: int) -> tuple[int]:
    """Size of the launch grid: one program a tile and sequence."""
    return (batch * triton.cdiv(length, _TILE["BLOCK_T"]) * triton.cdiv(d_inner, _TILE["BLOCK_D"]),)


def _given(x: Tensor | None, other: Tensor) -> Tensor:
    """Replace None by another tensor, for a kernel that will not read it; else make contiguous."""
    return other if x is None else x.contiguous()


@on_its_device
def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> Tensor:
    """Return y (b, l, d) in x's dtype: x (b, l, d) convolved with weight (d, k), then SiLU."""
    batch, length, d_inner = x.shape
    x, weight = contiguous_rows(x), weight.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    flags: dict[str, Any] = {"HAS_BIAS": bias is not None, "HAS_STATE": initial_state is not None}
    conv_kernel[_programs(batch, length, d_inner)](
        x, weight, _given(bias, weight), _given(initial_state, x), y, length, d_inner,
        *x.stride()[:2], K=weight.shape[1], SILU=silu, **flags, **_TILE,
    )  # fmt: skip
    return y


@on_its_device
def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> ConvGradients:
    """Return the gradients, each in the dtype of its tensor, given that of y (b, l, d)."""
    batch, length, d_inner = x.shape
    width = weight.shape[1]
    grad_y, x, weight = contiguous_rows(grad_y), contiguous_rows(x), weight.contiguous()
    grad = weight.new_empty(x.shape)
    times = triton.cdiv(length, _TILE["BLOCK_T"])
    parts = weight.new_empty(batch * times, width + 1, d_inner)
    flags: dict[str, Any] = {"HAS_BIAS": bias is not None, "HAS_STATE": initial_state is not None}
    conv_weight_kernel[_programs(batch, length, d_inner)](
        grad_y, x, weight, _given(bias, weight), _given(initial_state, x), grad, parts,
        length, d_inner, *grad_y.stride()[:2], *x.stride()[:2],
        K=width, SILU=silu, **flags, **_TILE,
    )  # fmt: skip
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_state = None
    if initial_state is not None:
        grad_state = torch.empty(initial_state.shape, dtype=initial_state.dtype, device=x.device)
    conv_input_kernel[_programs(batch, length + width - 1, d_inner)](
        grad, weight, grad_x, _given(grad_state, grad_x), length, d_inner,
        K=width, HAS_STATE=grad_state is not None, **_TILE,
    )  # fmt: skip
    grad_weight, grad_bias, _ = sums.add_channels(parts, width, bias is not None)
    return ConvGradients(x=grad_x, weight=grad_weight, bias=grad_bias, initial_state=grad_state)

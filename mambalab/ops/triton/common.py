# Kernels are Triton, not Python: their types mean nothing to a checker.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
"""Small functions that the Triton kernels share."""

import os

import triton
import triton.language as tl

from mambalab.ops import common

LOG2E = tl.constexpr(common.LOG2E)
LN2 = tl.constexpr(common.LN2)
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def sigmoid(x):
    """Logistic function: 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp2(x * -LOG2E))


@triton.jit
def softplus(x):
    """Softplus log(1 + exp(x)), with full relative accuracy where it is tiny.

    log(1 + v) = v + v**2 q(v) on [0, 1] with a minimax polynomial q: it needs no logarithm, whose
    hardware approximation is worthless near 1.
    """
    v = tl.exp2(tl.abs(x) * -LOG2E)
    q = 0.005364816635847092 * v - 0.030065763741731644
    q = q * v + 0.0792044922709465
    q = q * v - 0.13753798604011536
    q = q * v + 0.1915365308523178
    q = q * v - 0.24857163429260254
    q = q * v + 0.3332132399082184
    q = q * v - 0.49999648332595825
    return tl.maximum(x, 0.0) + (v + v * v * q)


@triton.jit
def product(x, y):
    """Multiply and round: unlike `x * y` it is never fused with an addition.

    Where a warp adds up one product a lane, lane i would compute fma(x_i, y_i, x_j y_j) and lane j
    the mirror image of it, which may differ in the last bit: the result would depend on which of
    them is stored. Sums over lanes are taken of rounded products, and all lanes agree.
    """
    if INTERPRETED:
        return x * y
    return tl.inline_asm_elementwise(
        "mul.rn.f32 $0, $1, $2;", "=f,f,f", [x, y], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def carry_on(decay, state, next_decay, next_state):
    """Compose two steps of the recurrence h = decay * h + x, for an associative scan."""
    return decay * next_decay, next_decay * state + next_state

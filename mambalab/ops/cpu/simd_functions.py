"""Functions of vectors for the CPU kernels: sigmoid, SiLU, softplus, GELU, larger of two.

They are polynomials of float32 accuracy (relative error below 2e-7, growing to 4e-6 at 1e-37); NaN
stays NaN, and they neither overflow nor divide by zero.
"""

from typing import Any

from mambalab.ops.common import LOG2E
from mambalab.ops.cpu import llvm
from mambalab.ops.cpu.llvm import LANES
from mambalab.ops.cpu.simd import broadcast, inline, intrinsic, lanes


@intrinsic
def _decay_of_magnitude(typingctx: Any, x: Any) -> Any:
    """exp(-|x|), between 0 and 1."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        exponent = b.fmul(
            llvm.call(b, f"llvm.fabs.v{LANES}f32", llvm.VEC, args[0]), llvm.constant(-LOG2E)
        )
        low = llvm.constant(-125.0)
        return llvm.exp2(b, b.select(b.fcmp_ordered("<", exponent, low), low, exponent))

    return lanes(lanes), code


@intrinsic
def _log1p(typingctx: Any, v: Any) -> Any:
    """log(1 + v) for v between 0 and 1, accurate for the smallest v."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        square = b.fmul(args[0], args[0])
        return llvm.fma(b, llvm.polynomial(b, llvm.LOG1P, args[0]), square, args[0])

    return lanes(lanes), code


@intrinsic
def _if_negative(typingctx: Any, x: Any, yes: Any, no: Any) -> Any:
    """Select by lane: `yes` where x < 0, else `no`."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("<", args[0], llvm.constant(0.0)), args[1], args[2])

    return lanes(lanes, lanes, lanes), code


@inline
def sigmoid(x):
    """Logistic function: 1 / (1 + exp(-x))."""
    decay = _decay_of_magnitude(x)
    share = broadcast(1.0) / (broadcast(1.0) + decay)
    return _if_negative(x, decay * share, share)


@intrinsic
def _not_below(typingctx: Any, x: Any, low: Any) -> Any:
    """Take the larger of x and low; NaN stays NaN."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("<", args[0], args[1]), args[1], args[0])

    return lanes(lanes, lanes), code


@inline
def larger(x, y):
    """Take the larger of x and y; NaN where x is."""
    return _not_below(x, y)


@inline
def silu_argument(x):
    """Clamp x from below to where x * sigmoid(x) vanishes: beyond it `sigmoid` stops falling."""
    return _not_below(x, broadcast(-100.0))


@inline
def apply_silu(x):
    """SiLU: x * sigmoid(x)."""
    x = silu_argument(x)
    return x * sigmoid(x)


@inline
def softplus(x):
    """Softplus: log(1 + exp(x)), with full relative accuracy where it is tiny."""
    return _if_negative(x, broadcast(0.0), x) + _log1p(_decay_of_magnitude(x))


@intrinsic
def _gelu_below(typingctx: Any, x: Any) -> Any:
    """|x| erfc(|x| / sqrt(2)) / 2: how far the GELU is below the larger of x and 0."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        size = llvm.call(b, f"llvm.fabs.v{LANES}f32", llvm.VEC, args[0])
        high, low = llvm.constant(20.0), llvm.constant(-125.0)  # nothing is left beyond either
        size = b.select(b.fcmp_ordered(">", size, high), high, size)
        exponent = b.fmul(b.fmul(size, size), llvm.constant(-LOG2E / 2))
        decay = llvm.exp2(b, b.select(b.fcmp_ordered("<", exponent, low), low, exponent))
        one = llvm.constant(1.0)
        t = b.fdiv(one, llvm.fma(b, size, llvm.constant(llvm.ERFC_SCALE * 0.5**0.5), one))
        erfc = b.fmul(b.fmul(decay, t), llvm.polynomial(b, llvm.ERFC, t))
        return b.fmul(b.fmul(size, llvm.constant(0.5)), erfc)

    return lanes(lanes), code


@inline
def apply_gelu(x):
    """GELU: x times the normal distribution's share below x (arXiv 1606.08415)."""
    return _if_negative(x, broadcast(0.0), x) - _gelu_below(x)

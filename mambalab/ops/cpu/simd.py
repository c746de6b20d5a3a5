"""Explicit vectors for the CPU kernels: a numba type of `LANES` float32 and its operations.

Numba turns the functions below into single LLVM vector instructions, so that the kernels are
vectorised by construction, whatever an optimiser makes of their loops. Memory is addressed by plain
integers (bytes). Narrower machines split a vector into several registers.

exp2 is a polynomial of float32 accuracy (relative error below 2e-7); `simd_functions` has others.
"""

import operator
from typing import Any

import numba
from llvmlite import ir
from numba import extending, njit, types
from numba.extending import models, overload, register_model

from mambalab.ops.cpu import llvm
from mambalab.ops.cpu.llvm import LANES, VECTOR_BYTES

carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]
intrinsic: Any = extending.intrinsic  # what it makes takes no typing context: hide it from checkers
inline = njit(forceinline=True, error_model="numpy")
"""Decorator for helpers that are inlined into every kernel."""
outline = njit(error_model="numpy")
"""Decorator for helpers that are compiled once and called."""


class Lanes(types.Type):
    """Numba's type of one vector."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes({LANES})")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    """Memory model of `Lanes`: an LLVM vector."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, llvm.VEC)


# What the kernels call ----------------------------------------------------------------------------


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """Load the vector at an address."""
    return lanes(types.int64), lambda ctx, b, sig, args: llvm.load(b, args[0], llvm.VEC)


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Store a vector to an address."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        llvm.store(b, args[0], args[1], 4)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes), code


@intrinsic
def _load_bf16(typingctx: Any, address: Any) -> Any:
    """Load LANES bfloat16 from an address, widened."""
    return lanes(types.int64), lambda ctx, b, sig, args: llvm.widen(
        b, llvm.load(b, args[0], llvm.VEC_I16)
    )


def _load_of_pairs(odd: bool) -> Any:
    """Make the intrinsic that loads one of each two neighbours from an address."""

    @intrinsic
    def apply(typingctx: Any, address: Any) -> Any:
        return lanes(types.int64), lambda ctx, b, sig, args: llvm.widen_every_other(
            b, llvm.load(b, args[0], llvm.VEC_I32), odd
        )

    return apply


load_even_bf16, load_odd_bf16 = _load_of_pairs(odd=False), _load_of_pairs(odd=True)
"""Load LANES of 2 LANES bfloat16 from an address, widened: those of even, and of odd index."""


@intrinsic
def _load_partial(typingctx: Any, address: Any, count: Any) -> Any:
    """Load `count` float32 from an address; zeros in the other lanes."""
    code = lambda ctx, b, sig, args: llvm.load_partial(b, args[0], args[1], llvm.VEC)  # noqa: E731
    return lanes(types.int64, types.int64), code


@intrinsic
def _load_partial_bf16(typingctx: Any, address: Any, count: Any) -> Any:
    """Load `count` bfloat16 from an address, widened; zeros in the other lanes."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return llvm.widen(b, llvm.load_partial(b, args[0], args[1], llvm.VEC_I16))

    return lanes(types.int64, types.int64), code


@intrinsic
def _store_bf16(typingctx: Any, address: Any, value: Any) -> Any:
    """Store all lanes as bfloat16."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        llvm.store(b, args[0], llvm.narrow(b, args[1]), 2)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes), code


@intrinsic
def _store_partial(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """Store the first `count` lanes as float32."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        llvm.store_partial(b, *args)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes, types.int64), code


@intrinsic
def _store_partial_bf16(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """Store the first `count` lanes as bfloat16."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        llvm.store_partial(b, args[0], llvm.narrow(b, args[1]), args[2])
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes, types.int64), code


@inline
def load_row(address, bf16, count):
    """Load `count` <= LANES values of a row, bfloat16 if `bf16`, else float32; zeros beyond."""
    if count == LANES:
        return _load_bf16(address) if bf16 else load(address)
    return _load_partial_bf16(address, count) if bf16 else _load_partial(address, count)


@inline
def store_row(address, value, bf16, count):
    """Store the first `count` lanes as bfloat16 if `bf16`, else as float32."""
    if count == LANES:
        if bf16:
            _store_bf16(address, value)
        else:
            store(address, value)
    elif bf16:
        _store_partial_bf16(address, value, count)
    else:
        _store_partial(address, value, count)


@intrinsic
def _if_drawn(typingctx: Any, address: Any, least: Any, value: Any) -> Any:
    """Select by lane: `value` where the int16 at an address is at least `least`, else 0."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return llvm.if_drawn(b, llvm.load(b, args[0], llvm.VEC_I16), args[1], args[2])

    return lanes(types.int64, types.int64, lanes), code


@intrinsic
def _if_drawn_partial(typingctx: Any, address: Any, least: Any, value: Any, count: Any) -> Any:
    """As `_if_drawn`, of `count` draws."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        draws = llvm.load_partial(b, args[0], args[3], llvm.VEC_I16)
        return llvm.if_drawn(b, draws, args[1], args[2])

    return lanes(types.int64, types.int64, lanes, types.int64), code


@inline
def if_drawn(address, least, value, count):
    """Keep the lanes of a vector whose int16 at an address is at least `least`; 0 elsewhere.

    `count` <= LANES draws are read; what the other lanes become is not said.
    """
    if count == LANES:
        return _if_drawn(address, least, value)
    return _if_drawn_partial(address, least, value, count)


@intrinsic
def _through_bf16(typingctx: Any, value: Any) -> Any:
    """Round to bfloat16 and back."""
    return lanes(lanes), lambda ctx, b, sig, args: llvm.widen(b, llvm.narrow(b, args[0]))


@inline
def rounded(value, bf16):
    """Round to bfloat16 if `bf16`, to nearest even; as it is otherwise."""
    return _through_bf16(value) if bf16 else value


@intrinsic
def load_float(typingctx: Any, address: Any) -> Any:
    """Load the float32 at an address."""
    code = lambda ctx, b, sig, args: b.load(llvm.pointer(b, args[0], llvm.F32), align=4)  # noqa: E731
    return types.float32(types.int64), code


@intrinsic
def store_float(typingctx: Any, address: Any, value: Any) -> Any:
    """Store a float32 to an address."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        b.store(args[1], llvm.pointer(b, args[0], llvm.F32), align=4)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.float32), code


@intrinsic
def broadcast_load(typingctx: Any, address: Any) -> Any:
    """Load the float32 at an address to every lane."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return llvm.broadcast(b, b.load(llvm.pointer(b, args[0], llvm.F32), align=4))

    return lanes(types.int64), code


@intrinsic
def broadcast(typingctx: Any, value: Any) -> Any:
    """Copy a number to every lane."""
    return lanes(types.float32), lambda ctx, b, sig, args: llvm.broadcast(b, args[0])


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Compute x * y + z, in one rounding where the machine can."""
    return lanes(lanes, lanes, lanes), lambda ctx, b, sig, args: llvm.fma(b, *args)


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """Compute 2**x for |x| < 1e18; below the least normal float32 it may return that or 0."""
    return lanes(lanes), lambda ctx, b, sig, args: llvm.exp2(b, args[0])


@intrinsic
def sums(typingctx: Any, address: Any) -> Any:
    """Sum each of the LANES vectors stored from an address; lane i gets the sum of vector i."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        addresses = [b.add(args[0], ir.Constant(llvm.I64, VECTOR_BYTES * i)) for i in range(LANES)]
        return llvm.sums(b, [llvm.load(b, address, llvm.VEC) for address in addresses])

    return lanes(types.int64), code


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Prefetch the cache line at an address, valid or not."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = b.inttoptr(args[0], llvm.BYTES)
        read, second_level, data = (ir.Constant(llvm.I32, i) for i in (0, 2, 1))
        llvm.call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, read, second_level, data)
        return ctx.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def load_int(typingctx: Any, address: Any) -> Any:
    """Load the int64 at an address."""
    code = lambda ctx, b, sig, args: b.load(llvm.pointer(b, args[0], llvm.I64), align=8)  # noqa: E731
    return types.int64(types.int64), code


def _binary(operation: str) -> Any:
    """Make the intrinsic of an LLVM instruction on two vectors."""

    @intrinsic
    def apply(typingctx: Any, x: Any, y: Any) -> Any:
        return lanes(lanes, lanes), lambda ctx, b, sig, args: getattr(b, operation)(*args)

    return apply


_add, _sub, _mul, _div = (_binary(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


@overload(operator.add)
def _(x, y):
    if x is lanes and y is lanes:
        return lambda x, y: _add(x, y)
    return None


@overload(operator.sub)
def _(x, y):
    if x is lanes and y is lanes:
        return lambda x, y: _sub(x, y)
    return None


@overload(operator.mul)
def _(x, y):
    if x is lanes and y is lanes:
        return lambda x, y: _mul(x, y)
    return None


@overload(operator.truediv)
def _(x, y):
    if x is lanes and y is lanes:
        return lambda x, y: _div(x, y)
    return None

"""Explicit vectors for the CPU kernels: a numba type of `LANES` float32 and what to do with it.

Numba turns the functions below into single LLVM vector instructions, so that the kernels are
vectorised by construction, whatever an optimiser makes of their loops. Memory is addressed by plain
integers (bytes). Narrower machines split a vector into several registers.

exp2, softplus and sigmoid are polynomials of float32 accuracy (relative error below 2e-7); NaN
stays NaN, and they neither overflow nor divide by zero.
"""

import math
import operator
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

_X86 = llvmlite.binding.get_default_triple().startswith(("x86_64", "i686"))
_TABLE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
LANES = 16 if _TABLE else 8
"""Channels in a vector: a 512-bit register where there is one, else 256 bits' worth."""
VECTOR_BYTES = 4 * LANES

carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]
intrinsic: Any = extending.intrinsic  # what it makes takes no typing context: hide it from checkers
inline = njit(forceinline=True, error_model="numpy")
"""Decorator for helpers that are inlined into every kernel."""
outline = njit(error_model="numpy")
"""Decorator for helpers that are compiled once and called."""

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_VEC = ir.VectorType(_F32, LANES)
_VEC_I32, _VEC_I16 = ir.VectorType(_I32, LANES), ir.VectorType(_I16, LANES)
_LOG2E = 1.0 / math.log(2.0)

# Minimax fits in relative error. 2**f = 1 + f p(f) on [-1/2, 1/2]: exact at 0, so that slow decays
# do not drift. log(1 + v) = v + v**2 q(v) on [0, 1]. Highest degree first.
_EXP2 = (0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253)
_EXP2 += (0.6931470036506653, 1.0)
_EXP2_NEAR = (0.0555041087, 0.240226507, 0.693147181)  # p for |f| <= 1/32
_LOG1P = (0.005364816635847092, -0.030065763741731644, 0.0792044922709465, -0.13753798604011536)
_LOG1P += (0.1915365308523178, -0.24857163429260254, 0.3332132399082184, -0.49999648332595825)


class Lanes(types.Type):
    """Numba's type of one vector."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes({LANES})")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VEC)


# Pieces of LLVM code ------------------------------------------------------------------------------


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VEC, [ir.Constant(_F32, value)] * LANES)


def _int_constant(value: int) -> ir.Constant:
    return ir.Constant(_VEC_I32, [ir.Constant(_I32, value)] * LANES)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _VEC, x, y, z)


def _polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    value = _constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(builder, value, x, _constant(coefficient))
    return value


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_VEC, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, undefined, _int_constant(0))


def _exp2(builder: Any, x: Any) -> Any:
    """2**x: the nearest integer goes into the exponent bits, the rest through a polynomial."""
    if _TABLE:
        return _exp2_by_table(builder, x)
    low, high = _constant(-125.0), _constant(128.0)  # 2**128 is inf; NaN passes both
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    magic = _constant(1.5 * 2**23)  # adding it leaves the nearest integer in the lowest bits
    rounded = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(rounded, magic))
    mantissa = builder.bitcast(_polynomial(builder, _EXP2, fraction), _VEC_I32)
    exponent = builder.shl(builder.bitcast(rounded, _VEC_I32), _int_constant(23))
    return builder.bitcast(builder.add(mantissa, exponent), _VEC)


def _exp2_by_table(builder: Any, x: Any) -> Any:
    """The same with AVX-512, in fewer instructions: 16 steps an octave are looked up in a register.

    `scalef` multiplies by 2**floor(y) and takes care of both ends of the range; nothing has to be
    clamped as long as |x| < 1e18.
    """
    magic = _constant(1.5 * 2**19)  # leaves the nearest 16th in the lowest bits
    shifted = builder.fadd(x, magic)
    rounded = builder.fsub(shifted, magic)
    fraction = builder.fsub(x, rounded)
    table = ir.Constant(_VEC, [ir.Constant(_F32, np.float32(2.0 ** (i / 16))) for i in range(16)])
    index = builder.bitcast(shifted, _VEC_I32)  # only its four lowest bits count
    power = _call(builder, "llvm.x86.avx512.permvar.sf.512", _VEC, table, index)
    slope = _polynomial(builder, _EXP2_NEAR, fraction)
    power = _fma(builder, builder.fmul(power, fraction), slope, power)
    every, rounding = ir.Constant(_I16, 0xFFFF), ir.Constant(_I32, 4)
    name = "llvm.x86.avx512.mask.scalef.ps.512"
    return _call(builder, name, _VEC, power, rounded, power, every, rounding)


def _widen(builder: Any, halves: Any) -> Any:
    bits = builder.shl(builder.zext(halves, _VEC_I32), _int_constant(16))
    return builder.bitcast(bits, _VEC)


def _narrow(builder: Any, value: Any) -> Any:
    """Float32 to bfloat16, to nearest even; NaN stays NaN."""
    bits = builder.bitcast(value, _VEC_I32)
    odd = builder.and_(builder.lshr(bits, _int_constant(16)), _int_constant(1))
    bits = builder.add(bits, builder.add(odd, _int_constant(0x7FFF)))
    not_a_number = builder.fcmp_unordered("uno", value, value)
    bits = builder.select(not_a_number, _int_constant(0x7FC00000), bits)
    return builder.trunc(builder.lshr(bits, _int_constant(16)), _VEC_I16)


def _copy(builder: Any, target: Any, source: Any, count: Any) -> None:
    """Copy `count` elements one by one: the ragged end of a row."""
    with cgutils.for_range(builder, count) as loop:
        value = builder.load(builder.gep(source, [loop.index]))
        builder.store(value, builder.gep(target, [loop.index]))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_pointer(builder, address, kind), align=4 if kind.element == _F32 else 2)


def _store(builder: Any, address: Any, value: Any, width: int) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=width)


def _load_first(builder: Any, address: Any, count: Any, kind: Any) -> Any:
    buffer = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, None), buffer)
    first = builder.bitcast(buffer, kind.element.as_pointer())
    _copy(builder, first, _pointer(builder, address, kind.element), count)
    return builder.load(buffer)


def _store_first(builder: Any, address: Any, value: Any, count: Any) -> None:
    buffer = cgutils.alloca_once(builder, value.type)
    builder.store(value, buffer)
    element = value.type.element
    first = builder.bitcast(buffer, element.as_pointer())
    _copy(builder, _pointer(builder, address, element), first, count)


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """One vector whose lane i is the sum of vector i, by halving blocks of lanes."""
    block = LANES // 2
    while block:
        lower = [i - block + LANES if i & block else i for i in range(LANES)]  # of x, then of y
        upper = [i + block for i in lower]
        masks = [ir.Constant(_VEC_I32, [ir.Constant(_I32, i) for i in m]) for m in (lower, upper)]
        vectors = [
            builder.fadd(*(builder.shuffle_vector(x, y, mask) for mask in masks))
            for x, y in zip(vectors[:block], vectors[block:], strict=True)
        ]
        block //= 2
    return vectors[0]


# What the kernels call ----------------------------------------------------------------------------


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """The vector at an address."""
    return lanes(types.int64), lambda ctx, b, sig, args: _load(b, args[0], _VEC)


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a vector to an address."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        _store(b, args[0], args[1], 4)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes), code


@intrinsic
def _load_whole_halves(typingctx: Any, address: Any) -> Any:
    return lanes(types.int64), lambda ctx, b, sig, args: _widen(b, _load(b, args[0], _VEC_I16))


@intrinsic
def _load_some(typingctx: Any, address: Any, count: Any) -> Any:
    code = lambda ctx, b, sig, args: _load_first(b, args[0], args[1], _VEC)  # noqa: E731
    return lanes(types.int64, types.int64), code


@intrinsic
def _load_some_halves(typingctx: Any, address: Any, count: Any) -> Any:
    code = lambda ctx, b, sig, args: _widen(b, _load_first(b, args[0], args[1], _VEC_I16))  # noqa: E731
    return lanes(types.int64, types.int64), code


@intrinsic
def _store_whole_halves(typingctx: Any, address: Any, value: Any) -> Any:
    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        _store(b, args[0], _narrow(b, args[1]), 2)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes), code


@intrinsic
def _store_some(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        _store_first(b, *args)
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes, types.int64), code


@intrinsic
def _store_some_halves(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        _store_first(b, args[0], _narrow(b, args[1]), args[2])
        return ctx.get_dummy_value()

    return types.void(types.int64, lanes, types.int64), code


@inline
def load_row(address, half, count):
    """`count` <= LANES values of a row, bfloat16 if `half` else float32; zeros beyond."""
    if count == LANES:
        return _load_whole_halves(address) if half else load(address)
    return _load_some_halves(address, count) if half else _load_some(address, count)


@inline
def store_row(address, value, half, count):
    """Write the first `count` lanes as bfloat16 if `half`, else as float32."""
    if count == LANES:
        if half:
            _store_whole_halves(address, value)
        else:
            store(address, value)
    elif half:
        _store_some_halves(address, value, count)
    else:
        _store_some(address, value, count)


@intrinsic
def load_float(typingctx: Any, address: Any) -> Any:
    """The float32 at an address."""
    code = lambda ctx, b, sig, args: b.load(_pointer(b, args[0], _F32), align=4)  # noqa: E731
    return types.float32(types.int64), code


@intrinsic
def store_float(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a float32 to an address."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        b.store(args[1], _pointer(b, args[0], _F32), align=4)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.float32), code


@intrinsic
def spread(typingctx: Any, address: Any) -> Any:
    """The float32 at an address, in every lane."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return _splat(b, b.load(_pointer(b, args[0], _F32), align=4))

    return lanes(types.int64), code


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """A number, in every lane."""
    return lanes(types.float32), lambda ctx, b, sig, args: _splat(b, args[0])


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """X * y + z, in one rounding where the machine can."""
    return lanes(lanes, lanes, lanes), lambda ctx, b, sig, args: _fma(b, *args)


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """2**x for |x| < 1e18; what is below the least normal float32 may come out as that or as 0."""
    return lanes(lanes), lambda ctx, b, sig, args: _exp2(b, args[0])


@intrinsic
def sums(typingctx: Any, address: Any) -> Any:
    """Lane i holds the sum over all lanes of the i-th of LANES vectors stored from an address."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        addresses = [b.add(args[0], ir.Constant(_I64, VECTOR_BYTES * i)) for i in range(LANES)]
        return _sums(b, [_load(b, address, _VEC) for address in addresses])

    return lanes(types.int64), code


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Fetch the cache line at an address, valid or not, for a later read."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = b.inttoptr(args[0], _BYTES)
        read, second_level, data = (ir.Constant(_I32, i) for i in (0, 2, 1))
        _call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, read, second_level, data)
        return ctx.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def take_ticket(typingctx: Any, address: Any) -> Any:
    """Add one to the int64 at an address, atomically; its value before."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(b, args[0], _I64)
        return b.atomic_rmw("add", pointer, ir.Constant(_I64, 1), "monotonic")

    return types.int64(types.int64), code


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """Have this thread treat denormal numbers as zero; returns what `restore` takes.

    A state that decays without input ends in the denormals and stays there, and some processors
    take a hundred times longer for each operation on one. Does nothing on other than x86.
    """

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if not _X86:
            return ir.Constant(_I32, 0)
        register = cgutils.alloca_once(b, _I32)
        _call(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), b.bitcast(register, _BYTES))
        before = b.load(register)
        flush_results_and_inputs = ir.Constant(_I32, 0x8040)
        b.store(b.or_(before, flush_results_and_inputs), register)
        _call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), b.bitcast(register, _BYTES))
        return before

    return types.int32(), code


@intrinsic
def restore(typingctx: Any, before: Any) -> Any:
    """Undo `flush_denormals`."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if _X86:
            register = cgutils.alloca_once(b, _I32)
            b.store(args[0], register)
            _call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), b.bitcast(register, _BYTES))
        return ctx.get_dummy_value()

    return types.void(types.int32), code


def _binary(operation: str) -> Any:
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


@intrinsic
def _decay_of_magnitude(typingctx: Any, x: Any) -> Any:
    """exp(-|x|), between 0 and 1."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        exponent = b.fmul(_call(b, f"llvm.fabs.v{LANES}f32", _VEC, args[0]), _constant(-_LOG2E))
        low = _constant(-125.0)
        return _exp2(b, b.select(b.fcmp_ordered("<", exponent, low), low, exponent))

    return lanes(lanes), code


@intrinsic
def _log1p(typingctx: Any, v: Any) -> Any:
    """log(1 + v) for v between 0 and 1, accurate for the smallest v."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        square = b.fmul(args[0], args[0])
        return _fma(b, _polynomial(b, _LOG1P, args[0]), square, args[0])

    return lanes(lanes), code


@intrinsic
def _if_negative(typingctx: Any, x: Any, yes: Any, no: Any) -> Any:
    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("<", args[0], _constant(0.0)), args[1], args[2])

    return lanes(lanes, lanes, lanes), code


@inline
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    decay = _decay_of_magnitude(x)
    share = splat(1.0) / (splat(1.0) + decay)
    return _if_negative(x, decay * share, share)


@inline
def softplus(x):
    """log(1 + exp(x)), with full relative accuracy where it is tiny."""
    return _if_negative(x, splat(0.0), x) + _log1p(_decay_of_magnitude(x))

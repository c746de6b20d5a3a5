"""Pieces of LLVM code for vectors of `LANES` float32; `simd` makes numba functions of them.

Each takes an LLVM builder and LLVM values and returns the value that the emitted code computes.
Addresses are integers (bytes). The polynomials have float32 accuracy (relative error below 2e-7).
"""

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, codegen, config

_TRIPLE = llvmlite.binding.get_default_triple()
X86 = _TRIPLE.startswith(("x86_64", "i686"))
ARM64 = _TRIPLE.startswith(("aarch64", "arm64"))
# NUMBA_CPU_FEATURES asks for code for another processor than this.
_FEATURES = config.CPU_FEATURES  # pyright: ignore[reportAttributeAccessIssue]
if _FEATURES is None:
    _FEATURES = codegen.get_host_cpu_features()
_TABLE = "+avx512f" in _FEATURES.split(",")
LANES = 16 if _TABLE else 8
"""Channels in a vector: a 512-bit register where there is one, else 256 bits' worth."""
VECTOR_BYTES = 4 * LANES

F32, I16, I32, I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
VEC = ir.VectorType(F32, LANES)
VEC_I32, VEC_I16 = ir.VectorType(I32, LANES), ir.VectorType(I16, LANES)

# Minimax fits in relative error. 2**f = 1 + f p(f) on [-1/2, 1/2]: exact at 0, so that slow decays
# do not drift. log(1 + v) = v + v**2 q(v) on [0, 1]. Highest degree first.
_EXP2 = (0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253)
_EXP2 += (0.6931470036506653, 1.0)
_EXP2_NEAR = (0.0555041087, 0.240226507, 0.693147181)  # p for |f| <= 1/32
LOG1P = (0.005364816635847092, -0.030065763741731644, 0.0792044922709465, -0.13753798604011536)
LOG1P += (0.1915365308523178, -0.24857163429260254, 0.3332132399082184, -0.49999648332595825)
# erfc(z) = exp(-z**2) t e(t) with t = 1 / (1 + ERFC_SCALE z), for z >= 0: below 3e-8 up to 12.
ERFC_SCALE = 0.38
ERFC = (0.0590492, -0.2626971, 0.36475806, -0.16253359, 0.23080615)
ERFC += (0.13829805, 0.20400241, 0.21390496, 0.21441187)


def constant(value: float) -> ir.Constant:
    """Make a constant vector with the same float in every lane."""
    return ir.Constant(VEC, [ir.Constant(F32, value)] * LANES)


def int_constant(value: int) -> ir.Constant:
    """Make a constant vector with the same int32 in every lane."""
    return ir.Constant(VEC_I32, [ir.Constant(I32, value)] * LANES)


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    """Convert an integer address to a pointer to `kind`."""
    return builder.inttoptr(address, kind.as_pointer())


def call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """Call an LLVM intrinsic by name."""
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Compute x * y + z, in one rounding where the machine can."""
    return call(builder, f"llvm.fmuladd.v{LANES}f32", VEC, x, y, z)


def polynomial(builder: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial by Horner's scheme; coefficients of the highest degree first."""
    value = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = fma(builder, value, x, constant(coefficient))
    return value


def broadcast(builder: Any, scalar: Any) -> Any:
    """Copy a scalar to every lane."""
    undefined = ir.Constant(VEC, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(vector, undefined, int_constant(0))


def exp2(builder: Any, x: Any) -> Any:
    """Compute 2**x: the nearest integer becomes the exponent, a polynomial does the rest."""
    if _TABLE:
        return _exp2_by_table(builder, x)
    low, high = constant(-125.0), constant(128.0)  # 2**128 is inf; NaN passes both
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    magic = constant(1.5 * 2**23)  # adding it leaves the nearest integer in the lowest bits
    rounded = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(rounded, magic))
    mantissa = builder.bitcast(polynomial(builder, _EXP2, fraction), VEC_I32)
    exponent = builder.shl(builder.bitcast(rounded, VEC_I32), int_constant(23))
    return builder.bitcast(builder.add(mantissa, exponent), VEC)


def _exp2_by_table(builder: Any, x: Any) -> Any:
    """Compute 2**x with AVX-512, in fewer instructions: 2**(i/16) is looked up in a register.

    `scalef` multiplies by 2**floor(y) and takes care of both ends of the range; nothing has to be
    clamped as long as |x| < 1e18.
    """
    magic = constant(1.5 * 2**19)  # leaves the nearest 16th in the lowest bits
    shifted = builder.fadd(x, magic)
    rounded = builder.fsub(shifted, magic)
    fraction = builder.fsub(x, rounded)
    table = ir.Constant(VEC, [ir.Constant(F32, np.float32(2.0 ** (i / 16))) for i in range(16)])
    index = builder.bitcast(shifted, VEC_I32)  # only its four lowest bits count
    power = call(builder, "llvm.x86.avx512.permvar.sf.512", VEC, table, index)
    slope = polynomial(builder, _EXP2_NEAR, fraction)
    power = fma(builder, builder.fmul(power, fraction), slope, power)
    every, rounding = ir.Constant(I16, 0xFFFF), ir.Constant(I32, 4)
    name = "llvm.x86.avx512.mask.scalef.ps.512"
    return call(builder, name, VEC, power, rounded, power, every, rounding)


def widen(builder: Any, bf16: Any) -> Any:
    """Convert bfloat16, given as int16 bits, to float32."""
    bits = builder.shl(builder.zext(bf16, VEC_I32), int_constant(16))
    return builder.bitcast(bits, VEC)


def widen_every_other(builder: Any, pairs: Any, odd: bool) -> Any:
    """Convert one bfloat16 of each pair, given as int32 bits, to float32; without a shuffle.

    The even ones are the lower halves: neither of x86 nor of ARM is big-endian.
    """
    if odd:
        bits = builder.and_(pairs, int_constant(0xFFFF0000))
    else:
        bits = builder.shl(pairs, int_constant(16))
    return builder.bitcast(bits, VEC)


def narrow(builder: Any, value: Any) -> Any:
    """Round float32 to bfloat16 bits, to nearest even; NaN stays NaN."""
    bits = builder.bitcast(value, VEC_I32)
    odd = builder.and_(builder.lshr(bits, int_constant(16)), int_constant(1))
    bits = builder.add(bits, builder.add(odd, int_constant(0x7FFF)))
    not_a_number = builder.fcmp_unordered("uno", value, value)
    bits = builder.select(not_a_number, int_constant(0x7FC00000), bits)
    return builder.trunc(builder.lshr(bits, int_constant(16)), VEC_I16)


def if_drawn(builder: Any, draws: Any, least: Any, value: Any) -> Any:
    """Keep the lanes whose int16 draw is at least `least`, an int64; 0.0 in the others."""
    every = builder.insert_element(
        ir.Constant(VEC_I16, ir.Undefined), builder.trunc(least, I16), ir.Constant(I32, 0)
    )
    zeros = ir.Constant(VEC_I32, [ir.Constant(I32, 0)] * LANES)
    every = builder.shuffle_vector(every, ir.Constant(VEC_I16, ir.Undefined), zeros)
    return builder.select(builder.icmp_signed(">=", draws, every), value, constant(0.0))


def _copy(builder: Any, target: Any, source: Any, count: Any) -> None:
    """Copy `count` elements one by one: the ragged end of a row."""
    with cgutils.for_range(builder, count) as loop:
        value = builder.load(builder.gep(source, [loop.index]))
        builder.store(value, builder.gep(target, [loop.index]))


def load(builder: Any, address: Any, kind: Any) -> Any:
    """Load the vector of type `kind` at an address, aligned to its elements."""
    return builder.load(pointer(builder, address, kind), align=4 if kind.element == F32 else 2)


def store(builder: Any, address: Any, value: Any, width: int) -> None:
    """Write a vector to an address aligned to `width` bytes."""
    builder.store(value, pointer(builder, address, value.type), align=width)


def load_partial(builder: Any, address: Any, count: Any, kind: Any) -> Any:
    """Load `count` elements from an address, zeros in the other lanes."""
    buffer = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, None), buffer)
    first = builder.bitcast(buffer, kind.element.as_pointer())
    _copy(builder, first, pointer(builder, address, kind.element), count)
    return builder.load(buffer)


def store_partial(builder: Any, address: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes to an address."""
    buffer = cgutils.alloca_once(builder, value.type)
    builder.store(value, buffer)
    element = value.type.element
    first = builder.bitcast(buffer, element.as_pointer())
    _copy(builder, pointer(builder, address, element), first, count)


def sums(builder: Any, vectors: list[Any]) -> Any:
    """Compute the vector whose lane i is the sum of vector i, by halving blocks of lanes."""
    block = LANES // 2
    while block:
        lower = [i - block + LANES if i & block else i for i in range(LANES)]  # of x, then of y
        upper = [i + block for i in lower]
        masks = [ir.Constant(VEC_I32, [ir.Constant(I32, i) for i in m]) for m in (lower, upper)]
        vectors = [
            builder.fadd(*(builder.shuffle_vector(x, y, mask) for mask in masks))
            for x, y in zip(vectors[:block], vectors[block:], strict=True)
        ]
        block //= 2
    return vectors[0]

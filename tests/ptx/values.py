"""Values as PTX computes them, on NumPy arrays."""

import numpy as np

from tests.ptx.program import EmulatorError


def to_bf16(x):
    """Round to nearest even; NaN becomes 0x7FFF."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (
        (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    ).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def to_f16(x):
    return np.where(
        np.isnan(x), np.uint16(0x7FFF), np.asarray(x, np.float32).astype(np.float16).view(np.uint16)
    )


def flush(x):
    """Subnormal numbers become zeros of the same sign (.ftz)."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def to_integer(x, to):
    """Saturating conversion of whole floats; NaN becomes 0."""
    low, high = (-(2**31), 2**31 - 1) if to == "s32" else (0, 2**32 - 1)
    return (
        np.clip(np.nan_to_num(x.astype(np.float64), nan=0.0), low, high)
        .astype(np.int64)
        .astype(to.replace("s", "i").replace("32", "4"))
    )


def permute(a, b, s):
    both = a.astype(np.uint64) | (np.asarray(b).astype(np.uint64) << np.uint64(32))
    result = np.zeros(a.shape, np.uint32)
    for k in range(4):
        nibble = (s >> np.uint32(4 * k)) & np.uint32(15)
        byte = (
            (both >> (np.uint64(8) * (nibble & np.uint32(7)).astype(np.uint64))) & np.uint64(255)
        ).astype(np.uint32)
        sign = np.where(byte >> np.uint32(7), np.uint32(255), np.uint32(0))
        result |= np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * k)
    return result


def lop3(a, b, c, table):
    result = np.uint32(0)
    for k in range(8):
        if table >> k & 1:
            result = result | ((a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c))
    return result


def quotient(a, b, mask):
    b = np.broadcast_to(b, a.shape)
    zero = b == 0
    if mask is not None:
        zero = zero & mask
    if zero.any():
        raise EmulatorError("integer division by zero")
    safe = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        return a // safe
    floor = a // safe
    return floor + ((floor < 0) & (floor * safe != a)).astype(a.dtype)


def remainder(a, b, mask):
    q = quotient(a, b, mask)
    return a - q * np.broadcast_to(b, a.shape)


def mul_high(a, b):
    type_ = max(np.asarray(a).dtype, np.asarray(b).dtype, key=lambda t: t.itemsize)
    assert type_.itemsize <= 4
    return np.multiply(a, b, dtype=f"{type_.kind}{2 * type_.itemsize}") >> (8 * type_.itemsize)


def exp2(x, flushed):
    """2**x, rounded correctly; with `flushed` subnormal numbers are zeros (.ftz)."""
    return flush(np.exp2(flush(x), dtype=np.float32)) if flushed else np.exp2(x, dtype=np.float32)


def fma(a, b, c):
    """a * b + c, rounded once, but for one case in 2**29 or so."""
    return np.add(np.multiply(a, b, dtype="f8"), c, dtype="f8").astype("f4")

"""Small kernels with a mistake to be found, each beside a right one."""

import functools

import torch
import triton
import triton.language as tl

from tests.ptx.emulator import Emulator


@triton.jit
def turn_kernel(x_ptr, y_ptr, scratch_ptr, BARRIER: tl.constexpr):
    """Reverse each 256 numbers by way of memory."""
    base = tl.program_id(0) * 256
    i = tl.arange(0, 256)
    tl.store(scratch_ptr + base + i, tl.load(x_ptr + base + i))
    if BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + base + i, tl.load(scratch_ptr + base + 255 - i))


@triton.jit
def copy_kernel(x_ptr, y_ptr, n, MASK: tl.constexpr, SHIFT: tl.constexpr):
    """Copy n numbers, 128 a program."""
    i = tl.program_id(0) * 128 + tl.arange(0, 128)
    if MASK:
        x = tl.load(x_ptr + i + SHIFT, mask=i < n)
    else:
        x = tl.load(x_ptr + i + SHIFT)
    tl.store(y_ptr + i, x, mask=i < n)


@triton.jit
def overlap_kernel(y_ptr):
    """Write 128 numbers a program, 64 of them where the next writes, too."""
    i = tl.program_id(0) * 64 + tl.arange(0, 128)
    tl.store(y_ptr + i, i.to(tl.float32) + tl.program_id(0))


@triton.jit
def arithmetic_kernel(x_ptr, y_ptr, h_ptr, b_ptr, n, BLOCK: tl.constexpr):
    """Compute a bit of everything, in float32, and round to float16 and bfloat16."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    y = tl.exp2(x) + tl.sqrt(tl.abs(x)) + tl.log2(tl.abs(x) + 1.0) + (1.0 / (1.0 + x * x))
    y += tl.where(x > 0, x % 3, 1.0)
    y += (x.to(tl.int32) * i).to(tl.float32)
    tl.store(y_ptr + i, y, mask=i < n)
    tl.store(h_ptr + i, x.to(tl.float16), mask=i < n)
    tl.store(b_ptr + i, x.to(tl.bfloat16), mask=i < n)


def run(kernel, grid, x, *rest, fresh, **options):
    """Run a kernel on x, fresh tensors and the rest; return those, and what was found."""
    emulator = Emulator(90)
    with emulator.poisoned():
        made = [torch.empty(size, dtype=dtype) for size, dtype in fresh]
    arguments = [*([] if x is None else [x]), *made, *rest]
    emulator.launch(kernel, grid, arguments, options)
    found = [what for _, what, _ in emulator.findings]
    found += [f"unwritten: {emulator.unwritten(t)}" for t in made if emulator.unwritten(t)]
    return made, found


@functools.cache
def obstacle():
    """Say why Triton cannot compile to PTX on this machine, in one line; None if it can."""
    x = torch.zeros(128)
    try:
        run(copy_kernel, (1,), x, 128, fresh=[(128, torch.float32)], MASK=True, SHIFT=0)
    except Exception as error:  # Triton's back ends fail in their own ways
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None

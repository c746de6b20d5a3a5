"""How threads of a CPU kernel share tasks and wait for each other; and denormals off."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from mambalab.ops.cpu import llvm
from mambalab.ops.cpu.simd import inline, intrinsic


@intrinsic
def take_ticket(typingctx: Any, address: Any) -> Any:
    """Add one to the int64 at an address, atomically; return its value before."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = llvm.pointer(b, args[0], llvm.I64)
        return b.atomic_rmw("add", pointer, ir.Constant(llvm.I64, 1), "monotonic")

    return types.int64(types.int64), code


@intrinsic
def arrive(typingctx: Any, address: Any) -> Any:
    """Add one to the int64 at an address, with release order.

    A thread that waits for it (`wait_for`) sees everything that this thread wrote before.
    """

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = llvm.pointer(b, args[0], llvm.I64)
        b.atomic_rmw("add", pointer, ir.Constant(llvm.I64, 1), "release")
        return ctx.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def arrive_in_turn(typingctx: Any, address: Any) -> Any:
    """Add one to the int64 at an address; return its value before.

    A thread sees everything that those before it wrote: the last to arrive can add it up.
    """

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = llvm.pointer(b, args[0], llvm.I64)
        return b.atomic_rmw("add", pointer, ir.Constant(llvm.I64, 1), "acq_rel")

    return types.int64(types.int64), code


@intrinsic
def _arrived(typingctx: Any, address: Any) -> Any:
    """Load the int64 at an address with acquire order, after a pause instruction."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if llvm.X86:
            llvm.call(b, "llvm.x86.sse2.pause", ir.VoidType())
        return b.load_atomic(llvm.pointer(b, args[0], llvm.I64), "acquire", 8)

    return types.int64(types.int64), code


@intrinsic
def _let_others_run(typingctx: Any) -> Any:
    """Yield the core to another thread."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        llvm.call(b, "sched_yield", llvm.I32)
        return ctx.get_dummy_value()

    return types.void(), code


@inline
def wait_for(address, count):
    """Spin until `count` threads have arrived at an address; yield the core if that takes long."""
    turns = 0
    while _arrived(address) < count:
        turns += 1
        if turns > 4096:
            _let_others_run()


_CONTROL = types.int64 if llvm.ARM64 else types.int32
"""Type of the register that says how a thread computes with floats: FPCR of ARM, MXCSR of x86."""
_FLUSH_ARM64 = 1 << 24  # FZ: denormal operands and results of float32 are zero
_FLUSH_X86 = 0x8040  # FTZ for results, DAZ for operands


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """Make this thread treat denormal numbers as zero; return what `restore` takes.

    A state that decays without input ends in the denormals and stays there, and some processors
    take a hundred times longer for each operation on one. Does nothing on other than x86 and
    64-bit ARM.
    """

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if llvm.ARM64:
            before = llvm.call(b, "llvm.aarch64.get.fpcr", llvm.I64)
            after = b.or_(before, ir.Constant(llvm.I64, _FLUSH_ARM64))
            llvm.call(b, "llvm.aarch64.set.fpcr", ir.VoidType(), after)
            return before
        if not llvm.X86:
            return ir.Constant(llvm.I32, 0)
        register = cgutils.alloca_once(b, llvm.I32)
        llvm.call(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), b.bitcast(register, llvm.BYTES))
        before = b.load(register)
        b.store(b.or_(before, ir.Constant(llvm.I32, _FLUSH_X86)), register)
        llvm.call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), b.bitcast(register, llvm.BYTES))
        return before

    return _CONTROL(), code


@intrinsic
def restore(typingctx: Any, before: Any) -> Any:
    """Undo `flush_denormals`, given what it returned."""

    def code(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if llvm.ARM64:
            llvm.call(b, "llvm.aarch64.set.fpcr", ir.VoidType(), args[0])
        elif llvm.X86:
            register = cgutils.alloca_once(b, llvm.I32)
            b.store(args[0], register)
            llvm.call(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), b.bitcast(register, llvm.BYTES))
        return ctx.get_dummy_value()

    return types.void(_CONTROL), code

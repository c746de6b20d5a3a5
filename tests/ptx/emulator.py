"""Compiles kernels to PTX, runs them on the CPU, and counts what the checks find."""

import collections
import contextlib

import numpy as np
import torch
import triton
import triton.compiler.compiler as triton_compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, create_function_from_signature

from tests.ptx.executor import Executor
from tests.ptx.memory import Memory
from tests.ptx.program import EmulatorError, Program

POISON = {4: (torch.int32, 0x7FD5A5A5), 2: (torch.int16, 0x7FD5)}
"""NaN of float32, and of bfloat16 and float16, by bytes."""


class Emulator:
    """A GPU of compute capability `arch` / 10.

    Attributes:
        findings: how often each check found something, by (kernel, what, where).
        examples: an instruction and the threads it concerns, for each of them.
        launches: launches of each kernel.

    Args:
        arch: 80 for sm_80, 90 for sm_90.
        max_lanes: GPU threads that run at once, if a program has no more.
    """

    def __init__(self, arch=90, max_lanes=2048):
        self.target = GPUTarget("cuda", arch, 32)
        self.backend = triton_compiler.make_backend(self.target)
        self.backend.make_cubin = lambda *args, **kwargs: b""  # PTX is enough
        self.max_lanes = max_lanes
        self.findings, self.examples = collections.Counter(), {}
        self.launches = collections.Counter()
        self.fresh = {}
        self.compiled, self.programs, self.binders = {}, {}, {}
        self.executors = collections.OrderedDict()

    def find(self, kernel, kind, where, text, detail=""):
        key = (kernel, kind, where)
        self.findings[key] += 1
        self.examples.setdefault(key, f"{text} {detail}")

    def install(self, *modules):
        """Replace all kernels in modules; returns a function that puts them back."""
        saved = []
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction) and name.endswith("_kernel"):
                    saved.append((module, name, value))
                    setattr(module, name, Launcher(self, value))

        def restore():
            for place in saved:
                setattr(*place)

        return restore

    @contextlib.contextmanager
    def poisoned(self):
        """Tensors from torch.empty, empty_like and new_empty hold NaN and count as unwritten."""

        def wrap(make):
            def function(*args, **kwargs):
                x = make(*args, **kwargs)
                if x.numel() and x.dtype.is_floating_point:
                    kind, poison = POISON[x.element_size()]
                    x.view(kind).fill_(poison)
                    self.fresh[x.untyped_storage().data_ptr()] = [x, None]
                return x

            return function

        saved = torch.empty, torch.empty_like, torch.Tensor.new_empty
        torch.empty, torch.empty_like, torch.Tensor.new_empty = map(wrap, saved)
        try:
            yield
        finally:
            torch.empty, torch.empty_like, torch.Tensor.new_empty = saved

    def forget(self):
        self.fresh.clear()

    def unwritten(self, x):
        """How many elements of a fresh tensor no kernel has written."""
        entry = self.fresh.get(x.untyped_storage().data_ptr())
        if entry is None or not x.numel():
            return 0
        return x.numel() if entry[1] is None else int((~entry[1]).sum())

    def compile(self, kernel, args, kwargs):
        """Compiled kernel, names and values of its run-time arguments, as JITFunction.run does."""
        if kernel not in self.binders:
            self.binders[kernel] = create_function_from_signature(
                kernel.signature, kernel.params, self.backend
            )
        kwargs = dict(kwargs, debug=False, instrumentation_mode="")
        bound, specialization, options = self.binders[kernel](*args, **kwargs)
        key = (kernel.fn.__name__, str(specialization), str(options))
        options, signature, constants, attributes = kernel._pack_args(
            self.backend, kwargs, bound, specialization, options
        )
        if key not in self.compiled:
            source = ASTSource(
                fn=kernel, signature=signature, constexprs=constants, attrs=attributes
            )
            saved, triton_compiler.make_backend = (
                triton_compiler.make_backend,
                lambda target: self.backend,
            )
            try:
                self.compiled[key] = triton.compile(
                    source, target=self.target, options=options.__dict__
                )
            finally:
                triton_compiler.make_backend = saved
        values = [(n, v) for n, v in bound.items() if signature[n] != "constexpr"]
        return key, self.compiled[key], values

    def launch(self, kernel, grid, args, kwargs):
        name = kernel.fn.__name__
        key, compiled, values = self.compile(kernel, args, kwargs)
        grid = tuple(grid) + (1,) * (3 - len(grid))
        if not (0 < grid[0] < 2**31 and 0 < grid[1] < 65536 and 0 < grid[2] < 65536):
            raise EmulatorError(f"{name}: a GPU refuses the grid {grid}")
        if key not in self.programs:
            self.programs[key] = Program(compiled.asm["ptx"])
        program = self.programs[key]
        assert program.threads == 32 * compiled.metadata.num_warps
        params = {}
        for (_, parameter), (_, v) in zip(program.params[: len(values)], values, strict=True):
            params[parameter] = np.array(
                [v.data_ptr() if isinstance(v, torch.Tensor) else v]
            ).astype(np.int64)[0]
        rest = program.params[len(values) :]
        assert len(rest) == 2, rest
        for _, parameter in rest:  # Triton's scratch pointers
            params[parameter] = np.int64(0)
        memory = Memory(self, [(n, v) for n, v in values if isinstance(v, torch.Tensor)])
        total = grid[0] * grid[1] * grid[2]
        count = min(total, max(1, self.max_lanes // program.threads))
        place = (key, count)
        if place not in self.executors:
            if len(self.executors) > 40:
                self.executors.popitem(last=False)
            self.executors[place] = Executor(program, self, name, count)
        executor = self.executors[place]
        with np.errstate(all="ignore"):
            for first in range(0, total, count):
                executor.run(params, memory, grid, first, compiled.metadata.shared)
        self.launches[name] += 1


class Launcher:
    """Stands for a JIT kernel: `kernel[grid](*args, **kwargs)`."""

    def __init__(self, emulator, kernel):
        self.emulator, self.kernel = emulator, kernel

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.emulator.launch(self.kernel, grid, args, kwargs)

    def __getattr__(self, name):
        return getattr(self.kernel, name)

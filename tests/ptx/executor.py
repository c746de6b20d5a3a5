"""Runs the blocks of a program on many threads at once."""

import numpy as np

from tests.ptx import values
from tests.ptx.accesses import Accesses
from tests.ptx.code import Generator
from tests.ptx.memory import UINT, Shadow
from tests.ptx.program import WIDTH, EmulatorError

_NUMPY = [
    *("copyto", "add", "subtract", "multiply", "divide", "minimum", "maximum", "fmin", "fmax"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift", "invert"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_not"),
    *("absolute", "negative", "log2", "sqrt", "isnan", "rint", "trunc", "floor", "ceil"),
]
_OWN = [
    *("to_bf16", "to_f16", "to_integer", "flush", "exp2", "fma", "permute", "lop3"),
    *("quotient", "remainder", "mul_high"),
]
_METHODS = [
    *("go", "branch", "branch_masked", "barrier", "warp_barrier", "shuffle"),
    *("global_load", "global_store", "shared_load", "shared_store"),
    *("matrix_load", "matrix_store"),
]


class Executor(Accesses):
    """A program, ready to run on a fixed number of threads, a whole number of CTAs."""

    def __init__(self, program, emulator, kernel_name, ctas):
        self.program, self.emulator, self.name = program, emulator, kernel_name
        self.threads, self.ctas = program.threads, ctas
        self.lanes = self.threads * ctas
        self.generator = Generator(program)
        n = self.lanes
        self.tid = np.tile(np.arange(self.threads, dtype=np.uint32), ctas)
        self.local_cta = np.repeat(np.arange(ctas, dtype=np.int64), self.threads)
        self.lane_in_warp = (self.tid & 31).astype(np.int64)
        self.warp_base = np.arange(n, dtype=np.int64) - self.lane_in_warp
        self.space = {name: getattr(np, name) for name in _NUMPY}
        self.space |= {name: getattr(values, name) for name in _OWN}
        self.space |= {name: getattr(self, name) for name in _METHODS}
        self.space |= {"select": np.where, "one": np.float32(1), "sixteen": np.uint32(16)}
        self.space |= {"t64": np.empty(n, np.float64)}
        self.storage, self.full, self.masked = {}, {}, {}
        shared = [
            i for b in program.blocks for i in b if any(m.startswith("shared") for m in i.mods)
        ]
        widths = [2 if "matrix" in i.name else WIDTH[i.type] for i in shared]
        self.shared_cell = min([4, *widths])
        self.branches_out = len(program.blocks)

    def function(self, index, masked):
        cache = self.masked if masked else self.full
        if index not in cache:
            source = self.generator.block(index, masked)
            for name, (register, kind) in self.generator.names.items():
                if name not in self.space:
                    self.space[name] = self.register(register, kind)
            for name, value in self.generator.constants.values():
                self.space[name] = value
            exec(compile(source, f"<{self.name} block {index}>", "exec"), self.space)
            cache[index] = self.space.pop("block")
        return cache[index]

    def register(self, register, kind):
        type_ = self.program.registers[register]
        if register not in self.storage:
            dtype = bool if type_ == "pred" else UINT[WIDTH[type_]]
            self.storage[register] = np.empty(self.lanes, dtype)
            self.scramble(register)
        array = self.storage[register]
        width = WIDTH[type_]
        if kind in "pu":
            return array
        if kind == "s":
            return array.view(f"i{width}")
        if kind == "f":
            return array.view(f"f{width}")
        if kind in ("l", "h"):
            return array.view(f"u{width // 2}")[kind == "h" :: 2]
        if kind == "sl":
            return array.view(f"i{width // 2}")[::2]
        raise AssertionError(kind)

    def scramble(self, register):
        """Registers hold rubbish until they are written: NaN as floats, true as predicates."""
        array = self.storage[register]
        array.fill(True if array.dtype == bool else np.iinfo(array.dtype).max)

    def run(self, params, memory, grid, first, shared_bytes):
        """Programs first .. first + ctas of the grid; those past its end are switched off."""
        n = self.lanes
        self.memory = memory
        total = grid[0] * grid[1] * grid[2]
        cta = first + self.local_cta
        x, y, z = cta % grid[0], cta // grid[0] % grid[1], cta // (grid[0] * grid[1])
        u = np.uint32
        places = {"tid": (self.tid, 0, 0), "ntid": (self.threads, 1, 1)}
        places |= {"ctaid": (x, y, z), "nctaid": grid}
        self.space["special"] = {
            f"%{name}.{axis}": np.asarray(value).astype(u)
            for name, three in places.items()
            for axis, value in zip("xyz", three, strict=True)
        }
        self.space["special"] |= {"%laneid": self.tid & u(31), "%warpid": self.tid >> u(5)}
        self.space["params"] = params
        for register in self.storage:
            self.scramble(register)
        self.token = (cta << 40) | self.tid
        size = max(16, -(-shared_bytes // 16) * 16)
        self.shared_size, self.shared_limit = size, shared_bytes
        raw = np.full(self.ctas * size, 0xFF, np.uint8)
        self.shared_views = {w: raw.view(t) for w, t in UINT.items()}
        self.shared_shadow = Shadow(self.ctas * size // self.shared_cell)
        self.shared_initialised = np.zeros(self.ctas * size // self.shared_cell, bool)
        stop = self.branches_out
        self.pc = np.zeros(n, np.int32)
        self.pc[cta >= total] = stop
        self.waiting = np.zeros(n, bool)
        uniform, block = bool((cta < total).all()), 0
        while True:
            if uniform:
                if block == stop:
                    return
                self.steps += 1
                following = self.function(block, False)()
                if following is None:
                    uniform = False
                else:
                    block = following
                continue
            runnable = np.where(self.waiting, stop + 1, self.pc)
            block = int(runnable.min())
            if block >= stop:
                if (self.waiting & (self.pc < stop)).any():
                    raise EmulatorError("deadlock at a barrier")
                return
            mask = runnable == block
            if mask.all():
                uniform = True
                continue
            self.steps += 1
            self.function(block, True)(mask)

    steps = 0

    def go(self, mask, target):
        np.copyto(self.pc, np.int32(target), where=mask)

    def branch(self, taken, target, following):
        if taken.all():
            return target
        if not taken.any():
            return following
        self.pc[:] = np.where(taken, np.int32(target), np.int32(following))
        return None

    def branch_masked(self, mask, taken, target, following):
        np.copyto(self.pc, np.where(taken, np.int32(target), np.int32(following)), where=mask)

    def barrier(self, mask, following):
        if mask is None:
            self.token += 4096
            return following
        self.waiting |= mask
        np.copyto(self.pc, np.int32(following), where=mask)
        here = (self.waiting | (self.pc >= self.branches_out)).reshape(self.ctas, -1).all(1)
        release = here[self.local_cta] & self.waiting
        self.token[release] += 4096
        self.waiting[release] = False
        return None

    def warp_barrier(self, mask, following):
        """In a one-warp program it is the CTA's barrier; else it is given no credit."""
        if mask is not None:
            self.whole_warps(mask, "bar.warp.sync")
        if self.threads == 32:
            if mask is None:
                self.token += 4096
            else:
                self.token[mask] += 4096
        if mask is None:
            return following
        self.go(mask, following)
        return None

    def whole_warps(self, mask, what):
        some = mask.reshape(-1, 32)
        if (some.any(1) != some.all(1)).any():
            self.emulator.find(self.name, f"sync: {what} without all lanes of a warp", "", "")

    def shuffle(self, mode, a, b, c, mask, site):
        if mask is not None:
            self.whole_warps(mask, "shfl.sync")
        lane = self.lane_in_warp
        b = np.asarray(b).astype(np.int64) & 31
        c = np.asarray(c).astype(np.int64)
        clamp, segment = c & 31, (c >> 8) & 31
        low = lane & segment
        high = low | (clamp & ~segment)
        if mode == "bfly":
            j = lane ^ b
            good = j <= high
        elif mode == "idx":
            j = low | (b & ~segment)
            good = j <= high
        elif mode == "up":
            j = lane - b
            good = j >= high
        elif mode == "down":
            j = lane + b
            good = j <= high
        else:
            raise EmulatorError(f"shfl {mode}")
        j = np.where(good, j, lane)
        return np.asarray(a)[self.warp_base + j]

"""What NVIDIA's tools make of the Triton kernels, on Hopper (sm_90) above all: no GPU is needed.

Each kernel of the scan is compiled as it runs in production, everything switched on, and its
machine code is read: registers, memory for spills, and the instructions that a warp's lane spends
on one state element (one step of one state of one channel), from the loops' bodies.

The bounds are for an H200: 132 processors at 1.98 GHz, each issuing 128 lane instructions and 16
special functions (exp2, reciprocal) a cycle.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mambalab.ops.triton import scan_backward, scan_forward
from mambalab.ops.triton.plans import Plan, by_rule
from mambalab.ops.triton.shapes import COMPILED

_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_.]+)\s*([^;]*);")
_CYCLES = 132 * 1.98e9  # of all processors of an H200, a second
_HALVES = ("u_ptr", "delta_ptr", "z_ptr", "y_ptr", "grad_y_ptr", "grad_u_ptr", "grad_delta_ptr")
_HALVES += ("B_ptr", "C_ptr", "grad_z_ptr", "x_ptr", "state_ptr", "grad_x_ptr", "grad_state_ptr")
_ODD = ("length", "high", "groups", "batches", "parts")  # sizes that need not be multiples of 16


@dataclass(frozen=True)
class Loop:
    """A loop of machine code: instructions of its body, without those of loops inside it."""

    begin: int
    end: int
    instructions: int
    special: int


@dataclass(frozen=True)
class Report:
    """What one kernel costs.

    Attributes:
        kernel: its name.
        arch, states, channels: what it was compiled for: 90 is sm_90; states of a channel;
            channels of a program.
        warps: of a program.
        registers: of a thread.
        spilled: bytes of stack of a thread, and instructions that touch it.
        instructions, special: lane instructions, and those on the special-function unit, for each
            state element.
    """

    kernel: str
    arch: int
    states: int
    channels: int
    warps: int
    registers: int
    spilled: tuple[int, int]
    instructions: float
    special: float

    def bound(self, elements: int) -> float:
        """Seconds that an H200 needs at least for so many state elements."""
        return elements * max(self.instructions / 128, self.special / 16) / _CYCLES

    def resident(self) -> int:
        """Warps that fit a scheduler at once, by registers: a processor has 65,536, in eights."""
        return 65536 // (-(-self.registers // 8) * 8 * 32) // 4


def report_forward(d_state: int = 16, arch: int = 90) -> Report:
    """The forward kernel at its production sizes, bfloat16, everything switched on."""
    sizes = {"BLOCK_T": 8, "BLOCK_D": 16, "KEEP": True, "OUTPUT": True, "HAS_START": True}
    return _report(scan_forward.scan_kernel, sizes | {"FINAL": True}, d_state, arch, None)


def report_backward(d_state: int = 16, arch: int = 90, plan: Plan | None = None) -> Report:
    """The backward kernel likewise, the recomputation of the states included.

    Without a plan it is cut as where there are enough programs for the GPU.
    """
    plan = plan or by_rule(4.0, d_state, divmod(arch, 10))
    sizes = {"BLOCK_T": 4, "BLOCK_D": plan.block_d, "HAS_CARRY": True, "HAND_ON": True}
    kernel = scan_backward.scan_backward_kernel
    return _report(kernel, sizes, d_state, arch, plan.registers)


def _report(
    kernel: Any, sizes: dict[str, Any], d_state: int, arch: int, registers: int | None
) -> Report:
    constants: dict[str, Any] = {"N": d_state, "BLOCK_N": d_state, "CHUNK": 64, **sizes}
    for flag in ("EVEN_D", "HAS_D", "HAS_Z", "HAS_BIAS", "SOFTPLUS"):
        constants[flag] = True
    warps = max(1, d_state // 16)
    machine_code = compile_kernel(kernel, constants, warps, arch=arch, registers=registers)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(machine_code)
        usage = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        listing = _tool("nvdisasm", "-c", str(cubin))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"cuobjdump says nothing about registers: {usage}"
    instructions, labels = _parse(listing)
    spills = sum(name.startswith(("LDL", "STL")) for _, name, _ in instructions)
    lanes = 32 * warps
    # A loop's body does a tile of BLOCK_T steps, or two steps in the backward's second phase; the
    # body of the loop over chunks does CHUNK steps beside the loops inside it.
    total = special = 0.0
    loops = _loops(instructions, labels)
    channels = constants["BLOCK_D"]
    for position, loop in enumerate(loops):
        steps = constants["BLOCK_T"]
        if kernel is scan_backward.scan_backward_kernel:
            steps = (64, steps, 2, steps)[position]
        elements = steps * channels * d_state
        total += loop.instructions * lanes / elements
        special += loop.special * lanes / elements
    return Report(
        kernel=kernel.fn.__name__,
        arch=arch,
        states=d_state,
        channels=channels,
        warps=warps,
        registers=int(found[1]),
        spilled=(int(found[2]), spills),
        instructions=total,
        special=special,
    )


def compile_kernel(
    kernel: Any,
    constants: dict[str, Any],
    warps: int,
    half: str = "bf16",
    arch: int = 90,
    registers: int | None = None,
) -> bytes:
    """Machine code of a kernel for sm_`arch`; what is in `constants` but no parameter is ignored.

    `registers` is the most that a thread may have. Sizes and strides are taken to be multiples of
    16, as the common ones are.
    """
    names = kernel.arg_names
    kinds = {}
    for name in names:
        if name in constants:
            kinds[name] = "constexpr"
        elif name.endswith("_ptr"):
            kinds[name] = f"*{half}" if name in _HALVES else "*fp32"
        else:
            kinds[name] = "i32"
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name not in constants and name not in _ODD
    }
    chosen = {name: value for name, value in constants.items() if name in names}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=chosen, attrs=attributes)
    options = {"num_warps": warps, **COMPILED}
    if registers is not None:
        options["maxnreg"] = registers
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return compiled.asm["cubin"]


def _tool(name: str, *arguments: str) -> str:
    command = [os.fspath(_TOOLS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _parse(listing: str) -> tuple[list[tuple[int, str, str]], dict[str, int]]:
    """Instructions (address, name, arguments) and the addresses of labels."""
    instructions: list[tuple[int, str, str]] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in listing.splitlines():
        if label := re.match(r"^(\.L\S+):", line):
            waiting.append(label[1])
        elif found := _INSTRUCTION.match(line):
            address = int(found[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting = []
            instructions.append((address, found[2], found[3]))
    return instructions, labels


def _loops(instructions: list[tuple[int, str, str]], labels: dict[str, int]) -> list[Loop]:
    """Loops by address; a jump to its own address, which pads the end of the code, is none."""
    spans = []
    for address, name, arguments in instructions:
        target = re.search(r"`\((\.L\S+?)\)", arguments)
        if name.startswith("BRA") and target and labels.get(target[1], address) < address:
            spans.append((labels[target[1]], address))
    spans.sort(key=lambda span: (span[0], -span[1]))
    loops = []
    for begin, end in spans:
        inner = [s for s in spans if begin <= s[0] and s[1] <= end and s != (begin, end)]
        own = [
            name
            for address, name, _ in instructions
            if begin <= address <= end and not any(low <= address <= high for low, high in inner)
        ]
        loops.append(Loop(begin, end, len(own), sum(name.startswith("MUFU") for name in own)))
    return loops


def main() -> None:
    """Print a line for each kernel and size, and the bounds at B=8, L=2048, D=2048, N=16."""
    print(f"triton {triton.__version__}, bfloat16, everything switched on")
    for arch in (80, 86, 90):
        for states in (16, 64, 128):
            plans = {by_rule(load, states, divmod(arch, 10)) for load in (1.0, 4.0)}
            backward = [report_backward(states, arch, plan) for plan in sorted(plans, reverse=True)]
            for report in (report_forward(states, arch), *backward):
                print(
                    f"sm_{arch} N={states:<3} {report.kernel:20} {report.channels} channels, "
                    f"registers {report.registers}, spilled {report.spilled[0]} bytes, "
                    f"{report.resident()} warps a scheduler, {report.instructions:.1f} "
                    f"instructions a state element ({report.special:.2f} special)"
                )
    for report in (report_forward(), report_backward()):
        bound = 1e6 * report.bound(8 * 2048 * 2048 * 16)
        print(f"{report.kernel}: at least {bound:.0f} us on an H200 at B=8, L=2048, D=2048, N=16")


if __name__ == "__main__":
    main()

"""`mambalab bench scan tune=true`: find how the backward of the scan is best cut on this GPU.

For 16 and 64 states, and for as many channels as keep each scheduler busy with 1/16 to 4 warps,
ways to cut a backward are timed in turns. The fastest go into `mambalab/ops/triton/tuned.json`,
under the GPU's name; what `mambalab.ops.triton.plans` chooses by rule stays unless another way is
faster by more than 3 %.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mambalab.bench.timing import in_turns, milliseconds
from mambalab.errors import UserError
from mambalab.train import runtime
from mambalab.utils import console

if TYPE_CHECKING:
    from mambalab.ops.triton.plans import Plan

LENGTH = 2048
STATES = (16, 64)
PLACES = range(-4, 3)
"""Binary logarithms of the warps a scheduler that programs of 32 channels make."""

_WORTH = 0.97  # of the rule's time: another plan must take less than that


@dataclass(frozen=True)
class Shape:
    """A backward to be timed: states, place in the table, and channels of one sequence."""

    states: int
    place: int
    channels: int


def shapes(schedulers: int) -> list[Shape]:
    """All shapes of the table, on a GPU with so many schedulers."""
    found = []
    for states in STATES:
        warps = max(1, states // 16)
        for place in PLACES:
            channels = max(32, int(32 * schedulers * 2.0**place / warps) // 32 * 32)
            found.append(Shape(states, place, channels))
    return found


def plans() -> list["Plan"]:
    """Ways to cut a backward that are worth a try; 168 registers make room for three warps."""
    from mambalab.ops.triton.plans import Plan

    narrow = [Plan(16, fill, registers) for fill in (1, 2, 3) for registers in (None, 168)]
    return [*narrow, *(Plan(32, fill, None) for fill in (1, 2, 3))]


def fastest(took: dict["Plan", float], rule: "Plan") -> "Plan":
    """Choose from times by plan: the rule's plan unless another is clearly faster."""
    best = min(took, key=lambda plan: took[plan])
    return best if took[best] < _WORTH * took[rule] else rule


def run(device: torch.device, seconds: float) -> str:
    """Time all plans, write the table; returns its path.

    Raises:
        UserError: no NVIDIA GPU, or the file cannot be written.
    """
    if device.type != "cuda":
        raise UserError("tune=true: times kernels of NVIDIA GPUs; there is none, use device=cuda")
    from mambalab.ops.triton import plans as table
    from mambalab.ops.triton.shapes import schedulers

    target = table.TABLE if table.TABLE.exists() else table.TABLE.parent
    if not os.access(target, os.W_OK):
        raise UserError(f"tune=true: {table.TABLE} cannot be written; tune in a checkout of yours")
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    found: dict[str, dict[str, list[int | None]]] = {}
    for shape in shapes(schedulers(device)):
        rule = table.by_rule(2.0**shape.place, shape.states, capability)
        tried = dict.fromkeys([rule, *plans()])
        calls = {str(number): _call(shape, plan, device) for number, plan in enumerate(tried)}
        times = in_turns(calls, device, seconds)
        took = dict(zip(tried, map(milliseconds, times.values()), strict=True))
        chosen = fastest(took, rule)
        found.setdefault(str(shape.states), {})[str(shape.place)] = list(chosen)
        console.result(
            f"N={shape.states}, D={shape.channels}: {chosen.block_d} channels, {chosen.fill} warps "
            f"a scheduler, registers {chosen.registers or 'free'}: {took[chosen]:.3f} ms "
            f"(by rule {took[rule]:.3f} ms)"
        )
    entry = {"versions": runtime.package_versions(), "length": LENGTH, "plans": found}
    content = json.dumps({**table.table(), name: entry}, indent=1)
    table.TABLE.write_text(content + "\n", encoding="utf-8")
    return str(table.TABLE)


def _call(shape: Shape, plan: "Plan", device: torch.device) -> Callable[[], object]:
    """A backward in bfloat16 with everything switched on."""
    from mambalab.ops.triton import scan

    make = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=make, device=device)

    rows = (1, LENGTH, shape.channels)
    u, delta, z, grad_y = (normal(*rows).bfloat16() for _ in range(4))
    B, C = (normal(1, LENGTH, shape.states).bfloat16() for _ in range(2))
    A = -normal(shape.channels, shape.states).abs()
    D, bias = normal(shape.channels), normal(shape.channels)
    tensors = (u, delta, A, B, C, D, z, bias)
    _, _, saved = scan.forward(*tensors, None, True, True, False)
    assert saved is not None
    return lambda: scan.backward(grad_y, None, *tensors, True, saved, False, plan=plan)

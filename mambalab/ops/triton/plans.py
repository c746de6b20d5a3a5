"""How the backward of the scan is cut into programs: from a table measured on GPUs, or by rule.

`tuned.json` holds what `mambalab bench scan tune=true` found fastest, by name of the GPU. Without
an entry the rule is what registers say (`python -m mambalab.bench.sm90`): a processor has 65,536.
A program of 32 channels takes about 250 a thread, so two warps a scheduler fit, and it spends 40
instructions on a state element. One of 16 channels spends 48, and does with 168 registers on sm_90,
so three warps fit. Two warps at once hide more latency than a fifth more instructions costs: 16
channels are taken where 32 would leave a scheduler with less than two warps. With more than 16
states 16 channels cost two fifths more, and long sequences are cut into segments instead. Before
sm_86 a program of 32 channels spills 10 to 50 registers, though outside its loops: 16 do not, and a
measurement may well prefer 32.
"""

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
import triton

from mambalab.ops.triton.shapes import schedulers

TABLE = Path(__file__).with_name("tuned.json")


class Plan(NamedTuple):
    """How programs of the backward are cut.

    Attributes:
        block_d: channels of a program, 16 or 32.
        fill: warps a scheduler that cutting the sequence into segments aims at.
        registers: most registers of a thread; None leaves it to the compiler.
    """

    block_d: int
    fill: int
    registers: int | None


def by_rule(load: float, states: int, capability: tuple[int, int] | None) -> Plan:
    """Choose by what the compiler says of registers.

    Args:
        load: warps a scheduler that programs of 32 channels make without segments.
        states: of a tile, a power of two.
        capability: compute capability of the GPU; None for Triton's interpreter.
    """
    if capability is None:
        return Plan(32, 2, None)
    if capability < (8, 6):
        return Plan(16, 2, None)
    if states <= 16 and load < 2:
        return Plan(16, 3, 168) if capability == (9, 0) else Plan(16, 2, None)
    return Plan(32, 2, None)


def place(load: float) -> int:
    """Place of a load in the table: its binary logarithm, rounded, from -8 to 4."""
    return max(-8, min(4, round(math.log2(load))))


def states_of(d_state: int) -> int:
    """States of a tile, by which the table is sorted: a power of two."""
    return max(2, triton.next_power_of_2(d_state))


def choose(lanes: int, d_state: int, device: torch.device) -> Plan:
    """Choose for `lanes` channels of all sequences times the warps of a program."""
    load = lanes / 32 / schedulers(device)
    states = states_of(d_state)
    if device.type != "cuda":
        return by_rule(load, states, None)
    return _on_gpu(device, states, place(load), load < 2)


@functools.cache
def _on_gpu(device: torch.device, states: int, where: int, few: bool) -> Plan:
    measured = table().get(torch.cuda.get_device_name(device), {}).get("plans", {})
    found = measured.get(str(states), {}).get(str(where))
    if found is not None:
        return Plan(*found)
    return by_rule(1.0 if few else 2.0, states, torch.cuda.get_device_capability(device))


@functools.cache
def table() -> dict:
    """What `tuned.json` says: by name of the GPU `plans`, by states of a tile and `place`."""
    return json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}

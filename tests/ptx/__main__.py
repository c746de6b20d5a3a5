"""Run many cases in the emulator: `python -m tests.ptx [--arch 90] [--minutes 10] [--out F]`.

Prints a line a case. The record holds how many were run, what was found, the largest errors, and
what the compiler says of the kernels: registers, spills, instructions (`mambalab.bench.sm90`).
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir(), "mambalab-ptx")))

import torch
import triton

from mambalab.bench import sm90
from mambalab.ops.triton.plans import by_rule
from tests.ptx.cases import (
    MODULES,
    NARROW,
    WIDE,
    Conv,
    Scan,
    bits,
    errors,
    run_conv,
    run_scan,
)
from tests.ptx.emulator import Emulator

KINDS = [torch.float32, torch.bfloat16, torch.float16]
SCANS = {
    "batch": [1, 2, 3],
    "length": [1, 2, 5, 7, 63, 64, 65, 66, 130, 200],
    "channels": [(1, 1), (16, 1), (16, 2), (33, 1), (33, 3), (48, 1), (48, 2), (48, 3)],
    "d_state": [1, 2, 3, 7, 8, 16, 24, 64],
    "dtype": KINDS,
    "parts": [None, 1, 2, 3],
    "limit": [1, 1 << 14, 64 << 20],
    "plan": [WIDE, NARROW],
    "layout": [0, 1, 2],
}
CONVS = {
    "batch": [1, 3],
    "length": [1, 2, 5, 16, 17, 64, 130],
    "d_inner": [1, 16, 33, 64, 130],
    "width": [1, 2, 3, 4],
    "dtype": KINDS,
    "layout": [0, 1, 2],
}
TOLERANCE = 2e-6


def draw(make, number):
    """Draw a case; every fourth is a convolution."""
    if number % 4 == 3:
        chosen = {name: make.choice(values) for name, values in CONVS.items()}
        options = [o for o in ("bias", "initial", "silu") if make.random() < 0.5]
        return Conv(**chosen, options=" ".join(options), seed=number)
    chosen = {name: make.choice(values) for name, values in SCANS.items()}
    chosen["d_inner"], chosen["groups"] = chosen.pop("channels")
    if chosen["d_state"] > 16:
        chosen["length"] = min(chosen["length"], 66)
    known = ("D", "z", "bias", "softplus", "initial", "final")
    options = [o for o in known if make.random() < 0.5]
    return Scan(**chosen, options=" ".join(options), seed=number)


def emulate(arch, minutes, seed):
    """Run drawn cases for so many minutes; return a row of the record."""
    emulator, make, began = Emulator(arch), random.Random(seed), time.monotonic()
    undo = emulator.install(*MODULES)
    done, worst, wrong, repeated = Counter(), Counter(), [], Counter()
    number = 0
    while time.monotonic() - began < 60 * minutes:
        case = draw(make, number)
        run = run_scan if isinstance(case, Scan) else run_conv
        before = len(emulator.examples)
        outcome = run(case, emulator)
        largest = max(errors(outcome).values())
        done[type(case).__name__.lower()] += 1
        kind = str(case.dtype).removeprefix("torch.")
        worst[kind] = max(worst[kind], largest)
        if largest > TOLERANCE or outcome.unwritten or len(emulator.examples) > before:
            wrong.append(repr(case))
        if number % 5 == 0:
            emulator.max_lanes = 128  # programs in another order
            repeated[bits(run(case, emulator)) == bits(outcome)] += 1
            emulator.max_lanes = 2048
        print(f"sm_{arch} {number} {largest:.1e} {'WRONG' if wrong[-1:] == [repr(case)] else ''}")
        sys.stdout.flush()
        number += 1
    undo()
    return {
        "arch": f"sm_{arch}",
        **{f"{kind} cases": done[kind] for kind in ("scan", "conv")},
        "launches": sum(emulator.launches.values()),
        "specialisations": len(emulator.compiled),
        "findings": [" ".join(key) for key in emulator.examples],
        "wrong": wrong,
        "same bits again": [repeated[True], repeated[True] + repeated[False]],
        "largest error": {kind: float(f"{value:.1e}") for kind, value in sorted(worst.items())},
    }


def compiled():
    """Rows of what the compiler says of the scan's kernels, as they run."""
    rows = []
    for arch in (80, 90):
        for states in (16, 64, 128):
            plans = {by_rule(load, states, divmod(arch, 10)) for load in (1.0, 4.0)}
            found = [sm90.report_backward(states, arch, plan) for plan in sorted(plans)]
            for report in (sm90.report_forward(states, arch), *found):
                rows.append(
                    {
                        "kernel": report.kernel,
                        "arch": f"sm_{arch}",
                        "N": states,
                        "channels": report.channels,
                        "registers": report.registers,
                        "spilled bytes": report.spilled[0],
                        "warps a scheduler": report.resident(),
                        "instructions": round(report.instructions, 1),
                    }
                )
    return rows


def main():
    """Run, print and write; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.ptx")
    parser.add_argument("--arch", type=int, nargs="+", default=[90])
    parser.add_argument("--minutes", type=float, default=5.0, help="for each architecture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [emulate(arch, options.minutes, options.seed) for arch in options.arch]
    for row in rows:
        print(json.dumps(row))
    if options.out:
        record = json.loads(options.out.read_text()) if options.out.exists() else {}
        record |= {"triton": triton.__version__, "seed": options.seed, "emulated": rows}
        with tempfile.TemporaryDirectory() as cache:  # the emulator's has no machine code
            os.environ["TRITON_CACHE_DIR"] = cache
            record["compiled"] = compiled()
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(row["findings"] or row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

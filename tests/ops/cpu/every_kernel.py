"""Runs every CPU kernel once and saves what it gives: `python -m tests.ops.cpu.every_kernel FILE`.

A program of its own, for a processor that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name: the kernels
look at both when they are imported.
"""

import sys

import torch

from mambalab.ops import rms_norm
from mambalab.ops.cpu import llvm
from tests.ops import test_causal_conv1d as conv
from tests.ops import test_rms_norm as norm
from tests.ops.cases import cast, results, scan_case
from tests.ops.cpu.steps import decoded
from tests.ops.cpu.test_runtime import scan
from tests.ops.test_dropped_sum import both

KINDS = (torch.float32, torch.bfloat16)
TAPS = (2, 3, 4, 7)
CASES = {
    "scan": scan_case(2, 19, 20, 5),
    **{f"conv {n} {d}": conv.conv_case(2, 67, 37, n, dtype=d) for n in TAPS for d in KINDS},
    **{f"norm {d}": norm.case((2, 19, 37), d, d) for d in KINDS},
}


def found() -> dict[str, object]:
    """Results and gradients of each case, decoded logits, both ways to drop."""
    told: dict[str, object] = {"lanes": llvm.LANES, "steps": decoded()}
    told["scan"] = results(scan, cast(CASES["scan"], torch.float32))
    for name, case in CASES.items():
        if name.startswith("conv"):
            told[name] = results(conv.conv("cpu"), case)
        elif name.startswith("norm"):
            kind = case[0].dtype
            told[name] = norm.results(lambda x, w, to=kind: rms_norm(x, w, 1e-5, to), *case)
    told["dropped"] = {str(kind): both((2, 19, 37), kind, 0.3) for kind in KINDS}
    return told


if __name__ == "__main__":
    torch.save(found(), sys.argv[1])

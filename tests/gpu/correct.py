"""The first stage on a GPU: `doctor`'s comparisons, and the tests that need one."""

import importlib.util
import subprocess
import sys

import torch

from mambalab.ops import backend, check


def main() -> int:
    """Returns 0 if everything is right."""
    device, *words = torch.device(sys.argv[1]), *sys.argv[2:]
    worst = False
    for case in check.cases(device):
        chosen = backend.choose("auto", device, case.dtype).backend
        error = check.compare(chosen, device, case)
        right = error <= case.allowed  # NaN is not
        print("right" if right else "WRONG", chosen, case.name, f"{error:.1e}", flush=True)
        worst |= not right
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not here: its tests were not run")
        return worst
    tests = ["tests/gpu"] if words else ["tests/ops", "tests/generation", "tests/train"]
    run = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *tests]
    status = subprocess.run(run, check=False).returncode
    return worst or status not in (0, 5)  # 5: none were selected


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.slurm [--only NAME] [--record FILE] [--keep FOLDER]`: the whole trial.

It takes about five minutes. Each trial has a working directory of its own on one cluster. What the
commands printed and what SLURM knew is kept in the record.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.faults.report import revision
from tests.slurm import cluster, trial


def main() -> int:
    """Try everything, print and perhaps record it; 1 if a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm")
    parser.add_argument("--only", action="append", choices=list(trial.TRIALS), help="one trial")
    parser.add_argument("--record", type=Path, help="file for what was found")
    parser.add_argument("--keep", type=Path, help="empty folder for the run folders and logs")
    given = parser.parse_args()
    if why := cluster.missing():
        print(f"slurm: {why}", file=sys.stderr)
        return 2
    found, failed = [], 0
    with tempfile.TemporaryDirectory() as place, cluster.slurm() as slurm:
        version = slurm.ask("sinfo", "--version").split()[-1]
        for name in given.only or trial.TRIALS:
            folder = (given.keep or Path(place)).absolute() / name
            folder.mkdir(parents=True)
            try:
                found.append(trial.run(name, slurm, folder))
            except Exception:
                failed += 1
                traceback.print_exc()
                continue
            print(f"{name}: {found[-1].seconds:.0f} s, steps {found[-1].steps}", flush=True)
            print(*(f"  {line}" for line in found[-1].lines), sep="\n", flush=True)
    if given.record is not None:
        import submitit
        import torch

        record = {
            "revision": revision(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "submitit": submitit.__version__,
            "slurm": version,
            "cpus": 2,
            "remarks": [
                f"The load was {os.getloadavg()[2]:.0f} on the machine's {os.cpu_count()} CPUs.",
                "`sacct --completion` has a line for each start; PENDING is a requeued one.",
            ],
            "failed": failed,
            "trials": [asdict(one) | {"seconds": round(one.seconds, 1)} for one in found],
        }
        given.record.write_text(json.dumps(record, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

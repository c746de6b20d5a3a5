"""`mambalab bench tracking`: does recording hold training up, and does everything arrive?

Processes start together on a folder in which nothing is yet, and record ten metrics a step. What a
step of training takes is a pause here, so that the share is that of a GPU run with short steps.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from mambalab.bench.report import Result
from mambalab.train import runtime

METRICS = 10  # a step
CHILD = """
import json, sys, time
from pathlib import Path
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking.recorder import Recorder
number, folder, uri = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
steps, pause = map(float, sys.argv[4:])
said = []
settings = TrackingSettings(TrackingKind.mlflow, uri or None, "bench")
recorder = Recorder(folder / f"run{number}", settings, output_dir=folder,
                    announce=lambda text, extra=None: said.append(text))
print("ready", flush=True)
sys.stdin.readline()
recorder.start(params={}, tags={}, resume=False)
began = time.perf_counter()
for step in range(1, int(steps) + 1):
    time.sleep(pause)
    recorder.metrics(step, {f"train/m{i}": step + i / 10 for i in range(10)})
whole = time.perf_counter() - began
recorder.finish("FINISHED")
print(json.dumps({"seconds": recorder.seconds, "whole": whole, "said": said,
                  "finish": time.perf_counter() - began - whole}))
"""


def measure(device: torch.device, processes: int, metrics: int) -> Result:
    """Record from one process, from several that start together, and to a server that is silent.

    Args:
        device: named in the result only.
        processes: how many start together.
        metrics: points that each records.
    """
    result = Result(
        what="tracking",
        device=device.type,
        machine=runtime.device_name(device),
        versions=runtime.package_versions(),
        options={"processes": processes, "metrics": metrics},
        columns=["store", "processes", "step ms", "share %", "points", "on disk", "in MLflow",
                 "twice", "lines", "finish s"],
        notes=["share: of the time of the training thread, the worst process; lines: announcements "
               "of each process"],
    )  # fmt: skip
    steps = metrics // METRICS
    for count, pause in ((1, 0.02), (processes, 0.02)):
        result.rows.append(_row("new SQLite file", count, steps, pause, None))
    with _black_hole() as uri:
        result.rows.append(_row("silent server", 1, steps, 0.02, uri))
    return result


def _row(store: str, count: int, steps: int, pause: float, uri: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mambalab-") as name:
        folder = Path(name, "outputs")
        reports = _run(folder, count, steps, pause, uri)
        held = [_points(folder / f"run{n}" / "metrics.jsonl") for n in range(count)]
        stored, twice = _stored(folder / "mlflow.db")
    return {
        "store": store,
        "processes": count,
        "step ms": 1e3 * pause,
        "share %": 100 * max(t["seconds"] / t["whole"] for t in reports),
        "points": count * steps * METRICS,
        "on disk": sum(held),
        "in MLflow": stored,
        "twice": twice,
        "lines": max(len(t["said"]) for t in reports),
        "finish s": max(t["finish"] for t in reports),
    }


def _run(
    folder: Path, count: int, steps: int, pause: float, uri: str | None
) -> list[dict[str, Any]]:
    here = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, (n, folder, uri or "", steps, pause))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for n in range(count)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    reports = []
    for child in children:
        output, _ = child.communicate()
        if child.returncode:
            raise RuntimeError(f"a recording process failed with {child.returncode}")
        reports.append(json.loads(output.splitlines()[-1]))
    return reports


def _points(path: Path) -> int:
    return sum(len(json.loads(line)) - 1 for line in path.read_text().splitlines())


def _stored(path: Path) -> tuple[int, int]:
    """Points in a store, and how many of them a second time."""
    if not path.exists():
        return 0, 0
    with closing(sqlite3.connect(path)) as database:
        ours = "from metrics where key like 'train/%'"  # not the machine's load
        (whole,) = database.execute(f"select count(*) {ours}").fetchone()
        once = f"select count(*) from (select distinct run_uuid, key, step {ours})"
        (distinct,) = database.execute(once).fetchone()
    return whole, whole - distinct


@contextmanager
def _black_hole() -> Iterator[str]:
    """Address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"

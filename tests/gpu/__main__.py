"""A quarter of an hour on a GPU: correctness, scan, training step, decoding, then experiments.

`make gpu`, or `python -m tests.gpu --out FOLDER`. Needs torch, triton, hydra-core and omegaconf, no
network and no mlflow. Each stage ends by itself or is ended when its share of the time is over;
its output goes to `STAGE.log`, its record beside it, and `gpu.json` says of every stage how it
went. Nothing of one stage is lost if a later one fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAST = 5.0  # seconds without which no stage is begun
GRACE = 20.0  # seconds in which an experiment saves when its time is over
EXPERIMENTS = (  # while time is left, in this order; one that was stopped goes on next time
    ("sources/nanogpt_gpu", ()),
    ("sources/small_bench_shakespeare", ()),
    ("sources/small_bench_cifar10", ()),
    ("mnist/gpu", ()),
    ("sources/julia_dropout", ()),
    ("sources/paper_induction_heads", ()),
)


@dataclass(frozen=True)
class Stage:
    """One step of the quarter of an hour.

    Attributes:
        name: of its files.
        words: what is run, after `python -m`.
        seconds: at most; None = as long as there is time.
    """

    name: str
    words: tuple[str, ...]
    seconds: float | None = None


def stages(device: str, out: Path, quick: bool) -> list[Stage]:
    """All stages in order.

    Args:
        device: cuda; anything else tries the script out.
        out: where records go.
        quick: tiny sizes, to try the script out without a GPU.
    """
    where = (f"device={device}", f"out={out}")
    bench = ("mambalab", "bench")
    small = ("shapes=[1x64x16]", "lengths=[16]", "seconds=0.01") if quick else ()
    sizes = ("lengths=[16]", "d_model=16", "n_layer=2", "tokens=64", "seconds=0.01")
    lengths = sizes if quick else ("lengths=[64,256,1024,4096,16384,65536]", "tokens=65536")
    contexts = ("lengths=[16]", "batches=[1]", "seconds=0.01") if quick else ("peers=false",)
    half = ("dtype=float32",) if quick else ("dtype=bfloat16",)
    found = [
        Stage("correctness", ("tests.gpu.correct", device, *(["quick"] if quick else [])), 60),
        Stage("scan", (*bench, "scan", *half, *small, *where), 150),
        Stage("train", (*bench, "train", *lengths, *where), 120),
        Stage("generate", (*bench, "generate", *contexts, "peers=false", *where), 60),
    ]
    run = ("tracking=jsonl", f"device={device}", f"output_dir={out}/runs")
    if quick:
        tiny = ("trainer=smoke", "model.d_model=16", "model.n_layer=2", "task.seq_len=16")
        return [*found, Stage("quickstart", ("mambalab", "train", *tiny, *run))]
    for name, words in EXPERIMENTS:
        experiment = ("mambalab", "train", f"experiment={name}", *words, *run)
        found.append(Stage(name.replace("/", "-"), experiment))
    return found


def carry_out(stage: Stage, out: Path, end: float) -> dict[str, object]:
    """Run a stage until it ends or its time is over; tell how it went.

    Args:
        stage: what to run.
        out: where its log goes.
        end: `time.monotonic()` at which all has to be over.
    """
    began = time.monotonic()
    left = end - began - GRACE
    limit = left if stage.seconds is None else min(left, stage.seconds)
    told: dict[str, object] = {"stage": stage.name, "command": ["python", "-m", *stage.words]}
    if left <= LEAST:
        return {**told, "status": "no time left"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with (out / f"{stage.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *stage.words],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # a run saves
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            status = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has left behind
        process.wait()
    took = round(time.monotonic() - began, 1)
    said = "its time was over" if status is None else "done" if status == 0 else f"exit {status}"
    return {**told, "status": said, "seconds": took}


def main() -> int:
    """Go through all stages; returns 0 unless correctness failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try this script out")
    given = parser.parse_args()
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + given.seconds
    told: list[dict[str, object]] = []
    for stage in stages(given.device, out, given.quick):
        told.append(carry_out(stage, out, end))
        print(f"{stage.name}: {told[-1]['status']} ({told[-1].get('seconds', 0)} s)", flush=True)
        (out / "gpu.json").write_text(json.dumps(told, indent=1) + "\n")
    return 0 if told[0]["status"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())

"""Processes of a test: which there are, and waiting for them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TINY = [
    "task=squares",
    "model.d_model=8",
    "model.n_layer=1",
    "model.d_state=2",
    "optim.warmup_steps=0",
    "trainer.max_steps=12",
    "trainer.max_minutes=null",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=5",
    "trainer.log_every=2",
    "device=cpu",
]


def command(*words: str) -> list[str]:
    """`mambalab train -m` with the small task."""
    return [sys.executable, "-P", "-m", "mambalab", "train", "-m", *TINY, *words]


def environment() -> dict[str, str]:
    """Finds this mambalab from any folder."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def processes_of(folder: Path) -> list[int]:
    """Living processes that work in a folder."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.readlink(f"/proc/{name}/cwd") == str(folder):
                    stat = Path(f"/proc/{name}/stat").read_text()
                    state = stat.rpartition(")")[2].split()[0]
                    found += [int(name)] if state not in "ZX" else []
            except OSError:
                continue
    return found


def wait_until(ready: Callable[[], object], seconds: float = 900.0) -> None:
    """Poll until `ready()`; fails after what a very busy machine may need."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


class Begin:
    """Starts sweeps in a folder; none of them outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen] = []

    def __call__(self, *words: str, **more) -> subprocess.Popen:
        """Start a sweep; its output, all of it, comes through `communicate`."""
        self.started.append(
            subprocess.Popen(
                command(*words),
                cwd=self.folder,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                **more,
            )
        )
        return self.started[-1]

    def close(self) -> None:
        """Kill what still runs there."""
        for process in self.started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for pid in processes_of(self.folder):
            os.kill(pid, 9)

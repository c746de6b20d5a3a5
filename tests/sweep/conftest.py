"""A small task of the user's own, jobs of which can be made to fail or to be killed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.sweep.processes import Begin, command, environment

TASK_YAML = """\
name: squares
_target_: my_tasks.Squares
batch_size: 8
eval_batch_size: 8
params: {modulus: 10}
"""
TASK = """
import os, signal, time
from pathlib import Path
import torch
import torch.nn.functional as F
from mambalab.errors import UserError
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task
from mambalab.tasks.sampling import draw


class Squares(Task):
    def prepare(self, device="cpu"):
        self.table = torch.arange(1000, device=device) ** 2 % self.settings.params["modulus"]
        self.spec = ModelSpec(vocab_size=10, seq_len=8)
        self.trouble = {p.name for p in Path("trouble").glob("*")}

    def batch(self, position):
        if position == 7 and f"fail-{self.seed}" in self.trouble:
            raise UserError("the disk of seed two\\nis full")
        if position == 7 and f"kill-{self.seed}" in self.trouble:
            os.kill(os.getpid(), signal.SIGKILL)
        while position == 7 and "wait" in self.trouble:  # slow steps, not a step without end
            Path("waiting").mkdir(exist_ok=True)
            (Path("waiting") / str(os.getpid())).touch()
            time.sleep(0.05)
            break
        while position == 7 and Path("trouble/hold").exists():
            time.sleep(0.05)
        starts = draw(self.seed, position, count=self.settings.batch_size, bound=900)
        rows = torch.from_numpy(starts)[:, None] + torch.arange(9)
        window = self.table[rows.to(self.table.device)]
        return window[:, :-1], window[:, 1:]

    def loss(self, model, batch):
        inputs, targets = batch
        return F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())

    def measure(self, model, split):
        window = self.table[None, 900:] if split == "val" else self.table[None, :900]
        return {f"{split}/loss": self.loss(model, (window[:, :-1], window[:, 1:])).item()}
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working directory with the task in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "conf/task/squares.yaml").write_text(TASK_YAML)
    (tmp_path / "my_tasks.py").write_text(TASK)
    (tmp_path / "trouble").mkdir()
    return tmp_path


@pytest.fixture
def begin(lab):
    """Starts a sweep in the working directory, and does not wait for it."""
    it = Begin(lab)
    yield it
    it.close()


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a sweep to its end."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=3600,
    )


def jobs(folder: Path) -> dict[str, dict]:
    """The jobs of the only sweep below a folder, from sweep.json."""
    (path,) = folder.glob("outputs/sweeps/*/sweep.json")
    return json.loads(path.read_text())["jobs"]


def numbers(folder: Path) -> dict[str, list[dict]]:
    """All metrics of all jobs, without what the clock decides."""
    found = {}
    for path in folder.glob("outputs/sweeps/*/*/metrics.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        found[path.parent.name] = [
            {k: v for k, v in line.items() if not k.startswith("time/")} for line in lines
        ]
    return found

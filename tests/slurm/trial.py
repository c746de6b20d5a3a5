"""What is tried on the cluster: sweeps and jobs, time that is over, requeued and cancelled jobs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.cluster import Slurm, wait_until
from tests.sweep.conftest import TASK, TASK_YAML
from tests.sweep.processes import TINY, command, environment

PAGE = Path(__file__).parents[2] / "docs/scaling.md"
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "tracking=jsonl")
LONG = ("trainer.max_steps=1000000", "trainer.checkpoint_every=1000000")
LONG += ("trainer.eval_every=1000000",)  # what is saved is saved because of a signal
PATIENCE = 240.0  # seconds: processors are shared


@dataclass
class Found:
    """What a trial showed.

    Attributes:
        trial: its name.
        asked: what SLURM was asked for, or did.
        steps: of the run, each time it stopped, and at its end.
        status: of the run at the end.
        lines: what the command printed, and what SLURM knew of the jobs.
    """

    trial: str
    asked: str
    steps: list[int] = field(default_factory=list)
    status: str = ""
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)


class Lab:
    """A working directory with a small task, on the cluster.

    Args:
        folder: empty; the nodes see it.
        slurm: the cluster.
    """

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        self.folder = folder
        self.slurm = slurm
        (folder / "conf/task").mkdir(parents=True)
        (folder / "conf/task/squares.yaml").write_text(TASK_YAML)
        (folder / "my_tasks.py").write_text(TASK)
        programs = folder / "bin"
        programs.mkdir()
        for name, module in {"torchrun": "torch.distributed.run"}.items():  # of this Python
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self.environment = {**environment(), **slurm.environment(), "PATH": path}
        self.environment["PYTHONPATH"] = environment()["PYTHONPATH"]

    @contextmanager
    def sweep(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A running sweep; it is killed if it outlives the block."""
        log = (self.folder / "sweep.log").open("w")
        it = subprocess.Popen(
            command(*words), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            yield it
        finally:
            it.kill()
            it.wait()
            log.close()

    def said(self) -> str:
        """What the sweep has printed."""
        return (self.folder / "sweep.log").read_text()

    def run(self) -> Path:
        """The only run folder; fails if there is none."""
        (found,) = self.folder.glob("outputs/**/metrics.jsonl")
        return found.parent

    def summary(self) -> dict:
        """Of the only run."""
        return json.loads((self.run() / "summary.json").read_text())

    def points(self) -> int:
        """Lines of metrics of the only run; 0 if it has not begun."""
        found = list(self.folder.glob("outputs/**/metrics.jsonl"))
        return len(found[0].read_text().splitlines()) if found else 0

    def wait_for_training(self) -> None:
        """Wait until the only run has trained some steps from now on."""
        before = self.points()
        self.wait(lambda: self.points() >= before + 3, "the run trains")

    def wait_for_stop(self) -> int:
        """Wait until the only run has been stopped by SIGTERM; returns its step."""
        self.wait(lambda: self.summary()["status"] == "KILLED", "the run is stopped and saved")
        assert self.summary()["ended_by"] == "SIGTERM"
        return self.summary()["step"]

    def log(self, name: str) -> str:
        """The text of the only log of a job."""
        (found,) = [*self.folder.glob(name), *self.folder.glob(f"outputs/sweeps/*/{name}")]
        return found.read_text()

    def told(self, name: str) -> list[str]:
        """The lines of a job's log that say how it was stopped, went on and ended."""
        words = ("going on from", "killed:", "status ", "trained ", "slurmstepd", "srun: error")
        return [f"log: {line}" for line in self.log(name).splitlines() if line.startswith(words)]

    def queue(self) -> list[str]:
        """What squeue shows of all jobs, once SLURM has none that is being ended."""
        self.wait(lambda: "COMPLETING" not in self.slurm.ask("squeue", "-h", "-o", "%T"), "an end")
        form = "--format=%i %j %T %r"
        return [f"squeue: {line}" for line in self.slurm.ask("squeue", "-h", form).splitlines()]

    def wait_for_going_on(self, step: int, log: str) -> None:
        """Wait until the run says that it goes on from a step."""
        told = f"going on from step {step:,} of"
        self.wait(lambda: told in self.log(log), told)

    def wait(self, ready, what: str) -> None:
        """Poll until `ready()`, for as long as a busy machine may need."""
        wait_until(ready, what, PATIENCE)


def array(lab: Lab) -> Found:
    """A sweep of two jobs as one array, to its table."""
    found = Found("sweep as an array", "nothing more")
    with lab.sweep("seed=1,2", *SLURM, "hydra.launcher.cpus_per_task=1") as sweep:
        lab.wait(lambda: sweep.poll() is not None, "the sweep ends")
        assert sweep.returncode == 0, lab.said()
    summaries = [json.loads(p.read_text()) for p in lab.folder.glob("outputs/**/summary.json")]
    assert [one["status"] for one in summaries] == ["FINISHED"] * 2
    assert re.search(r"start +seed=1  \(job \d+_0\)", lab.said())
    found.steps, found.status = [one["step"] for one in summaries], "FINISHED"
    found.lines = _table(lab.said())
    return found


def time_over(lab: Lab) -> Found:
    """A job whose time is over goes on; so does one that is requeued; a cancelled one is told."""
    found = Found("sweep: time over, requeued, cancelled",
                  "--time=1, scontrol requeue, scancel")  # fmt: skip
    words = ("seed=1", *SLURM, *LONG, "resume=never", "hydra.launcher.timeout_min=1")
    with lab.sweep(*words, "hydra.launcher.cpus_per_task=1") as sweep:
        lab.wait_for_training()
        (job,) = re.findall(r"\(job (\d+)\)", lab.said())
        found.steps.append(lab.wait_for_stop())  # by submitit, which is warned by SLURM
        lab.wait_for_going_on(found.steps[-1], "logs/*")
        lab.wait_for_training()
        # The second minute must not be over before somebody asks.
        lab.slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=30")
        lab.slurm.ask("scontrol", "requeue", job)
        found.steps.append(lab.wait_for_stop())
        found.lines += lab.queue()
        lab.wait_for_going_on(found.steps[-1], "logs/*")
        lab.wait_for_training()
        assert sweep.poll() is None, lab.said()
        lab.slurm.ask("scancel", job)
        lab.wait(lambda: sweep.poll() is not None, "the sweep hears of the cancelled job")
        found.steps.append(lab.summary()["step"])
    assert found.steps == sorted(set(found.steps)), found.steps
    found.status = lab.summary()["status"]
    assert found.status == "KILLED"
    assert "was asked to stop from outside" in lab.said()
    assert lab.said().count(" start ") == 1
    found.lines += [line for line in lab.said().splitlines() if "seed=1" in line]
    found.lines += lab.told("logs/*")
    return found


def two_processes(lab: Lab) -> Found:
    """A job of a sweep with two processes is requeued, goes on, and trains to its end."""
    found = Found("sweep: a job of two processes, requeued", "scontrol requeue")
    words = ("seed=1", *SLURM, *LONG, "trainer.devices=2", "trainer.max_minutes=0.4")
    with lab.sweep(*words, "hydra.launcher.cpus_per_task=2") as sweep:
        lab.wait_for_training()
        (job,) = re.findall(r"\(job (\d+)\)", lab.said())
        lab.slurm.ask("scontrol", "requeue", job)
        found.steps.append(lab.wait_for_stop())
        found.lines += lab.queue()
        lab.wait_for_going_on(found.steps[-1], "logs/*")
        lab.wait(lambda: sweep.poll() is not None, "the sweep ends")
        assert sweep.returncode == 0, lab.said()
    summary = lab.summary()
    found.steps.append(summary["step"])
    found.status = summary["status"]
    assert (found.status, summary["processes"]) == ("FINISHED", 2), summary
    assert found.steps[1] > found.steps[0]
    found.lines += [*_table(lab.said()), *lab.told("logs/*")]
    return found


def recipe() -> str:
    """The sbatch file of docs/scaling.md."""
    text = PAGE.read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```sh\n(.*?)```", text, re.S) if "#SBATCH" in block)


def reduced(text: str, words: str) -> str:
    """The page's sbatch file for one node of two CPUs, one minute, and another command."""
    changes = {
        r"--nodes=2": "--nodes=1",
        r" --gpus-per-node=4": "",
        r"--cpus-per-task=\d+": "--cpus-per-task=2",
        r"--time=[\d:]+": "--time=1",
        r"@120": "@15",
        r"--nproc-per-node 4": "--nproc-per-node 2",
        r"TASK / 4": "TASK / 2",
        r"mambalab train .*?(?= &)": f"mambalab train {words}",
    }
    for pattern, value in changes.items():
        text, count = re.subn(pattern, value, text, flags=re.S)
        assert count == 1, f"{PAGE}: {count} times {pattern}"
    return text


def sbatch(lab: Lab) -> Found:
    """The page's sbatch file: time is over, and it goes on to its end."""
    found = Found("sbatch file of docs/scaling.md, torchrun with two processes", "--time=1")
    words = " ".join([*TINY, *LONG, "tracking=jsonl", "trainer.max_minutes=0.5"])
    (lab.folder / "run.sh").write_text(reduced(recipe(), words))
    done = subprocess.run(
        ["sbatch", "--parsable", "--output=run.out", "run.sh"],
        cwd=lab.folder, env=lab.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job, log = done.stdout.strip(), lab.folder / "run.out"
    lab.wait_for_training()
    found.steps.append(lab.wait_for_stop())
    found.lines += lab.queue()
    lab.wait_for_going_on(found.steps[-1], "run.out")
    lab.slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=30")  # enough from now on
    lab.wait(lambda: not lab.slurm.state(job), "the job ends")
    summary = lab.summary()
    found.steps.append(summary["step"])
    found.status = summary["status"]
    assert (found.status, summary["processes"]) == ("FINISHED", 2), log.read_text()
    assert found.steps[1] > found.steps[0]
    found.lines += lab.told("run.out")
    return found


TRIALS = {one.__name__: one for one in (array, time_over, two_processes, sbatch)}


def run(name: str, slurm: Slurm, folder: Path) -> Found:
    """Try one thing in a folder of its own."""
    began, before = time.monotonic(), len(slurm.ended())
    lab = Lab(folder, slurm)
    try:
        found = TRIALS[name](lab)
    except BaseException:
        slurm.ask("scancel", "--user=root", f"--signal={signal.SIGKILL.name}", "--full")
        raise
    found.seconds = time.monotonic() - began
    wait_until(lambda: not slurm.ask("squeue", "--noheader"), "the queue is empty", 60.0)
    found.lines += [f"sacct: {line}" for line in slurm.ended()[before:]]
    found.lines = [line.replace(str(folder), "...").replace(slurm.host, "node")
                   for line in found.lines]  # fmt: skip
    return found


def _table(said: str) -> list[str]:
    """The lines of a sweep about its jobs, its table included."""
    lines = [line.rstrip() for line in said.splitlines()]
    end = next(i for i, line in enumerate(lines) if line.endswith("jobs finished"))
    return [line for line in lines[: end + 1] if line.startswith(("sweep", "[", "job ", "seed="))]

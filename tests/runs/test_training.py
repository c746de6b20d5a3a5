"""The main job, end to end, on a small text: what is left behind, resume, refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambalab.tracking.mlflow_names import in_file
from tests.lab import TEXT, TINY, one_line, only_run, rows, summary, train
from tests.sweep.processes import wait_until
from tests.tracking.stores import points_in_store


@pytest.mark.parametrize("model", ["mamba", "transformer"])
def test_a_run_leaves_everything_behind(folder, capsys, model):
    assert train(f"model={model}", "dropout=standard") == 0
    run_dir = only_run(folder)
    assert run_dir.relative_to(folder / "outputs").parts[:2] == ("text", model)
    facts = summary(run_dir)
    assert facts["status"] == "FINISHED"
    assert facts["ended_by"] == "max_steps"
    assert facts["step"] == 12
    assert facts["best"]["val/loss"] <= facts["last"]["val/loss"]
    assert facts["parameters"] > 1000
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory_bytes"] > 10_000_000
    assert facts["packages"]["torch"]
    assert facts["command"].startswith("mambalab train ")
    assert f"model={model}" in facts["command"]
    assert (facts["threads"], facts["load"] >= 0) == (torch.get_num_threads(), True)
    assert facts["wall_seconds"] > facts["seconds"] > 0
    assert facts["data"]["sha256"]
    assert (facts["metric"], facts["maximize"]) == ("val/loss", False)
    assert ("backend" in facts) == (model == "mamba")
    recorded = rows(run_dir)
    assert [r["step"] for r in recorded if "train/loss" in r] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in recorded if "val/loss" in r] == [6, 12]
    for name in ("config.yaml", "train.log", "vocabulary.json", "spec.json", "plots/loss.png"):
        assert (run_dir / name).stat().st_size > 0, name
    assert (run_dir / "plots/loss.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in sorted((run_dir / "samples").iterdir())] == [
        "step-00000006.txt",
        "step-00000012.txt",
    ]
    shown = capsys.readouterr()
    assert "plots/loss.png" in shown.out
    assert "parameters" in shown.err
    log = (run_dir / "train.log").read_text()
    assert "finished: max_steps=12 reached" in log
    said = [line.split(" INFO ", 1)[-1] for line in log.splitlines()]
    for start in ("step 6  epoch ", "step 12  epoch ", "data: text, vocabulary of "):
        (line,) = [line for line in said if line.startswith(start)]
        assert line in shown.err.splitlines()
    assert f"; 12 steps make {facts['epochs']:.3g} epochs" in log
    assert not set("\r\x1b") & set(shown.err), "a pipe gets plain lines"


def test_the_same_command_again_reports_and_changes_nothing(folder, capsys):
    train()
    there = [p for p in only_run(folder).rglob("*") if p.is_file() and p.name != ".lock"]
    before = {p: p.stat().st_mtime_ns for p in there}  # filelock before 4.2.6 sets a lock's
    capsys.readouterr()
    assert train() == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    shown = capsys.readouterr()
    assert "finished already" in shown.err
    assert "val/loss" in shown.out


def test_more_steps_continue_the_same_run(folder, capsys):
    train()
    run_dir = only_run(folder)
    first = summary(run_dir)
    assert train("trainer.max_steps=20") == 0
    facts = summary(run_dir)
    assert facts["step"] == 20
    assert facts["command"] == f"{first['command']} trainer.max_steps=20".replace(
        " tracking=jsonl trainer.max_steps=20", " trainer.max_steps=20 tracking=jsonl"
    )
    assert facts["wall_seconds"] - first["wall_seconds"] > facts["seconds"] - first["seconds"] > 0
    assert [r["step"] for r in rows(run_dir) if "train/loss" in r] == list(range(2, 21, 2))
    said = capsys.readouterr().err
    assert "going on from step 12" in said
    assert "optim.warmup_steps=50: the warm-up takes all 20 steps of this run" in said
    assert "the run was finished: its learning rate had come down" in said


def test_the_same_seed_gives_the_same_numbers(folder):
    for name in ("a", "b"):
        train(f"run_dir={name}", "dropout=ssm", "model=mamba")
    assert rows(folder / "a") == rows(folder / "b")
    train("run_dir=c", "dropout=ssm", "model=mamba", "seed=7")
    assert rows(folder / "c") != rows(folder / "a")


def begun(folder: Path, action: str, *options: str) -> subprocess.Popen:
    """Train in another process that does `action` to itself after its 7th step."""
    code = (
        "import os, signal, sys\n"
        "from mambalab.cli.main import main\n"
        "from mambalab.train.loop import Trainer\n"
        "step = Trainer._train_step\n"
        "def stop(self):\n"
        "    step(self)\n"
        "    if self.state.step == 7:\n"
        f"        {action}\n"
        "Trainer._train_step = stop\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", code, "train", *TINY, *options]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, cwd=folder, stdout=quiet, stderr=subprocess.PIPE, text=True)


def interrupted(folder: Path, action: str, *options: str) -> subprocess.CompletedProcess:
    """Train so to the end."""
    process = begun(folder, action, *options)
    try:
        _, said = process.communicate(timeout=3600)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=said)


def test_killed_and_resumed_equals_never_killed_in_folder_and_mlflow(folder):
    options = ("model=mamba", "dropout=ssm", "run_dir=whole", "tracking=mlflow")
    train(*options)
    cut = ("model=mamba", "dropout=ssm", "run_dir=cut", "tracking=mlflow")
    child = begun(folder, "import time; time.sleep(3600)", *cut)
    try:
        wait_until(lambda: in_mlflow(folder, "cut") or child.poll() is not None)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert summary(folder / "cut")["status"] == "RUNNING"
    assert train(*cut) == 0
    assert rows(folder / "cut") == rows(folder / "whole")
    whole, resumed = summary(folder / "whole"), summary(folder / "cut")
    assert resumed["best"] == whole["best"]
    assert resumed["last"] == whole["last"]
    for name in ("whole", "cut"):
        assert mlflow_points(folder, name) == folder_points(folder / name)


def in_mlflow(folder: Path, name: str) -> bool:
    """Whether MLflow has points of a run."""
    note, store = folder / name / "mlflow_run.json", folder / "outputs/mlflow.db"
    run_id = json.loads(note.read_text())["run_id"] if note.exists() else None
    return bool(run_id and points_in_store(store, run_id))


def folder_points(run_dir: Path) -> list[tuple[str, int, float]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    found = []
    for line in map(json.loads, lines):
        step = line.pop("step")
        found += [(key, step, value) for key, value in line.items()]
    return sorted(found)


def mlflow_points(folder: Path, name: str) -> list[tuple[str, int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    run_id = json.loads((folder / name / "mlflow_run.json").read_text())["run_id"]
    keys = client.get_run(run_id).data.metrics
    return sorted(
        (name, point.step, point.value)
        for key in keys
        if (name := in_file(key)) is not None
        for point in client.get_metric_history(run_id, key)
    )


def test_stopped_before_the_first_metric(folder):
    action = "os.kill(os.getpid(), signal.SIGTERM)"
    done = interrupted(
        folder,
        action,
        "run_dir=cut",
        "trainer.log_every=50",
        "tracking=jsonl",
        "trainer.eval_every=50",
    )
    assert done.returncode == 143, done.stderr
    assert summary(folder / "cut")["best"] is None


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_polite_signal_leaves_a_checkpoint(folder, number, status):
    train("run_dir=whole")
    action = f"os.kill(os.getpid(), signal.{number})"
    done = interrupted(folder, action, "run_dir=cut", "tracking=jsonl")
    assert done.returncode == status, done.stderr
    facts = summary(folder / "cut")
    assert facts["status"] == "KILLED"
    assert facts["step"] == 7
    assert train("run_dir=cut") == 0
    assert rows(folder / "cut") == rows(folder / "whole")


def test_resume_never_sets_the_old_run_aside(folder, capsys):
    train("run_dir=here")
    first = rows(folder / "here")
    assert train("run_dir=here", "resume=never", "trainer.max_steps=4") == 0
    assert summary(folder / "here")["step"] == 4
    assert rows(folder / "here.old1") == first


def test_resume_must_needs_a_run(folder, capsys):
    assert train("resume=must") == 1
    assert "there is no run" in one_line(capsys)
    assert not (folder / "outputs").exists()


def test_other_settings_do_not_continue_a_run(folder, capsys):
    train("run_dir=here")
    capsys.readouterr()
    assert train("run_dir=here", "optim.lr=0.5") == 1
    message = one_line(capsys)
    assert "optim.lr" in message
    assert "resume=never" in message


def test_a_folder_with_other_things_in_it_is_not_taken(folder, capsys):
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").write_text("years of work")
    assert train("run_dir=mine") == 1
    assert "not empty" in one_line(capsys)
    assert [p.name for p in (folder / "mine").iterdir()] == ["thesis.txt"]


def test_changed_data_do_not_continue_a_run(folder, capsys):
    train()
    (folder / "text.txt").write_text(TEXT.upper() + TEXT)
    capsys.readouterr()
    assert train("trainer.max_steps=20") == 1
    assert "data changed" in one_line(capsys)


def test_a_checkpoint_cut_short(folder, capsys):
    train("trainer.keep_last=1")
    run_dir = only_run(folder)
    before = summary(run_dir)
    path = run_dir / "checkpoints/last-00000012/trainer.pt"
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    assert train("trainer.max_steps=20") == 1
    assert "trainer.pt is cut short" in one_line(capsys)
    assert summary(run_dir) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["output_dir=text.txt"], "text.txt is a file"),
        (["run_dir=text.txt/here"], "text.txt is a file"),
        (["task.path=absent.txt"], "absent.txt"),
        (["device=cuda:99"], "cuda:99"),
    ],
)
def test_what_cannot_start_leaves_nothing_behind(folder, capsys, options, words):
    before = sorted(folder.rglob("*"))
    assert train(*options) == 1
    assert words in one_line(capsys)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folder, capsys):
    (folder / "locked").mkdir(mode=0o500)
    assert train("output_dir=locked") == 1
    assert "not writable" in one_line(capsys)


def test_a_run_in_use_is_left_alone(folder, capsys):
    from mambalab.records import run_folder

    train()
    capsys.readouterr()
    with run_folder.hold(only_run(folder)):
        assert train("trainer.max_steps=20") == 1
    assert "in use" in one_line(capsys)


def test_numbers_that_break_mark_the_run_failed(folder, capsys):
    assert train("optim.lr=1e30", "optim.grad_clip=null", "optim.warmup_steps=0") == 1
    message = one_line(capsys)
    assert "NaN or infinite at step" in message
    assert "is kept" not in message  # there was no checkpoint yet
    assert "smaller optim.lr" in message
    facts = summary(only_run(folder))
    assert facts["status"] == "FAILED"
    assert "NaN" in facts["reason"]


def test_tracking_none_keeps_only_what_is_needed_to_go_on(folder):
    assert train("tracking=none") == 0
    run_dir = only_run(folder)
    assert not (run_dir / "metrics.jsonl").exists()
    assert summary(run_dir)["status"] == "FINISHED"
    assert train("tracking=none", "trainer.max_steps=14") == 0
    assert summary(run_dir)["step"] == 14


def test_jsonl_tracking_does_not_import_mlflow(folder):
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from mambalab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", *TINY, "tracking=jsonl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", ["mamba", "transformer"])
def test_kernels_that_cannot_run_are_announced_and_recorded(folder, capsys, monkeypatch, model):
    monkeypatch.setattr("mambalab.ops.backend._numba_obstacle", lambda: "numba is not here")
    assert train(f"model={model}", "dropout=none", "trainer.max_steps=2") == 0
    line = "slower than it could be: the cpu kernels are not used: numba is not here"
    assert capsys.readouterr().err.count(line) == 1
    assert summary(only_run(folder))["passed_over"] == {"cpu": "numba is not here"}

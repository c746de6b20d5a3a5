"""`trainer.devices=K`, end to end, and what is refused."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mambalab import config
from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.runs import launch, user_code
from mambalab.tasks.base import Task
from mambalab.tasks.classification import ClassificationTask
from mambalab.tasks.digits import DigitsTask
from mambalab.tasks.synthetic import InductionHeadsTask
from mambalab.tasks.text import TextTask
from mambalab.train import gpu, runtime
from mambalab.utils import console, torchrun
from tests.lab import TINY, one_line, only_run, rows, summary, train

PLACE = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


@pytest.fixture
def as_follower(monkeypatch):
    """This process is the second of two."""
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_is_killed_ends_the_run_and_one_alone_goes_on(folder, capsys):
    words = [*TINY, "trainer.devices=2", "trainer.max_steps=5000", "trainer.checkpoint_every=2"]
    words += ["trainer.eval_every=1000", "dropout=none", "tracking=jsonl"]
    command = [sys.executable, "-m", "mambalab", "train", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        end = time.monotonic() + 300
        while not (saved := list(Path("outputs").glob("*/*/*/checkpoints/last-0*"))):
            assert run.poll() is None, run.stderr and run.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(_second(run.pid), signal.SIGKILL)
        told = run.communicate(timeout=3600)[1]
    assert run.returncode == 1
    assert told.count("mambalab: error: process 1 of 2 was ended by SIGKILL") == 1
    assert "Traceback" not in told
    path = only_run(folder)
    facts = summary(path)
    assert (facts["status"], facts["processes"], facts["strategy"]) == ("FAILED", 2, "ddp")
    step = facts["step"]
    assert saved
    words[words.index("trainer.devices=2")] = "trainer.devices=null"
    words[words.index("trainer.max_steps=5000")] = f"trainer.max_steps={step + 2}"
    capsys.readouterr()
    assert train(*words) == 0
    assert "going on from step" in capsys.readouterr().err
    assert summary(path)["status"] == "FINISHED"
    assert "processes" not in summary(path)
    assert len({r["step"] for r in rows(path) if "train/loss" in r}) == len(
        [r for r in rows(path) if "train/loss" in r]
    )


def _second(launcher: int) -> int:
    """The process of rank 1."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in environment:
            return int(child)
    raise AssertionError(f"no rank 1 among {children}")


def test_torchs_launcher_is_silent_and_its_loggers_are_put_back():
    log = logging.getLogger("torch.distributed.elastic.agent.server.api")  # has a level of its own
    log.setLevel(logging.WARNING)
    with launch._as_before():
        assert not log.isEnabledFor(logging.ERROR)
    assert log.level == logging.WARNING


def test_batches_that_cannot_be_shared_out_are_refused(folder, capsys):
    assert train(*TINY, "task.batch_size=5", "trainer.devices=2") == 1
    assert one_line(capsys) == (
        "mambalab: error: task.batch_size=5: 2 processes cannot share it equally; give a multiple "
        "of 2"
    )
    assert not Path("outputs").exists() or not list(Path("outputs").glob("*/*/*/config.yaml"))


def test_gpus_are_counted(monkeypatch):
    settings = config.compose("train", ["task=text", "trainer.devices=4"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpu, "unused", lambda index=0: None)
    with pytest.raises(UserError, match=r"trainer.devices=4: this machine has 2 GPU\(s\)"):
        launch.check(settings)
    one = dataclasses.replace(settings, device="cuda:1")
    with pytest.raises(UserError, match=r"device=cuda:1: trainer.devices=4 takes as many GPUs"):
        launch.check(one)


def test_each_process_has_its_own_gpu(monkeypatch, as_follower):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpu, "unused", lambda index=0: None)
    assert runtime.choose_device("auto") == torch.device("cuda:1")
    assert runtime.choose_device("cuda") == torch.device("cuda:1")
    assert runtime.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="2 processes train, each on a GPU of its own"):
        runtime.choose_device("cuda:0")


def test_the_place_is_torchruns(monkeypatch, as_follower):
    assert torchrun.place() == torchrun.Place(1, 1, 2, 0)
    assert torchrun.is_follower()
    monkeypatch.setenv("RANK", "many")
    assert torchrun.place() is None
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # somebody else's RANK
    assert torchrun.place() is None
    assert not torchrun.is_follower()


def test_followers_are_silent_and_name_themselves_in_errors(as_follower, capsys):
    with console.show_log():
        console.LOG.warning("said once")
    assert capsys.readouterr().err == ""
    assert main.fail(UserError("no room"), 1) == 1
    assert capsys.readouterr().err == "mambalab: error: process 1: no room\n"


def test_rank_is_no_verb_for_people(capsys):
    assert main.main(["__rank"]) == 1
    assert "trainer.devices=K" in one_line(capsys)


class Odd(Task):
    """A task whose batches hold a word."""

    def prepare(self, device="cpu"):
        raise NotImplementedError

    batch = loss = measure = prepare


def test_a_batch_is_cut_by_rows():
    settings = config.compose("train", ["task=digits", "task.batch_size=6"]).task
    task = Odd(settings, seed=0, data_dir=Path(), data_fraction=1.0)
    x = torch.arange(12).view(6, 2)
    (first, nothing), y = task.part(((x, None), x[:, 0]), 1, 3)
    assert (first.tolist(), nothing, y.tolist()) == ([[4, 5], [6, 7]], None, [4, 6])
    with pytest.raises(UserError, match=r"hold more than tensors of 6 rows; .* method part"):
        task.part((x, "word"), 0, 3)
    with pytest.raises(UserError, match="4 processes cannot share it equally"):
        task.part(x, 0, 4)


@pytest.mark.parametrize(
    "setting", ["optim=muon", "trainer.ema=0.9", "trainer.norms=true", "precision=fp16"]
)
def test_what_needs_whole_weights_is_refused_where_they_are_shared_out(setting):
    with pytest.raises(UserError, match=f"{setting}: with trainer.strategy=fsdp2"):
        config.compose("train", ["task=text", setting, "trainer.strategy=fsdp2"])


class WholeMean(Odd):
    """A task whose batches are rows of words, some of them masked out."""

    masked = 0

    def batch(self, position):
        mask = torch.ones(6, 4)
        mask[0, : self.masked] = 0
        return torch.arange(24.0).view(6, 4), mask

    def loss(self, model, batch):
        x, mask = batch
        return (model(x).squeeze(-1) * mask[:, 0]).sum() / mask.sum()


@pytest.mark.parametrize("masked", [0, 4])
def test_a_loss_that_is_no_mean_over_rows_is_told(caplog, masked):
    settings = config.compose("train", ["task=digits", "task.batch_size=6"]).task
    task = WholeMean(settings, seed=0, data_dir=Path(), data_fraction=1.0)
    task.masked = masked
    model = torch.nn.Linear(4, 1)
    before = torch.get_rng_state()
    for size in (1, 3):
        user_code.warn_of_parts(model, task, torch.device("cpu"), size)
    assert torch.equal(before, torch.get_rng_state())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (masked > 0)
    if masked:
        assert "the mean of its 3 parts" in told[0]


def test_batch_norm_is_told(caplog):
    settings = config.compose("train", ["task=digits"]).task
    task = DigitsTask(settings, seed=0, data_dir=Path(), data_fraction=1.0)
    user_code.warn_of_parts(torch.nn.BatchNorm1d(4), task, torch.device("cpu"), 2)
    assert "batch norm: each of the 2 processes" in caplog.text


class OwnMeasure(ClassificationTask):
    """Measures in its own way, of which nobody knows whether it can be shared out."""

    def measure(self, model, split):
        raise NotImplementedError


class Told(OwnMeasure):
    """Says that it can."""

    shares = True


class Mixin:
    """Measures for the class that it is mixed into."""

    def evaluate(self, model, split):
        raise NotImplementedError


def test_a_measure_of_ones_own_is_shared_out_only_if_it_says_so():
    assert ClassificationTask.shares
    assert Told.shares
    assert not OwnMeasure.shares
    assert not type("Mixed", (Mixin, ClassificationTask), {}).shares
    assert type("Read", (TextTask,), {"read": None}).shares
    assert InductionHeadsTask.shares


def test_what_the_launcher_logs_is_not_shown_but_comes_back():
    one = logging.getLogger("torch.distributed.elastic.agent.server.api")
    before = one.level
    one.setLevel(logging.WARNING)  # as torch sets it: a level of its own
    try:
        with launch._as_before():
            assert not one.isEnabledFor(logging.WARNING)
        assert one.level == logging.WARNING
    finally:
        one.setLevel(before)


@pytest.mark.parametrize(("signal_name", "status"), [("SIGTERM", 143), ("SIGINT", 130), (None, 0)])
def test_processes_stopped_before_they_could_say_so_have_not_ended_well(
    folder, monkeypatch, capsys, signal_name, status
):
    monkeypatch.setattr(launch, "run", lambda _: signal_name)
    assert train("trainer.devices=2") == status
    told = f"KILLED: stopped by {signal_name} before training began"
    assert (told in capsys.readouterr().out) is (status != 0)

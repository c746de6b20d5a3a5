"""What is said before training: the learning rate may do what nobody expects."""

import dataclasses
from types import SimpleNamespace

import pytest

from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs.headlines import device_line, rises_again, surprises
from mambalab.settings.train import Schedule
from tests.train.toy import OPTIM

FINISHED, KILLED = RunSummary(status=Status.FINISHED), RunSummary(status=Status.KILLED)


def told(earlier=KILLED, *, max_steps=20, step=0, done=0.0, **optim):
    pace = SimpleNamespace(max_steps=max_steps, progress=lambda *_: done)
    trainer = SimpleNamespace(pace=pace, state=SimpleNamespace(step=step))
    settings = dataclasses.replace(OPTIM, **optim)
    lines = list(surprises(settings, trainer, earlier))
    assert rises_again(settings, trainer, earlier) == any("a longer run" in line for line in lines)
    return lines


@pytest.mark.parametrize(("warmup", "said"), [(0, False), (19, False), (20, True), (50, True)])
def test_a_warm_up_that_takes_the_whole_run(warmup, said):
    lines = told(warmup_steps=warmup)
    assert [f"optim.warmup_steps={warmup}: the warm-up takes all 20 steps" in s for s in lines] == (
        [True] * said
    )
    assert not told(warmup_steps=warmup, max_steps=None)


def test_a_finished_run_that_goes_on():
    (line,) = told(FINISHED, step=20, done=0.5, max_steps=40)
    assert "come down to 0.001 by step 20, and goes on at 0.0055, that of a longer run" in line
    assert not told(KILLED, step=20, done=0.5, max_steps=40)
    patient = RunSummary(status=Status.FINISHED, ended_by=EndedBy.patience)
    assert not told(patient, step=20, done=0.5, max_steps=40)
    assert not told(FINISHED, step=20, done=0.5, max_steps=40, schedule=Schedule.constant)


def test_the_device_says_how_many_processes_train():
    one = RunSummary(device="AMD EPYC, 2 threads", precision="bf16", backend="cpu")
    assert device_line(one) == "device: AMD EPYC, 2 threads, bf16, scan cpu"
    two = dataclasses.replace(one, device="AMD EPYC, 1 thread", processes=2, strategy="ddp")
    assert device_line(two) == (
        "device: 2 processes (ddp), each on AMD EPYC, 1 thread, bf16, scan cpu"
    )

"""The line of an evaluation: what it says, what a narrow terminal leaves out."""

import dataclasses
import logging
import math
import sys
from types import SimpleNamespace

import pytest

from mambalab.records.summary import Evaluation
from mambalab.train import limits, lines
from tests.train.test_progress import Terminal
from tests.train.toy import LIMITS, ToyTask, trainer


def state(step=2000, best=2000, loss=1.2212):
    last = {"val/loss": 1.4329}
    return SimpleNamespace(
        step=step, latest_loss=loss, last=last, best=Evaluation(best, {"val/loss": 1.4})
    )


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            None,
            "step 2,000  epoch 800.00  train 1.2212  val/loss 1.4329 best  13,755 tokens/s",
        ),
        (76, "step 2,000  epoch 800.00  train 1.2212  val/loss 1.4329 best"),
        (60, "step 2,000  epoch 800.00  train 1.2212  val/loss 1.4329 best"),
        (59, "step 2,000  train 1.2212  val/loss 1.4329 best"),
        (40, "step 2,000  train 1.2212\n  val/loss 1.4329 best"),
    ],
)
def test_an_evaluation_in_a_line(columns, text):
    assert lines.evaluation(ToyTask(), state(), LIMITS, 13755.2, columns) == text


def test_what_is_not_known_or_not_so_is_left_out():
    endless = ToyTask()
    endless.batches_per_epoch = None
    first = state(step=2500, loss=math.nan)
    assert lines.evaluation(endless, first, LIMITS, 0.0) == "step 2,500  val/loss 1.4329"


def test_an_estimate_has_its_error_behind_it():
    first = state(step=2500, loss=math.nan)
    first.last["val/loss_stderr"] = 0.0123
    assert lines.validation(ToyTask(), first) == "val/loss 1.4329 ± 0.0123"


def test_speed_is_counted_in_what_the_task_counts():
    task = ToyTask()
    assert lines.speed(task, 1234.0) == "1,234 tokens/s"
    task.unit, task.units_per_batch = "images", 2
    assert lines.speed(task, 1234.0) == "308 images/s"
    assert lines.speed(task, 0.0) == ""


def test_each_evaluation_is_said_and_the_bar_ends_with_the_last(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="mambalab")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    run, found = trainer(tmp_path, max_steps=7, log_every=3)
    run.run()
    told = [r.getMessage() for r in caplog.records]
    values = [(step, row["val/loss"]) for step, row in found.rows if "val/loss" in row]
    assert [step for step, _ in values] == [5, 7]
    assert [line.split("  ")[0] for line in told] == ["step 5", "step 7"]
    for (_, value), line in zip(values, told, strict=True):
        assert f"  val/loss {value:.4f} best" in line
    bar = screen.getvalue().replace("\r", "\n").rstrip().splitlines()[-1]
    assert bar.startswith("100%|")
    assert f"step 7  loss {run.state.latest_loss:.4f}  val/loss {values[-1][1]:.4f}  in " in bar


@pytest.mark.parametrize(
    ("given", "batches", "text"),
    [
        ({}, 2.5, "20 steps make 8 epochs"),
        ({"grad_accum": 2}, 30.0, "20 steps make 1.33 epochs"),
        ({"max_minutes": 1.75}, None, "20 steps, at most 1.75 minutes"),
        ({"max_minutes": 2.0, "max_steps": None}, 1234.0, "2 minutes, an epoch has 1,234 steps"),
        ({"max_minutes": 2.0, "max_steps": None}, None, "2 minutes"),
    ],
)
def test_how_far_a_run_may_go(given, batches, text):
    assert limits.describe(dataclasses.replace(LIMITS, **given), batches) == text

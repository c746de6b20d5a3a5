"""A callback of one's own: when it is called, what it may change."""

import pytest

from mambalab.records.summary import Status
from mambalab.train.callbacks import Callback
from tests.train.toy import trainer


class Diary(Callback):
    """Writes down what it is called with."""

    def __init__(self, name, pages):
        self.name = name
        self.pages = pages

    def on_evaluated(self, step, metrics):
        self.pages.append((self.name, step, metrics))

    def on_end(self, result):
        self.pages.append((self.name, result.status, result.reason))
        result.reason += f", says {self.name}"


def test_callbacks_are_called_in_order_after_evaluations_and_at_the_end(tmp_path):
    pages = []
    run, lines = trainer(tmp_path, max_steps=10)
    run.callbacks = [Diary("a", pages), Diary("b", pages)]
    result = run.run()
    evaluated = [(step, values) for step, values in lines.rows if "val/loss" in values]
    assert pages[:-2] == [(name, *row) for row in evaluated for name in "ab"]
    assert pages[-2:] == [
        ("a", Status.FINISHED, "max_steps=10 reached"),
        ("b", Status.FINISHED, "max_steps=10 reached, says a"),
    ]
    assert result.reason == "max_steps=10 reached, says a, says b"


def test_a_run_that_is_stopped_ends_too_and_one_that_fails_does_not(tmp_path):
    pages = []
    run, _ = trainer(tmp_path / "stopped", stop_after=3)
    run.callbacks = [Diary("a", pages)]
    run.run()
    assert pages == [("a", Status.KILLED, "stopped by SIGTERM after step 3")]
    pages.clear()
    run, _ = trainer(tmp_path / "failed")
    run.callbacks = [Diary("a", pages)]
    run.task.loss = lambda model, batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert pages == []


def test_without_callbacks_the_numbers_are_the_same(tmp_path):
    run, lines = trainer(tmp_path / "with")
    run.callbacks = [Diary("a", [])]
    run.run()
    plain, plainly = trainer(tmp_path / "without")
    plain.run()
    assert lines.rows == plainly.rows

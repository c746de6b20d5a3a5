"""What is shown of a long measurement, and how it ends early."""

import io

import pytest

from mambalab.train import eval_progress
from mambalab.train.eval_progress import StoppedError, Watch, watching
from tests.train.toy import ToyTask


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A list whose only entry is the time."""
    now = [100.0]
    monkeypatch.setattr(eval_progress.time, "monotonic", lambda: now[0])
    return now


def test_a_long_measurement_says_now_and_then_how_far_it_is(clock):
    stream = io.StringIO()
    seen = Watch("testing", lambda: None, stream)
    for done in range(30):
        seen(done, 64)
        clock[0] += 1
    assert stream.getvalue() == "testing 2/64 ...\ntesting 17/64 ...\n"


def test_a_terminal_shows_a_bar_and_takes_it_away(clock):
    stream = Terminal()
    seen = Watch("testing", lambda: None, stream)
    seen(0, 64)
    assert stream.getvalue() == ""
    for done in (5, 12):
        clock[0] += 10
        seen(done, 64)
    assert "testing 12/64 |" in stream.getvalue()
    seen.close()
    assert stream.getvalue().endswith("\r")


def test_a_signal_ends_what_is_measured():
    task = ToyTask()
    with (
        pytest.raises(StoppedError, match="SIGTERM") as stopped,
        watching(task, "x", lambda: "SIGTERM"),
    ):
        task.evaluate(None, "val")
    assert stopped.value.signal == "SIGTERM"
    assert task.on_eval_batch is None

"""The line that shows where a run stands; what is shown of a long measurement, and its end."""

import fcntl
import io
import os
import struct
import termios
import threading
from contextlib import suppress

import pytest

from mambalab.train import progress
from mambalab.train.progress import Progress, StoppedError, Watch, watching
from mambalab.utils import console
from tests.train.toy import ToyTask


def test_a_loss_that_was_not_logged_yet_is_not_shown():
    stream = io.StringIO()
    live = Progress(stream=stream)
    live.update(0.1, 1, float("nan"), "val/loss 2.5000", "")
    live.update(0.2, 2, 2.25, "", "")
    first, second = stream.getvalue().splitlines()
    assert first.startswith(" 10%  step 1  val/loss 2.5000  ")
    assert second.startswith(" 20%  step 2  loss 2.2500  ")


def test_a_first_step_that_takes_long_is_told_where_there_is_no_bar(monkeypatch, caplog):
    caplog.set_level("INFO", logger="mambalab")
    monkeypatch.setattr(console, "SILENT_SECONDS", 0.01)
    for name in ("BAR_SECONDS", "PLAIN_SECONDS"):
        monkeypatch.setattr(progress, name, 3600.0)
    told = threading.Event()
    monkeypatch.setattr(console.LOG, "filters", [lambda record: told.set() or True])
    for stream, said in ((Terminal(), False), (io.StringIO(), True)):
        live = Progress(stream=stream)
        live.wait_for_step()
        assert told.wait(300 if said else 0.05) is said
        assert not live.is_due()
        live.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A list whose only entry is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
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


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_moves_twice_a_second_and_a_plain_line_comes_now_and_then(clock, terminal):
    live = Progress(stream=Terminal() if terminal else io.StringIO())
    clock[0] += 0.4
    assert not live.is_due()
    clock[0] += 0.1
    assert live.is_due() is terminal
    clock[0] += 15
    assert live.is_due()
    live.update(0.5, 3, 1.5, "", "")
    assert not live.is_due()
    assert "step 3  loss 1.5000  16s left" in live.stream.getvalue()


@pytest.mark.parametrize(
    ("columns", "done", "shown"),
    [
        ("100", 0.5, "| step 2,000  loss 1.2212  val/loss 1.4329  13,755 tokens/s  1m 00s left"),
        ("80", 0.5, "| step 2,000  loss 1.2212  val/loss 1.4329  1m 00s left"),
        ("60", 0.5, "| step 2,000  loss 1.2212  1m 00s left"),
        ("40", 0.5, " 50%  step 2,000  1m 00s left"),
        ("60", 1.0, "| step 2,000  val/loss 1.4329  in 1m 00s"),
        ("40", 1.0, "100%  step 2,000  val/loss 1.4329"),
    ],
)
def test_a_bar_shows_what_there_is_room_for(clock, monkeypatch, columns, done, shown):
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    live = Progress(stream=stream)
    clock[0] += 60
    live.update(done, 2000, 1.2212, "val/loss 1.4329", "13,755 tokens/s")
    live.close()
    last = stream.getvalue().replace("\r", "\n").rstrip().splitlines()[-1].rstrip()
    assert last.endswith(shown)
    assert len(last) <= int(columns)


def test_a_signal_ends_what_is_measured():
    task = ToyTask()
    with (
        pytest.raises(StoppedError, match="SIGTERM") as stopped,
        watching(task, "x", lambda: "SIGTERM"),
    ):
        task.evaluate(None, "val")
    assert stopped.value.signal == "SIGTERM"
    assert task.on_eval_batch is None


@pytest.mark.parametrize(
    ("columns", "given", "shown"),
    [
        (0, None, "| step 3"),
        (0, "40", " 50%  step 3  loss 1.5000"),
        (20, None, " 50%  step 3 "),
        (40, None, " 50%  step 3  loss 1.5000"),
        (100, None, "| step 3  loss 1.5000"),
    ],
)
def test_a_terminal_of_few_columns_or_none_shows_where_the_run_is(
    columns, given, shown, monkeypatch
):
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.delenv("COLUMNS", raising=False)
    if given:
        monkeypatch.setenv("COLUMNS", given)
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        live = Progress(stream=stream)
        live.update(0.5, 3, 1.5, "", "")
        live.close()
    text = b""
    with suppress(OSError):  # the end, once nobody has the terminal open
        while piece := os.read(main, 10_000):
            text += piece
    os.close(main)
    assert shown in text.decode()

"""Signals that ask a run to stop."""

import os
import signal

import pytest

from mambalab.train.signals import StopSignals
from tests.lab import only_run, rows, summary, train


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    """Handlers as a terminal's program has them, even if the tests run under nohup or behind &."""
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_terminal_that_closes_asks_once_however_often_it_says_so():
    with StopSignals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.requested() == "SIGHUP"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.requested() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_second_sigterm_acts_at_once_also_after_a_hangup(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    signal.signal(signal.SIGTERM, lambda *_: seen.append("default"))
    seen = []
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.requested(), seen) == ("SIGHUP", [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["default"]


RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"}


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ({**RANK, "TORCHELASTIC_RUN_ID": "one"}, signal.SIGTERM),
        ({**RANK, "TORCHELASTIC_RUN_ID": "one"}, signal.SIGINT),
        ({"SLURM_JOB_ID": "1"}, signal.SIGTERM),
    ],
)
def test_what_slurm_says_twice_or_torchrun_repeats_asks_once(monkeypatch, place, number):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    signal.signal(number, lambda *_: seen.append("default"))
    seen = []
    with StopSignals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert (signals.requested(), seen) == (signal.Signals(number).name, [])


def test_a_second_ctrl_c_acts_at_once_in_a_job_of_slurm_too(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nothing_is_written_to_a_terminal_that_is_gone():
    reader, writer = os.openpty()
    signals = StopSignals()
    with signals:
        signals._terminals = [writer]
        os.kill(os.getpid(), signal.SIGHUP)
        os.write(writer, b"still there\n")
        assert os.read(reader, 100).startswith(b"still there")
        os.close(reader)
        with pytest.raises(OSError, match="Input/output"):
            os.write(writer, b"gone\n")
        os.kill(os.getpid(), signal.SIGHUP)
        os.write(writer, b"into nothing\n")
    os.close(writer)


def test_a_hangup_saves_and_stops_a_run(folder, monkeypatch):
    from mambalab.train.loop import Trainer

    assert train("run_dir=whole") == 0
    step = Trainer._train_step

    def stop(self):
        step(self)
        if self.state.step == 7:
            os.kill(os.getpid(), signal.SIGHUP)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop)
        assert train() == 129
    cut = only_run(folder)
    facts = summary(cut)
    assert (facts["status"], facts["ended_by"], facts["step"]) == ("KILLED", "SIGHUP", 7)
    assert not (cut / "plots/loss.png").exists()  # nobody waits for a picture then
    assert train() == 0
    assert rows(cut) == rows(folder / "whole")
    assert (cut / "plots/loss.png").exists()

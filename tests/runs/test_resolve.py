"""What is found out before anything is created."""

import pytest

from mambalab import config
from mambalab.errors import UserError
from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs.resolve import FinishedRun, ResolvedRun, resolve
from mambalab.runs.session import TrainingRun
from mambalab.settings.train import Precision
from mambalab.train.callbacks import Callback
from tests.lab import TINY, one_line, only_run, rows, summary, train


def settings(*options: str) -> config.TrainConfig:
    return config.compose("train", [*TINY, "tracking=jsonl", *options])


def everything(folder) -> dict:
    """Every file below a folder, with the time of its last change."""
    # filelock before 4.2.6 sets the time of a lock
    return {p: p.name == ".lock" or p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_new_run_is_resolved_and_built_without_a_trace(folder):
    before = everything(folder)
    resolved = resolve(settings("precision=fp32"))
    assert isinstance(resolved, ResolvedRun)
    assert (resolved.summary, resolved.summary_version) == (RunSummary(), None)
    assert (resolved.checkpoint, resolved.precision) == (None, Precision.fp32)
    assert resolved.device.type == "cpu"
    TrainingRun(resolved)
    assert everything(folder) == before


def test_a_run_that_goes_on_and_one_that_is_finished(folder):
    assert train() == 0
    before = everything(folder)
    resolved = resolve(settings("trainer.max_steps=20"))
    assert isinstance(resolved, ResolvedRun)
    assert resolved.checkpoint is not None
    assert resolved.checkpoint.step == resolved.summary.step == 12
    assert resolved.is_current()
    finished = resolve(settings())
    assert isinstance(finished, FinishedRun)
    assert finished.reason.startswith("trainer.max_steps=12 reached")
    assert everything(folder) == before


def test_a_run_that_is_begun_again_is_not_read(folder, caplog):
    assert train("run_dir=here") == 0
    (folder / "here/summary.json").write_text("{")
    with caplog.at_level("WARNING"):
        rebuilt = resolve(settings("run_dir=here", "trainer.max_steps=20"))
    assert isinstance(rebuilt, ResolvedRun)
    assert "summary.json is lost or damaged: what it said is taken from" in caplog.text
    caplog.clear()
    resolved = resolve(settings("run_dir=here", "resume=never"))
    assert isinstance(resolved, ResolvedRun)
    assert resolved.checkpoint is None
    assert not caplog.text


def test_what_another_process_did_meanwhile_is_not_overwritten(folder):
    assert train() == 0
    resolved = resolve(settings("trainer.max_steps=20"))
    assert isinstance(resolved, ResolvedRun)
    run_dir = only_run(folder)
    kept = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "summary.json").write_text('{"status": "FINISHED", "step": 12}')
    with pytest.raises(UserError, match="was trained further meanwhile: start again"):
        TrainingRun(resolved).run()
    assert summary(run_dir) == {"status": "FINISHED", "step": 12}
    assert (run_dir / "metrics.jsonl").read_bytes() == kept


def test_what_a_summary_says_besides_is_kept(folder):
    assert train("run_dir=here") == 0
    path = folder / "here/summary.json"
    facts = RunSummary.read(path)
    facts.other["note"] = "the good one"
    facts.write(path)
    assert train("run_dir=here", "trainer.max_steps=14") == 0
    assert summary(folder / "here")["note"] == "the good one"
    assert summary(folder / "here")["started"] == facts.started


class Watcher(Callback):
    """Notes evaluations and has the last word."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_evaluated(self, step, metrics):
        self.steps.append(step)
        assert "val/loss" in metrics

    def on_end(self, result):
        result.reason = f"seen {len(self.steps)} times"


def test_a_callback_of_ones_own_sees_the_run_and_its_numbers_stay(folder):
    assert train("run_dir=plain") == 0
    resolved = resolve(settings("run_dir=watched"))
    assert isinstance(resolved, ResolvedRun)
    watcher = Watcher()
    ended = TrainingRun(resolved, [watcher]).run()
    assert watcher.steps == [6, 12]
    assert (ended.status, ended.ended_by) == (Status.FINISHED, EndedBy.max_steps)
    assert ended.reason == "seen 2 times"
    assert ended.to_json() == summary(folder / "watched")
    assert rows(folder / "watched") == rows(folder / "plain")


def test_a_device_that_is_not_there_matters_only_to_a_run_that_trains(folder, capsys):
    assert train() == 0
    assert train("device=cuda:99") == 0
    capsys.readouterr()
    assert train("device=cuda:99", "trainer.max_steps=20") == 1
    assert "cuda:99" in one_line(capsys)

"""summary.json, typed: what is read is written back, whatever an older version put in it."""

import json

import pytest

from mambalab.errors import UserError
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy, Evaluation, FinalTestResult, RunSummary, Status

FULL = {
    "task": "digits",
    "seed": 1,
    "git_revision": None,
    "packages": {"torch": "2.14.1"},
    "passed_over": {},
    "checkpoint": {"path": "/c", "sha256": "d"},
    "metric": "val/accuracy",
    "maximize": True,
    "started": 1795910222.217,
    "status": "KILLED",
    "ended_by": "SIGINT",
    "step": 30,
    "best": {"step": 20, "val/loss": 1.5},
    "last": {},
    "seconds": 40.17,
    "left": "test",
    "test": {"step": 20, "times": 2, "test/accuracy": 0.5},
    "pid": 10714,
}


def test_every_field_is_typed_and_written_back(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(FULL))
    summary = RunSummary.read(path)
    assert summary.status is Status.KILLED
    assert summary.ended_by is EndedBy.SIGINT
    assert summary.best == Evaluation(20, {"val/loss": 1.5})
    assert summary.test == FinalTestResult(20, 2, {"test/accuracy": 0.5})
    assert (summary.git_revision, summary.backend, summary.other) == (None, None, {})
    summary.write(path)
    assert path.read_text() == json.dumps(FULL, indent=1) + "\n"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_keys_of_another_version_and_values_of_another_type_are_kept(tmp_path):
    odd = {"colour": "red", "status": "PENDING", "best": {"val/loss": 1.0}, "step": "many"}
    summary = RunSummary.from_json({**odd, "seed": 3})
    assert (summary.seed, summary.status, summary.best, summary.step) == (3, None, None, None)
    assert summary.other == odd
    assert summary.to_json() == {**odd, "seed": 3}
    summary.status, summary.step = Status.FINISHED, 4
    assert summary.to_json() == {**odd, "seed": 3, "status": "FINISHED", "step": 4}


def test_only_what_is_known_is_written_and_null_where_it_is_asked_for():
    assert RunSummary(seed=1).to_json() == {"seed": 1}
    assert RunSummary(seed=1, nulls={"best"}).to_json() == {"seed": 1, "best": None}


def test_a_folder_without_a_summary_says_nothing(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.summary() == RunSummary()
    assert not folder.is_begun()
    RunSummary(task="x").write(folder.summary_file)
    assert folder.is_begun()
    assert folder.summary().task == "x"


@pytest.mark.parametrize(("content", "why"), [("{", "Expecting"), ("[1]", "not an object")])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content, why):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"summary\.json is damaged \({why}.*mend or delete it"):
        RunSummary.read(path)


def test_the_process_that_signed_is_known_again():
    summary = RunSummary()
    assert summary.writer_alive() is None
    summary.sign()
    assert summary.writer_alive() is True
    assert summary.pid is not None
    summary.pid = 2**22 + 1
    assert RunSummary.from_json(summary.to_json()).writer_alive() is False


def test_a_test_result_of_an_early_version_lacks_step_and_times():
    summary = RunSummary.from_json({"test": {"test/accuracy": 0.5}})
    assert summary.test == FinalTestResult(None, None, {"test/accuracy": 0.5})
    assert summary.to_json() == {"test": {"test/accuracy": 0.5}}


def test_other_values_among_the_metrics_of_ones_own_task_stay(tmp_path):
    path = tmp_path / "summary.json"
    said = {"best": {"step": 3, "val/loss": 1.5, "val/ok": True, "val/none": None}}
    path.write_text(json.dumps(said))
    summary = RunSummary.read(path)
    assert summary.best is not None
    assert (summary.best.step, summary.best.metrics["val/loss"]) == (3, 1.5)
    assert summary.to_json() == said


@pytest.mark.parametrize(
    ("said", "meant"),
    [({"step": 20.0}, 20), ({"maximize": 1}, True), ({"step": 2.5}, None), ({"step": 1e999}, None)],
)
def test_numbers_as_other_programs_write_them(said, meant):
    (key,) = said
    summary = RunSummary.from_json(said)
    assert getattr(summary, key) == meant
    assert (key in summary.other) == (meant is None)


def test_a_run_that_goes_on_keeps_its_beginning_and_the_code_of_every_session():
    first = RunSummary(git_revision="a+changes")
    first.follow(RunSummary())
    assert first.started is not None
    assert first.earlier_revisions is None
    second = RunSummary(git_revision="b")
    second.follow(first)
    assert (second.started, second.earlier_revisions) == (first.started, "a+changes")
    third = RunSummary(git_revision="b")
    third.follow(second)
    assert third.earlier_revisions == "a+changes"
    fourth = RunSummary(git_revision="c")
    fourth.follow(third)
    assert fourth.earlier_revisions == "a+changes, b"
    assert RunSummary.from_json(fourth.to_json()) == fourth

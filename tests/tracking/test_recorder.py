import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mambalab.errors import UserError
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import recorder as tracking
from mambalab.tracking import sync
from mambalab.tracking.recorder import Recorder
from tests.records.example_runs import make_run

PARAMS = {"task": {"name": "toy"}, "seed": 1}


def settings(kind: str = "jsonl", uri: str | None = None) -> TrackingSettings:
    return TrackingSettings(kind=TrackingKind(kind), uri=uri, experiment_name=None)


@pytest.fixture
def said():
    return []


@pytest.fixture
def recorder(tmp_path, said):
    """A function that opens a recorder on the same run folder; all are closed at the end."""
    opened = []

    def show(line, extra=None):
        said.append(line)

    def build(kind: str = "jsonl", *, resume: bool = False) -> Recorder:
        it = Recorder(tmp_path / "run", settings(kind), output_dir=tmp_path, announce=show)
        it.start(params=PARAMS, tags={}, resume=resume)
        opened.append(it)
        return it

    yield build
    for it in opened:
        it.finish("KILLED")


def lines(tmp_path) -> list[dict]:
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_on_disk_when_metrics_returns(recorder, tmp_path):
    it = recorder()
    it.metrics(10, {"train/loss": 3.5, "time/seconds": 1})
    assert lines(tmp_path) == [{"step": 10, "train/loss": 3.5, "time/seconds": 1.0}]
    it.metrics(10, {"val/loss": 3.0})
    assert lines(tmp_path)[1:] == [{"step": 10, "val/loss": 3.0}]
    it.finish("FINISHED")
    it.finish("FINISHED")
    assert len(lines(tmp_path)) == 2


def test_values_that_are_not_finite_are_null(recorder, tmp_path):
    recorder().metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    assert lines(tmp_path) == [{"step": 1, "a": None, "b": None, "c": None, "d": 0.0}]


def test_a_step_is_recorded_once_and_steps_do_not_go_back(recorder, tmp_path):
    it = recorder()
    it.metrics(2, {"a": 1.0})
    for step in (2, 1):
        with pytest.raises(UserError, match=f"'a': step {step} was recorded before"):
            it.metrics(step, {"a": 1.0})
    assert lines(tmp_path) == [{"step": 2, "a": 1.0}]


def test_a_name_mlflow_could_not_take_is_refused_before_it_is_written(recorder, tmp_path):
    it = recorder()
    with pytest.raises(UserError, match=r"metric 'top\[5\]': use letters"):
        it.metrics(1, {"top[5]": 1.0})
    assert lines(tmp_path) == []


def test_a_resumed_run_adds_only_what_is_not_there(recorder, tmp_path, said):
    it = recorder()
    for step in (1, 2, 3):
        it.metrics(step, {"a": step / 10, "time/seconds": float(step)})
    it.finish("KILLED")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = recorder(resume=True)  # from a checkpoint at step 1
    for step in (2, 3, 4):
        again.metrics(step, {"a": step / 10, "time/seconds": step + 0.5})
    again.metrics(3, {"b": 7.0})
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(before)
    assert lines(tmp_path)[3:] == [
        {"step": 4, "a": 0.4, "time/seconds": 4.5},
        {"step": 3, "b": 7.0},
    ]
    assert said == []
    with pytest.raises(UserError, match="step 4 was recorded before"):
        again.metrics(4, {"a": 0.4})


def test_a_resumed_run_may_fill_a_step_it_had_left_out(recorder, tmp_path):
    it = recorder()
    for step in (10, 30):
        it.metrics(step, {"val/loss": 1.0})
    it.finish("KILLED")
    again = recorder(resume=True)
    again.metrics(20, {"val/loss": 2.0})
    again.metrics(20, {"val/loss": 2.0})
    assert lines(tmp_path)[2:] == [{"step": 20, "val/loss": 2.0}]


def test_a_resumed_run_that_differs_says_so_once_and_keeps_the_first_values(
    recorder, tmp_path, said
):
    it = recorder()
    for step in (1, 2):
        it.metrics(step, {"a": 0.5, "b": math.nan, "time/x": 1.0})
    it.finish("KILLED")
    again = recorder(resume=True)
    again.metrics(1, {"a": 0.5, "b": math.nan, "time/x": 2.0})
    assert said == []
    again.metrics(2, {"a": 0.6, "b": 0.1})
    assert len(said) == 1
    assert said[0].startswith("this resumed run does not reproduce the steps")
    assert "a at step 2 was 0.5, is 0.6 now" in said[0]
    assert [line["a"] for line in lines(tmp_path)] == [0.5, 0.5]


@pytest.mark.parametrize("rest", [b'{"step": 2, "a"', b'{"step": 2, "a": 0.2}', b"\0\0\0"])
def test_a_line_cut_short_is_cut_off(recorder, tmp_path, rest):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "a": 0.1}\n' + rest)
    recorder(resume=True).metrics(2, {"a": 0.25})
    assert lines(tmp_path) == [{"step": 1, "a": 0.1}, {"step": 2, "a": 0.25}]


def test_a_damaged_line_stops_a_resume_before_anything_is_written(recorder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n')
    with pytest.raises(UserError, match="damaged at byte 12"):
        recorder(resume=True)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\nrubbish\n'
    recorder()  # the folder is free, and a new record replaces the damaged one
    assert lines(tmp_path) == []


def test_a_folder_is_recorded_by_one_process_only(recorder, tmp_path):
    it = recorder()
    with pytest.raises(UserError, match="is in use"):
        recorder(resume=True)
    it.finish("FINISHED")
    recorder(resume=True)


def test_none_writes_nothing(recorder, tmp_path):
    it = recorder("none")
    it.metrics(1, {"a": 1.0})
    it.artifact(tmp_path / "run" / "config.yaml")
    it.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_line(recorder, tmp_path):
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(UserError, match=r"cannot write in .*run"):
        recorder()


def test_artifacts_lie_in_the_run_folder(recorder, tmp_path):
    with pytest.raises(ValueError, match="is not in the subpath"):
        recorder().artifact(tmp_path / "elsewhere.png")


def test_leaving_by_an_exception_closes_the_record(tmp_path):
    def begin() -> Recorder:
        it = Recorder(tmp_path / "run", settings(), output_dir=tmp_path)
        it.start(params=PARAMS, tags={}, resume=True)
        return it

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), begin():
            raise error
    with begin() as it:
        it.metrics(1, {"a": 1.0})


def test_mlflow_not_installed_is_said_before_anything_is_created(recorder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*mlflow, or use tracking=jsonl"):
        recorder("mlflow")
    with pytest.raises(UserError, match=r"pip install .*mlflow"):
        tracking.check(settings("mlflow"), output_dir=tmp_path)
    tracking.check(settings("jsonl"), output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recording_without_mlflow_never_imports_it(tmp_path):
    code = """
import sys
from pathlib import Path
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlflow", "torch", "matplotlib"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Absent())
from mambalab.tracking.recorder import Recorder
from mambalab.settings.train import TrackingKind, TrackingSettings
for kind in TrackingKind.jsonl, TrackingKind.none:
    folder = Path(sys.argv[1])
    with Recorder(folder / kind.value, TrackingSettings(kind, None, None), output_dir=folder) as it:
        it.start(params={}, tags={}, resume=False)
        it.metrics(1, {"a": 1.0})
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "jsonl" / "metrics.jsonl").read_text() == '{"step": 1, "a": 1.0}\n'
    assert not (tmp_path / "none").exists()


def test_the_command_that_sends_a_run_later(tmp_path):
    run = tmp_path / "run"

    def command(uri: str | None, output_dir: Path) -> str:
        return tracking.sync_command(run, settings("mlflow", uri), output_dir)

    assert command(None, Path("outputs")) == f"mambalab sync {run}"
    assert command(None, tmp_path) == f"mambalab sync {run} output_dir={tmp_path}"
    secret = "http://me:secret@host:5000"
    assert command(secret, tmp_path) == f"mambalab sync {run} uri=http://host:5000"


def test_a_run_that_was_meant_for_a_server_of_wandbs_is_not_sent_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", tracking={"kind": "wandb", "uri": "https://wandb.mine"})
    meant = TrackingSettings(TrackingKind.wandb, "https://wandb.mine", None)
    command = tracking.sync_command(run, meant, tmp_path)
    assert command == f"mambalab sync {run} to=wandb uri=https://wandb.mine"
    with pytest.raises(UserError, match=r"for the server https://wandb\.mine: add uri="):
        sync.send_to(run, TrackingSettings(TrackingKind.wandb, None, None), tmp_path)


def test_who_asks_to_send_a_stopped_run_waits_as_for_any(tmp_path, monkeypatch):
    asked = []

    class Fake:
        def start(self):
            pass

        def finish(self, status, *, waited_for):
            asked.append((status, waited_for))
            self.note = SimpleNamespace(state="complete", uri="there", experiment="e")

    monkeypatch.setattr(sync, "make_sink", lambda *_, **__: Fake())
    monkeypatch.setattr(sync, "check", lambda *_, **__: None)
    run = make_run(tmp_path / "run", summary={"status": "KILLED"})
    sync.send_to(run, TrackingSettings(TrackingKind.wandb, None, None), tmp_path)
    assert asked == [("KILLED", False)]

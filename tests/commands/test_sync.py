import json
import shutil
import socket
import sqlite3
from contextlib import closing

import pytest

from mambalab.commands import sync
from mambalab.commands.sync import SyncSettings
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.sweep.folder import SweepFolder
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import Recorder
from mambalab.tracking.sync import send_rest
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json
from tests.tracking.stores import points_in_folder, points_in_store, query
from tests.tracking.test_tensorboard_sink import kept, points, read_back


@pytest.fixture
def record(tmp_path):
    """A function that records a run without MLflow and returns its folder."""

    def build(name: str = "toy/run", *, points: int = 20, status: str = "FINISHED"):
        folder = tmp_path / name
        settings = TrackingSettings(TrackingKind.jsonl, None, None)
        with Recorder(folder, settings, output_dir=tmp_path) as it:
            it.start(params={}, tags={}, resume=True)
            for step in range(1, points + 1):
                it.metrics(step, {"train/loss": 1 / step, "time/seconds": 2.0 * step})
            it.metrics(points, {"val/loss": float("nan")})
        (folder / "config.yaml").write_text("task: {name: toy}\nseed: 5\n")
        summary = {"status": status, "git_revision": "abc", "started": 1_700_000_000.0}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / "step-1.txt").write_text("to be")
        return folder

    return build


@pytest.fixture
def run(tmp_path):
    def call(*runs, uri: str | None = None) -> int:
        return sync.run(SyncSettings([str(r) for r in runs], str(tmp_path), uri))

    return call


MLFLOW = TrackingSettings(TrackingKind.mlflow, None, None)


@pytest.mark.parametrize("state", ["sending", "behind", "new"])
def test_the_same_command_sends_the_end_that_mlflow_lacks(
    record, run, store, tmp_path, caplog, state
):
    """Killed after FINISHED was written and before MLflow had heard of it."""
    folder = record()
    assert run(folder) == 0
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "test/loss": 0.5}\n')
    noted = read_json(folder / "mlflow_run.json")
    write_json(folder / "mlflow_run.json", {**noted, "state": state})
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("update runs set status = 'RUNNING', end_time = null")
    caplog.set_level("INFO", "mambalab")
    send_rest(folder, MLFLOW, tmp_path)
    assert points_in_store(store) == points_in_folder(folder)
    assert query(store, "select status from runs") == [("FINISHED",)]
    assert "MLflow lacked the end of this run: sent now, with 1 points" in caplog.text
    caplog.clear()
    send_rest(folder, MLFLOW, tmp_path)
    assert not caplog.text


def test_what_mlflow_has_or_never_had_is_not_sent_unasked(record, store, tmp_path, caplog):
    caplog.set_level("INFO", "mambalab")
    send_rest(record(), MLFLOW, tmp_path)  # never recorded there: that is for `sync`
    folder = record("toy/other")
    write_json(folder / "mlflow_run.json", {"uid": "a", "state": "sending"})
    send_rest(folder, TrackingSettings(TrackingKind.jsonl, None, None), tmp_path)
    assert not caplog.text
    assert query(store, "select count(*) from runs") == [(0,)]


def test_an_end_that_mlflow_does_not_take_names_the_command(record, tmp_path, caplog):
    folder = record("toy/my run")
    write_json(folder / "mlflow_run.json", {"uid": "a", "state": "sending"})
    (tmp_path / "mlflow.db").write_text("no store at all")
    send_rest(folder, MLFLOW, tmp_path)
    assert "MLflow lacks the end of this run" in caplog.text
    assert f"`mambalab sync '{folder}' output_dir={tmp_path}`" in caplog.text


def test_a_run_recorded_without_mlflow_is_sent_once(record, run, store, tmp_path, capsys):
    folder = record()
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert f"{folder}: 41 points sent, 41 there now (experiment toy, run " in out
    assert f"MLflow store: sqlite:///{store}" in out
    assert points_in_store(store) == points_in_folder(folder)
    assert query(store, "select status, start_time, end_time from runs") == [
        ("FINISHED", 1_700_000_000_000, 1_700_000_040_000)
    ]
    assert dict(query(store, "select key, value from params")) == {"task.name": "toy", "seed": "5"}
    assert dict(query(store, "select key, value from tags"))["git_revision"] == "abc"
    note = read_json(folder / "mlflow_run.json")
    artifacts = tmp_path / "mlartifacts" / "toy" / note["run_id"] / "artifacts"
    assert (artifacts / "samples" / "step-1.txt").read_text() == "to be"

    assert run(folder, "latest") == 0
    assert capsys.readouterr().out.count(": 0 points sent, 41 there now") == 2
    assert points_in_store(store) == points_in_folder(folder)


def test_what_was_added_since_is_sent(record, run, store):
    folder = record(points=5, status="KILLED")
    run(folder)
    assert query(store, "select status from runs") == [("KILLED",)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/loss": 0.5}\n')
    (folder / "summary.json").write_text('{"status": "FINISHED"}')
    assert run(folder) == 0
    assert points_in_store(store) == points_in_folder(folder)
    assert query(store, "select status from runs") == [("FINISHED",)]


def test_a_run_copied_from_another_machine(record, run, store, tmp_path):
    """Its note speaks of a store that is not here; the copy of a copy is the same run."""
    folder = record()
    run(folder)
    note = read_json(folder / "mlflow_run.json")
    elsewhere = {**note, "uri": "http://elsewhere:5000", "run_id": "123"}
    (folder / "mlflow_run.json").write_text(json.dumps(elsewhere))
    copy = tmp_path / "copied"
    shutil.move(folder, copy)
    assert run(copy) == 0
    assert points_in_store(store) == points_in_folder(copy)
    assert len(query(store, "select * from runs")) == 1


def test_another_store_is_never_chosen_by_the_folder_but_mentioned(record, run, store, capsys):
    folder = record()
    write_json(folder / "mlflow_run.json", {"uid": "u", "uri": "http://elsewhere"})
    assert run(folder) == 0
    assert "add uri=http://elsewhere to send it there" in capsys.readouterr().out


def test_one_bad_run_does_not_stop_the_others(record, run, store, tmp_path, capsys):
    good, bad = record("toy/good"), record("toy/bad")
    (bad / "metrics.jsonl").write_text("rubbish\n")
    assert run("toy/none", bad, good) == 1
    captured = capsys.readouterr()
    assert "no such folder" in captured.err
    assert "metrics.jsonl is damaged" in captured.err
    assert f"{good}: 41 points sent" in captured.out


def test_a_run_that_is_being_trained_is_left_alone(record, run, store, capsys):
    folder = record()
    summary = {"status": "RUNNING", **process.identity()}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert run(folder) == 1
    assert "still being trained here" in capsys.readouterr().err
    (folder / "summary.json").write_text(json.dumps({**summary, "pid": 2**22 + 1}))
    with run_folder.hold(folder):
        assert run(folder) == 1
    assert "is in use" in capsys.readouterr().err
    assert run(folder) == 0
    assert query(store, "select status from runs") == [("KILLED",)]


def test_a_silent_server_is_asked_once(record, run, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    runs = [record("toy/a"), record("toy/b"), record("toy/c")]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert run(*runs, uri=uri) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"{runs[0]}: cannot send it to {uri}: it does not answer",
        "2 more not tried",
    ]


def test_a_server_that_was_never_reached_leaves_no_trace(record, run, store, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = record()
    run(folder)
    note = (folder / "mlflow_run.json").read_text()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert run(folder, uri=f"http://127.0.0.1:{closed.getsockname()[1]}") == 1
    assert (folder / "mlflow_run.json").read_text() == note


def test_mistakes_before_anything_is_sent(run):
    with pytest.raises(UserError, match="is no MLflow tracking URI"):
        run("x", uri="nonsense")
    with pytest.raises(UserError, match="which run"):
        SyncSettings([], "outputs", None).check_ready()


def test_a_run_without_metrics_is_not_sent(record, run, store, capsys):
    folder = record()
    (folder / "metrics.jsonl").unlink()
    assert run(folder) == 1
    captured = capsys.readouterr()
    assert "has no metrics.jsonl (tracking=none keeps none): nothing to send" in captured.err
    assert captured.out == ""
    assert query(store, "select * from runs") == []


def test_values_that_disagree_are_reported(record, run, store, capsys):
    folder = record()
    run(folder)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"train/loss": 0.5', '"train/loss": 0.6'))
    assert run(folder) == 0
    assert "other values than metrics.jsonl for 1 points" in capsys.readouterr().err


# -- sweeps --------------------------------------------------------------------------------------


@pytest.fixture
def swept(record, tmp_path):
    """The folder of a sweep with two runs and a comparison, of which MLflow knows nothing."""
    runs = [record(f"sweeps/s/seed={n}", points=3) for n in (1, 2)]
    folder = runs[0].parent
    sweep = SweepFolder(folder, command=["seed=1,2"], began=1_700_000_000.0, status="FAILED")
    sweep.record = {"experiment": "toy", "params": {"varies": "seed"}}
    sweep.write()
    row = {"jobs/finished": 2.0, "time/seconds": 30.0}
    (folder / "metrics.jsonl").write_bytes(run_folder.encode(1, row))
    for name in ("comparison/comparison.md", "logs/seed=1.log"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("text")
    return folder


def parents(store) -> dict[str, str]:
    tag = "select run_uuid, value from tags where key = 'mlflow.parentRunId'"
    return dict(query(store, tag))


def test_a_sweep_is_sent_with_its_runs_below_it(swept, run, store, tmp_path, capsys):
    assert run(swept / "seed=1") == 0  # before there was a parent
    assert parents(store) == {}
    capsys.readouterr()
    assert run(swept) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        f"{swept}: 2 points sent, 2 there now",
        f"{swept / 'seed=1'}: 0 points sent, 7 there now",
        f"{swept / 'seed=2'}: 7 points sent, 7 there now",
        f"MLflow store: sqlite:///{store}",
    ]
    ids = {p: read_json(p / "mlflow_run.json")["run_id"]
           for p in (swept, swept / "seed=1", swept / "seed=2")}  # fmt: skip
    assert parents(store) == {ids[swept / "seed=1"]: ids[swept], ids[swept / "seed=2"]: ids[swept]}
    status = f"select status, start_time, end_time from runs where run_uuid = '{ids[swept]}'"
    assert query(store, status) == [("FAILED", 1_700_000_000_000, 1_700_000_030_000)]
    below = tmp_path / "mlartifacts" / "toy" / ids[swept] / "artifacts"
    names = sorted(p.relative_to(below).as_posix() for p in below.rglob("*") if p.is_file())
    assert names == ["comparison/comparison.md", "sweep.json"]

    assert run("sweeps/s", swept / "sweep.json") == 0  # also as output_dir counts, or by its file
    assert capsys.readouterr().out.count(": 0 points sent") == 6
    assert len(query(store, "select * from runs")) == 3


def test_latest_is_the_whole_sweep_of_the_newest_run(swept, run, store):
    assert run("latest") == 0
    names = {name for (name,) in query(store, "select name from runs")}
    assert names == {"sweeps/s", "seed=1", "seed=2"}


def test_a_sweep_that_runs_is_left_alone_and_one_that_was_killed_is_not(swept, run, store, capsys):
    sweep = SweepFolder.read(swept)
    sweep.status = "RUNNING"
    sweep.write()
    with sweep.held():
        assert run(swept) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert "s is in use: another process is" in err[0]
    assert run(swept) == 0
    found = query(store, "select status from runs where name = 'sweeps/s'")
    assert found == [("KILLED",)]


def test_a_bad_run_in_a_sweep_and_a_damaged_sweep_are_a_line_each(swept, run, store, capsys):
    (swept / "seed=1/metrics.jsonl").write_text("rubbish\n")
    assert run(swept) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "seed=1/metrics.jsonl is damaged" in captured.err
    assert f"{swept / 'seed=2'}: 7 points sent" in captured.out
    (swept / "sweep.json").write_text("{")
    assert run(swept) == 1
    assert "sweep.json is damaged" in capsys.readouterr().err.splitlines()[0]


def test_a_silent_server_is_asked_once_for_a_sweep(swept, run, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert run(swept, uri=uri) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{swept}: cannot send it to {uri}: it does not answer",
        "2 more not tried",
    ]


def test_a_sweep_without_counts_or_description_is_sent(swept, run, store, capsys):
    """As sweeps are that kept no MLflow record, and those of an older mambalab."""
    (swept / "metrics.jsonl").unlink()
    (swept / "sweep.json").write_text('{"command": ["seed=1,2"], "jobs": {}}')
    assert run(swept) == 0
    assert f"{swept}: 0 points sent, 0 there now (experiment toy" in capsys.readouterr().out


def test_event_files_of_a_recorded_run_are_written_afterwards(record, tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    folder = record()
    for _ in range(2):
        cfg = SyncSettings([str(folder)], str(tmp_path), None, sync.Target.tensorboard)
        assert sync.run(cfg) == 0
        assert capsys.readouterr().out == f"{folder}: 41 points in {folder}/tensorboard\n"
    assert points(read_back(folder)) == kept(folder)


def test_the_same_command_writes_the_end_that_event_files_lack(record, tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    folder = record()
    note = Note.new(name=run_folder.TENSORBOARD)
    note.state = "sending"
    note.write(folder)
    settings = TrackingSettings(TrackingKind.tensorboard, None, None)
    with caplog.at_level("INFO"):
        for _ in range(2):
            send_rest(folder, settings, tmp_path)
    assert points(read_back(folder)) == kept(folder)
    assert caplog.messages == [
        f"tensorboard lacked the end of this run: sent now, 41 points in {folder}/tensorboard"
    ]


def test_the_runs_of_a_sweep_go_to_wandb_without_the_sweep(record, tmp_path, monkeypatch, capsys):
    sent = []

    def send_to(path, settings, output_dir):
        sent.append((path, settings.kind, settings.uri))
        if path.name == "b":
            raise UserError("no network")
        return "sent"

    monkeypatch.setattr(sync, "send_to", send_to)
    monkeypatch.setattr(sync, "check", lambda *_, **__: None)
    runs = [record("sweeps/s/a"), record("sweeps/s/b")]
    (runs[0].parent / "sweep.json").write_text("{}")
    cfg = SyncSettings([str(runs[0].parent)], str(tmp_path), "https://host", sync.Target.wandb)
    assert sync.run(cfg) == 1
    assert sent == [(run, TrackingKind.wandb, "https://host") for run in runs]
    assert capsys.readouterr() == (f"{runs[0]}: sent\n", "no network\n")

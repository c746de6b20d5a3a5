import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store, sink
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.recorder import Recorder
from tests.tracking.stores import copy_template, points_in_folder, points_in_store, query

PARAMS = {"task": {"name": "toy"}, "trainer": {"max_steps": 100}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Batches, attempts and patience as in a fast-forward; no proxy between us and 127.0.0.1."""
    monkeypatch.setattr(sink, "PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(sink, "PAUSE_SECONDS", (0.1,))
    monkeypatch.setattr(sink, "REMOTE_PATIENCE_SECONDS", 1.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def said():
    return []


@pytest.fixture
def recorder(tmp_path, said):
    """A function that opens a recorder on the same run folder; all are closed at the end."""
    opened = []

    def show(line, extra=None):
        said.append(line)

    def build(*, uri: str | None = None, resume: bool = False, **params) -> Recorder:
        settings = TrackingSettings(TrackingKind.mlflow, uri, None)
        it = Recorder(tmp_path / "toy" / "run", settings, output_dir=tmp_path, announce=show)
        it.start(
            params={**PARAMS, **params}, tags={"git_revision": "abc", "machine": "m"}, resume=resume
        )
        opened.append(it)
        return it

    yield build
    for it in opened:
        it.finish("KILLED")


def wait_for(condition, seconds: float = 300.0):
    """Poll until a condition holds; fail if it never does."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
    return found


def note(tmp_path) -> dict:
    path = tmp_path / "toy" / "run" / "mlflow_run.json"
    return json.loads(path.read_text()) if path.exists() else {"state": None}


def test_a_run_arrives_whole_and_described(recorder, store, tmp_path, said):
    run_dir = tmp_path / "toy" / "run"
    it = recorder()
    for step in range(1, 51):
        it.metrics(step, {"train/loss": 1 / step, "time/seconds": step / 10})
        if step % 10 == 0:
            it.metrics(step, {"val/loss": math.nan if step == 20 else step / 3})
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "loss.png").write_bytes(b"first")
    it.artifact(run_dir / "plots" / "loss.png")
    (run_dir / "plots" / "loss.png").write_bytes(b"second")
    it.artifact(run_dir / "plots" / "loss.png")
    for name in ("config.yaml", "summary.json"):
        (run_dir / name).write_text("{}")
    it.finish("FINISHED")

    assert points_in_store(store) == points_in_folder(run_dir)
    assert len(points_in_store(store)) == 105
    runs = query(
        store,
        "select r.name, r.status, e.name, r.run_uuid from runs r join experiments e "
        "on r.experiment_id = e.experiment_id",
    )
    run_id = note(tmp_path)["run_id"]
    assert runs == [("toy/run", "FINISHED", "toy", run_id)]
    assert dict(query(store, "select key, value from params")) == {
        "task.name": "toy",
        "trainer.max_steps": "100",
    }
    tags = dict(query(store, "select key, value from tags"))
    assert tags["git_revision"] == "abc"
    assert tags["machine"] == "m"
    assert tags["mlflow.mambalab.status"] == "FINISHED"
    assert tags["mlflow.mambalab.pid"] == str(os.getpid())
    assert tags["mambalab.host"] == socket.gethostname()
    artifacts = tmp_path / "mlartifacts" / "toy" / run_id / "artifacts"
    assert (artifacts / "plots" / "loss.png").read_bytes() == b"second"
    assert (artifacts / "config.yaml").exists()
    assert (artifacts / "summary.json").exists()
    assert (note(tmp_path)["state"], note(tmp_path)["points"]) == ("complete", 105)
    assert said == []


def test_a_store_that_the_environment_names_is_used_and_said(
    recorder, template_store, tmp_path, monkeypatch, caplog
):
    (tmp_path / "elsewhere").mkdir()
    store = copy_template(template_store, tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    with caplog.at_level("INFO", "mambalab"):
        it = recorder()
    it.metrics(1, {"train/loss": 3.0})
    it.finish("FINISHED")
    assert points_in_store(store) == [("train/loss", 1, 3.0)]
    assert not (tmp_path / "mlflow.db").exists()
    assert caplog.text.count(f"MLflow: sqlite:///{store} (MLFLOW_TRACKING_URI is set)") == 1
    load = query(store, "select count(*) from metrics where key = 'system/process_cpu_percentage'")
    assert load[0][0] >= 1


def test_points_are_there_while_the_run_goes_on(recorder, store):
    it = recorder()
    it.metrics(1, {"train/loss": 3.0})
    wait_for(lambda: points_in_store(store) == [("train/loss", 1, 3.0)])
    assert query(store, "select status from runs") == [("RUNNING",)]
    it.metrics(2, {"train/loss": 2.0})
    wait_for(lambda: len(points_in_store(store)) == 2)


def test_a_resumed_run_continues_its_mlflow_run(recorder, store, tmp_path, said):
    run_dir = tmp_path / "toy" / "run"
    it = recorder()
    for step in range(1, 31):
        it.metrics(step, {"train/loss": 1 / step, "time/seconds": step / 10})
    (run_dir / "samples").mkdir()
    (run_dir / "samples" / "a.txt").write_text("lost with the kill")
    it.finish("KILLED")
    again = recorder(resume=True, trainer={"max_steps": 200})
    wait_for(lambda: query(store, "select status from runs") == [("RUNNING",)])
    for step in range(21, 41):
        again.metrics(step, {"train/loss": 1 / step, "time/seconds": step / 10 + 5})
    again.finish("FINISHED")
    assert points_in_store(store) == points_in_folder(run_dir)
    assert len(points_in_store(store)) == 80
    assert query(store, "select status from runs") == [("FINISHED",)]
    tags = dict(query(store, "select key, value from tags"))
    assert tags["resumed.trainer.max_steps"] == "200"
    artifacts = tmp_path / "mlartifacts" / "toy" / note(tmp_path)["run_id"] / "artifacts"
    assert (artifacts / "samples" / "a.txt").exists()
    assert said == []


def test_a_new_run_in_the_same_folder_is_a_new_mlflow_run(recorder, store, tmp_path):
    it = recorder()
    it.metrics(1, {"train/loss": 3.0})
    it.finish("FINISHED")
    first = note(tmp_path)["run_id"]
    recorder(resume=False).finish("FINISHED")
    assert note(tmp_path)["run_id"] != first
    assert len(query(store, "select * from runs")) == 2


def test_a_run_that_was_stopped_as_it_began_is_taken_up_by_the_next(recorder, store, tmp_path):
    recorder().finish("KILLED")  # before a summary, a row or a checkpoint was written
    recorder(resume=False).finish("FINISHED")
    assert query(store, "select status from runs") == [("FINISHED",)]


CHILD = """
import sqlite3, sys, time
from pathlib import Path
from mambalab.tracking import mlflow_mirror, sink
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking.recorder import Recorder
sink.PERIOD_SECONDS = 0.05
folder = Path(sys.argv[1])
def wait_to_be_killed(self):
    store = sqlite3.connect(folder / "mlflow.db", timeout=300)
    if store.execute("select 1 from metrics where key like '%loss' limit 1").fetchone():
        time.sleep(3600)
    store.close()
mlflow_mirror.MlflowMirror._tick = wait_to_be_killed  # after the first batch
it = Recorder(folder / "toy" / "run", TrackingSettings(TrackingKind.mlflow, None, None),
              output_dir=folder)
it.start(params={"task": {"name": "toy"}}, tags={}, resume=True)
for step in range(1, 2001):
    it.metrics(step, {"train/loss": 1 / step, "val/loss": 2 / step, "time/seconds": step / 100})
print("written", flush=True)
it._sink._thread.join()
"""


def test_kill_in_the_middle_of_sending_then_resume(recorder, store, tmp_path, said):
    run_dir = tmp_path / "toy" / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout as output:
        try:
            assert output.readline() == "written\n"
            wait_for(lambda: points_in_store(store))
        finally:
            child.kill()
            child.wait()
    assert 0 < len(points_in_store(store)) < 6000, "not killed in the middle"
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2001, "train/lo')
    assert query(store, "select status from runs") == [("RUNNING",)]
    again = recorder(resume=True)
    for step in range(1990, 2011):
        again.metrics(step, {"train/loss": 1 / step, "val/loss": 2 / step, "time/seconds": 0.1})
    again.finish("FINISHED")
    assert points_in_store(store) == points_in_folder(run_dir)
    assert len(points_in_store(store)) == 3 * 2010
    assert query(store, "select status from runs") == [("FINISHED",)]
    assert said == []


@pytest.fixture(params=["closed port", "black hole"])
def dead_server(request):
    """Address of a server that refuses connections, or takes them and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "black hole":
            listener.listen()
        yield f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"


def test_a_dead_server_costs_one_line_and_nothing_else(recorder, tmp_path, said, dead_server):
    it = recorder(uri=dead_server)
    it.metrics(1, {"train/loss": 3.0})
    wait_for(lambda: note(tmp_path)["state"] == "behind")
    for step in range(2, 50):
        it.metrics(step, {"train/loss": 3.0})
    it.finish("FINISHED")
    assert len(points_in_folder(tmp_path / "toy" / "run")) == 49
    shown = dead_server.replace("me:secret@", "")
    assert said == [
        f"MLflow at {shown}: it does not answer; training goes on, the metrics stay in the run "
        f"folder; send them later with `mambalab sync {tmp_path}/toy/run uri={shown}`"
    ]
    assert (note(tmp_path)["state"], note(tmp_path)["run_id"]) == ("behind", None)
    assert note(tmp_path)["problem"] == "it does not answer"
    assert "secret" not in (tmp_path / "toy" / "run" / "mlflow_run.json").read_text()


def test_finish_does_not_wait_for_a_server_that_hangs(recorder, tmp_path, said, monkeypatch):
    """Even if the user has asked MLflow itself to be patient."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    monkeypatch.setattr(sink, "REMOTE_PATIENCE_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        it = recorder(uri=f"http://127.0.0.1:{listener.getsockname()[1]}")
        it.metrics(1, {"train/loss": 3.0})
        listener.settimeout(300)
        connection, _ = listener.accept()  # the thread asks, and will not hear an answer
        it.finish("FINISHED")
        connection.close()
    assert len(said) == 1
    assert "it does not answer" in said[0]
    assert note(tmp_path)["state"] == "behind"


@pytest.mark.parametrize("status", ["KILLED", "FINISHED"])
def test_a_run_that_is_to_stop_does_not_wait_for_a_locked_store(
    recorder, store, tmp_path, said, monkeypatch, capfd, status
):
    monkeypatch.setattr(sink, "STOP_PATIENCE_SECONDS", 0.3)
    it = recorder()
    it.metrics(1, {"train/loss": 3.0})
    wait_for(lambda: points_in_store(store))
    with closing(sqlite3.connect(store, timeout=300, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        it.metrics(2, {"train/loss": 2.0})
        it.stop_requested = lambda: status == "FINISHED"  # while it waits: it had ended already
        it.finish(status)
        other.execute("ROLLBACK")
    assert len(said) == 1
    assert "it does not answer" in said[0]
    assert note(tmp_path)["state"] == "behind"
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["mlflow.store.db.utils", "mlflow.tracking", "alembic", "psycopg"])
def test_tracebacks_of_others_stay_off_the_terminal(store, name):
    mlflow_store.connect(mlflow_store.store_uri(None, store.parent), store.parent)
    assert not logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_a_store_that_fails_for_a_while_gets_everything_in_the_end(
    recorder, store, tmp_path, said, monkeypatch
):
    send, failing = MlflowRun.send, [True]

    def unreliable(self):
        if failing:
            raise RuntimeError("database is on strike\nwith details nobody needs")
        return send(self)

    monkeypatch.setattr(MlflowRun, "send", unreliable)
    it = recorder()
    it.metrics(1, {"train/loss": 3.0})
    wait_for(lambda: note(tmp_path)["state"] == "behind")
    assert note(tmp_path)["problem"] == "database is on strike"
    failing.clear()
    wait_for(lambda: note(tmp_path)["state"] == "sending")
    it.metrics(2, {"train/loss": 2.0})
    it.finish("FINISHED")
    assert points_in_store(store) == points_in_folder(tmp_path / "toy" / "run")
    assert len(said) == 2
    assert "database is on strike; training goes on" in said[0]
    assert said[1].endswith("has the whole run after all")
    assert note(tmp_path)["state"] == "complete"


def test_an_artifact_that_cannot_be_stored_does_not_hold_up_the_rest(
    recorder, store, tmp_path, said, monkeypatch
):
    def refuse(self, path):
        raise PermissionError("bucket is read-only")

    monkeypatch.setattr(MlflowRun, "send_file", refuse)
    it = recorder()
    (tmp_path / "toy" / "run" / "config.yaml").write_text("{}")
    it.artifact(tmp_path / "toy" / "run" / "config.yaml")
    it.metrics(1, {"train/loss": 3.0})
    it.finish("FINISHED")
    assert points_in_store(store) == [("train/loss", 1, 3.0)]
    assert query(store, "select status from runs") == [("FINISHED",)]
    assert len(said) == 1
    assert "bucket is read-only" in said[0]
    assert note(tmp_path)["state"] == "behind"

import socket
import threading
import time

import pytest

pytest.importorskip("mlflow")

from mambalab.records import run_folder
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.sweep.mlflow_parent import MlflowParent
from mambalab.sweep.plan import plan
from mambalab.tracking import mlflow_store, sink
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.utils.files import read_json
from tests.tracking.stores import (
    build_template,
    copy_template,
    points_in_folder,
    points_in_store,
    query,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return build_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def store(workdir, template):
    """The default store below the working directory."""
    (workdir / "outputs").mkdir()
    return copy_template(template, workdir / "outputs")


def record(*words):
    found = plan(["task=text", "dropout=none,ssm", *words])
    sweep = SweepFolder(found.folder, command=["dropout=none,ssm"])
    sweep.jobs = {it.name: Entry() for it in found.jobs}
    lines: list[str] = []
    it = MlflowParent(found, sweep, lines.append)
    sweep.write()
    return it, sweep, lines


def finish(it, sweep, status="FINISHED"):
    for entry in sweep.jobs.values():
        entry.status = status
        it.changed()
    sweep.status = status
    sweep.write()
    it.finish(status)


def test_a_sweep_is_a_run_with_counts_and_files(store):
    it, sweep, lines = record()
    it.start()
    finish(it, sweep)
    assert lines == []
    assert query(store, "select status, name from runs") == [
        ("FINISHED", f"sweeps/{sweep.path.name}")
    ]
    tags = dict(query(store, "select key, value from tags"))
    assert tags["mambalab.kind"] == "sweep"
    assert tags["command"] == "mambalab train -m dropout=none,ssm"
    params = dict(query(store, "select key, value from params"))
    assert params["varies"] == "dropout, seed"
    assert points_in_store(store) == points_in_folder(sweep.path)
    last = run_folder.read_rows(sweep.path / "metrics.jsonl")[0][-1]
    assert last[0] == 2
    assert last[1]["jobs/finished"] == 2.0
    found = SweepFolder.read(sweep.path)
    assert found.record == {"experiment": "text", "params": params}


def test_a_named_sweep_has_that_name(store):
    it, sweep, _ = record("name=first, of all", "note=so")
    it.start()
    finish(it, sweep)
    assert query(store, "select name from runs") == [("first, of all",)]
    told = dict(query(store, "select key, value from tags"))["mlflow.note.content"]
    assert told.startswith("so\n\n")
    assert "mambalab train -m dropout=none,ssm" in told


def test_the_same_command_goes_on_with_the_same_run(store):
    it, sweep, _ = record()
    it.start()
    finish(it, sweep, "FAILED")
    with (sweep.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "jobs/fin')  # the sweep was killed
    it, sweep, _ = record()
    it.start()
    finish(it, sweep)
    assert query(store, "select status from runs") == [("FINISHED",)]
    assert points_in_store(store) == points_in_folder(sweep.path)
    steps = [step for step, _ in run_folder.read_rows(sweep.path / "metrics.jsonl")[0]]
    assert steps == [1, 2, 3, 4]


def test_jobs_that_ended_before_the_store_had_the_sweep_hang_below_it(store):
    it, sweep, _ = record()
    for name in sweep.jobs:
        folder = sweep.path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_bytes(run_folder.encode(1, {"val/loss": 2.0}))
        uri = mlflow_store.store_uri(None, store.parent)
        early = MlflowRun(folder, uri, output_dir=store.parent, experiment="text")
        early.open(params={}, tags={}, start_ms=1)
        early.send()
        early.end("FINISHED", 2)
    parents = "select count(*), count(distinct value) from tags where key = 'mlflow.parentRunId'"
    assert query(store, parents) == [(0, 0)]
    it.start()
    finish(it, sweep)
    assert query(store, parents) == [(2, 1)]


def test_two_sweeps_share_a_store(store):
    both = [record(), record("optim.lr=0.1")]
    assert both[0][1].path != both[1][1].path
    for it, _, _ in both:
        it.start()
    for it, sweep, lines in both:
        finish(it, sweep)
        assert lines == []
    assert query(store, "select status from runs") == [("FINISHED",)] * 2


def test_nothing_is_recorded_where_the_jobs_are_not(workdir):
    it, sweep, lines = record("tracking=jsonl")
    it.start()
    finish(it, sweep)
    assert lines == []
    assert not (workdir / "outputs/mlflow.db").exists()
    assert not (sweep.path / "metrics.jsonl").exists()
    assert sweep.record["experiment"] == "text"  # for `mambalab sync`, later


@pytest.fixture
def black_hole(monkeypatch):
    """A server that takes connections and never answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sink, "REMOTE_PATIENCE_SECONDS", 4.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_server_is_announced_once_and_is_not_waited_for(workdir, black_hole):
    it, sweep, lines = record(f"tracking.uri={black_hole}")
    it.start()
    began = time.monotonic()
    for _ in range(50):
        it.changed()
        it.pass_on_notices()
    assert time.monotonic() - began < 150  # one wait for each of the 50 would take 200 seconds
    finish(it, sweep)
    assert len(lines) == 1
    assert "it does not answer" in lines[0]
    assert f"`mambalab sync {sweep.path} uri={black_hole}`" in lines[0]
    assert read_json(sweep.path / "mlflow_run.json")["state"] == "behind"
    assert threading.active_count() < 10


def test_a_refusing_server_is_announced_while_the_jobs_run(workdir, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        it, sweep, lines = record(f"tracking.uri=http://127.0.0.1:{closed.getsockname()[1]}")
        it.start()
        until = time.monotonic() + 300
        while not lines and time.monotonic() < until:
            it.pass_on_notices()
            time.sleep(0.05)
        assert len(lines) == 1
        finish(it, sweep)
    assert len(lines) == 1


def test_a_full_disk_costs_the_counts_only(workdir, store, monkeypatch):
    it, sweep, _ = record()
    (sweep.path / "metrics.jsonl").mkdir()
    it.changed()

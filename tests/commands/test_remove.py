import io
import json

import pytest

from mambalab.cli import main
from mambalab.records import run_folder
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.tracking import mlflow_store
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.utils import process
from tests.lab import one_line
from tests.records.example_runs import make_run
from tests.tracking.stores import query


@pytest.fixture
def outputs(workdir):
    """A folder `outputs` with a run `text/a`, and a sweep `sweeps/s` of two jobs."""
    make_run(workdir / "outputs" / "text" / "a")
    for job in ("seed=1", "seed=2"):
        make_run(workdir / "outputs" / "sweeps" / "s" / job)
    jobs = {"seed=1": Entry("FINISHED"), "seed=2": Entry("FINISHED")}
    SweepFolder(workdir / "outputs" / "sweeps" / "s", jobs=jobs, status="FINISHED").write()
    return workdir / "outputs"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def remove(*words: str) -> int:
    return main.main(["remove", *words])


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("no\n", False), ("", False)])
def test_it_asks(outputs, capsys, monkeypatch, answer, goes):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert remove("outputs/text/a", "outputs/sweeps/s") == (not goes)
    left = {path.name for folder in ("text", "sweeps") for path in (outputs / folder).iterdir()}
    assert left == (set() if goes else {"a", "s"})
    out = capsys.readouterr().out
    assert "text/a  FINISHED, val/loss 1.0000 @ 30, " in out
    assert "sweeps/s  a sweep of 2 runs, " in out
    assert "remove 3 runs, " in out
    assert ("nothing was removed" in out) is not goes


def test_without_a_terminal_it_wants_a_word(outputs, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert remove("outputs/text/a") == 1
    assert "without a terminal add yes=true" in one_line(capsys)
    assert (outputs / "text" / "a").exists()
    assert remove("text/a", "--yes") == 0  # below output_dir, as other verbs have it
    assert list((outputs / "text").iterdir()) == []


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
def test_damaged_runs_may_go(outputs, name):
    for run in ("text/a", "sweeps/s/seed=1"):
        (outputs / run / name).write_text("{")
    assert remove("text/a", "sweeps/s", "--yes") == 0
    assert not (outputs / "text" / "a").exists()
    assert not (outputs / "sweeps" / "s").exists()


def test_what_may_not_go(outputs, workdir, capsys):
    make_run(workdir / "elsewhere" / "run")
    make_run(outputs / "text" / "a" / "inner")
    (outputs / "link").symlink_to(workdir / "elsewhere", target_is_directory=True)
    (outputs / "other").symlink_to(outputs / "sweeps" / "s", target_is_directory=True)
    make_run(outputs / "far", summary={"status": "RUNNING", "host": "h", "pid": 1})
    (outputs / "notes").mkdir()
    for word, message in (
        ("elsewhere/run", "elsewhere/run is not below output_dir=outputs"),
        ("outputs/../elsewhere/run", "is not below output_dir=outputs"),
        ("outputs", "outputs is not below output_dir=outputs"),
        ("outputs/link/run", "outputs/link is a link"),
        ("outputs/other", "outputs/other is a link"),
        ("outputs/notes", "outputs/notes is no run"),
        ("outputs/text", "outputs/text is no run"),
        ("outputs/text/a", "holds another run"),
        ("outputs/far", "is being trained on h, as far as can be known here"),
        ("outputs/nothing", "outputs/nothing: no such folder"),
    ):
        assert remove("outputs/sweeps/s/seed=1", word, "yes=true") == 1
        assert message in one_line(capsys)
    assert (workdir / "elsewhere" / "run").exists()
    assert (outputs / "sweeps" / "s" / "seed=1").exists()  # all are checked before the first goes


@pytest.mark.parametrize("held", ["sweeps/s/seed=1", "sweeps/s"])
@pytest.mark.parametrize("word", ["sweeps/s/seed=1", "sweeps/s"])
def test_what_is_in_use_stays(outputs, capsys, held, word):
    with run_folder.hold(outputs / held):
        assert remove(word, "yes=true") == 1
    assert "is in use" in one_line(capsys)
    assert (outputs / word / ("sweep.json" if word == "sweeps/s" else "config.yaml")).exists()


def test_a_killed_run_goes_and_its_sweep_forgets_it(outputs):
    sweep = outputs / "sweeps" / "s"
    dead = {**process.identity(), "pid": 2**22 + 1, "status": "RUNNING"}
    (sweep / "seed=1" / "summary.json").write_text(json.dumps(dead))
    before = (sweep / "sweep.json").stat().st_mtime_ns
    assert remove("sweeps/s/seed=1", "yes=true") == 0
    assert list(SweepFolder.read(sweep).jobs) == ["seed=2"]
    assert (sweep / "sweep.json").stat().st_mtime_ns == before
    assert {p.name for p in sweep.iterdir()} - {".lock"} == {"seed=2", "sweep.json"}


@pytest.fixture
def recorded(outputs, store):
    """The run `text/a`, recorded in the MLflow store of `outputs`."""
    (outputs / "mlflow.db").write_bytes(store.read_bytes())
    it = MlflowRun(outputs / "text" / "a", mlflow_store.store_uri(None, outputs),
                   output_dir=outputs, experiment="toy")  # fmt: skip
    it.open(params={}, tags={}, start_ms=1)
    return outputs / "text" / "a"


def stages(outputs):
    return query(outputs / "mlflow.db", "select lifecycle_stage from runs")


def test_its_mlflow_run_goes_to_the_trash(recorded, outputs, capsys):
    assert remove("text/a", "yes=true") == 0
    assert "and 1 MLflow run moved to MLflow's trash" in capsys.readouterr().out
    assert stages(outputs) == [("deleted",)]
    assert not recorded.exists()


def test_mlflow_is_left_alone_if_asked_for(recorded, outputs):
    assert remove("text/a", "yes=true", "mlflow=false") == 0
    assert stages(outputs) == [("active",)]
    assert not recorded.exists()


def test_a_run_stays_if_its_mlflow_run_does(recorded, outputs, capsys):
    note = json.loads((recorded / "mlflow_run.json").read_text())
    other = {**note, "uri": "http://elsewhere:5000"}
    (recorded / "mlflow_run.json").write_text(json.dumps(other))
    assert remove("text/a", "yes=true") == 1
    assert "is recorded in http://elsewhere:5000, too: add uri=http" in one_line(capsys)
    (recorded / "mlflow_run.json").write_text(json.dumps(note))
    (outputs / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    assert remove("text/a", "yes=true") == 1
    assert "a stays: its MLflow run in sqlite" in one_line(capsys)
    assert recorded.exists()
    (outputs / "mlflow.db").unlink()  # the store is gone, and so is the run
    assert remove("text/a", "yes=true") == 0


def test_a_run_on_the_server_of_wandb_is_named(outputs, capsys):
    note = {"uid": "u", "uri": "https://host/team/text/runs/u"}
    (outputs / "sweeps" / "s" / "seed=2" / "wandb_run.json").write_text(json.dumps(note))
    assert remove("outputs/sweeps/s", "--yes") == 0
    assert "  https://host/team/text/runs/u stays: remove it there" in capsys.readouterr().out

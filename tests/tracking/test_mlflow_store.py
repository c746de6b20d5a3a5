import subprocess
import sys
from pathlib import Path

import pytest

from mambalab.errors import UserError
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store
from mambalab.tracking.mlflow_store import store_uri
from mambalab.tracking.recorder import sync_command
from mambalab.utils import process
from tests.tracking.stores import query


@pytest.fixture
def client(store, tmp_path):
    return mlflow_store.connect(store_uri(None, tmp_path), tmp_path)


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_uri(None, Path("out puts")) == f"sqlite:///{tmp_path}/out puts/mlflow.db"
    assert store_uri("sqlite:///sub/a.db", Path("x")) == f"sqlite:///{tmp_path}/sub/a.db"
    assert store_uri("sqlite:////abs/a.db", Path("x")) == "sqlite:////abs/a.db"
    assert store_uri("https://me:pw@host/x", Path("x")) == "https://me:pw@host/x"
    assert store_uri("postgresql+psycopg2://h/d", Path("x")) == "postgresql+psycopg2://h/d"


@pytest.mark.parametrize(
    "uri", ["outputs", "./mlruns", "file:///tmp/x", "sqlite://a.db", "ftp://x"]
)
def test_addresses_that_are_none(uri, tmp_path):
    with pytest.raises(UserError, match=r"sqlite:////ABSOLUTE/PATH/mlflow.db"):
        store_uri(uri, tmp_path)


def test_the_environment_names_the_store_unless_a_setting_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@host:5000")
    assert store_uri(None, tmp_path) == "http://me:pw@host:5000"
    assert store_uri("sqlite:////abs/a.db", tmp_path) == "sqlite:////abs/a.db"
    line = "MLflow: http://host:5000 (MLFLOW_TRACKING_URI is set)"
    assert mlflow_store.origin(None) == line
    assert mlflow_store.origin("sqlite:////abs/a.db") is None
    settings = TrackingSettings(TrackingKind.mlflow, None, None)
    command = sync_command(tmp_path / "run", settings, tmp_path)
    assert command == f"mambalab sync {tmp_path}/run uri=http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI=databricks .*unset MLFLOW_TRACKING"):
        store_uri(None, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert store_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert mlflow_store.origin(None) is None


def test_a_path_that_no_sqlite_address_can_hold(tmp_path):
    with pytest.raises(UserError, match="with '%' or"):
        store_uri(None, tmp_path / "50%")


def test_passwords_are_not_shown():
    text = "API request to http://me:pw@host:5000/api failed"
    assert mlflow_store.hide_password(text) == "API request to http://host:5000/api failed"


def test_check_creates_nothing_and_finds_what_cannot_work(tmp_path):
    mlflow_store.check(store_uri(None, tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").write_text("rubbish, longer than a header")
    with pytest.raises(UserError, match="is no MLflow store"):
        mlflow_store.check(store_uri(None, tmp_path))
    with pytest.raises(UserError, match="cannot write the MLflow store"):
        mlflow_store.check(store_uri(None, tmp_path / "mlflow.db" / "x"))


def test_the_template_uses_wal_and_leaves_no_other_file(template_store):
    assert query(template_store, "pragma journal_mode") == [("wal",)]
    names = {p.name for p in template_store.parent.iterdir()}
    assert {n for n in names if not n.startswith("mlflow.db-")} == {"mlflow.db", ".mlflow.db.lock"}


def test_on_a_network_file_system_wal_would_corrupt(monkeypatch, tmp_path):
    mounts = f"disk / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040net nfs4 rw 0 0\n"
    read_text = Path.read_text

    def fake(self, *args, **kwargs):
        return mounts if str(self) == "/proc/self/mounts" else read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", fake)
    assert mlflow_store._on_network(tmp_path / "my net" / "outputs")
    assert not mlflow_store._on_network(tmp_path / "my network")


def test_processes_that_start_together_share_one_sound_store(tmp_path):
    code = """
import sys, time
from pathlib import Path
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store
def slow(path, artifacts, create=mlflow_store._create):
    print("creating", flush=True)
    time.sleep(1)
    create(path, artifacts)
mlflow_store._create = slow
folder = Path(sys.argv[1])
uri = mlflow_store.store_uri(None, folder)
import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store
print("ready", flush=True)
sys.stdin.readline()
client = mlflow_store.connect(uri, folder)
artifacts = mlflow_store.artifact_root(uri, folder)
client.create_run(mlflow_store.experiment_id(client, "together", artifacts))
"""
    folder = tmp_path / "new"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = ""
    for child in children:
        said += child.communicate()[0]
        assert child.returncode == 0
    assert said == "creating\n"
    names = query(folder / "mlflow.db", "select name from experiments")
    assert sorted(names) == [("Default",), ("together",)]
    assert len(query(folder / "mlflow.db", "select * from runs")) == 2


def test_an_experiment_is_made_once_and_comes_back_when_deleted(client, store, tmp_path):
    root = mlflow_store.artifact_root(store_uri(None, tmp_path), tmp_path)
    first = mlflow_store.experiment_id(client, "a/b c", root)
    assert mlflow_store.experiment_id(client, "a/b c", root) == first
    location = query(store, "select artifact_location from experiments where name = 'a/b c'")
    assert location == [(f"{tmp_path.as_uri()}/mlartifacts/a%2Fb%20c",)]
    client.delete_experiment(first)
    assert mlflow_store.experiment_id(client, "a/b c", root) == first
    assert client.get_experiment(first).lifecycle_stage == "active"


def test_losing_the_race_for_an_experiment_is_no_error(client, monkeypatch):
    first = mlflow_store.experiment_id(client, "race", None)
    ask = client.get_experiment_by_name
    answers = [None]  # the other one has created it right after this question
    monkeypatch.setattr(
        client, "get_experiment_by_name", lambda name: answers.pop() if answers else ask(name)
    )
    assert mlflow_store.experiment_id(client, "race", None) == first


def test_only_runs_of_dead_processes_of_this_machine_are_reaped(client, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    me = process.identity()
    records = {
        "dead": {"host": me["host"], "pid": dead.pid, "born": "1"},
        "alive": me,
        "elsewhere": {"host": "elsewhere", "pid": dead.pid, "born": "1"},
        "ended": {"host": me["host"], "pid": dead.pid, "born": "1"},
        "foreign": {},
    }
    experiment = mlflow_store.experiment_id(client, "reap", None)
    runs = {}
    for name, record in records.items():
        tags = {f"mambalab.{key}": str(value) for key, value in record.items()}
        runs[name] = client.create_run(experiment, tags=tags).info.run_id
    client.set_terminated(runs["ended"], "FINISHED")
    assert mlflow_store.close_dead_runs(client) == 1
    assert mlflow_store.close_dead_runs(client) == 0
    status = {name: client.get_run(run_id).info.status for name, run_id in runs.items()}
    assert status == {
        "dead": "KILLED",
        "alive": "RUNNING",
        "elsewhere": "RUNNING",
        "ended": "FINISHED",
        "foreign": "RUNNING",
    }

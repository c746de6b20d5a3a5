import json
import socket
from pathlib import Path

import pytest

from mambalab.commands import compare as compare_verb
from mambalab.commands import sync
from mambalab.commands.compare import CompareSettings, Interval
from mambalab.commands.sync import SyncSettings
from mambalab.compare.select import compare_folders
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from mambalab.settings.figure import FigureSettings
from mambalab.tracking import mlflow_reader, mlflow_store
from mambalab.tracking.description import params_of
from mambalab.tracking.mlflow_reader import parse, unflatten
from tests.records.example_runs import config, make_group, make_run


@pytest.fixture
def send(tmp_path):
    def call(*runs: Path) -> None:
        assert sync.run(SyncSettings([str(run) for run in runs], str(tmp_path), None)) == 0

    return call


@pytest.fixture
def client(store, tmp_path):
    """A client of the test's own store."""
    return mlflow_store.connect(mlflow_store.store_uri(None, tmp_path), tmp_path)


def read(tmp_path, experiment="toy"):
    return mlflow_reader.read(experiment, None, tmp_path)


def test_a_run_comes_back_as_its_folder_has_it(send, store, tmp_path, capsys):
    run = make_run(tmp_path / "a", [3.0, 2.0, None], dropout="ssm", optim__lr=1e-8)
    send(run)
    (found,), expected = read(tmp_path), read_run(run)
    assert found.config == expected.config
    assert found.summary == expected.summary
    assert found.curves == expected.curves
    assert found.status == "FINISHED"
    assert str(found.path).startswith("a (")
    capsys.readouterr()


def test_an_experiment_is_compared_like_its_folders(send, store, tmp_path, capsys):
    records = [
        *make_group(tmp_path / "none", [1.5, 1.52, 1.51], rise=0.3),
        *make_group(tmp_path / "ssm", [1.4, 1.43, 1.41], dropout="ssm"),
    ]
    killed = make_run(tmp_path / "killed", summary={"status": "KILLED"}, seed=9)
    send(*(record.path for record in records), killed)
    figure = FigureSettings(font=None, format=None, width=None, font_size=None)
    out = str(tmp_path / "out")
    settings = CompareSettings(
        [], "toy", None, str(tmp_path), out, None, None, None, None, Interval.t, figure
    )
    capsys.readouterr()
    assert compare_verb.run(settings) == 0
    out = capsys.readouterr().out
    assert "left out: killed (" in out
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    expected = compare_folders([tmp_path / "none", tmp_path / "ssm"])
    assert [g["label"] for g in data["groups"]] == [g.label for g in expected.groups]
    assert [g["verdict"] for g in data["groups"]] == ["better", "baseline"]
    for group, other in zip(data["groups"], expected.groups, strict=True):
        assert group["best"]["mean"] == other.best.mean
        assert group["goal_seconds"] == other.goal_seconds
        assert group["parameters"] == 1000


def test_the_parents_of_sweeps_are_no_runs(send, store, client, tmp_path, capsys):
    send(make_run(tmp_path / "a"))
    experiment = client.get_experiment_by_name("toy")
    client.create_run(experiment.experiment_id, tags={mlflow_store.KIND: "sweep"})
    assert len(read(tmp_path)) == 1
    capsys.readouterr()


def test_a_run_without_artifacts_speaks_by_its_tags(store, client, tmp_path):
    experiment = client.create_experiment("bare", artifact_location=(tmp_path / "no").as_uri())
    tags = {"device": "a GPU", "mlflow.user": "me", "resumed.trainer.max_steps": "80"}
    run_id = client.create_run(experiment, tags=tags, run_name="x/y").info.run_id
    for name, text in params_of(config()).items():
        client.log_param(run_id, name, text)
    for step in (2, 1):
        client.log_metric(run_id, "val/loss", step / 2, step=step)
    client.set_terminated(run_id, "FINISHED")
    (found,) = read(tmp_path, "bare")
    assert found.summary.to_json() == {"device": "a GPU", "status": "FINISHED"}
    assert found.curves == {"val/loss": [(1, 0.5), (2, 1.0)]}
    assert found.setting("trainer.max_steps") == 80
    assert str(found.path) == f"x/y ({run_id[:8]})"


def test_stores_and_experiments_that_are_not_there(store, client, tmp_path):
    client.create_experiment("empty")
    with pytest.raises(UserError, match=r"mlflow=x: no such experiment; there are: .*empty"):
        read(tmp_path, "x")
    with pytest.raises(UserError, match="mlflow=empty: the experiment holds no run"):
        read(tmp_path, "empty")
    with pytest.raises(UserError, match="there is no MLflow store"):
        read(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UserError, match="is no MLflow tracking URI"):
        mlflow_reader.read("x", "nonsense", tmp_path)


def test_a_silent_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match=f"cannot read runs from {uri}: it does not answer"):
            mlflow_reader.read("toy", uri, tmp_path)


def test_settings_come_back_from_their_text():
    settings = config(
        optim__betas=[0.9, 0.99], optim__eps=1e-08, task__params={}, seed=3, trust=[], note="1.x"
    )
    settings["text"] = "[not a list"
    assert unflatten(params_of(settings)) == settings
    assert [parse(t) for t in ("true", "-3", "+.5", "1e", "inf", "")] == [
        "true",
        -3,
        0.5,
        "1e",
        "inf",
        "",
    ]


def test_a_name_that_begins_another_one():
    assert unflatten({"a": "1", "a.b": "2"}) == {"a": 1, "a.b": 2}

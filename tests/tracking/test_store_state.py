"""A store that was moved, or made by another version of MLflow."""

import sqlite3
from contextlib import closing

import pytest

from mambalab.errors import UserError
from mambalab.tracking import mlflow_store, store_state
from mambalab.tracking.store_failure import failure_of
from tests.tracking.stores import query


@pytest.fixture
def moved(store, tmp_path):
    """A store with an experiment and a run in it that names a place that is no more."""
    uri = mlflow_store.store_uri(None, tmp_path)
    root = mlflow_store.artifact_root(uri, tmp_path)
    client = mlflow_store.connect(uri, tmp_path)
    mine = client.create_experiment("é/b", artifact_location=f"{root}/%C3%A9%2Fb")
    client.create_run(mine)
    other = client.create_experiment("own", artifact_location="file:///srv/artifacts/own")
    client.create_run(other)
    with closing(sqlite3.connect(store)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"update {table} set {column} = replace({column}, ?, ?)",
                (root, "file:///old%20place/outputs/mlartifacts"),
            )
    return store


def places(store):
    one = [p for (p,) in query(store, "select artifact_location from experiments")]
    return one + [p for (p,) in query(store, "select artifact_uri from runs")]


def test_a_moved_store_names_the_artifacts_beside_it(moved, tmp_path, caplog):
    uri = mlflow_store.store_uri(None, tmp_path)
    root = mlflow_store.artifact_root(uri, tmp_path)
    old = "file:///old%20place/outputs/mlartifacts"
    assert store_state.foreign_root(moved, str(root)) == old
    before = places(moved)
    client = mlflow_store.connect(uri, tmp_path)
    assert places(moved) == [place.replace(old, root) for place in before]
    assert "file:///srv/artifacts/own" in places(moved)  # a person's own place stays
    assert store_state.foreign_root(moved, str(root)) is None
    assert "was moved" in caplog.text
    run = client.search_runs([client.get_experiment_by_name("é/b").experiment_id])[0]
    (tmp_path / "x.txt").write_text("x")
    client.log_artifact(run.info.run_id, str(tmp_path / "x.txt"))
    assert list(tmp_path.glob("mlartifacts/**/artifacts/x.txt"))
    caplog.clear()
    mlflow_store.connect(uri, tmp_path)
    assert not caplog.text


def test_a_moved_store_that_is_locked_is_left_to_mlflow(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(store_state, "WAIT_SECONDS", 0.05)
    before = places(moved)
    with closing(sqlite3.connect(moved, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        mlflow_store._make_ready(moved, mlflow_store.store_uri(None, tmp_path), tmp_path)
        other.execute("ROLLBACK")
    assert places(moved) == before


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (None, ("older MLflow", "mlflow db upgrade sqlite:////")),
        ("ffffffffffff", ("newer MLflow", "--upgrade mlflow", "ffffffffffff")),
    ],
)
def test_tables_of_another_version_are_one_whole_line(store, tmp_path, version, words):
    if version is None:
        from alembic.script import ScriptDirectory
        from mlflow.store.db.utils import _get_alembic_config

        script = ScriptDirectory.from_config(_get_alembic_config(""))
        version = [revision.revision for revision in script.walk_revisions()][1]
    uri = mlflow_store.store_uri(None, tmp_path)
    store_state.check_schema(uri)
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("update alembic_version set version_num = ?", (version,))
    with pytest.raises(UserError) as caught:
        mlflow_store.connect(uri, tmp_path)
    reason = failure_of(caught.value).reason
    assert str(store) in reason
    assert "\n" not in reason
    assert all(word in reason for word in words)


def test_doctor_opens_the_store(moved, tmp_path, capsys):
    from mambalab.commands import doctor

    settings = doctor.DoctorSettings(str(tmp_path), "data", "cpu")
    (opened, said) = doctor._mlflow(settings)
    assert "3 experiments" in opened[2]
    assert "was moved" in said[2]
    with closing(sqlite3.connect(moved)) as database, database:
        database.execute("drop table alembic_version")
        database.execute("drop table experiments")
    from mlflow.tracking._tracking_service import utils

    utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
    with pytest.raises(Exception, match=r".+"):
        list(doctor._mlflow(settings))


def test_a_process_without_a_home_gets_one_for_mlflow(monkeypatch):
    import os
    import pwd

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setenv("HOME", "x")  # put back afterwards
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    mlflow_store.prepare_environment()
    home = os.environ["HOME"]
    assert os.stat(home).st_mode & 0o777 == 0o700
    mlflow_store.prepare_environment()
    assert os.environ["HOME"] == home


@pytest.mark.parametrize("sign", ["%", "?"])
def test_a_path_without_a_uri_names_the_way_out(tmp_path, sign):
    with pytest.raises(UserError, match=r"tracking=jsonl, or tracking.uri=sqlite:////ELSEWHERE"):
        mlflow_store.store_uri(None, tmp_path / f"a{sign}2Fb")

"""MLflow's store in PostgreSQL; `python -m tests.postgres` is the same at full size."""

import os

import pytest

from mambalab.errors import UserError
from mambalab.tracking import database, mlflow_store
from mambalab.tracking.store_failure import ERRORS_ONLY, failure_of
from mambalab.utils import packages
from tests.postgres import trial
from tests.postgres.cluster import PASSWORD, QUOTED, cluster, missing


@pytest.fixture(scope="module")
def postgres():
    if why := missing():
        pytest.skip(why)
    with cluster() as it:
        yield it


def test_eight_runs_write_at_once_while_the_server_is_stopped(postgres, tmp_path):
    """The first of them find an empty database, and build its tables."""
    folder = tmp_path / "direct"
    done = trial.run(
        postgres, postgres.uri, folder, writers=8, points=200, stop_seconds=1.0, pauses=(0.2,)
    )
    assert (done.points, done.stored, done.twice, done.other) == (1600, 1600, 0, 0)
    assert done.given_up == 0
    assert done.said
    assert all(line.startswith(f"MLflow at {postgres.shown}") for line in done.said)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(word in path.read_text() for path in files for word in (PASSWORD, QUOTED))
    params = postgres.query("select value from params where key = 'uri'")
    assert {value for (value,) in params} == {postgres.shown}


@pytest.mark.skipif(
    "MAMBALAB_TEST_SERVER" not in os.environ, reason="a minute: set MAMBALAB_TEST_SERVER=1"
)
def test_eight_runs_write_through_a_tracking_server(postgres, tmp_path):
    with trial.mlflow_server(postgres, tmp_path) as uri:
        done = trial.run(
            postgres, uri, tmp_path / "http", writers=8, points=200, stop_seconds=2, pauses=(0.2,)
        )
    assert (done.points, done.after_sync, done.twice, done.other) == (1600, 1600, 0, 0)


def test_an_absent_driver_is_said_before_training(monkeypatch):
    import sqlalchemy

    def absent(uri):
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(sqlalchemy, "create_engine", absent)
    with pytest.raises(UserError) as caught:
        mlflow_store.check("postgresql://me:secret@host/db")
    mend = packages.pip_install("'psycopg[binary]' psycopg2-binary")
    told = f"postgresql://host/db needs a driver: No module named 'psycopg'; {mend}"
    assert str(caught.value) == told


def test_an_address_that_is_none_is_said_without_its_password():
    with pytest.raises(UserError, match="is no address of a database") as caught:
        database.check_driver("postgresql://me:sec/ret@host:port/db")
    assert "ret" not in str(caught.value).replace("address", "")


def test_a_server_that_answers_with_errors_is_told_in_words():
    from requests.exceptions import RetryError

    error = RuntimeError("API request to http://host failed with exception HTTPConnectionPool")
    error.__cause__ = RetryError("too many 500 error responses")
    assert failure_of(error) is ERRORS_ONLY

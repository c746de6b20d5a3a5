"""A database server as the MLflow store: its driver, and who may build its tables.

MLflow builds the tables of an empty database when it first opens it. Of several runs that start
together all but one would fail: here a lock of the database encloses the opening.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mambalab.errors import UserError, first_line
from mambalab.utils.packages import pip_install
from mambalab.utils.secrets import hide_password

_LOCK = 7_217_384_029  # any number, the same for all of us
_DRIVERS = {
    "postgresql": "'psycopg[binary]' psycopg2-binary",
    "mysql": "mysqlclient",
}


def check_driver(uri: str) -> None:
    """Check that the driver of a SQL server is installed; does not reach the server.

    Args:
        uri: address of the database.

    Raises:
        UserError: it is not, or the address is none.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError

    shown = hide_password(uri)
    try:
        create_engine(uri).dispose()
    except ImportError as error:
        driver = _DRIVERS.get(_kind(uri))
        advice = pip_install(driver) if driver else "install it"
        raise UserError(f"{shown} needs a driver: {first_line(error)}; {advice}") from error
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"{shown} is no address of a database: give postgresql://USER:PASSWORD@HOST:PORT/NAME, "
            "with %2F for a / in the password, and the like"
        ) from error


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """Open a store in PostgreSQL: beside others if it has its tables, else as the only one.

    The lock ends with the context, or with the process. Other databases have none.

    Raises:
        Exception: whatever the driver raises if the server cannot be reached.
    """
    if _kind(uri) != "postgresql":
        yield
        return
    from mlflow.store.db.utils import _all_tables_exist
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock_shared({_LOCK})"))
        if not _all_tables_exist(engine):
            connection.execute(text(f"SELECT pg_advisory_unlock_shared({_LOCK})"))
            connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        yield


def _kind(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0]

"""What may have happened to a store since it was made: a move, another version of MLflow.

MLflow keeps the absolute place of every artifact. After a move of the folder, files would go to
the old place, which would be made anew, or could not be written at all.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.utils.packages import pip_install
from mambalab.utils.secrets import hide_password

WAIT_SECONDS = 5.0  # for another program that holds the database
# `<root>/<experiment>` and `<root>/<experiment>/<run>/artifacts`, as mambalab makes them.
_PLACE = re.compile(r"(?P<root>(file:(//)?)?/.*/mlartifacts)/[^/]+(/[0-9a-f]{32}/artifacts)?")
_COLUMNS = (
    ("experiments", "experiment_id", "artifact_location"),
    ("runs", "run_uuid", "artifact_uri"),
)


def foreign_root(store: Path, root: str) -> str | None:
    """Return the folder of artifacts that a moved SQLite store still names; None if it is `root`.

    Args:
        store: the SQLite file.
        root: URI of the folder for artifacts beside it.
    """
    if not store.is_file() or not store.stat().st_size:
        return None
    with closing(_open(store)) as database:
        changes = _changes(database, root)
    return changes[0][3] if changes else None


def mend(store: Path, root: str) -> str | None:
    """Let a SQLite store that was moved name the artifacts beside it; the caller holds its lock.

    Returns:
        The URI of the folder that it named before, or None if nothing was wrong.

    Raises:
        sqlite3.Error: the store cannot be written now.
    """
    if foreign_root(store, root) is None:
        return None
    with closing(_open(store)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        changes = _changes(database, root)
        for table, key, column, old, identity, place in changes:
            new = root + place.removeprefix(old)
            database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, identity))
    return changes[0][3] if changes else None


def _open(store: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{store.as_uri()}?mode=rw", timeout=WAIT_SECONDS, uri=True)


def _changes(database: sqlite3.Connection, root: str) -> list[tuple[str, str, str, str, Any, str]]:
    """List table, key, column, old root, identity and place of everything that lies elsewhere."""
    found = []
    for table, key, column in _COLUMNS:
        query = f"SELECT {key}, {column} FROM {table} WHERE substr({column}, 1, ?) <> ?"
        try:
            rows = database.execute(query, (len(root) + 1, f"{root}/")).fetchall()
        except sqlite3.OperationalError:  # no such table yet
            return []
        for identity, place in rows:
            if match := _PLACE.fullmatch(place):
                found.append((table, key, column, match["root"], identity, place))
    return found


def check_schema(uri: str) -> None:
    """Check that a SQL store has the tables of the MLflow that is installed.

    Raises:
        UserError: an older or a newer MLflow made it; names what to do.
        Exception: whatever the driver of the database raises.
    """
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    script = ScriptDirectory.from_config(_get_alembic_config(""))
    if found is None or found in script.get_heads():
        return
    shown, ours = hide_password(uri), mlflow.__version__
    if found in {revision.revision for revision in script.walk_revisions()}:
        raise UserError(
            f"{shown} was made by an older MLflow than {ours}: make a copy of it, then run "
            f"`mlflow db upgrade {shown}`"
        )
    raise UserError(
        f"{shown} was made by a newer MLflow than {ours} (its tables have version {found}): "
        f"{pip_install('--upgrade mlflow')}, or use another store: tracking.uri=..., output_dir=..."
    )

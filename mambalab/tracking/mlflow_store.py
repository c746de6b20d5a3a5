"""The MLflow store: where it is, creating it safely, the experiment in it, dead runs.

The default is one SQLite file below `output_dir`, shared by all runs there. MLflow builds its
tables whenever it opens a file that lacks them, without a lock: of several processes that start
together all fail and the file stays broken. Here a lock encloses the opening, and the file is
built elsewhere and appears whole. MLflow itself is imported by the functions that need it.
"""

import atexit
import importlib.util
import logging
import math
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mambalab.errors import UserError
from mambalab.tracking import database, store_state
from mambalab.tracking.mlflow_names import BORN, PID, STATUS, tag
from mambalab.utils import packages, process
from mambalab.utils.files import replacing
from mambalab.utils.locks import locked
from mambalab.utils.patience import patient
from mambalab.utils.secrets import hide_password

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

LOG = logging.getLogger("mambalab")
STORE = "mlflow.db"
ENVIRONMENT = "MLFLOW_TRACKING_URI"
ARTIFACTS = "mlartifacts"
HOST = "mambalab.host"
FOLDER = "mambalab.folder"  # absolute path of the run folder on that host
KIND, SWEEP = "mambalab.kind", "sweep"  # tag and value of a run that stands for a sweep
PARENT = "mlflow.parentRunId"

_SQLITE = "sqlite:///"
_SQL = ("mysql", "mssql", "postgresql")
_SCHEMES = ("sqlite", "http", "https", *_SQL)
# File systems on which several machines share a file: SQLite's WAL needs shared memory, so
# there it would corrupt the store.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"}


Ending = Callable[["Run"], str]
"""Tells how the run of a dead process ended: FINISHED, FAILED or KILLED."""


def store_uri(uri: str | None, output_dir: Path) -> str:
    """Return the tracking URI that a setting means, SQLite paths absolute.

    Args:
        uri: the setting; None = the environment's `MLFLOW_TRACKING_URI`, else the store below
            `output_dir`.
        output_dir: the folder of runs.

    Raises:
        UserError: if it is no tracking URI, or a SQLite path that has no URI.
    """
    named = ""
    if uri is None and (uri := of_environment()) is not None:
        named = f"{ENVIRONMENT}="
    if uri is None:
        path = output_dir.absolute() / STORE
    else:
        scheme = uri.partition(":")[0].partition("+")[0]
        if scheme not in _SCHEMES:
            raise UserError(
                f"{named}{hide_password(uri)} is no MLflow tracking URI that mambalab can use: "
                f"give http://HOST:PORT or sqlite:////ABSOLUTE/PATH/mlflow.db, or "
                + (f"unset {ENVIRONMENT}" if named else "null for the store in output_dir")
            )
        if scheme != "sqlite":
            return uri
        if not uri.startswith(_SQLITE) or uri == _SQLITE:
            raise UserError(
                f"{hide_password(uri)}: a SQLite store is written sqlite:////ABSOLUTE/PATH/mlflow.db"
            )
        path = Path(uri[len(_SQLITE) :]).absolute()
    if set("%?") & set(str(path)):
        raise UserError(
            f"{path}: an MLflow store cannot lie on a path with '%' or '?' in it; use "
            f"tracking=jsonl, or tracking.uri=sqlite:////ELSEWHERE/mlflow.db (sync: uri=...)"
        )
    return f"{_SQLITE}{path}"


def of_environment() -> str | None:
    """Return the tracking URI that MLflow's own environment variable names, if it is set."""
    return os.environ.get(ENVIRONMENT) or None


def origin(uri: str | None) -> str | None:
    """Say in one line that the environment chooses the store; None if it does not.

    Args:
        uri: the setting, which comes first.
    """
    chosen = of_environment() if uri is None else None
    return f"MLflow: {hide_password(chosen)} ({ENVIRONMENT} is set)" if chosen else None


def sqlite_path(uri: str) -> Path | None:
    """Return the file that a `store_uri` names, or None if it is not SQLite."""
    return Path(uri[len(_SQLITE) :]) if uri.startswith(_SQLITE) else None


def is_remote(uri: str) -> bool:
    """Tell whether a store answers over the network."""
    return not uri.startswith(_SQLITE)


def is_server(uri: str) -> bool:
    """Tell whether a tracking server answers, not a database."""
    return uri.startswith("http")


def check(uri: str) -> None:
    """Check cheaply, before training, whether a store can be used at all; creates nothing.

    A server is not asked: whether it answers is found out beside the training.

    Raises:
        UserError: MLflow is not installed, or the SQLite file cannot be written or is none.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "tracking=mlflow needs the package mlflow, which is not installed: "
            f"{packages.pip_install('mlflow')}, or use tracking=jsonl"
        )
    packages.require("mlflow")
    path = sqlite_path(uri)
    if path is None:
        if not is_server(uri):
            database.check_driver(uri)
        return
    if path.exists():
        try:
            with path.open("r+b") as file:
                head = file.read(16)
        except OSError as error:
            raise UserError(f"cannot open the MLflow store {path}: {error.strerror}") from error
        if head and head != b"SQLite format 3\0":
            raise UserError(f"{path} is no MLflow store: move it away, or give tracking.uri")
    folder = next(p for p in path.parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write the MLflow store {path}: no permission in {folder}")


def prepare_environment() -> None:
    """Set what MLflow reads from the environment; what the user has set there stays."""
    if not os.path.isabs(os.path.expanduser("~")):  # no HOME, no entry in passwd: a container
        # MLflow does not start without a home. It is this process's own, and goes with it.
        home = tempfile.mkdtemp(prefix="mambalab-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its lines would cut the bar; a store that fails is told in one line of ours.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # By default a server that does not answer blocks for four minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(math.ceil(patient(10))))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def connect(uri: str, output_dir: Path) -> "MlflowClient":
    """Return a client of the store, which is created if it is a SQLite file that does not exist.

    Args:
        uri: from `store_uri`.
        output_dir: artifacts of a SQL server without artifact store go below it.

    Raises:
        UserError: another version of MLflow made the store.
        Exception: whatever MLflow raises for a store it cannot use.
    """
    prepare_environment()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in (
        "mlflow",
        "alembic",
        "psycopg",
    ):  # that may have been imported before, with levels of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path = sqlite_path(uri)
    with ExitStack() as held:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path.with_name(f".{path.name}.lock"), wait=True))
            _make_ready(path, uri, output_dir)
        held.enter_context(database.opening(uri))
        try:
            return MlflowClient(uri)
        except MlflowException:
            if not is_server(uri):
                store_state.check_schema(uri)  # says what is wrong better than MLflow does
            raise


def _make_ready(path: Path, uri: str, output_dir: Path) -> None:
    """Create a SQLite store that is not there; mend one that was moved. The lock is held."""
    root = artifact_root(uri, output_dir)
    if not path.exists() or path.stat().st_size == 0:
        _create(path, root)
        return
    assert root is not None, "a SQLite store has its artifacts beside it"
    with suppress(sqlite3.Error):  # locked or read-only: MLflow will say so
        if old := store_state.mend(path, root):
            LOG.warning("%s was moved: its artifacts are looked for in %s now, not in %s", path,
                        root, old)  # fmt: skip


def artifact_root(uri: str, output_dir: Path) -> str | None:
    """Return the URI of the folder for artifacts; None where a tracking server has its own."""
    path = sqlite_path(uri)
    if path is not None:
        return (path.parent / ARTIFACTS).as_uri()
    if uri.startswith(_SQL):
        return (output_dir.absolute() / ARTIFACTS).as_uri()
    return None


def _create(path: Path, artifacts: str | None) -> None:
    """Build the tables in memory if there is a place for that, then move the file here."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="mambalab-") as folder:
        built = Path(folder) / STORE
        SqlAlchemyStore(f"{_SQLITE}{built}", artifacts).engine.dispose()
        if not _on_network(path.parent):
            with closing(sqlite3.connect(built)) as database:
                database.execute("PRAGMA journal_mode=WAL")  # stays with the file
        with replacing(path) as partial:
            shutil.copyfile(built, partial)


def _on_network(folder: Path) -> bool:
    """Tell whether a folder is on a network file system (Linux; elsewhere False)."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    target = str(folder.resolve())
    best, kind = "", ""
    for line in mounts:
        point, fstype = line.split()[1:3]
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind in _NETWORK or kind.startswith("fuse.")


def experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """Find the experiment or create it; of several processes that try, all get the same.

    Args:
        client: of the store.
        name: the experiment; one the user has deleted comes back.
        artifacts: from `artifact_root`; fixed for good when the experiment is created.
    """
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    place = f"{artifacts}/{quote(name, safe='')}" if artifacts else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    if found.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def search(client: "MlflowClient", query: str, *, deleted: bool = False) -> "list[Run]":
    """Return all runs of a store that match an MLflow filter, in any experiment."""
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = _pages(lambda token: client.search_experiments(view, page_token=token))
    ids = [e.experiment_id for e in experiments]
    return _pages(
        lambda token: client.search_runs(ids, query, view, page_token=token) if ids else []
    )


def _pages(ask: Any) -> list[Any]:
    page = ask(None)
    found = list(page)
    while token := getattr(page, "token", None):
        page = ask(token)
        found += page
    return found


def close_dead_runs(client: "MlflowClient", ending: Ending = lambda run: "KILLED") -> int:
    """Mark runs as ended whose process on this host died; returns how many.

    Args:
        client: of the store.
        ending: how such a run ended: FINISHED, FAILED or KILLED.
    """
    me = process.identity()
    host = str(me["host"]).replace("'", "")
    left = search(client, f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host}'")
    count = 0
    for run in left:
        tags = run.data.tags
        record = {"host": tags.get(HOST), "pid": tag(tags, PID), "born": tag(tags, BORN)}
        if process.alive(record) is False:
            status = ending(run)
            now = max(round(1000 * time.time()), run.info.start_time)  # clocks jump
            client.set_tag(run.info.run_id, STATUS, status)
            client.set_terminated(run.info.run_id, status, now)
            count += 1
    return count

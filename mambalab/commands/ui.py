"""`mambalab ui`: MLflow's own pages, opened where the runs are.

A store that is a file or a database gets a server of its own, for this machine only; of a tracking
server that runs already the address is shown.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import resolve_run
from mambalab.settings.rules import FOLDER, option
from mambalab.tracking import mlflow_address, mlflow_store
from mambalab.tracking.note import Note
from mambalab.tracking.store_failure import failure_of
from mambalab.utils.patience import patient
from mambalab.utils.secrets import hide_password

HOST = "127.0.0.1"
MAX_START_SECONDS = patient(120.0)  # usually 7
MAX_STOP_SECONDS = 10.0


@dataclass
class UiSettings:
    """`mambalab ui`."""

    run: str | None = option(
        "folder of a run or a sweep to open, or latest; null = the newest experiment", path=True
    )
    output_dir: str = option("folder of the MLflow store", **FOLDER)
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    port: int = option("port on this machine; if it is taken another one is used", ge=0, le=65535)
    open: bool = option("open the page in a browser, if there is a display")


def run(cfg: UiSettings) -> int:
    """Serve until Ctrl-C or SIGTERM; leaves no process behind. Only names a server that runs.

    Raises:
        UserError: there is no store yet, the run is not in it, it does not answer, or the server
            does not start or ends by itself.
    """
    output_dir = Path(cfg.output_dir)
    uri = mlflow_store.store_uri(cfg.uri, output_dir)
    mlflow_store.check(uri)
    if line := mlflow_store.origin(cfg.uri):
        print(line)
    store = mlflow_store.sqlite_path(uri)
    if store is not None and not store.is_file():
        raise UserError(
            f"no MLflow store at {store} yet: train with tracking=mlflow, or fill it with "
            f"`mambalab sync RUN`"
        )
    shown = hide_password(uri)
    note = None if cfg.run is None else _note(_folder(cfg.run, output_dir), shown)
    place = _place(uri, output_dir, note)
    if mlflow_store.is_server(uri):
        page = f"{shown.rstrip('/')}/{place}"
        print(f"MLflow shows {shown} at {page}", flush=True)
        _open(page, cfg.open)
        return 0
    port = free_port(cfg.port)
    if cfg.port not in (0, port):
        print(f"port {cfg.port} is taken, using {port}")
    print("starting MLflow ...", flush=True)
    with _stop_requests() as stopped, tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            _command(str(mlflow_store.artifact_root(uri, output_dir)), port),
            cwd=store.parent if store is not None else None,
            env=_environment(uri),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: it is stopped as a whole
        )
        try:
            _wait_until_up(server, port, stopped, log)
            if not stopped:
                page = f"http://{HOST}:{port}/{place}"
                print(f"MLflow shows {store or shown} at {page} (Ctrl-C stops it)", flush=True)
                _open(page, cfg.open)
            while not stopped:
                if server.poll() is not None:
                    raise UserError(f"MLflow's server ended by itself: {_tail(log)}")
                time.sleep(0.1)
        finally:
            _stop(server)
    print("MLflow stopped")
    return 0


def _folder(name: str, output_dir: Path) -> Path:
    """Find the folder of a run or a sweep."""
    path = Path(name).expanduser()
    for folder in (path, output_dir / path):
        if (folder / run_folder.SWEEP).is_file():
            return folder
    return resolve_run(name, output_dir, trained=False)


def _note(folder: Path, store: str) -> Note:
    """Read which MLflow run a folder is.

    Raises:
        UserError: it is not in this store.
    """
    note = Note.read(folder)
    if note.run_id is None:
        raise UserError(f"{folder} is not in MLflow: send it with `mambalab sync {folder}`")
    if note.uri not in (None, store):
        raise UserError(f"{folder} is recorded in {note.uri}: add uri={note.uri}")
    return note


def _place(uri: str, output_dir: Path, note: Note | None) -> str:
    """Find the page to open, below the server's address; mends a store that was moved."""
    own = not mlflow_store.is_server(uri)  # a server's experiments are not ours to change
    try:
        client = mlflow_store.connect(uri, output_dir)
        if note is not None:
            return mlflow_address.of_run(client, note)
        return mlflow_address.newest(client, with_view=own)
    except UserError:
        raise
    except Exception as error:  # MLflow and its drivers raise all kinds
        shown = hide_password(uri)
        raise UserError(f"cannot ask MLflow at {shown}: {failure_of(error).reason}") from error


def _open(page: str, wanted: bool) -> None:
    """Open a page, unless only a browser in this terminal could."""
    display = sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if wanted and display:
        webbrowser.open(page)


def free_port(wanted: int) -> int:
    """Return the wanted port if it is free, else one of the next, else any; 0 means any."""
    nearby = range(wanted, min(wanted + 20, 65536)) if wanted else ()
    for port in (*nearby, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue  # taken, or reserved for the administrator
            return probe.getsockname()[1]
    raise UserError(f"no free port on {HOST}")


def _command(artifacts: str, port: int) -> list[str]:
    options = {
        "--default-artifact-root": artifacts,
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", *words]


def _environment(uri: str) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not among the words that others see: it has a password
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job queue would be seven more processes and two more gigabytes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # import nothing from the folder of the runs
    }


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Note Ctrl-C, SIGTERM and a closed terminal in a list, instead of ending the process."""
    stopped: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_up(
    server: subprocess.Popen[bytes], port: int, stopped: list[int], log: IO[bytes]
) -> None:
    limit = time.monotonic() + MAX_START_SECONDS
    while not stopped and not _answers(port):
        if server.poll() is not None:
            raise UserError(f"MLflow's server did not start: {_tail(log)}")
        if time.monotonic() > limit:
            longest = f"{MAX_START_SECONDS:.0f} s"
            raise UserError(f"MLflow's server did not start in {longest}: {_tail(log)}")
        time.sleep(0.2)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: IO[bytes]) -> str:
    """Return the last line that the server wrote."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its children: by SIGTERM, then by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(MAX_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()

"""`mambalab ui`: MLflow's own pages on the store below output_dir, for this machine only."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, option
from mambalab.tracking import mlflow_store

HOST = "127.0.0.1"
MAX_START_SECONDS = 120.0  # usually 7
MAX_STOP_SECONDS = 10.0


@dataclass
class UiSettings:
    """`mambalab ui`."""

    output_dir: str = option("folder of the MLflow store", **FOLDER)
    port: int = option("port on this machine; if it is taken another one is used", ge=0, le=65535)


def run(cfg: UiSettings) -> int:
    """Serve until Ctrl-C or SIGTERM; leaves no process behind.

    Raises:
        UserError: there is no store yet, or the server does not start or ends by itself.
    """
    uri = mlflow_store.store_uri(None, Path(cfg.output_dir))
    mlflow_store.check(uri)
    store = mlflow_store.sqlite_path(uri)
    assert store is not None
    if not store.is_file():
        raise UserError(
            f"no MLflow store at {store} yet: train with tracking=mlflow, or fill it with "
            f"`mambalab sync RUN`"
        )
    mlflow_store.connect(uri, Path(cfg.output_dir))  # mends a store that was moved
    port = free_port(cfg.port)
    if cfg.port not in (0, port):
        print(f"port {cfg.port} is taken, using {port}")
    print("starting MLflow ...", flush=True)
    with _stop_requests() as stopped, tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            _command(uri, store, port),
            cwd=store.parent,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: it is stopped as a whole
        )
        try:
            _wait_until_up(server, port, stopped, log)
            if not stopped:
                page = f"http://{HOST}:{port}/#/experiments"
                print(f"MLflow shows {store} at {page} (Ctrl-C stops it)", flush=True)
            while not stopped:
                if server.poll() is not None:
                    raise UserError(f"MLflow's server ended by itself: {_tail(log)}")
                time.sleep(0.1)
        finally:
            _stop(server)
    print("MLflow stopped")
    return 0


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


def _command(uri: str, store: Path, port: int) -> list[str]:
    artifacts = (store.parent / mlflow_store.ARTIFACTS).as_uri()
    options = {
        "--backend-store-uri": uri,
        "--default-artifact-root": artifacts,
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", *words]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
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

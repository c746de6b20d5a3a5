"""One trial: writers begin, the server may stop for a while, and what arrived is compared."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambalab.tracking.mlflow_names import in_file
from mambalab.tracking.note import Note
from mambalab.tracking.sync import send_run
from tests.postgres.cluster import Cluster, free_port
from tests.tracking.stores import points_in_folder

HOST = "127.0.0.1"
MAX_WAIT_SECONDS = 600.0


@dataclass
class Trial:
    """What came of it.

    Attributes:
        points: that the run folders hold.
        stored: distinct ones in the database that are the same, when the writers had ended.
        after_sync: the same after `mambalab sync` of the runs that had given up.
        given_up: how many these were.
        twice: rows of the database that are there more than once.
        other: rows of the database that no folder holds.
        seconds: from the start of the writers to their end.
        said: lines for the person, of all writers.
    """

    points: int
    stored: int
    after_sync: int
    given_up: int
    twice: int
    other: int
    seconds: float
    said: list[str]


def run(
    cluster: Cluster,
    uri: str,
    folder: Path,
    *,
    writers: int,
    points: int,
    stop_seconds: float | None,
    go_on_seconds: float = 0.0,
    pauses: tuple[float, ...] = (),
) -> Trial:
    """Let writers record, with the server stopped after half of it if asked for."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    words = [uri, str(folder), str(writers), str(points), *map(str, pauses)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.postgres.writers", *words], start_new_session=True
    )
    numbers = range(writers)
    try:
        _wait_for(process, [folder / f"part1-{number}" for number in numbers])
        if stop_seconds is not None:
            _wait_for(process, [folder / "runs" / f"run{number}" for number in numbers], _is_there)
            cluster.stop()
        (folder / "go1").touch()
        _wait_for(process, [folder / f"part2-{number}" for number in numbers])
        if stop_seconds is not None:
            time.sleep(stop_seconds)
            cluster.start()
            time.sleep(go_on_seconds)  # as a run that trains on
        (folder / "go2").touch()
        assert process.wait(300) == 0, "a writer failed"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    seconds = round(time.monotonic() - began, 1)
    first, _, _, _ = _compare(cluster, folder)
    behind = [p for p in (folder / "runs").iterdir() if Note.read(p).state != "complete"]
    for run_dir in behind:
        send_run(run_dir, uri, folder)
    stored, meant, twice, other = _compare(cluster, folder)
    said = [line for path in sorted(folder.glob("said*")) for line in path.read_text().splitlines()]
    return Trial(meant, first, stored, len(behind), twice, other, seconds, said)


def _is_there(run_dir: Path) -> bool:
    return (run_dir / "mlflow_run.json").exists() and Note.read(run_dir).run_id is not None


def _wait_for(
    process: subprocess.Popen[bytes],
    paths: list[Path],
    is_there: Callable[[Path], bool] = Path.exists,
) -> None:
    limit = time.monotonic() + MAX_WAIT_SECONDS
    while not all(map(is_there, paths)):
        assert process.poll() is None, "the writers ended early"
        assert time.monotonic() < limit, "the writers are too slow"
        time.sleep(0.05)


def _compare(cluster: Cluster, folder: Path) -> tuple[int, int, int, int]:
    """Count points that are stored, that are meant, twice there, and there without a meaning."""
    meant = [
        (path.name, *point)
        for path in sorted((folder / "runs").iterdir())
        for point in points_in_folder(path)
    ]
    own = {key for _, key, _, _ in meant}  # MLflow has some more, of the machine
    rows = cluster.query(
        "select t.value, m.key, m.step, m.value from metrics m join tags t "
        "on t.run_uuid = m.run_uuid and t.key = 'mambalab.folder'"
    )
    found = [
        (Path(place).name, in_file(key), step, value)
        for place, key, step, value in rows
        if Path(place).is_relative_to(folder) and in_file(key) in own
    ]
    kept = set(found)
    stored = len(kept & set(meant))
    return stored, len(meant), len(found) - len(kept), len(kept) - stored


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def mlflow_server(cluster: Cluster, folder: Path) -> Iterator[str]:
    """MLflow's tracking server over the database; gives its address."""
    port = free_port()
    words = ["--backend-store-uri", cluster.uri, "--default-artifact-root", (folder / "a").as_uri()]
    words += ["--host", HOST, "--port", str(port), "--workers", "2"]
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not _answers(f"http://{HOST}:{port}/health"):
                assert server.poll() is None, (folder / "mlflow.log").read_text()[-500:]
                time.sleep(0.1)
            yield f"http://{HOST}:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(300)

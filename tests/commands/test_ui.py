import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from mambalab.commands import sync, ui
from mambalab.commands.sync import SyncSettings
from mambalab.commands.ui import UiSettings
from mambalab.errors import UserError
from tests.tracking.stores import points_in_folder, points_in_store

RUN = """
import sys
from mambalab.commands import ui
from mambalab.commands.ui import UiSettings
{patch}
sys.exit(ui.run(UiSettings(None, sys.argv[1], None, int(sys.argv[2]), open=False)))
"""
# Stands in for MLflow: answers, has a child of its own, and neither cares for SIGTERM.
STUBBORN = '''
ui.MAX_STOP_SECONDS = 0.5
ui._command = lambda artifacts, port: [sys.executable, "-c", """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal, time; "
                  "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
""", str(port)]
'''


@pytest.fixture
def serve(tmp_path):
    """A function that starts the verb in a process; whatever is left at the end is killed."""
    started = []

    def start(port: int, patch: str = "") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN.format(patch=patch), str(tmp_path), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.terminate()
            child.wait()
        assert child.stdout is not None
        child.stdout.close()


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs (Linux)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found += [int(name), *descendants(int(name))]
    return found


def next_line(child) -> str:
    line = child.stdout.readline()
    assert line, "it ended early"
    return line.rstrip()


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def assert_gone(pids: list[int]) -> None:
    """The killed take a moment to disappear."""
    limit = time.monotonic() + 30
    while left := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < limit, f"left behind: {left}"
        time.sleep(0.05)


def test_without_a_store_it_says_where_one_comes_from(tmp_path):
    with pytest.raises(UserError, match="train with tracking=mlflow, or fill it"):
        ui.run(UiSettings(None, str(tmp_path), None, 5000, open=False))


def test_the_server_sends_nothing_home(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    assert ui._environment("sqlite:///x")["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = ui.free_port(port)
        assert found != port
    assert ui.free_port(port) == port
    assert ui.free_port(0) > 0
    assert ui.free_port(65535) > 0


def test_the_real_server_shows_the_store_and_stops_on_ctrl_c(serve, store, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        child = serve(wanted)
        first = next_line(child)
        assert first.startswith(f"port {wanted} is taken, using ")
        port = int(first.rpartition(" ")[2])
        assert next_line(child) == "starting MLflow ..."
        assert next_line(child) == (
            f"MLflow shows {store} at http://127.0.0.1:{port}/#/experiments (Ctrl-C stops it)"
        )
    assert answers(port)

    # A run can be sent through the server, too; what is not finite survives the way.
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("task: {name: remote}\n")
    rows = [{"step": s, "train/loss": 0.1 * s, "val/loss": None} for s in range(1, 1501)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        settings = SyncSettings([str(folder)], str(tmp_path), f"http://127.0.0.1:{port}")
        assert sync.run(settings) == 0
    assert points_in_store(store) == points_in_folder(folder)
    assert list(tmp_path.glob("mlartifacts/**/config.yaml"))

    processes = descendants(child.pid) if sys.platform == "linux" else []
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 0
    assert next_line(child) == "MLflow stopped"
    assert not answers(port)
    assert_gone(processes)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_server_that_does_not_listen_is_ended_with_its_children(serve, store):
    child = serve(0, STUBBORN)
    assert next_line(child) == "starting MLflow ..."
    assert "MLflow shows" in next_line(child)
    processes = descendants(child.pid)
    assert len(processes) == 2
    child.terminate()
    assert child.wait(60) == 0
    assert_gone(processes)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('ran out of luck')", "did not start: ran out of luck"),
        ("pass", "did not start: it said nothing"),
    ],
)
def test_a_server_that_cannot_start_says_why(store, tmp_path, monkeypatch, code, message):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ui, "_command", lambda artifacts, port: [sys.executable, "-c", code])
    with pytest.raises(UserError, match=message):
        ui.run(UiSettings(None, str(tmp_path), None, 0, open=False))
    assert signal.getsignal(signal.SIGINT) is before

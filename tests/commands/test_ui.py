import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import webbrowser

import pytest

from mambalab.commands import sync, ui
from mambalab.commands.sync import SyncSettings
from mambalab.commands.ui import UiSettings
from mambalab.errors import UserError
from mambalab.tracking import mlflow_address, mlflow_store
from mambalab.tracking.note import Note
from tests.tracking.stores import copy_template, points_in_folder, points_in_store

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


def start(folder, port: int, patch: str = "") -> subprocess.Popen[str]:
    """Start the verb in a process."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(patch=patch), str(folder), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def end(child: subprocess.Popen[str]) -> None:
    """End a process, if it has not ended."""
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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def assert_gone(pids: list[int]) -> None:
    """The killed take a moment to disappear."""
    limit = time.monotonic() + 300
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


@pytest.fixture(scope="module")
def shown(template_store, tmp_path_factory):
    """The verb on a store with one run in it, with MLflow's real server; and the folder."""
    folder = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        copy_template(template_store, folder)
        uri = mlflow_store.store_uri(None, folder)
        run = make_run(folder, "sent before")
        assert sync.run(SyncSettings([str(run)], str(folder), uri)) == 0
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            wanted = taken.getsockname()[1]
            child = start(folder, wanted)
            first = next_line(child)
            assert first.startswith(f"port {wanted} is taken, using ")
            assert next_line(child) == "starting MLflow ..."
            line = next_line(child)
        yield child, folder, int(first.rpartition(" ")[2]), line
    end(child)


def make_run(folder, name: str):
    run = folder / name
    run.mkdir()
    (run / "config.yaml").write_text("task: {name: remote}\n")
    rows = [{"step": s, "train/loss": 0.1 * s, "val/loss": None} for s in range(1, 1501)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_the_page_is_the_one_with_the_runs(shown, tmp_path):
    _, folder, port, line = shown
    page = (
        f"http://127.0.0.1:{port}/#/experiments/1/runs"
        "?workflowType=machine_learning&viewStateShareKey=mambalab"
    )
    assert line == f"MLflow shows {folder}/mlflow.db at {page} (Ctrl-C stops it)"
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to look at the page with")
    alone = "--no-first-run --disable-background-networking --disable-component-update"
    options = f"--headless --no-sandbox --disable-gpu --disable-quic --disable-sync {alone}".split()
    seen = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path}", "--virtual-time-budget=30000",
         "--dump-dom", page],
        capture_output=True, text=True, timeout=300, check=False,
    ).stdout  # fmt: skip
    assert "sent before" in seen, seen[-500:]


def test_the_real_server_takes_runs_and_stops_on_ctrl_c(shown):
    child, folder, port, _ = shown
    assert answers(port)
    # A run can be sent through the server, too; what is not finite survives the way.
    run = make_run(folder, "sent through")
    for _ in range(2):
        assert sync.run(SyncSettings([str(run)], str(folder), f"http://127.0.0.1:{port}")) == 0
    run_id = Note.read(run).run_id
    assert points_in_store(folder / "mlflow.db", run_id) == points_in_folder(run)
    assert list(folder.glob(f"mlartifacts/*/{run_id}/**/config.yaml"))

    processes = descendants(child.pid) if sys.platform == "linux" else []
    child.send_signal(signal.SIGINT)
    assert child.wait(300) == 0
    assert next_line(child) == "MLflow stopped"
    assert not answers(port)
    assert_gone(processes)


def settings(folder, **changed) -> UiSettings:
    return dataclasses.replace(UiSettings(None, str(folder), None, 5000, open=False), **changed)


def test_of_a_server_that_runs_the_page_is_shown(store, tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, "run")
    assert sync.run(SyncSettings([str(run)], str(tmp_path), None)) == 0
    note, server = Note.read(run), "http://me:pw@host:1"
    note.uri = "http://host:1"
    note.write(run)
    local = mlflow_store.connect(mlflow_store.store_uri(None, tmp_path), tmp_path)
    monkeypatch.setattr(mlflow_store, "connect", lambda uri, output_dir: local)
    monkeypatch.setattr(subprocess, "Popen", None)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    capsys.readouterr()
    listed = "http://host:1/#/experiments/1/runs?workflowType=machine_learning"
    assert ui.run(settings(tmp_path, uri=server)) == 0
    assert capsys.readouterr().out == f"MLflow shows http://host:1 at {listed}\n"
    assert not local.get_experiment("1").tags, "a shared server is left as it is"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert ui.run(settings(tmp_path, run=str(run), open=True)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "MLflow: http://host:1 (MLFLOW_TRACKING_URI is set)"
    page = f"http://host:1/#/experiments/1/runs/{note.run_id}?workflowType=machine_learning"
    assert said[1] == f"MLflow shows http://host:1 at {page}"
    assert opened == [page]
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert ui.run(settings(tmp_path, open=True)) == 0
    assert len(opened) == 1


def test_a_run_that_is_not_in_this_store_says_where_it_is(store, tmp_path):
    run = make_run(tmp_path, "run")
    with pytest.raises(UserError, match="is not in MLflow: send it with `mambalab sync"):
        ui.run(settings(tmp_path, run=str(run)))
    note = Note.new()
    note.run_id, note.uri = "0" * 32, "http://host:1"
    note.write(run)
    with pytest.raises(UserError, match="is recorded in http://host:1: add uri=http://host:1"):
        ui.run(settings(tmp_path, run=str(run)))
    note.uri = None
    note.write(run)
    with pytest.raises(UserError, match=r"has no run 0+ any more: send it again"):
        ui.run(settings(tmp_path, run=str(run)))


def test_an_empty_store_opens_at_its_experiments(store, tmp_path):
    client = mlflow_store.connect(mlflow_store.store_uri(None, tmp_path), tmp_path)
    place = mlflow_address.newest(client, with_view=True)
    assert place == "#/experiments?workflowType=machine_learning"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_server_that_does_not_listen_is_ended_with_its_children(store, tmp_path, request):
    child = start(tmp_path, 0, STUBBORN)
    request.addfinalizer(lambda: end(child))
    assert next_line(child) == "starting MLflow ..."
    assert "MLflow shows" in next_line(child)
    processes = descendants(child.pid)
    assert len(processes) == 2
    child.terminate()
    assert child.wait(300) == 0
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

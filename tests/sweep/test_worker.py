"""`mambalab __job`: one real job and what its process tells; the training itself is replaced."""

import json
import logging
import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest

from mambalab.sweep import worker
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.processes import ProcessLauncher
from mambalab.sweep.slots import Slots
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json
from mambalab.utils.process import python_path
from tests.sweep.fakes import job
from tests.sweep.processes import environment, wait_until

STUB = """
import signal, sys, time
from mambalab.errors import UserError
from mambalab.sweep import worker

def train(job):
    what = job["config"]["run_dir"].rpartition("/")[2]
    print("doing", what, flush=True)
    if what == "sleep":
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(143))
        print("ready", flush=True)
        while not stopped:
            time.sleep(0.01)
        return stopped[0], "asked"
    return 0, None

worker._train = train
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def signals():
    """What main() sets does not stay."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGUSR2)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def order(tmp_path, **config):
    path = tmp_path / "a.json"
    write_json(path, {"config": {"run_dir": "a", **config}, "has_log": True})
    return path


@pytest.mark.parametrize(
    ("raises", "status", "reason"),
    [
        (None, 0, None),
        (worker.UserError("two\nlines"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "stopped before training began"),
        (ZeroDivisionError("by\nzero"), 1, "ZeroDivisionError: by"),
        (MemoryError(), 1, "MemoryError: no message"),
    ],
)
def test_the_end_is_told_in_a_file(tmp_path, monkeypatch, capsys, raises, status, reason):
    from mambalab.runs import training

    compose = import_module("mambalab.config.compose")

    def run(settings):
        if raises is not None:
            raise raises
        return 0

    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(compose, "from_plain", lambda plain: plain)
    (tmp_path / "a.answer.json").write_text("an older answer")
    assert worker.main([str(order(tmp_path))]) == status
    answer = json.loads((tmp_path / "a.answer.json").read_text())
    assert answer == {"status": status, "reason": reason}
    assert process.alive(read_json(tmp_path / "a.process.json"))
    err = capsys.readouterr().err
    assert ("Traceback" in err) == isinstance(raises, Exception) * (
        not isinstance(raises, worker.UserError)
    )
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN


def test_a_job_knows_the_command_of_its_sweep(tmp_path, monkeypatch):
    from mambalab.runs import training
    from mambalab.utils import command

    compose = import_module("mambalab.config.compose")
    found = []
    monkeypatch.setattr(training, "run", lambda settings: found.append(command.current()) or 0)
    monkeypatch.setattr(compose, "from_plain", lambda plain: plain)
    path = order(tmp_path)
    write_json(path, {**read_json(path), "command": "mambalab train -m seed=1,2"})
    assert worker.main([str(path)]) == 0
    assert found == ["mambalab train -m seed=1,2"]


@pytest.mark.parametrize("has_log", [True, False])
def test_on_the_terminal_a_job_does_not_repeat_that_the_store_is_silent(
    tmp_path, monkeypatch, caplog, has_log
):
    log = logging.getLogger("mambalab")
    monkeypatch.setattr(log, "filters", [])
    monkeypatch.setattr(worker, "_train", lambda job: (tell(), (0, None))[1])

    def tell():
        log.warning("MLflow is on strike", extra={"store_is_silent": False})
        log.warning("MLflow is away", extra={"store_is_silent": True})
        log.warning("a line of its own: it does not answer; says the model")

    write_json(tmp_path / "a.json", {"config": {}, "has_log": has_log})
    assert worker.main([str(tmp_path / "a.json")]) == 0
    assert ("MLflow is away" in caplog.messages) == has_log
    assert len(caplog.messages) == 2 + has_log


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Starts the stub in place of a training."""
    (tmp_path / "stub.py").write_text(STUB)
    command = [sys.executable, "-P", str(tmp_path / "stub.py")]
    monkeypatch.setattr("mambalab.sweep.processes.COMMAND", command)
    sweep = SweepFolder(tmp_path / "sweep")
    sweep.write()
    return ProcessLauncher(sweep, Slots(2, 1), on_terminal=False)


def over(handle):
    wait_until(lambda: handle.poll()[0])
    return handle.poll()[1]


def test_a_job_has_a_log_a_session_and_a_place(launcher):
    sweep = launcher.sweep
    (handle,) = launcher.start([job(sweep, "quick")])
    assert handle.where == "1 thread"
    assert over(handle) == 0
    assert launcher.slots.taken == []
    assert sweep.log_file("quick").read_text() == "doing quick\n"
    (handle,) = launcher.start([job(sweep, "sleep")])
    wait_until(lambda: "ready" in sweep.log_file("sleep").read_text())
    worker_pid = read_json(sweep.process_file("sleep"))["pid"]
    assert os.getsid(worker_pid) == worker_pid != os.getsid(0)
    handle.stop(signal.SIGTERM)
    assert over(handle) == 143
    handle.stop(signal.SIGTERM)  # too late: nothing happens
    handle.kill()


def test_a_job_is_killed_with_whatever_it_started(launcher):
    (handle,) = launcher.start([job(launcher.sweep, "sleep")])
    wait_until(lambda: "ready" in launcher.sweep.log_file("sleep").read_text())
    handle.kill()
    assert over(handle) == -9


def test_a_job_whose_sweep_is_gone_stops_by_itself(launcher):
    (handle,) = launcher.start([job(launcher.sweep, "sleep")])
    wait_until(lambda: "ready" in launcher.sweep.log_file("sleep").read_text())
    handle._process.stdin.close()  # what the kernel does when the sweep dies
    assert over(handle) == 143


def test_a_process_that_cannot_be_started_is_one_line(launcher, monkeypatch):
    monkeypatch.setattr("mambalab.sweep.processes.COMMAND", ["/none"])
    with pytest.raises(worker.UserError, match="cannot start a: No such file"):
        launcher.start([job(launcher.sweep, "a")])
    assert launcher.slots.taken == []
    launcher.sweep.log_file("a").unlink()
    launcher.sweep.log_file("a").mkdir()
    with pytest.raises(worker.UserError, match=r"cannot write .*a.log: Is a directory"):
        launcher.start([job(launcher.sweep, "a")])
    assert launcher.slots.taken == []


def test_an_order_that_is_damaged_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text("rubbish")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mambalab", "__job", "a.json"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("mambalab: error: a.json is damaged")


def test_an_installed_mambalab_is_not_put_before_pythons_own(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    home, mine = python_path().split(os.pathsep)
    assert mine == "mine"
    monkeypatch.setattr("site.getsitepackages", lambda: [home])
    assert python_path() == "mine"

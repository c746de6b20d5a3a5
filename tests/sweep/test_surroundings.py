"""What surrounds a sweep and may go away or misbehave: terminal, reader, server, other sweeps."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mambalab.errors import UserError
from mambalab.settings.sweep import OnFailure
from mambalab.sweep import run as sweep_run
from mambalab.sweep import schedule, slots
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.sweep.plan import plan
from mambalab.sweep.processes import ProcessLauncher
from mambalab.sweep.schedule import Grid, Scheduler
from mambalab.sweep.slots import Slots
from tests.overheard import overhear
from tests.sweep.conftest import jobs
from tests.sweep.fakes import FakeLauncher, job
from tests.sweep.processes import TINY, command, environment, processes_of, wait_until


def begin(folder, *words, **streams) -> subprocess.Popen:
    return subprocess.Popen(
        command(*words, "tracking=jsonl"), cwd=folder, env=environment(), text=True, **streams
    )


def test_a_terminal_that_closes_stops_the_sweep_politely(lab):
    (lab / "trouble/wait").touch()
    reader, writer = os.openpty()
    parent = begin(
        lab,
        "seed=1,2",
        "trainer.max_steps=1000000",
        stdout=writer,
        stderr=writer,
        stdin=writer,
        # As in a terminal, even if the tests themselves were started under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    os.close(writer)
    wait_until(lambda: list(lab.glob("waiting/*")))
    os.close(reader)
    parent.send_signal(signal.SIGHUP)
    assert parent.wait(3600) in (129, 1, 120)  # nobody is left to read what it prints
    wait_until(lambda: not processes_of(lab))
    assert {n: j["status"] for n, j in jobs(lab).items()} == {
        "seed=1": "KILLED",
        "seed=2": "WAITING",
    }


def test_nohup_without_any_stream_and_with_a_stranger_for_random(lab):
    (lab / "random.py").write_text("raise SystemExit('not the real one')\n")
    here = environment() | {"PYTHONSAFEPATH": "1"}
    line = shlex.join(command("seed=1", "tracking=jsonl", "hydra/launcher=local"))
    script = f"trap '' HUP; kill -HUP $$; exec {line} <&- > out 2>&1"
    done = subprocess.run(["bash", "-c", script], cwd=lab, env=here, timeout=3600)
    assert done.returncode == 0, (lab / "out").read_text()
    assert jobs(lab)["seed=1"]["status"] == "FINISHED"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_stops_nothing(lab, stream):
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writer}
    parent = begin(lab, "seed=1,2", "hydra/launcher=local", **streams)
    os.close(writer)
    parent.wait(3600)
    assert {j["status"] for j in jobs(lab).values()} == {"FINISHED"}


def test_a_server_that_never_answers_is_named_once(lab):
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(50)  # it takes the connection and says no word
        uri = f"http://127.0.0.1:{hole.getsockname()[1]}"
        here = environment() | {"no_proxy": "127.0.0.1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        here["MAMBALAB_PATIENCE"] = "1"
        (lab / "trouble/hold").touch()  # the first job ends when the sweep has heard of it
        words = command("seed=1,2,3", f"tracking.uri={uri}")
        done = subprocess.Popen(
            words, cwd=lab, env=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        (told,) = overhear([done], "does not answer", (lab / "trouble/hold").unlink)
    assert done.returncode == 0, told
    said = [line for line in told.splitlines() if "does not answer" in line]
    assert len(said) == 1, told
    assert f"MLflow at {uri}: it does not answer" in said[0]
    assert "mambalab sync outputs/sweeps/" in said[0]
    assert f"uri={uri}" in said[0]
    summaries = [json.loads(p.read_text()) for p in lab.glob("outputs/sweeps/*/*/summary.json")]
    assert len(summaries) == 3
    notes = list(lab.glob("outputs/sweeps/*/*/mlflow_run.json"))
    assert len(notes) == 1, "the jobs that came later waited for it, too"


def test_a_gpu_that_another_sweep_has_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    sweep = SweepFolder(tmp_path / "sweep")
    theirs = Slots(1, 1, {"0": "GPU-a"})
    taken = theirs.take()
    ours = Slots(1, 1, {"0": "GPU-a"})
    launcher = FakeLauncher(sweep, 1)
    monkeypatch.setattr(launcher, "room", lambda: int(ours.has_room()))
    lines: list[str] = []
    ticks = []

    def tick():
        ticks.append(time.process_time())
        if len(ticks) == 20:
            theirs.give_back(taken)

    it = Scheduler(
        sweep,
        Grid([job(sweep, "a")]),
        launcher,
        on_failure=OnFailure["continue"],
        say=lines.append,
        tick=tick,
    )
    assert it.run() is None
    assert len(ticks) < 100, "it asks all the time"
    assert lines == ["waiting: another sweep has every GPU", "[1/1] start   a", "[1/1] done    a"]


def test_a_gpu_stays_leased_while_its_job_lives(lab, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(lab))
    monkeypatch.setattr("mambalab.sweep.processes.COMMAND", ["sh", "-c", "exec sleep 3600"])
    found = plan([*TINY, "seed=1", "sweep.dir=here", "tracking=jsonl"])
    sweep = SweepFolder(found.folder)
    sweep.write()
    ours = Slots(1, 1, {"0": "GPU-a"})
    (handle,) = ProcessLauncher(sweep, ours, on_terminal=False).start(found.jobs)
    for slot in list(ours.taken):
        ours.give_back(slot)  # as if the sweep had been killed
    handle._slot = None
    theirs = Slots(1, 1, {"0": "GPU-a"})
    try:
        assert not theirs.has_room()
    finally:
        handle.kill()
        handle._process.wait(3600)
        handle._process.stdin.close()
    assert theirs.has_room()


def test_what_a_job_leaves_behind_is_ended_with_it(lab, monkeypatch):
    code = "import subprocess; subprocess.Popen(['sleep', '1000']); print('done', flush=True)"
    monkeypatch.setattr("mambalab.sweep.processes.COMMAND", [sys.executable, "-c", code])
    found = plan([*TINY, "seed=1", "sweep.dir=here", "tracking=jsonl"])
    sweep = SweepFolder(found.folder)
    sweep.write()
    (handle,) = ProcessLauncher(sweep, Slots(1), on_terminal=False).start(found.jobs)
    wait_until(lambda: handle.poll()[0])
    wait_until(lambda: not processes_of(lab))


def test_few_jobs_have_all_cores(monkeypatch):
    monkeypatch.setattr(slots.cores, "allowed", lambda: 64)
    monkeypatch.setattr(slots, "gpus", dict)
    found = Slots.plan(-1, 1, "auto", None, 3)
    assert (found.count, found.threads) == (3, 21)
    later = Slots.plan(-1, 1, "auto", found.threads, 4)
    assert (later.count, later.threads) == (3, 21)
    monkeypatch.setattr(slots, "gpus", lambda: {"0": "GPU-a"})
    found = Slots.plan(8, 2, "auto", None, 9)
    assert (found.count, found.threads) == (2, 32)


def test_a_search_survives_values_that_are_wrong_between_right_ends(lab):
    words = [
        "task=text",
        "model=transformer",
        "sweep.search=random",
        "sweep.trials=3",
        "sweep.dir=here",
        "sweep.params={model.d_model: {low: 64, high: 68}}",
        "model.n_head=2",
    ]
    from mambalab.sweep.optuna_search import SearchSource

    found = plan(words)
    found.folder.mkdir()
    told: list[str] = []
    source = SearchSource(found, metric="val/loss", maximize=False, say=told.append)
    names = []
    while source.left():
        for drawn in source.take(1):
            names.append(drawn.name)
            source.ended(drawn, Entry("FINISHED", best={"value": 1.0}))
    assert sorted(names) == ["model.d_model=64", "model.d_model=68"]
    assert sorted(line[:34] for line in told) == [
        f"not applicable: model.d_model={n}: " for n in (65, 66, 67)
    ]


def test_what_cannot_be_written_is_one_line(lab):
    (lab / "here/logs").parent.mkdir()
    (lab / "here/logs").write_text("a file")
    words = [*TINY, "seed=1,2", "tracking=jsonl", "sweep.dir=here", "hydra/launcher=local"]
    with pytest.raises(UserError, match=r"cannot write here/logs/seed=1.log: "):
        sweep_run.run(plan(words))
    (lab / "file").write_text("")
    words[-2] = "sweep.dir=file/sweep"
    with pytest.raises(UserError, match=r"cannot make file/sweep: Not a directory"):
        sweep_run.run(plan(words))


def test_a_search_reports_what_has_a_result_or_was_tried_now(lab):
    found = plan(
        ["task=text", "sweep.search=random", "sweep.params={seed: [1, 2]}", "sweep.dir=here"]
    )
    sweep = SweepFolder(found.folder)
    best = {"metric": "val/loss", "value": 1.0, "step": 4, "maximize": False}
    sweep.jobs = {
        "seed=7": Entry("FAILED"),  # of other ranges: nobody tries it again
        "seed=2": Entry("PRUNED"),
        "seed=1": Entry("FINISHED", best=best),
        "seed=3": Entry("FAILED"),
    }
    source = SimpleNamespace(tried={"seed=3"})
    assert list(sweep_run._entries(found, sweep, source)) == ["seed=1", "seed=2", "seed=3"]

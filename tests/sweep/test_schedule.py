import json
import os
import signal

import pytest

from mambalab.errors import UserError
from mambalab.settings.sweep import OnFailure
from mambalab.sweep import schedule
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.sweep.schedule import Grid, Scheduler, describe, how_far, last_line
from tests.sweep.fakes import FakeLauncher, job

FOREVER = {"polls": float("inf")}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "GRACE_SECONDS", {"SIGTERM": 0.1, "SIGINT": 0.1})


@pytest.fixture
def sweep(tmp_path):
    return SweepFolder(tmp_path / "sweep")


class Told(Scheduler):
    """A scheduler that keeps its lines; `at` does something at a time."""

    def __init__(self, sweep, names, launcher, on_failure="continue", at=None):
        self.lines: list[str] = []
        self.ticks = 0
        self.at = at or {}
        super().__init__(
            sweep,
            Grid([job(sweep, name) for name in names]),
            launcher,
            on_failure=OnFailure[on_failure],
            say=self.lines.append,
            tick=self.count,
        )

    def count(self) -> None:
        self.ticks += 1
        assert self.ticks < 2000, "it never ends"
        self.at.get(self.ticks, lambda: None)()


def statuses(sweep) -> dict[str, str]:
    return {name: entry.status for name, entry in SweepFolder.read(sweep.path).jobs.items()}


def test_a_line_when_a_job_starts_ends_or_fails(sweep):
    bad = {"answer": 1, "status": 1, "reason": "out of paper"}
    it = Told(sweep, "abc", FakeLauncher(sweep, 1, b=bad))
    assert it.run() is None
    assert it.lines == [
        "[1/3] start   a",
        "[1/3] done    a",
        "[2/3] start   b",
        "[2/3] FAILED  b  out of paper",
        "[3/3] start   c",
        "[3/3] done    c",
    ]
    assert statuses(sweep) == {"a": "FINISHED", "b": "FAILED", "c": "FINISHED"}


def test_as_many_at_once_as_there_is_room(sweep):
    it = Told(sweep, "abcd", FakeLauncher(sweep, 2))
    it.run()
    assert [line[6:11] for line in it.lines[:4]] == ["start", "start", "done ", "done "]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-9, "its process was killed by SIGKILL: out of memory, perhaps"),
        (-11, "its process was killed by SIGSEGV"),
        (-99, "its process was killed by signal 99"),
        (3, "its process ended without a word (exit status 3); see its log"),
        (None, "its process ended without a word; see its log"),
    ],
)
def test_a_job_that_was_killed_before_it_wrote_anything(sweep, status, reason):
    it = Told(sweep, "a", FakeLauncher(sweep, a={"answer": None, "status": status}))
    it.run()
    assert it.lines[-1] == f"[1/1] FAILED  a  {reason}"


def test_a_failure_stops_the_others_if_wanted(sweep):
    launcher = FakeLauncher(sweep, 2, a={"answer": 1, "reason": "no"}, b=FOREVER)
    it = Told(sweep, "abc", launcher, "stop")
    assert it.run() is None
    assert launcher.handles[1].asked == [signal.SIGINT]
    assert statuses(sweep) == {"a": "FAILED", "b": "KILLED"}
    assert len(launcher.handles) == 2
    assert it.lines[-2:] == [
        "stopped because a failed: waiting for 1 running job to save; Ctrl-C again kills them",
        "[2/3] stopped b  stopped because a failed",
    ]


@pytest.mark.parametrize(("number", "name"), [(2, "SIGINT"), (15, "SIGTERM")])
def test_a_signal_stops_all_jobs(sweep, number, name):
    launcher = FakeLauncher(sweep, 2, a=FOREVER, b=FOREVER)
    it = Told(sweep, "abc", launcher, at={3: lambda: os.kill(os.getpid(), number)})
    assert it.run() == name
    assert [h.asked for h in launcher.handles] == [[number], [number]]
    assert statuses(sweep) == {"a": "KILLED", "b": "KILLED"}
    assert it.lines[-1] == f"[2/3] stopped b  stopped by {name}"


def test_a_job_that_does_not_stop_is_killed(sweep):
    launcher = FakeLauncher(sweep, 1, a={**FOREVER, "obeys": False})
    it = Told(sweep, "a", launcher, at={3: lambda: os.kill(os.getpid(), 15)})
    assert it.run() == "SIGTERM"
    assert launcher.handles[0].killed
    assert statuses(sweep) == {"a": "KILLED"}


def test_a_signal_shortens_the_patience_with_a_job_that_was_asked_before(sweep, monkeypatch):
    monkeypatch.setattr(schedule, "GRACE_SECONDS", {"SIGTERM": 0.1, "SIGINT": 1000.0})
    launcher = FakeLauncher(
        sweep, 2, a={"answer": 1, "reason": "no"}, b={**FOREVER, "obeys": False}
    )
    stop = {8: lambda: os.kill(os.getpid(), 15)}
    assert Told(sweep, "ab", launcher, "stop", stop).run() == "SIGTERM"
    assert launcher.handles[1].asked == [signal.SIGINT]
    assert launcher.handles[1].killed


def test_a_second_ctrl_c_kills_all(sweep, monkeypatch):
    monkeypatch.setattr(schedule, "GRACE_SECONDS", {"SIGINT": 1000.0})
    stubborn = {**FOREVER, "obeys": False}
    launcher = FakeLauncher(sweep, 2, a=stubborn, b=stubborn)
    again = {n: lambda: os.kill(os.getpid(), 2) for n in (3, 6)}
    # A job in the background of a shell, as these tests may be, has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Told(sweep, "abc", launcher, at=again).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert all(h.killed for h in launcher.handles)
    assert statuses(sweep) == {"a": "KILLED", "b": "KILLED"}


def test_a_launcher_that_breaks_down_lets_the_running_jobs_end(sweep):
    launcher = FakeLauncher(sweep, 2, breaks_at=2, a={"polls": 1}, b={"polls": 6})
    it = Told(sweep, "abcd", launcher)
    assert it.run() is None
    assert str(it.broken) == "the cluster is on fire"
    assert statuses(sweep) == {"a": "FINISHED", "b": "FINISHED"}
    assert "the cluster is on fire; no more jobs start, waiting for 1 running job" in it.lines


def test_a_launcher_that_breaks_down_stops_them_if_wanted(sweep):
    launcher = FakeLauncher(sweep, 2, breaks_at=2, a={"polls": 1}, b=FOREVER)
    it = Told(sweep, "abcd", launcher, "stop")
    it.run()
    assert statuses(sweep) == {"a": "FINISHED", "b": "KILLED"}


def test_a_mistake_of_ours_leaves_no_process(sweep):
    launcher = FakeLauncher(sweep, 1, a=FOREVER)

    def mistake():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Told(sweep, "ab", launcher, at={3: mistake}).run()
    assert launcher.handles[0].killed
    assert SweepFolder.read(sweep.path).jobs["a"].reason == "killed with the sweep"


def test_a_job_that_somebody_else_stopped(sweep):
    it = Told(sweep, "ab", FakeLauncher(sweep, 1, a={"answer": 143}))
    assert it.run() is None
    assert statuses(sweep) == {"a": "KILLED", "b": "FINISHED"}
    assert "        a was asked to stop from outside" in it.lines


def test_a_full_disk_is_said_once_and_stops_nothing(sweep, monkeypatch):
    def full(self):
        raise UserError("cannot write in sweep: No space left on device")

    monkeypatch.setattr(SweepFolder, "write", full)
    it = Told(sweep, "ab", FakeLauncher(sweep, 1))
    assert it.run() is None
    said = [line for line in it.lines if "No space" in line]
    assert said == ["cannot write in sweep: No space left on device; the jobs go on"]
    assert {e.status for e in sweep.jobs.values()} == {"FINISHED"}


def test_a_job_that_is_not_worth_going_on_is_pruned(sweep, monkeypatch):
    it = Told(sweep, "ab", FakeLauncher(sweep, 2, a={"polls": 100}))
    why = iter([{"a": "val/loss 3.0000 @ 4: worse"}])
    monkeypatch.setattr(it.source, "unpromising", lambda running: next(why, {}))
    assert it.run() is None
    assert sweep.jobs["a"].status == "PRUNED"
    assert sweep.jobs["a"].reason == "val/loss 3.0000 @ 4: worse"
    assert "pruned  a  val/loss 3.0000 @ 4: worse" in "\n".join(it.lines)
    assert sweep.jobs["b"].status == "FINISHED"


def test_news_of_many_jobs_are_few_lines(sweep):
    it = Told(sweep, [f"j{n}" for n in range(12)], FakeLauncher(sweep, 12))
    it._start()
    (sweep.path / "logs").mkdir(parents=True)
    for n in range(12):
        sweep.log_file(f"j{n}").write_text("old\n\x1b step  7\n\n")
    it.lines.clear()
    it._tell_news()
    assert len(it.lines) == 9
    assert it.lines[-1] == "        and 4 more running"


def test_the_last_line_of_a_log(tmp_path):
    assert last_line(tmp_path / "none") == ""
    (tmp_path / "log").write_text("first\n" + "x" * 3000 + "\n  step   3  \n\n")
    assert last_line(tmp_path / "log") == "step 3"


def test_how_far_a_running_job_is(tmp_path):
    assert how_far(tmp_path) == ""
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "metrics.jsonl").write_text("")
    assert how_far(tmp_path) == ""
    rows = [
        {"step": 10, "train/loss": 2.5, "train/lr": 0.1},
        {"step": 10, "val/loss": 2.25},
        {"step": 20, "val/loss": 3.0},
        {"step": 1030, "train/loss": 2.125},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert how_far(tmp_path) == "step 1,030  train 2.1250  val/loss 3.0000  best 2.2500 @ 10"


def test_how_a_job_is_described():
    best = {"metric": "val/loss", "value": 1.5, "step": 1200, "maximize": False}
    entry = Entry("FINISHED", best=best, minutes=2.04)
    assert describe("seed=1", entry) == "done    seed=1  val/loss 1.5000 @ 1,200  2.0 min"
    assert describe("seed=1", Entry("PRUNED", "bad")) == "pruned  seed=1  bad"

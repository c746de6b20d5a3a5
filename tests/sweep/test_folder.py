import json
import subprocess
import sys

import pytest

from mambalab.errors import UserError
from mambalab.sweep import run as sweeps
from mambalab.sweep.folder import Entry, StopRequest, SweepFolder
from mambalab.sweep.plan import plan
from mambalab.sweep.processes import write_order
from mambalab.sweep.schedule import Grid
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json
from tests.sweep.fakes import job, run_of


@pytest.fixture
def sweep(tmp_path):
    found = SweepFolder(tmp_path / "sweep", command=["seed=1,2"], threads=3)
    found.jobs["a"] = Entry("KILLED", "asked", {"metric": "m", "value": 1.0, "step": 2}, 0.5, "7_1")
    found.not_applicable["x"] = "no"
    found.write()
    return found


def answered(sweep, status, reason=None):
    sweep.answer_file("a").parent.mkdir(exist_ok=True)
    write_json(sweep.answer_file("a"), {"status": status, "reason": reason})


def test_what_is_written_is_read(sweep):
    assert SweepFolder.read(sweep.path) == sweep
    assert process.alive(read_json(sweep.path / "sweep.json"))
    assert SweepFolder.read(sweep.path / "none").jobs == {}


@pytest.mark.parametrize(
    "text",
    [
        "rubbish",
        "[1]",
        '{"jobs": 3}',
        '{"jobs": {"a": 3}}',
        '{"jobs": {"a": {"mood": "bad"}}}',
        '{"jobs": ["a"]}',
        '{"jobs": {"a": {"minutes": "long"}}}',
        '{"command": [1]}',
        '{"command": "train"}',
        '{"threads": true}',
        '{"not_applicable": {"a": null}}',
        '{"record": []}',
    ],
)
def test_a_damaged_file_is_one_line(sweep, text):
    (sweep.path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep.json is damaged \(.*delete it"):
        SweepFolder.read(sweep.path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    below = SweepFolder(tmp_path / "file/sweep")
    with pytest.raises(UserError, match=r"cannot make .*file/sweep: Not a directory"), below.held():
        pass
    with pytest.raises(UserError, match=r"cannot read .*: Not a directory"):
        SweepFolder.read(below.path)
    with pytest.raises(UserError, match=r"cannot write in .*: Not a directory"):
        below.write()
    with pytest.raises(UserError, match=r"cannot write in .*\.jobs: No such file"):
        write_order(SweepFolder(tmp_path / "no/where"), job(below, "a"))


def test_a_sweep_is_run_by_one(sweep):
    with (
        sweep.held(),
        pytest.raises(UserError, match="is in use: another process is running this sweep"),
        SweepFolder(sweep.path).held(),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "asked", "expected"),
    [
        ((0, None), None, ("FINISHED", None)),
        ((0, None), StopRequest("stopped by SIGINT"), ("FINISHED", None)),
        ((1, "no room"), StopRequest("stopped by SIGINT"), ("FAILED", "no room")),
        ((130, None), StopRequest("stopped by SIGINT"), ("KILLED", "stopped by SIGINT")),
        ((130, None), StopRequest("bad: 2", "PRUNED"), ("PRUNED", "bad: 2")),
        ((143, None), None, ("KILLED", "SIGTERM asked")),
        (None, StopRequest("stopped by SIGTERM"), ("KILLED", "stopped by SIGTERM")),
        (None, StopRequest("bad", "PRUNED"), ("PRUNED", "bad")),
        ((0, None), StopRequest("bad", "PRUNED"), ("FINISHED", None)),
        (None, None, ("FAILED", "its process was killed by SIGTERM")),
    ],
)
def test_how_a_job_ended(sweep, answer, asked, expected):
    run_of(sweep.path / "a", values=[(4, 2.0), (8, 1.5)], status="X", reason="SIGTERM asked")
    if answer:
        answered(sweep, *answer)
    entry = sweep.ended("a", sweep.path / "a", -15, asked)
    assert (entry.status, entry.reason) == expected
    assert entry.best == {"metric": "val/loss", "value": 1.5, "step": 8, "maximize": False}
    assert entry.cluster_id is None


def test_a_killed_job_is_marked_in_its_own_summary(sweep):
    run_of(sweep.path / "a", status="RUNNING")
    sweep.ended("a", sweep.path / "a", -9)
    summary = read_json(sweep.path / "a/summary.json")
    assert summary["status"] == "KILLED"
    assert summary["step"] == 4
    assert "SIGKILL" in summary["reason"]


def test_a_damaged_run_does_not_end_the_sweep(sweep):
    run_of(sweep.path / "a")
    (sweep.path / "a/metrics.jsonl").write_text("rubbish\n")
    answered(sweep, 0)
    entry = sweep.ended("a", sweep.path / "a", 0)
    assert entry.status == "FINISHED"
    assert "metrics.jsonl is damaged" in str(entry.reason)


def test_half_a_beginning_is_cleared_away(sweep):
    """A job that was killed before its summary was there: nothing to go on with."""
    it = job(sweep, "a")
    it.run_dir.mkdir()
    (it.run_dir / "metrics.jsonl").write_text("")
    write_order(sweep, it)
    assert it.run_dir.exists()  # somebody's else, for all we know
    write_json(sweep.process_file("a"), {**process.identity(), "pid": 2**22 + 1})
    write_order(sweep, it)
    assert not it.run_dir.exists()
    run_of(it.run_dir)
    write_json(sweep.process_file("a"), {**process.identity(), "pid": 2**22 + 1})
    write_order(sweep, it)
    assert it.run_dir.exists()


@pytest.mark.parametrize("cluster_id", [None, "17"])  # the rehearsal of a cluster has one, too
def test_a_rerun_waits_for_the_jobs_that_a_killed_sweep_left(
    sweep, monkeypatch, capsys, cluster_id
):
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = process._born(worker.pid)
    sweep.process_file("a").parent.mkdir()
    write_json(sweep.process_file("a"), {**process.identity(), "pid": worker.pid, "born": born})
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            worker.communicate(b"\n")

    monkeypatch.setattr(sweeps.time, "sleep", sleep)
    sweep.jobs["a"].cluster_id = cluster_id
    if cluster_id is not None:  # one on a cluster is watched by its number
        sweeps._wait_for_orphans(sweep, on_cluster=True)
        assert slept == []
    sweeps._wait_for_orphans(sweep, on_cluster=False)
    assert len(slept) == 3
    assert capsys.readouterr().err == (
        "waiting for a, which the killed sweep left: to save and stop\n"
    )
    sweeps._wait_for_orphans(sweep, on_cluster=False)
    assert len(slept) == 3


def test_a_job_that_does_not_end_is_not_waited_for_for_ever(sweep, monkeypatch, capsys):
    sweep.process_file("a").parent.mkdir()
    write_json(sweep.process_file("a"), process.identity())  # this very process
    sweep.jobs["a"].cluster_id = None
    monkeypatch.setattr(sweeps, "MAX_ORPHAN_SECONDS", 0.3)
    sweeps._wait_for_orphans(sweep, on_cluster=False)
    assert "a: still running" in capsys.readouterr().err


# -- what a command finds in the folder --------------------------------------------------------

WORDS = ("task=text", "tracking=jsonl", "trainer.max_steps=10", "sweep.dir=here")


def sort_out(*more):
    found = plan([*WORDS, *more])
    sweep = SweepFolder.read(found.folder)
    return [it.name for it in sweeps._sort_out(found, sweep)], sweep


def finished(name, *more):
    """Make the run folder of a job as if it had been trained."""
    from mambalab import config

    (it,) = [it for it in plan([*WORDS, *more]).jobs if it.name == name]
    run_of(it.run_dir, ended_by="max_steps", step=10, seconds=3.0)
    recorded = config.as_recorded(config.typed(it.config))
    (it.run_dir / "config.yaml").write_text(config.to_yaml(recorded))


def test_finished_jobs_are_left_out_and_new_ones_added(workdir):
    finished("seed=1", "seed=1,2")
    left, sweep = sort_out("seed=1,2,3")
    assert left == ["seed=2", "seed=3"]
    assert sweep.jobs["seed=1"].status == "FINISHED"
    assert sort_out("seed=1,2", "trainer.max_steps=20")[0] == ["seed=1", "seed=2"]


def test_a_folder_with_runs_of_other_settings_is_refused(workdir):
    finished("seed=1", "seed=1,2", "optim.lr=0.1")
    with pytest.raises(UserError, match=r"other settings \(optim.lr.*choose another sweep.dir"):
        sort_out("seed=1,2", "optim.lr=0.2")


def test_a_job_that_was_running_when_the_sweep_was_killed_waits(workdir):
    folder = SweepFolder(plan([*WORDS]).folder)
    folder.jobs["seed=1"] = Entry("RUNNING")
    folder.write()
    _, sweep = sort_out("seed=1,2")
    assert [e.status for e in sweep.jobs.values()] == ["WAITING", "WAITING"]


def test_a_sweep_folder_that_cannot_be_made_is_one_line(workdir, capsys):
    from mambalab.cli import main

    (workdir / "file").write_text("")
    status = main.main(["train", "-m", *WORDS, "seed=1,2", "sweep.dir=file/sweep"])
    assert status == 1
    err = capsys.readouterr().err
    assert err == "mambalab: error: cannot make file/sweep: Not a directory\n"


@pytest.mark.parametrize(
    ("states", "stopped", "status", "line"),
    [
        (("FINISHED", "FINISHED"), None, 0, "2 of 2 jobs finished"),
        (("FINISHED", "FAILED"), None, 1, "1 of 2 jobs finished, 1 failed; the same command"),
        (("FINISHED", "KILLED"), None, 1, "1 of 2 jobs finished; the same command goes on"),
        (("KILLED", "FINISHED"), "SIGINT", 130, "1 of 2 jobs finished; the same command"),
        (("FAILED", "WAITING"), "SIGTERM", 143, "0 of 2 jobs finished, 1 failed; the same"),
    ],
)
def test_exit_status_and_table(workdir, capsys, states, stopped, status, line):
    found = plan([*WORDS, "seed=1,2"])
    sweep = SweepFolder(found.folder)
    best = {"metric": "val/loss", "value": 1.25, "step": 1000, "maximize": False}
    sweep.jobs = {
        f"seed={n}": Entry(state, "why" if state == "FAILED" else None, best, 1.26)
        for n, state in enumerate(states, start=1)
    }

    class Record:
        status = None

        def finish(self, status):
            self.status = status

    record = Record()
    source = Grid(found.jobs)
    assert sweeps._end(found, sweep, source, record, stopped) == status  # pyright: ignore
    out = capsys.readouterr().out.splitlines()
    remark = ["remark"] if "FAILED" in states else []  # a column only where there is one
    assert out[1].split() == ["job", "status", "best", "minutes", *remark]
    assert out[2].startswith(f"seed=1  {states[0].lower()}")
    assert "val/loss 1.2500 @ 1,000  1.3" in out[2]
    assert out[-1].startswith(line)
    expected = "KILLED" if stopped else "FINISHED" if status == 0 else "FAILED"
    assert record.status == json.loads((found.folder / "sweep.json").read_text())["status"]
    assert record.status == expected

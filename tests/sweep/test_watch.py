import json

import pytest

from mambalab.errors import UserError
from mambalab.sweep import watch
from mambalab.sweep.folder import Entry, SweepFolder
from mambalab.utils import process
from tests.records.example_runs import make_run

BEST = {"metric": "val/loss", "value": 1.5, "step": 30, "maximize": False}
DEAD = {**process.identity(), "pid": 2**22 + 1}


@pytest.fixture
def sweep(tmp_path):
    """A sweep of five jobs: one finished in 2 minutes, one half-way after 1, one begun."""
    jobs = {
        "a": Entry("FINISHED", best=BEST, minutes=2.0),
        "b": Entry("RUNNING"),
        "c": Entry("RUNNING"),
        "d": Entry("WAITING"),
    }
    lines = [{"step": 20, "train/loss": 2.5, "val/loss": 2.0, "time/seconds": 60.0}]
    make_run(tmp_path / "s" / "b", lines=lines, summary={"status": "RUNNING"})
    found = SweepFolder(tmp_path / "s", jobs=jobs, total=5)
    found.write()
    return found


def test_jobs_with_their_latest_values(sweep):
    view = watch.look(sweep.path)
    assert [job.name for job in view.jobs] == ["b", "c", "a", "d"]
    out = [" ".join(line.split()) for line in watch.text(view).splitlines()]
    assert out[1] == "b running 20/40 val/loss 2.0000 val/loss 2.0000 @ 20 1.0 1.0"
    assert out[2] == "c running - - - - -"
    assert out[3] == "a finished - - val/loss 1.5000 @ 30 2.0 -"
    assert out[5].startswith(
        "5 jobs: 2 running, 1 finished, 2 waiting; all end in about 4m 00s, at"
    )
    assert "... and 3 more" in watch.text(view, rows=1)


def test_a_narrow_terminal_keeps_what_is_left(sweep):
    view = watch.look(sweep.path)
    whole = watch.text(view)
    assert watch.text(view, columns=500) == whole
    width = len(whole.splitlines()[0])
    narrow = watch.text(view, columns=width).splitlines()
    assert narrow[0].split() == ["job", "status", "step", "latest", "best", "left"]
    narrow = watch.text(view, columns=55).splitlines()
    assert narrow[0].split() == ["job", "status", "step", "best", "left"]
    assert max(map(len, narrow)) <= 55


def test_an_end_needs_a_pace(sweep):
    sweep.jobs = {"x": Entry("RUNNING"), "y": Entry()}
    sweep.write()
    assert watch.headline(watch.look(sweep.path)).endswith("no pace yet to tell when all end")


def test_a_sweep_that_has_ended_says_when(sweep, capsys):
    sweep.status = "FAILED"
    sweep.write()
    assert watch.follow(sweep.path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("5 jobs: 2 running, 1 finished, 2 waiting; ended ")
    assert last.endswith(" (FAILED)")


def test_a_killed_sweep_is_not_waited_for(sweep, capsys):
    file = sweep.path / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **DEAD}))
    assert watch.follow(sweep.path) == 0
    assert "its process is gone: the same command goes on" in capsys.readouterr().out


@pytest.mark.parametrize("live", [False, True])
def test_it_is_followed_until_it_ends(sweep, capsys, monkeypatch, live):
    monkeypatch.setattr("sys.stdout.isatty", lambda: live, raising=False)

    def sleep(seconds):
        sweep.jobs["b"] = Entry("FINISHED", best=BEST, minutes=2.0)
        sweep.status = "FINISHED" if sweep.jobs["c"].status == "FINISHED" else "RUNNING"
        sweep.jobs["c"] = Entry("FINISHED", minutes=2.0)
        sweep.write()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert watch.follow(sweep.path) == 0
    out = capsys.readouterr().out
    assert "5 jobs: 3 finished, 2 waiting; all end in about 4m 00s" in out
    assert ("\x1b[6A\x1b[J" in out) is live
    assert out.splitlines()[-1].endswith("(FINISHED)")


def test_no_sweep(tmp_path):
    with pytest.raises(UserError, match="is no sweep: it has no"):
        watch.look(tmp_path)

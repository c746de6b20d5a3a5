import json

import pytest

from mambalab.compare.comparison import compare
from mambalab.errors import UserError
from mambalab.records import archive
from mambalab.records.reader import read_run
from tests.compare.test_comparison import ignore
from tests.records.example_runs import make_group, make_run


@pytest.fixture
def runs(tmp_path):
    return [
        *make_group(tmp_path / "none", [1.5, 1.52, 1.51], rise=0.3),
        *make_group(tmp_path / "ssm", [1.4, 1.43, 1.41], dropout="ssm"),
    ]


def renamed(runs):
    """The runs in folders of different names, as real ones are."""
    return [
        read_run(run.path.rename(run.path.with_name(f"{run.path.parent.name}-{run.path.name}")))
        for run in runs
    ]


def test_a_record_compares_as_the_folders_do(runs, tmp_path):
    runs = renamed(runs)
    path = archive.write(tmp_path / "record", runs)
    assert path.name == "runs.json"
    back = archive.read(tmp_path / "record")
    assert [run.path.name for run in back] == sorted(run.path.name for run in runs)
    first, second = compare(runs, ignore=ignore), compare(back, ignore=ignore)
    for ours, theirs in zip(first.groups, second.groups, strict=True):
        assert (ours.label, ours.best, ours.turn) == (theirs.label, theirs.best, theirs.turn)
        assert (ours.gap, ours.excess) == (theirs.gap, theirs.excess)
        assert (ours.goal_seconds, ours.verdict) == (theirs.goal_seconds, theirs.verdict)


def test_a_record_does_not_tell_where_things_lay(tmp_path):
    told = {
        "command": "mambalab train -m output_dir=/home/me/out 'task.path=a b.txt' seed=1,2",
        "data": {"sha256": "ab", "path": "/home/me/data/input.txt", "store": "/a/b"},
    }
    places = {"data_dir": "/home/me/data", "output_dir": "/home/me/out", "run_dir": "/home/me/r"}
    run = make_run(tmp_path / "r", summary=told, **places)
    packed = archive.pack(read_run(run))
    assert "/home/me" not in json.dumps(packed)
    assert packed["summary"]["command"] == "mambalab train -m 'task.path=a b.txt' seed=1,2"
    assert packed["summary"]["data"] == {"sha256": "ab", "path": "input.txt", "store": "b"}
    assert packed["config"]["seed"] == 1


def test_training_is_averaged_between_evaluations(tmp_path):
    lines = [
        {"step": 5, "train/loss": 3.0, "train/lr": 0.1, "time/seconds": 1.0},
        {"step": 10, "train/loss": 2.0, "train/lr": 0.2, "time/seconds": 2.0},
        {"step": 10, "val/loss": 2.123456789},
        {"step": 15, "train/loss": 1.0, "train/lr": 0.3, "time/seconds": 3.0},
        {"step": 20, "val/loss": None},
    ]
    packed = archive.pack(read_run(make_run(tmp_path / "r", lines=lines)))
    assert packed["curves"] == {
        "train/loss": [(10, 2.5), (20, 1.0)],
        "train/lr": [(10, 0.2), (20, 0.3)],
        "time/seconds": [(10, 2.0), (20, 3.0)],
        "val/loss": [(10, 2.123457), (20, None)],
    }
    assert packed["config"]["seed"] == 1
    assert packed["summary"]["packages"] == {"torch": "2.11"}
    assert "pid" not in packed["summary"]


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        ({"git_revision": "abc+changes"}, "uncommitted changes to abc"),
        ({"git_revision": None}, "which commit"),
        ({"status": "KILLED"}, "is KILLED, not finished"),
    ],
)
def test_what_cannot_be_repeated_is_not_recorded(tmp_path, summary, why):
    run = read_run(make_run(tmp_path / "r", summary=summary))
    with pytest.raises(UserError, match=why):
        archive.write(tmp_path / "record", [run])
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("revision", ["abc+changes", None])
def test_changes_can_be_allowed_and_the_record_says_so(tmp_path, revision):
    run = read_run(make_run(tmp_path / "r", summary={"git_revision": revision}))
    path = archive.write(tmp_path / "record", [run], allow_changes=True)
    assert json.loads(path.read_text())["allow_changes"] is True
    assert archive.read(tmp_path / "record")[0].summary.git_revision == revision


def test_what_a_run_does_not_tell(tmp_path):
    old = read_run(make_run(tmp_path / "old"))
    lacking = ["command", "threads", "load of the machine", "training time", "wall time"]
    assert archive.missing(old) == lacking
    facts = {"command": "mambalab train", "threads": 2, "load": 0.0, "seconds": 1.0}
    new = make_run(tmp_path / "new", summary={**facts, "wall_seconds": 2.0})
    assert archive.missing(read_run(new)) == []
    assert archive.pack(read_run(new))["summary"]["command"] == "mambalab train"


def test_a_failed_run_is_part_of_the_record(tmp_path):
    run = read_run(make_run(tmp_path / "r", summary={"status": "FAILED"}))
    archive.write(tmp_path / "record", [run])
    assert [r.status for r in archive.read(tmp_path / "record")] == ["FAILED"]


def test_runs_of_one_name_are_named_after_their_sweeps(runs, tmp_path):
    archive.write(tmp_path / "record", runs)
    names = [run.path.name for run in archive.read(tmp_path / "record")]
    assert names == [f"{sweep},s{seed}" for sweep in ("none", "ssm") for seed in (1, 2, 3)]


def test_two_runs_of_one_name_and_sweep(runs, tmp_path):
    with pytest.raises(UserError, match="two runs are called none,s1"):
        archive.write(tmp_path / "record", [*runs, runs[0]])
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"format": 1, "runs": {}}',
        '{"format": 2, "runs": []}',
        '{"format": 1, "runs": [1]}',
        '{"format": 1, "runs": [{"name": "a", "config": {}, "summary": {}, "curves": {"a": 1}}]}',
        '{"format": 1, "runs": [{"name": "a", "config": 3, "summary": {}, "curves": {}}]}',
        "not JSON",
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "runs.json").write_text(text)
    with pytest.raises(UserError, match=r"runs\.json"):
        archive.read(tmp_path)


def test_a_name_leads_nowhere_else(tmp_path):
    run = {"name": "../../up", "config": {}, "summary": {}, "curves": {}}
    (tmp_path / "runs.json").write_text(json.dumps({"format": 1, "runs": [run]}))
    assert [r.path for r in archive.read(tmp_path)] == [tmp_path / "up"]


def test_of_equal_values_the_one_that_training_chose_is_kept(tmp_path):
    accuracy = 29 / 360  # of more digits than a record's curve has
    lines = [{"step": step, "val/accuracy": accuracy} for step in (10, 20, 30)]
    best = {"step": 20, "val/accuracy": accuracy}
    told = {"metric": "val/accuracy", "maximize": True, "best": best}
    run = read_run(make_run(tmp_path / "r", lines=lines, summary=told))
    assert run.best is not None
    assert run.best.step == 20
    archive.write(tmp_path / "record", [run])
    (back,) = archive.read(tmp_path / "record")
    assert back.best is not None
    assert back.best.step == 20

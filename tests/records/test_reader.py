import json
import os
from pathlib import Path

import pytest

from mambalab.errors import UserError
from mambalab.records import reader
from mambalab.utils import process


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run folder: config text, summary, metric rows, age in seconds."""

    def build(name: str, *, summary=None, rows=(), config="seed: 1\n", age: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        (folder / "summary.json").write_text(json.dumps(summary or {"status": "FINISHED"}))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for path in folder.iterdir():
            os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))
        return folder

    return build


def test_a_record_says_what_the_folder_says(make_run):
    rows = [
        {"step": 10, "train/loss": 3.0, "time/seconds": 30.0},
        {"step": 10, "val/loss": 2.5},
        {"step": 20, "train/loss": None, "time/seconds": 90.0},
        {"step": 20, "val/loss": 2.0},
        {"step": 30, "val/loss": 2.0},
        {"step": 40, "val/loss": None},
    ]
    config = "task: {name: text}\noptim:\n  lr: 2.0e-3\nhome: ${oc.env:HOME}\n"
    record = reader.read_run(make_run("a", rows=rows, config=config))
    assert record.status == "FINISHED"
    assert record.setting("task.name") == "text"
    assert record.setting("optim.lr") == 0.002
    assert record.setting("home") == "${oc.env:HOME}"
    assert record.setting("optim.lr.x") is None
    assert record.setting("no.such") is None
    assert record.curves["train/loss"] == [(10, 3.0), (20, None)]
    assert record.best == reader.Best("val/loss", 2.0, 20)
    assert record.step == 40
    assert record.minutes == 1.5


def test_a_metric_of_which_more_is_better(make_run):
    rows = [{"step": s, "val/accuracy": v} for s, v in ((1, 0.5), (2, 0.9), (3, 0.8))]
    summary = {"status": "FINISHED", "metric": "val/accuracy", "maximize": True}
    record = reader.read_run(make_run("a", summary=summary, rows=rows))
    assert record.best == reader.Best("val/accuracy", 0.9, 2)


def test_a_run_without_metrics_speaks_by_its_summary(make_run):
    best = {"step": 7, "val/loss": 1.5}
    summary = {"status": "FINISHED", "best": best, "step": 9, "seconds": 120.0}
    folder = make_run("a", summary=summary)
    (folder / "metrics.jsonl").unlink()
    record = reader.read_run(folder)
    assert (record.best, record.step, record.minutes) == (
        reader.Best("val/loss", 1.5, 7),
        9,
        2.0,
    )


def test_the_last_step_is_the_latest_that_anything_tells_of(make_run):
    rows = [{"step": 10, "train/loss": 1.0}]
    for noted, step in ((17, 17), (5, 10), (None, 10)):
        summary = {"status": "KILLED", "step": noted}
        assert reader.read_run(make_run(str(noted), summary=summary, rows=rows)).step == step


def test_minutes_count_to_the_latest_word(make_run):
    rows = [{"step": 1, "time/seconds": 60.0}]
    for seconds, minutes in ((90.0, 1.5), (30.0, 1.0), (None, 1.0)):
        summary = {"status": "KILLED", "seconds": seconds}
        assert (
            reader.read_run(make_run(str(seconds), summary=summary, rows=rows)).minutes == minutes
        )


def test_a_run_that_has_measured_nothing_yet(make_run):
    record = reader.read_run(make_run("a", summary={"status": "RUNNING"}))
    assert (record.best, record.step, record.minutes) == (None, None, None)


def test_running_with_a_dead_process_is_killed(make_run):
    me = process.identity()
    cases = {
        "live": (me, "RUNNING"),
        "dead": ({**me, "pid": 2**22 + 1}, "KILLED"),
        "elsewhere": ({**me, "host": "elsewhere"}, "RUNNING"),
        "nobody": ({}, "RUNNING"),
    }
    for name, (identity, status) in cases.items():
        folder = make_run(name, summary={"status": "RUNNING", **identity})
        assert reader.read_run(folder).status == status, name


def test_a_line_being_written_and_a_pair_held_twice(make_run):
    folder = make_run("a", rows=[{"step": 2, "a": 2}, {"step": 1, "a": 1}, {"step": 2, "a": 9}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "a": 3}')
    assert reader.read_curves(folder) == {"a": [(1, 1.0), (2, 2.0)]}


def test_runs_are_found_below_a_folder_but_not_in_copies_of_them(make_run, tmp_path):
    assert reader.find_runs(tmp_path / "missing") == []
    runs = [make_run("text/mamba/x-s2"), make_run("text/mamba/x-s1"), make_run("sweep/a=1")]
    make_run("mlartifacts/text/1/artifacts")
    make_run(".trash/run")
    make_run("text/mamba/x-s1/inside")
    (tmp_path / "only_config").mkdir()
    (tmp_path / "only_config" / "config.yaml").write_text("a: 1")
    assert reader.find_runs(tmp_path) == sorted(runs)
    assert reader.find_runs(runs[0]) == [runs[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [", r"config\.yaml is damaged"),
        ("config.yaml", "- 1\n", r"config\.yaml is damaged \(no settings"),
        ("config.yaml", "!!python/object:os.system {}", r"config\.yaml is damaged"),
        ("summary.json", "{", r"summary\.json is damaged"),
    ],
)
def test_damaged_files_are_named(make_run, name, content, message):
    folder = make_run("a")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        reader.read_run(folder)


def test_config_in_no_known_encoding_is_named(make_run):
    folder = make_run("a")
    (folder / "config.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        reader.read_run(folder)


def test_latest_is_the_run_trained_last(make_run, tmp_path):
    with pytest.raises(UserError, match="no run below"):
        reader.resolve_run("latest", tmp_path)
    make_run("old", age=100)
    new = make_run("new", age=50)
    middle = make_run("middle", age=70)
    assert reader.resolve_run("latest", tmp_path) == new
    os.utime(middle / "metrics.jsonl")  # now, in this year: still older than `new`
    assert reader.latest(tmp_path) == new
    os.utime(middle / "metrics.jsonl", (2_000_000_000, 2_000_000_000))
    assert reader.latest(tmp_path) == middle


def test_latest_passes_over_a_run_without_weights_and_says_so(make_run, tmp_path, caplog):
    old, new = make_run("old", age=100), make_run("new", age=50)
    assert reader.resolve_run("latest", tmp_path) == new  # neither has any
    (old / "checkpoints/last-00000004").mkdir(parents=True)
    assert reader.resolve_run("latest", tmp_path, trained=False) == new
    assert not caplog.messages
    assert reader.resolve_run("latest", tmp_path) == old
    assert caplog.messages == [f"run=latest: {new} has no checkpoint yet, taking {old}"]


def test_a_run_may_be_named_in_several_ways(make_run, tmp_path, monkeypatch):
    outputs = tmp_path / "outputs"
    run = make_run("outputs/text/x-s1")
    for name in (str(run), f"{run}/", str(run / "config.yaml"), "text/x-s1"):
        assert reader.resolve_run(name, outputs) == run
    monkeypatch.chdir(tmp_path)
    assert reader.resolve_run("outputs/text/x-s1", outputs) == Path("outputs/text/x-s1")
    monkeypatch.setenv("HOME", str(outputs))
    assert reader.resolve_run("~/text/x-s1", Path("elsewhere")) == run


def test_what_is_no_run_is_one_line_with_a_hint(make_run, tmp_path):
    run = make_run("text/x-s1")
    with pytest.raises(UserError, match=rf"is no run folder; did you mean {run}\?"):
        reader.resolve_run(str(tmp_path / "text"), tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        reader.resolve_run("text/y", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="mambalab runs"):
        reader.resolve_run(str(tmp_path / "empty"), tmp_path)
    with pytest.raises(UserError, match="is no run folder"):
        reader.read_run(tmp_path / "empty")
    (tmp_path / "lost" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no config.yaml: bring the file back"):
        reader.resolve_run(str(tmp_path / "lost"), tmp_path)

import csv
import json
import os
import time
from pathlib import Path

import pytest

from mambalab.cli import main
from mambalab.commands import runs
from mambalab.commands.runs import RunsSettings
from mambalab.errors import UserError
from mambalab.utils import console, process

CONFIG = "task: {name: text}\nmodel: {name: mamba}\ndropout: {name: ssm}\nseed: 1\n"


def make_run(folder, *, config=CONFIG, summary=None, rows=()):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "summary.json").write_text(json.dumps(summary or {"status": "FINISHED"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in folder.iterdir():
        os.utime(path, (1_800_000_000, 1_800_000_000))


def run(folder, capsys, *, sort="date", where=(), form="table"):
    with console.show_log():
        cfg = RunsSettings([], str(folder), sort, list(where), runs.Format[form], follow=False)
        status = runs.run(cfg)
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_no_runs_yet(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "missing"):
        status, out, err = run(folder, capsys)
        assert (status, err) == (0, "")
        assert out == [f"no runs below {folder} yet: start one with `mambalab train`"]


def test_a_line_for_each_run(tmp_path, capsys):
    rows = [
        {"step": 1000, "train/loss": 2.0, "time/seconds": 90},
        {"step": 1000, "val/loss": 1.23456},
        {"step": 1500, "val/loss": 1.5},
    ]
    make_run(tmp_path / "text" / "done", rows=rows)
    dead = {**process.identity(), "pid": 2**22 + 1, "status": "RUNNING"}
    make_run(tmp_path / "text" / "killed", summary=dead, config="seed: 2\n")
    status, out, err = run(tmp_path, capsys)
    assert (status, err) == (0, "")
    assert out[0].split() == [n for n in runs.HEADER if n not in (runs.TEST, "name", "differs")]
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(1_800_000_000))
    cells = {line.split("  ")[0]: " ".join(line.split()) for line in out[1:]}
    done, killed = tmp_path / "text" / "done", tmp_path / "text" / "killed"
    assert cells["FINISHED"] == (
        f"FINISHED text mamba ssm 1 1,500 val/loss 1.2346 @ 1,000 1.5 {date} {done}"
    )
    assert cells["KILLED"] == f"KILLED - - - 2 - - - {date} {killed}"
    assert out[0].index("path") == out[1].index(str(tmp_path)) == out[2].index(str(tmp_path))


def test_test_accuracy_has_a_column_where_a_run_has_it(tmp_path, capsys):
    make_run(tmp_path / "a", summary={"status": "FINISHED", "test": {"test/accuracy": 0.99}})
    make_run(tmp_path / "b")
    _, out, _ = run(tmp_path, capsys)
    assert out[0].split() == [n for n in runs.HEADER if n not in ("name", "differs")]
    at = slice(out[0].index("test/accuracy"), out[0].index("minutes") - 2)
    cells = {line.split("/")[-1]: line[at].strip() for line in out[1:]}
    assert cells == {"a": "0.9900", "b": "-"}


def test_a_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    make_run(tmp_path / "good")
    make_run(tmp_path / "bad", config="a: [")
    make_run(tmp_path / "worse")
    (tmp_path / "worse" / "metrics.jsonl").write_text("rubbish\n")
    status, out, err = run(tmp_path, capsys)
    assert status == 1
    assert len(out) == 2
    assert out[1].endswith("good")
    assert "bad/config.yaml is damaged" in err
    assert "worse/metrics.jsonl is damaged" in err


def test_a_strangers_run_cannot_steer_the_terminal(tmp_path, capsys):
    make_run(tmp_path / "run", config='task: {name: "\\e[31mred\\n"}\nseed: 1\n')
    _, out, _ = run(tmp_path, capsys)
    assert "?[31mred?" in out[1]
    assert len(out) == 2


FULL = "name: {name}\ntask: {{name: text}}\nmodel: {{name: mamba, d_model: {d}}}\n\
dropout: {{name: ssm}}\noptim: {{lr: {lr}}}\nseed: {seed}\n"


@pytest.fixture
def three(tmp_path):
    """Three runs of one task and model: two seeds of one setting, and another learning rate."""
    for path, name, lr, seed, loss in (("a", "base", 1e-3, 1, 2.0), ("b", "=1+1", 1e-3, 2, 1.0),
                                       ("c", "null", 1e-2, 1, 3.0)):  # fmt: skip
        config = FULL.format(name=name, d=16, lr=lr, seed=seed)
        make_run(tmp_path / path, config=config, rows=[{"step": 5, "val/loss": loss}])
    return tmp_path


def test_what_differs_and_names_are_shown(three, capsys):
    _, out, _ = run(three, capsys)
    assert out[0].split()[-3:] == ["name", "differs", "path"]
    found = {line.split("/")[-1]: line.split()[-3:-1] for line in out[1:]}
    assert found["a"] == ["base", "lr=0.001"]
    assert found["b"] == ["=1+1", "lr=0.001"]
    assert found["c"] == ["-", "lr=0.01"]


def test_which_data_a_loss_is_of_is_always_told(tmp_path, capsys):
    for name, data, levels, lr in (("a", "digits", 17, 1), ("b", "mnist", 16, 2)):
        task = f"task: {{name: pixels, data: {data}, levels: {levels}}}\n"
        config = f"{task}model: {{name: mamba}}\ndropout: {{name: none}}\noptim: {{lr: {lr}}}\n"
        make_run(tmp_path / name, config=config, rows=[{"step": 5, "val/loss": 2.0}])
    _, out, _ = run(tmp_path, capsys)
    assert "data=digits levels=17" in out[1]
    assert "data=mnist levels=16" in out[2]


def test_sorted_and_chosen(three, capsys):
    _, out, _ = run(three, capsys, sort="best")
    assert [line[-1] for line in out[1:]] == ["b", "a", "c"]
    _, out, _ = run(three, capsys, where=["optim.lr=1e-3", "val/loss<1.5"])
    assert [line[-1] for line in out[1:]] == ["b"]
    _, out, _ = run(three, capsys, where=["optim.lr=5"])
    assert out == [f"no run below {three} is so: optim.lr=5"]
    with pytest.raises(UserError, match="sort: no run here has lr; did you mean optim"):
        run(three, capsys, sort="lr")


def test_everything_for_programs(three, capsys):
    _, out, _ = run(three, capsys, form="csv", sort="optim.lr")
    rows = list(csv.DictReader(out))
    assert [row["best"] for row in rows] == ["2.0", "1.0", "3.0"]
    assert [row["setting optim.lr"] for row in rows] == ["0.001", "0.001", "0.01"]
    assert [row["name"] for row in rows] == ["base", "'=1+1", ""]  # no formula
    _, out, _ = run(three, capsys, form="json")
    found = {row["seed"]: row for row in json.loads("\n".join(out)) if row["name"] != "null"}
    assert found[2]["name"] == "=1+1"
    assert found[2]["settings"] == {"optim.lr": "0.001"}
    assert run(three / "none", capsys, form="json")[1] == ["[]"]


def test_a_narrow_terminal_has_two_lines_for_a_run(three, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(three, capsys)
    assert len(out) == 7
    assert out[2].split()[-2:] == ["lr=0.001", str(three / "a")]
    assert len(out[1]) <= 80


def test_a_terminal_of_sixty_columns_has_the_best_below(three, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(three)
    _, out, _ = run(Path(), capsys)
    assert all(len(line) <= 60 for line in out)
    assert out[1].split() == ["FINISHED", "text", "mamba", "ssm", "1", "5"]
    assert out[2] == "    val/loss 2.0000 @ 5  2027-01-15 08:00  base  lr=0.001  a"
    long = three / "a-name-that-finds-no-room-beside"
    (three / "a").rename(long)
    _, out, _ = run(Path(), capsys)
    assert out[2:4] == [
        "    val/loss 2.0000 @ 5  2027-01-15 08:00  base  lr=0.001",
        f"      {long.name}",
    ]


def test_folders_are_plain_words(three, capsys, monkeypatch):
    monkeypatch.chdir(three)
    assert main.main(["runs", "a", "b"]) == 0
    assert [line[-1] for line in capsys.readouterr().out.splitlines()[1:]] == ["a", "b"]
    assert main.main(["runs", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main.main(["runs", "where=lr"]) == 2
    assert "where=lr: write KEY=VALUE" in capsys.readouterr().err
    assert main.main(["runs", "a", "--follow"]) == 1
    assert "a is no sweep" in capsys.readouterr().err

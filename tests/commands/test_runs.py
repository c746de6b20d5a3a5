import json

from mambalab.commands import runs
from mambalab.commands.runs import RunsSettings
from mambalab.utils import console, process

CONFIG = "task: {name: text}\nmodel: {name: mamba}\ndropout: {name: ssm}\nseed: 1\n"


def make_run(folder, *, config=CONFIG, summary=None, rows=()):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "summary.json").write_text(json.dumps(summary or {"status": "FINISHED"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, capsys):
    with console.show_log():
        status = runs.run(RunsSettings(str(folder)))
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
    assert out[0].split() == [name for name in runs.HEADER if name != runs.TEST]
    cells = {line.split("  ")[0]: " ".join(line.split()) for line in out[1:]}
    done, killed = tmp_path / "text" / "done", tmp_path / "text" / "killed"
    assert cells["FINISHED"] == (
        f"FINISHED text mamba ssm 1 1,500 val/loss 1.2346 @ 1,000 1.5 {done}"
    )
    assert cells["KILLED"] == f"KILLED - - - 2 - - - {killed}"
    assert out[0].index("path") == out[1].index(str(tmp_path)) == out[2].index(str(tmp_path))


def test_test_accuracy_has_a_column_where_a_run_has_it(tmp_path, capsys):
    make_run(tmp_path / "a", summary={"status": "FINISHED", "test": {"test/accuracy": 0.99}})
    make_run(tmp_path / "b")
    _, out, _ = run(tmp_path, capsys)
    assert out[0].split() == list(runs.HEADER)
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

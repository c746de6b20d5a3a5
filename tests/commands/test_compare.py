import json
import os

import pytest

from mambalab.cli import main
from mambalab.commands import compare as compare_verb
from mambalab.commands.compare import CompareSettings, Interval
from mambalab.compare.select import compare_folders
from mambalab.errors import UserError
from mambalab.settings.figure import FigureSettings
from tests.records.example_runs import make_group, make_run

FILES = {"comparison.md", "comparison.csv", "comparison.json", "runs.csv", "curves.png"}


@pytest.fixture
def run(tmp_path):
    """A function that runs the verb, with output_dir=tmp_path."""

    def call(*paths, **changes) -> int:
        settings = CompareSettings(
            paths=[str(path) for path in paths],
            mlflow=None,
            uri=None,
            output_dir=str(tmp_path),
            out=None,
            metric=None,
            to=None,
            baseline=None,
            pairs=None,
            interval=Interval.t,
            figure=FigureSettings(font=None, format=None, width=None, font_size=None),
        )
        for name, value in changes.items():
            setattr(settings, name, value)
        return compare_verb.run(settings)

    return call


@pytest.fixture
def sweep(tmp_path):
    """A function that makes a sweep of two groups, three seeds each."""

    def build(name: str = "night", *, age: int = 0):
        folder = tmp_path / "sweeps" / name
        make_group(folder / "none", [1.5, 1.52, 1.51], rise=0.3)
        make_group(folder / "ssm", [1.4, 1.43, 1.41], dropout="ssm")
        (folder / "sweep.json").write_text("{}")
        os.utime(folder / "sweep.json", (2_000_000_000 - age, 2_000_000_000 - age))
        return folder

    return build


def test_a_sweep_is_compared_and_keeps_its_comparison(run, sweep, capsys):
    folder = sweep()
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "dropout=ssm   3  1.4133 ± 0.0379" in out
    assert out.splitlines()[4].endswith("better")
    assert f"files: {folder / 'comparison'}" in out
    assert {p.name for p in (folder / "comparison").iterdir()} >= FILES
    assert run(folder) == 0  # its own files are no runs


def test_latest_is_the_sweep_written_last(run, sweep, capsys):
    with pytest.raises(UserError, match=r"latest: no sweep below .*sweeps: start one with"):
        run("latest")
    sweep("old", age=100)
    new = sweep("group/new")
    sweep("older", age=200)
    assert run("latest") == 0
    assert f"files: {new / 'comparison'}" in capsys.readouterr().out


def test_several_paths_go_to_a_folder_of_their_own(run, sweep, tmp_path, capsys):
    folder = sweep()
    assert run(folder / "none", folder / "ssm") == 0
    (first,) = (tmp_path / "comparisons").iterdir()
    assert len(first.name) == 8
    assert run(folder / "ssm", folder / "none") == 0  # the same runs, the same folder
    assert run(folder / "ssm") == 0
    assert len(list((tmp_path / "comparisons").iterdir())) == 2
    assert run(folder, out=str(tmp_path / "mine")) == 0
    assert {p.name for p in (tmp_path / "mine").iterdir()} >= FILES
    capsys.readouterr()


def test_a_folder_named_twice_counts_once(run, sweep, tmp_path, capsys):
    folder = sweep()
    (tmp_path / "link").symlink_to(folder)
    assert run(folder, tmp_path / "link" / "ssm", folder / "ssm" / "s1", folder) == 0
    assert "dropout=ssm   3  1.4133" in capsys.readouterr().out


def test_a_copy_of_a_run_is_refused_by_name(run, tmp_path):
    for name in ("a", "copy"):
        make_run(tmp_path / name)
    with pytest.raises(UserError, match=r"seed 1 occurs twice: .*/a and .*/copy"):
        run(tmp_path)


def test_runs_that_do_not_count_are_listed(run, sweep, capsys):
    folder = sweep()
    make_run(folder / "ssm" / "s4", summary={"status": "KILLED"}, seed=4, dropout="ssm")
    make_run(folder / "ssm" / "s1.old1", dropout="ssm")
    (make_run(folder / "bad") / "config.yaml").write_text("a: [")
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert f"left out: {folder / 'ssm' / 's4'}: KILLED" in out
    assert f"left out: {folder / 'ssm' / 's1.old1'}: set aside by resume=never" in out
    assert f"left out: {folder / 'bad'}: {folder / 'bad' / 'config.yaml'} is damaged" in out
    assert run(folder / "ssm" / "s1.old1") == 0  # asked for by name


def test_how_far_runs_were_trained_makes_groups_and_where_does_not(run, tmp_path, capsys):
    for seed in (1, 2):
        make_run(tmp_path / f"short{seed}", seed=seed, device="cpu")
        made = {"trainer__max_steps": 80, "device": "cuda", "tracking": {"kind": "none"}}
        make_run(tmp_path / f"long{seed}", seed=seed, summary={"step": 80}, **made)
    assert run(tmp_path, baseline="=40") == 0
    out = capsys.readouterr().out
    assert "trainer.max_steps=40  2" in out
    assert "trainer.max_steps=80  2" in out


def test_options_reach_the_comparison(run, sweep, capsys):
    folder = sweep()
    assert run(folder, to=2.45, baseline="ssm", pairs="auto") == 0
    data = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert (data["goal"], data["interval"], data["baseline"]) == (2.45, "t", "dropout=ssm")
    assert [c["setting"] for c in data["contrasts"]] == ["dropout"]
    assert "One setting at a time" in (folder / "comparison" / "comparison.md").read_text()
    with pytest.raises(UserError, match="interval=bootstrap needs 8 seeds"):
        run(folder, interval=Interval.bootstrap)
    with pytest.raises(UserError, match="metric=val/accuracy: no run measured it; there are: "):
        run(folder, metric="val/accuracy")
    capsys.readouterr()


def test_paths_that_lead_nowhere(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no run; `mambalab runs` lists"):
        run(tmp_path / "empty")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run("nowhere")


def test_paths_may_be_given_in_several_ways(run, sweep, tmp_path, capsys):
    folder = sweep()
    for name in ("sweeps/night", folder / "sweep.json"):
        assert run(name) == 0
        assert f"files: {folder / 'comparison'}" in capsys.readouterr().out
    assert run(folder / "ssm" / "s1" / "config.yaml") == 0


def test_a_plain_function_for_other_verbs(sweep, tmp_path):
    folder = sweep()
    found = compare_folders([folder / "none", folder / "ssm"], baseline="ssm")
    assert [g.verdict for g in found.groups] == ["baseline", "worse"]
    assert compare_folders(["latest"], tmp_path).baseline == "dropout=none"


def test_the_command_line(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep()
    assert (
        main.main(["compare", "sweeps/night/none", "sweeps/night/ssm", "baseline=dropout=ssm"]) == 0
    )
    assert "baseline: dropout=ssm\n" in capsys.readouterr().out
    assert main.main(["compare", "latest", "output_dir=.", "to=1.6"]) == 0
    assert "reached: runs that came to val/loss 1.6 " in capsys.readouterr().out
    assert main.main(["compare", "nowhere"]) == 1
    assert main.main(["compare"]) == 2
    assert main.main(["compare", "x", "mlflow=y"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("error: ")[2][:30] for line in lines] == [
        "nowhere: no such folder; `mamb",
        "compare: which runs? e.g. mamb",
        "compare: give paths or mlflow=",
    ]

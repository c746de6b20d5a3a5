import json
import shlex
import sys

import pytest

pytest.importorskip("optuna")

import mambalab
from mambalab.compare import pictures, search, select
from mambalab.compare.files import write
from mambalab.compare.markdown import markdown
from mambalab.compare.measures import Metric
from mambalab.compare.results import RANKED
from mambalab.compare.text import terminal
from mambalab.plots.colours import BLACK
from mambalab.records.reader import read_run
from mambalab.report import latex, subject
from tests.records.example_runs import make_run

RATES = [1.2345678901234567e-4 * 1.5**i for i in range(12)]
COMMAND = ["task=text", "sweep.search=tpe", "optim.lr=1", "'a b'=c", "seed=7", "sweep.trials=9",
           "task.tune=true", "sweep.params={optim.lr: {low: 1e-4}}"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A search of a rate and a width, the width without effect; one pruned, one failed."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path_factory.mktemp("sweep")
    storage = JournalStorage(JournalFileBackend(str(path / search.STUDY)))
    study = optuna.create_study(storage=storage, study_name="s")
    kinds = {"optim.lr": FloatDistribution(1e-4, 1e-1, log=True),
             "model.d_model": CategoricalDistribution([16, 32])}  # fmt: skip
    study.ask(kinds)
    states = {}
    for i, lr in enumerate(RATES):
        best, name = 1 + 0.1 * abs(i - 7), f"job{i}"
        states[name] = {"status": "FINISHED"}
        status, lines = "FINISHED", [{"step": 10, "val/loss": best}, {"step": 20, "val/loss": 3}]
        if i == 0:
            states[name], status = {"status": "PRUNED"}, "KILLED"
        if i == 1:
            states[name], status, lines = {"status": "FAILED"}, "FAILED", []
        make_run(path / name, lines=lines, summary={"status": status}, optim={"lr": lr},
                 model={"name": "mamba", "d_model": (16, 32)[i % 2]},
                 task={"name": "toy", "tune": True})  # fmt: skip
    (path / "sweep.json").write_text(json.dumps({"jobs": states, "command": COMMAND}))
    return path


@pytest.fixture(scope="module")
def found(folder):
    return select.compare_folders([folder])


def test_trials_are_ranked_and_have_no_baseline(found):
    assert found.is_ranked
    assert (found.baseline, found.dropout) == ("", [])
    assert {group.verdict for group in found.groups} == {RANKED}
    assert found.groups[0].best.mean == 1.0
    assert found.search.best.name == "job7"
    assert [trial.state for trial in found.search.trials[-2:]] == ["pruned", "failed"]
    assert found.search.ranges["optim.lr"] == search.Range(1e-4, 1e-1, log=True)
    assert found.search.ranges["model.d_model"].choices == (16, 32)


def test_a_baseline_that_is_named_is_taken(folder):
    one = select.compare_folders([folder], baseline="lr=0.00141")
    assert (one.baseline, one.is_ranked) == ("optim.lr=0.00141", False)
    assert "train it: " in terminal(one)


def test_the_best_comes_with_the_command_that_trains_it_to_be_reported(found):
    words = shlex.split(found.search.train)
    assert words == ["mambalab", "train", "-m", "task=text", "'a b'=c",
                     f"optim.lr={RATES[7]!r}", "model.d_model=32", "task.tune=false",
                     "seed=1,2,3"]  # fmt: skip
    shown = terminal(found)
    assert f"train it: {found.search.train}" in shown
    assert "best: val/loss 1.0000 with optim.lr=0.00211 model.d_model=32 (job7)" in shown
    assert found.search.train in markdown(found)
    narrow = terminal(found, 40).splitlines()
    assert f"train it: {found.search.train}" in narrow  # one line, to be copied
    assert all(len(line) <= 40 for line in narrow if not line.startswith("train it: "))


def test_an_experiment_that_is_a_search_is_trained_as_a_grid():
    line = search._command(["experiment=a/search"], {"optim.lr": 0.1}, tuned=False)
    assert line == "mambalab train -m experiment=a/search optim.lr=0.1 sweep.search=grid seed=1,2,3"


def test_tables_have_few_digits(found):
    rows = [line.split() for line in terminal(found).splitlines() if line.lstrip()[:1].isdigit()]
    assert [row[1] for row in rows[:3]] == ["0.00211", "0.00141", "0.00316"]
    assert all(len(group.label) < 35 for group in found.groups)


def test_a_value_is_the_choice_that_it_equals(tmp_path):
    ranges = {"dropout.p": search.Range(choices=(0, 0.1)), "model.tied": search.Range(choices=(1,))}
    model = {"name": "mamba", "tied": True}
    run = read_run(make_run(tmp_path / "job", dropout="none", model=model))
    trial = search._trial(search.Searched(tmp_path, ranges, {}, []), run, Metric("val/loss", False))
    assert trial is not None
    assert [str(value) for value in trial.values.values()] == ["0", "True"]


def test_importance_needs_no_further_package(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    shares = search._importance(found.search.ranges, found.search.trials, found.metric)
    assert shares == found.search.importance
    assert list(shares) == ["optim.lr", "model.d_model"]
    assert sum(shares.values()) == pytest.approx(1)
    assert not search._importance(found.search.ranges, found.search.trials[:9], found.metric)


def test_the_picture_has_a_panel_for_each_range_with_the_best_marked(found):
    drawn = dict(pictures._pictures(found))
    assert list(drawn) == ["search", "importance", "curves"]
    rate, width = drawn["search"].axes
    assert (rate.get_xscale(), width.get_xscale()) == ("log", "linear")
    assert rate.get_xlabel() == "learning rate (log scale)"
    assert [t.get_text() for t in width.get_xticklabels()] == ["16", "32"]
    lines = {line.get_label(): line for line in rate.lines}
    assert (lines["best"].get_color(), *lines["best"].get_xdata()) == (BLACK, RATES[7])
    assert len(lines["finished"].get_xdata()) == 10
    assert list(lines["pruned"].get_xdata()) == [RATES[0]]
    assert list(lines["failed"].get_xdata()) == [RATES[1]]
    assert "(10 finished, 1 pruned, 1 failed)" in drawn["search"].get_suptitle()


def test_a_study_that_cannot_be_read_leaves_an_ordinary_comparison(folder, tmp_path):
    (tmp_path / search.STUDY).write_text("no journal\n")
    (tmp_path / "sweep.json").write_text("{}")
    assert search.read(tmp_path) is None


def test_the_best_is_a_file_beside_the_comparison(found, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    names = [path.name for path in write(found, tmp_path)]
    assert "best.txt" in names
    assert (tmp_path / "best.txt").read_text().splitlines()[-1].endswith("seed=1,2,3")
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["search"]["train"] == found.search.train


def test_a_report_and_python_know_a_search_too(folder):
    subject_ = subject.of_folders([folder])
    assert subject_.comparison is not None
    text = latex.table(subject_.comparison)
    for comparison in (subject_.comparison, mambalab.compare(folder).found):
        assert comparison.is_ranked
        assert comparison.search is not None
        assert comparison.search.best.name == "job7"
    assert "too few seeds" not in text
    assert "ifference" not in text
    assert "by rank" not in text

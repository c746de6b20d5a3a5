import os
from pathlib import Path

import pytest

from mambalab.cli import main
from mambalab.commands import report as report_verb
from mambalab.errors import UserError
from mambalab.report import figures, pdf
from tests.lab import compose, one_line
from tests.records.example_runs import make_group, make_run
from tests.report.html_check import check


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Pictures are drawn elsewhere."""
    for name in ("of_run", "of_comparison", "of_table"):
        monkeypatch.setattr(figures, name, lambda *_: [])


@pytest.fixture
def sweep(workdir):
    """A sweep of two groups in ./outputs, and an older run beside it."""
    folder = workdir / "outputs" / "sweeps" / "night"
    make_group(folder / "none", [1.5, 1.52, 1.51])
    for i in range(1, 4):
        make_run(folder / f"ssm{i}", [3.0, 1.4 + i / 100], dropout="ssm", seed=i)
    (folder / "sweep.json").write_text("{}")
    old = make_run(workdir / "outputs" / "old", name="Old one")
    for name in ("config.yaml", "metrics.jsonl"):
        os.utime(old / name, (1_000_000_000, 1_000_000_000))
    return folder


def run(*words: str) -> int:
    return main.main(["report", *words])


def test_what_was_trained_last_is_reported_in_its_own_folder(sweep, capsys):
    assert run() == 0
    assert capsys.readouterr().out == "outputs/sweeps/night/report.html\n"
    found = check((sweep / "report.html").read_text())
    assert "Sweep: toy" in found.text
    for name in ("config.yaml", "metrics.jsonl"):
        os.utime(sweep.parents[1] / "old" / name, (2_000_000_000, 2_000_000_000))
    assert run("latest") == 0
    assert capsys.readouterr().out == "outputs/old/report.html\n"


def test_runs_that_were_set_aside_are_reported_only_by_name(sweep, capsys):
    make_run(Path("outputs/night/a.old1"))
    assert run("outputs/night") == 1
    assert "a.old1: set aside by resume=never, and no other run" in one_line(capsys)
    assert run("outputs/night/a.old1") == 0


def test_any_runs_are_reported_as_compare_takes_them(sweep, capsys):
    assert run("outputs/sweeps/night/none", "outputs/sweeps/night/ssm1", "to=1.6") == 0
    path = capsys.readouterr().out.strip()
    assert path.startswith("outputs/comparisons/")
    text = check(Path(path).read_text()).text
    assert "Cost, and the way to 1.6" in text
    assert run("outputs/old", "out=mine.html", "title=<Mine>") == 0
    assert "<h1>&lt;Mine&gt;</h1>" in Path("mine.html").read_text()
    assert run("outputs/old", "out=.") == 0
    assert os.path.isfile("report.html")


def test_the_table_for_latex(sweep, capsys):
    assert run("latest", "out=table.tex", "baseline=ssm") == 0
    assert "\\bottomrule" in Path("table.tex").read_text()
    assert run("latest", "format=latex") == 0
    assert (sweep / "report.tex").is_file()
    (sweep.parents[1] / "old" / "summary.json").write_text("{}")
    assert run("outputs/old", "format=latex") == 1
    assert "format=latex: no run has finished" in capsys.readouterr().err


def test_a_pdf_is_printed_by_a_browser(sweep, monkeypatch, capsys):
    monkeypatch.setattr(pdf, "browser", lambda: "browser")
    monkeypatch.setattr(pdf, "write", lambda page, target: target.write_text(page))
    assert run("outputs/old", "format=pdf") == 0
    assert "Old one" in (sweep.parents[1] / "old" / "report.pdf").read_text()

    def none():
        raise UserError("format=pdf: no browser")

    monkeypatch.setattr(pdf, "browser", none)
    assert run("outputs/old", "out=x.pdf") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "mambalab: error: format=pdf: no browser"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["out=report.doc"], 2, "out=report.doc: a report ends in .html, .pdf or .tex"),
        (["out=report.html", "format=latex"], 2, "format=latex writes no .html; leave one out"),
        (["latest", "mlflow=toy"], 2, "give paths or mlflow=EXPERIMENT, not both"),
        (["nowhere"], 1, "nowhere: no such folder"),
        (["output_dir=empty"], 1, "no run below empty"),
        (["latest", "baseline=gpt"], 1, "baseline=gpt is no group"),
        (["latest", "out=text.txt/x.html"], 1, "cannot write text.txt/x.html"),
        (["format=word"], 2, "format=word: expected html, pdf or latex"),
    ],
)
def test_a_mistake_is_one_line(sweep, write, capsys, words, status, message):
    write("text.txt", "no folder")
    assert run(*words) == status
    errors = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert len(errors) == 1
    assert message in errors[0]


def test_nothing_is_written_through_a_link(sweep, workdir, capsys):
    (workdir / "elsewhere").write_text("mine")
    (sweep / "report.html").symlink_to(workdir / "elsewhere")
    assert run("latest") == 1
    assert "is a link" in capsys.readouterr().err
    assert (workdir / "elsewhere").read_text() == "mine"


def test_what_is_damaged_is_said(sweep, capsys):
    old = sweep.parents[1] / "old"
    (old / "metrics.jsonl").write_text("damaged\n")
    assert run("outputs/old") == 0
    said = capsys.readouterr()
    assert "metrics.jsonl is damaged at byte 0" in said.err
    assert said.out == "outputs/old/report.html\n"


def test_runs_of_an_experiment_are_reported_without_folders(sweep, monkeypatch, capsys):
    from mambalab.records.reader import StoredRun
    from mambalab.tracking import mlflow_reader

    whole = make_group(sweep.parent / "more", [1.5, 1.4])
    kept = [StoredRun(sweep / "gone", r.config, r.summary, r.curves) for r in whole]
    monkeypatch.setattr(mlflow_reader, "read", lambda *_: kept)
    assert run("mlflow=toy", "out=x.html") == 0
    assert "Comparison: toy" in Path("x.html").read_text()


def test_the_format_follows_the_name():
    settings = compose("report", ["out=a/b.PDF"])
    assert settings.chosen_format is report_verb.Format.pdf
    assert compose("report", []).chosen_format is report_verb.Format.html

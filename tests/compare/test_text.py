import re

import pytest

from mambalab.compare.comparison import compare
from mambalab.compare.markdown import escape, markdown
from mambalab.compare.statistics import Estimate
from mambalab.compare.text import duration, interval, p_value, terminal
from mambalab.records.reader import read_run
from mambalab.utils.text import table
from tests.records.example_runs import make_group, make_run

STEERING = re.compile(r"[^\n -~±…−]")


def ignore(key: str) -> bool:
    return key in ("seed", "device")


@pytest.fixture
def found(tmp_path):
    killed = make_run(tmp_path / "killed", summary={"status": "KILLED"}, seed=9)
    records = [
        *make_group(tmp_path / "a", [1.50, 1.52, 1.51], rise=0.3),
        *make_group(tmp_path / "b", [1.40, 1.43, 1.41], dropout="ssm"),
        read_run(killed),
    ]
    return compare(records, ignore=ignore)


def test_the_terminal_shows_what_matters(found, tmp_path):
    lines = terminal(found).splitlines()
    assert lines[0].startswith("toy: val/loss (less is better), means over seeds with 95 %")
    why = "the first without dropout; baseline=LABEL takes another"
    assert lines[1] == f"baseline: dropout=none ({why})"
    assert lines[3].split("  ")[0] == "group"
    assert re.split(r"  +", lines[4]) == [
        "dropout=ssm",
        "3",
        "1.4133 ± 0.0379",
        "1.4133 ± 0.0379",
        "-0.0967 ± 0.0143",
        "0.0012",
        "better",
    ]
    assert re.split(r"  +", lines[8]) == [
        "dropout=ssm",
        "0.4133 ± 0.0379",
        "0.0000 ± 0.0000",
        "3 of 3",
        "1.0 min",
        "1,920",
        "500",
        "1,000",
        "1.3",
    ]
    assert "validation loss turns up without dropout: +0.3000" in terminal(found)
    assert lines[-1] == f"left out: {tmp_path / 'killed'}: KILLED"


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_comparison_fits_a_narrow_terminal(found, tmp_path, columns):
    text = terminal(found, columns)
    long = [line for line in text.splitlines() if len(line) > columns]
    assert all(str(tmp_path) in line for line in long), long  # a path is never broken
    assert " ".join(text.split()).count("dropout=ssm 3 1.4133 ± 0.0379") == 1
    assert terminal(found, 500) == terminal(found)


def test_tables_fit_a_terminal_whatever_the_labels(tmp_path):
    names = ["m" * 60, "a model with quite a long name", "x"]
    seeds = [1.0, 1.2] * 4
    records = [
        record
        for i, name in enumerate(names)
        for p in ("none", "ssm")
        for record in make_group(tmp_path / f"{i}{p}", seeds, rise=0.2, dropout=p, model__name=name)
    ]
    for bootstrap in (False, True):
        text = terminal(compare(records, ignore=ignore, bootstrap=bootstrap))
        tables = [part for part in text.split("\n\n") if part.startswith("group")]
        assert len(tables) == 2
        assert max(len(line) for part in tables for line in part.splitlines()) <= 120


def test_many_runs_left_out_are_summed_up(tmp_path):
    killed = [
        read_run(make_run(tmp_path / f"killed{i}", summary={"status": "KILLED"}, seed=i))
        for i in range(13)
    ]
    found = compare([*killed, read_run(make_run(tmp_path / "good"))], ignore=ignore)
    assert terminal(found).splitlines()[-1] == "left out: and 3 more runs"
    assert markdown(found).count(": KILLED") == 13


def test_markdown_holds_everything(found):
    text = markdown(found, ["best.png"])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| dropout=ssm")]
    results, overfitting, costs = rows
    assert results[1:5] == ["1, 2, 3", "1.4133 ± 0.0379", "1.4133 ± 0.0379", "-0.0967 ± 0.0143"]
    assert results[5:] == ["3", "0.0012", "0.0012", "better |"]
    assert overfitting[1:] == [
        "0.4133 ± 0.0379",
        *["0.0000 ± 0.0000"] * 2,
        "0.0000 ± 0.0000 |",
    ]
    assert costs[1:] == ["3 of 3", "30", "1.0 min", "1,920", "1,000", "500", "40", "1.3 |"]
    assert "![best.png](best.png)" in text
    assert "| dropout.ssm\\_p | 0.1 | 0.0 |" in text
    assert "- validation loss turns up without dropout" in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_strangers_words_are_harmless(tmp_path):
    name = "\x1b[2Jevil | <script> `x`\n# title"
    records = [
        read_run(make_run(tmp_path / "a", task__name=name, model__name=name)),
        read_run(make_run(tmp_path / "b", task__name=name, model__name="b", seed="\x1b]0;x")),
    ]
    found = compare(records, ignore=ignore)
    assert STEERING.search(terminal(found)) is None
    text = markdown(found)
    assert STEERING.search(text) is None
    assert "<script>" not in text
    assert not [line for line in text.splitlines() if line.startswith("# title")]


@pytest.mark.parametrize(
    ("estimate", "bootstrap", "text"),
    [
        (None, False, "-"),
        (Estimate(1, 1.23456), False, "1.2346"),
        (Estimate(3, 1.5, 1.25, 1.75), False, "1.5000 ± 0.2500"),
        (Estimate(3, 1.5, 1.25, 1.85), True, "1.5000 (1.2500 to 1.8500)"),
        (Estimate(3, 2.5e-8, 2e-8, 3e-8), False, "2.5e-08 ± 5.0e-09"),
        (Estimate(2, 0.0, 0.0, 0.0), False, "0.0000 ± 0.0000"),
    ],
)
def test_intervals_in_words(estimate, bootstrap, text):
    assert interval(estimate, bootstrap=bootstrap) == text


def test_small_words():
    assert [duration(s) for s in (None, 4.25, 90, 9000)] == ["-", "4.2 s", "1.5 min", "2.50 h"]
    assert [p_value(p) for p in (None, 0.25, 1e-7)] == ["-", "0.2500", "<0.0001"]
    assert interval(Estimate(1, 0.5), sign="+") == "+0.5000"
    assert escape("a|b*c") == "a\\|b\\*c"


def test_cells_of_several_lines():
    rows = [[["long", "label"], "1"], ["x\ny", "23"]]
    assert table(["name", "n"], rows, right={"n"}).splitlines() == [
        "name    n",
        "long    1",
        "label",
        "x?y    23",
    ]

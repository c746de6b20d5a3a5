import csv
import json

import pytest

from mambalab.compare.comparison import compare
from mambalab.compare.files import write
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from tests.records.example_runs import make_group, make_run

PICTURES = ["curves", "best", "overfitting"]


def ignore(key: str) -> bool:
    return key in ("seed", "device")


@pytest.fixture
def found(tmp_path):
    return compare(
        [
            *make_group(tmp_path / "a", [1.50, 1.52, 1.51], rise=0.3),
            *make_group(tmp_path / "b", [1.40, 1.43], dropout="ssm"),
        ],
        ignore=ignore,
    )


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_written_and_returned(found, tmp_path):
    folder = tmp_path / "deep" / "comparison"
    paths = write(found, folder)
    names = ["comparison.md", "comparison.csv", "runs.csv", "comparison.json"]
    names += [f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")]
    assert [path.name for path in paths] == names
    assert sorted(folder.iterdir()) == sorted(paths)
    text = (folder / "comparison.md").read_text()
    assert [f"![{name}.png]({name}.png)" in text for name in PICTURES] == [True] * 3
    before = {path: path.read_bytes() for path in paths if path.suffix in (".csv", ".json", ".md")}
    write(found, folder)
    assert {path: path.read_bytes() for path in before} == before


def test_a_row_for_each_group_and_run(found, tmp_path):
    write(found, tmp_path / "out")
    first, second = read_csv(tmp_path / "out" / "comparison.csv")
    assert (first["group"], first["verdict"], first["seeds"]) == (
        "dropout=ssm",
        "too few seeds",
        "1 2",
    )
    assert float(first["best"]) == pytest.approx(1.415)
    assert float(first["difference"]) == pytest.approx(-0.095)
    assert float(first["difference_low"]) < -0.095 < float(first["difference_high"])
    assert (first["setting dropout.ssm_p"], first["common_seeds"]) == ("0.1", "2")
    assert (second["verdict"], second["difference"], second["p"]) == ("baseline", "", "")
    assert list(first)[-3:] == [f"setting dropout.{key}" for key in ("name", "p", "ssm_p")]
    runs = read_csv(tmp_path / "out" / "runs.csv")
    assert [(r["group"], r["seed"], r["best"], r["goal_tokens"]) for r in runs] == [
        ("dropout=ssm", "1", "1.4", "1920"),
        ("dropout=ssm", "2", "1.43", "1920"),
        ("dropout=none", "1", "1.5", "1920"),
        ("dropout=none", "2", "1.52", ""),  # the goal is 1.51
        ("dropout=none", "3", "1.51", "1920"),
    ]


def test_json_holds_all_that_was_found(found, tmp_path):
    write(found, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (data["task"], data["metric"], data["baseline"]) == ("toy", "val/loss", "dropout=none")
    (ssm, none) = data["groups"]
    assert ssm["difference"]["seeds"] == [1, 2]
    assert ssm["best"]["n"] == 2
    assert none["rise"]["mean"] == pytest.approx(0.3)
    assert [run["seed"] for run in none["runs"]] == [1, 2, 3]
    assert data["warnings"][0].startswith("only 2 seeds in common")


def test_hostile_words_reach_no_file_as_they_are(tmp_path):
    evil = {"task__name": "t$\\frac$\x1b[2J", "model__name": "_漢字 $x_1$ \udcff|"}
    records = [
        read_run(make_run(tmp_path / "a", **evil)),
        read_run(make_run(tmp_path / "b", **{**evil, "model__name": 'b\n,"c'}, seed=2)),
    ]
    paths = write(compare(records, ignore=ignore), tmp_path / "out")
    for path in paths:
        if path.suffix != ".png":
            assert "\x1b" not in path.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_line(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        write(found, tmp_path / "file")
    (tmp_path / "out" / "comparison.md").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write to"):
        write(found, tmp_path / "out")

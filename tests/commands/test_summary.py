"""`mambalab summary`: what is printed, and that nothing is written."""

import csv
import io
import json
import os

import pytest

from mambalab.cli import main
from mambalab.commands.summary import short_number
from tests.lab import TINY, one_line

TEXT = [word for word in TINY if not word.startswith("trainer")]


def test_as_table_csv_and_json_and_nothing_is_written(folder, capsys):
    before = sorted(os.listdir(folder))
    assert main.main(["summary", *TEXT]) == 0
    shown = capsys.readouterr().out
    assert "backbone.layers.1   MambaBlock  (4, 32, 16)" in shown
    assert "a multiply-add is 2" in shown
    assert main.main(["summary", *TEXT, "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layers, memory = found["layers"], found["memory"]
    assert f"parameters  {found['parameters']:,}, of them" in shown
    assert memory["total_bytes"] == sum(v for k, v in memory.items() if k != "total_bytes")
    assert main.main(["summary", *TEXT, "format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["layer"] for row in rows] == [layer["layer"] for layer in layers]
    assert sorted(os.listdir(folder)) == before


def test_it_fits_a_narrow_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr("mambalab.utils.console.columns", lambda stream: 60)
    assert main.main(["summary", *TEXT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines if "backbone.layers.1" in line] == [
        "backbone.layers.1"
    ] * 2  # a second table has the columns that found no room


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latest"], "no run"),
        (["task=text", "task.path=absent.txt"], "absent.txt"),
        (["model=pretrained", "model.pretrained=x"], "give a run that began with it"),
        (["sweep.trials=3"], "good for several runs only"),
    ],
)
def test_errors_are_one_line(folder, words, message, capsys):
    assert main.main(["summary", *words]) != 0
    assert message in one_line(capsys)


def test_a_class_that_needs_real_numbers_is_one_line(folder, write, capsys, monkeypatch):
    write(
        "own.py",
        "from torch import nn\n\n\nclass Own(nn.Module):\n"
        "    def __init__(self, settings, dropout, spec):\n        super().__init__()\n"
        "        self.e = nn.Embedding(spec.vocab_size, 8)\n        self.h = nn.Linear(8, 41)\n\n"
        "    def forward(self, x):\n        y = self.h(self.e(x))\n"
        "        return y * y.max().item()\n",
    )
    monkeypatch.syspath_prepend(str(folder))
    assert main.main(["summary", *TEXT, "model._target_=own.Own"]) == 1
    line = one_line(capsys)
    assert line.startswith("mambalab: error: model._target_=own.Own: its forward asks for the")
    assert "DataDependent" not in line


def test_numbers_are_short():
    assert [short_number(x) for x in (0, 12, 999.7, 1532672, 2e18)] == [
        "0", "12", "1 k", "1.53 M", "2e+03 P"
    ]  # fmt: skip

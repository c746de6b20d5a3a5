"""A verb is one record, one file and its values: nothing else knows of it."""

import textwrap

import pytest

from mambalab import commands
from mambalab.cli import main
from mambalab.cli.completion import candidates
from mambalab.cli.verbs import VERBS, Verb

FILE = """
    from dataclasses import dataclass
    from enum import Enum

    from mambalab.settings.rules import option
    from mambalab.utils import console


    class Colour(Enum):
        red = "red"
        green = "green"


    @dataclass
    class ToySettings:
        colour: Colour = option("what to paint with")
        times: int = option("coats of paint", ge=1)
        things: list[str] = option("what to paint")


    def words(before):
        return ["table"] if before else []


    def run(settings):
        for thing in settings.things:
            console.result(f"{thing} {settings.colour.name} x{settings.times}")
        return 0
    """
RECORD = Verb(
    "toy",
    "paint things",
    "ToySettings",
    usage="COLOUR THING ...",
    examples=("toy red table",),
    note="Mind the carpet.",
    positional=("colour", "things..."),
)


@pytest.fixture(autouse=True)
def toy(workdir, write, monkeypatch):
    write("conf/toy.yaml", "# mambalab toy\n\ncolour: red\ntimes: 1\nthings: []\n")
    write("verbs/toy.py", textwrap.dedent(FILE))
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(workdir / "verbs")])
    monkeypatch.setitem(VERBS, "toy", RECORD)


def test_help(capsys):
    assert main.main(["--help"]) == 0
    assert "  toy          paint things\n" in capsys.readouterr().out
    assert main.main(["toy", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mambalab toy: paint things\n\nusage: mambalab toy COLOUR THING ...\n")
    assert "what to paint with (red | green)" in out
    assert out.endswith("Mind the carpet.\n\nexamples\n  mambalab toy red table\n")


def test_completion(monkeypatch):
    assert candidates([], "to") == ["toy"]
    assert "times=" in candidates(["toy"], "")
    assert candidates(["toy"], "colour=g") == ["colour=green"]
    assert candidates(["toy"], "-") == ["--help", "--cfg"]
    monkeypatch.setitem(VERBS, "toy", Verb("toy", "", "ToySettings", positional=("colour",)))
    assert candidates(["toy"], "r") == ["red"]
    assert candidates(["toy", "red"], "") == ["colour=", "times=", "things="]
    keys = ("colour", "things")
    with_words = Verb("toy", "", "ToySettings", positional=keys, words="words")
    monkeypatch.setitem(VERBS, "toy", with_words)
    assert candidates(["toy"], "g") == ["green"]
    assert candidates(["toy", "red"], "ta") == ["table"]


def test_the_configuration_is_shown(capsys):
    assert main.main(["toy", "green", "door", "--cfg", "job"]) == 0
    assert capsys.readouterr().out == "colour: green\ntimes: 1\nthings:\n- door\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toi", "did you mean toy?"),
        ("toy time=2", "time: no such key; did you mean times?"),
        ("toy times=0", "times=0: must be at least 1"),
        ("toy gren", "colour=gren: expected red or green; did you mean green?"),
        ("toy -m", "only mambalab train can run several jobs"),
    ],
)
def test_a_slip_is_one_line(line, message, capsys):
    assert main.main(line.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_it_runs(capsys):
    assert main.main(["toy", "red", "table", "door", "times=2"]) == 0
    assert capsys.readouterr().out == "table red x2\ndoor red x2\n"


def test_the_values_are_the_yamls(write, capsys):
    write("conf/toy.yaml", "# mambalab toy\n\ncolour: green\ntimes: 4\nthings: [roof]\n")
    assert main.main(["toy"]) == 0
    assert capsys.readouterr().out == "roof green x4\n"

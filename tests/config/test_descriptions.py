import re

import pytest

from mambalab.cli.help import verb_help
from mambalab.cli.main import main
from mambalab.cli.verbs import VERBS
from mambalab.config import paths
from mambalab.config.descriptions import about, is_sweep, listed

pytestmark = pytest.mark.usefixtures("workdir")
OPTIONS = [(group, name) for group, names in paths.groups().items() for name in names]


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_every_option_says_what_it_is_for(group, name):
    text = about(group, name)
    assert text.endswith((".", "?")), text
    assert 10 < len(text) < 200


@pytest.mark.parametrize("name", paths.options("experiment"))
def test_every_experiment_says_how_long_it_takes(name):
    assert re.search(r"minute|hour|day|week|not timed yet", about("experiment", name))


def test_the_help_tells_it(write):
    write(
        "conf/trainer/mine.yaml",
        "# conf/trainer/mine.yaml\n# Mine (of 2, e.g. here)\n# goes on. And more.\nseed: 1\n",
    )
    write("conf/trainer/mute.yaml", "seed: 1 # no\n")
    text = verb_help(VERBS["train"], [])
    assert "    ssm_only      Dropout inside the state space only." in text
    assert "    smoke    A few steps, to see that everything works: a new task" in text
    assert "    mine     Mine (of 2, e.g. here) goes on.\n    mute\n" in text


def test_an_experiment_of_several_runs(write):
    assert is_sweep("shakespeare/dropout")
    assert is_sweep("shakespeare/reset_A_gpu")  # by the one that it builds on
    assert not is_sweep("quickstart")


def test_experiments_are_listed(write, capsys):
    write("conf/experiment/own.yaml", "# @package _global_\n# My \x1b[31mown.\nseed: 2\n")
    assert main(["experiments"]) == 0
    out = capsys.readouterr().out
    assert "own                           My ?[31mown.\n" in out
    assert "shakespeare/dropout (-m)      Whether SSM dropout" in out
    assert "(-m) are sweeps of several runs" in out
    assert main(["experiments", "digits"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "mambalab train experiment=diffusion/digits"
    assert main(["experiments", "nothing"]) == 1
    assert "none has nothing in its name" in capsys.readouterr().err


def test_tasks_are_listed(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^{name} +\S", out, re.MULTILINE) for name in paths.options("task"))
    assert main(["tasks", "text"]) == 0
    assert capsys.readouterr().out.endswith("mambalab train task=text --help\n")
    assert main(["tasks", "nothing"]) == 1


def test_a_long_name_has_a_line_for_itself():
    assert listed([("a", "b c"), ("x" * 30, "d")], 60).splitlines() == [
        f"a{' ' * 29}b c",
        "x" * 30,
        f"{' ' * 30}d",
    ]


def test_an_experiment_without_its_package_says_what_to_add(write, capsys):
    write("conf/experiment/plain.yaml", "defaults:\n  - override /model: transformer\nseed: 3\n")
    assert main(["train", "experiment=plain", "--cfg", "job"]) == 2
    assert "experiment/plain.yaml lacks its first line, # @package _global_" in (
        capsys.readouterr().err
    )

import shlex

import pytest

from mambalab.cli.help import verb_help
from mambalab.cli.verbs import VERBS
from mambalab.config.compose import compose
from mambalab.config.overrides import prepare
from mambalab.config.paths import options
from mambalab.config.schema import TASK_SETTINGS, walk
from mambalab.errors import UserError
from mambalab.settings.task import TextSettings

WITH_SETTINGS = [verb for verb in VERBS.values() if verb.settings]
TRAIN, SYNC, GENERATE = VERBS["train"], VERBS["sync"], VERBS["generate"]

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.mark.parametrize("verb", WITH_SETTINGS, ids=lambda verb: verb.name)
def test_every_option_is_listed_with_its_help(verb):
    text = verb_help(verb, [])
    lines = text.splitlines()
    for option in walk(verb.settings_class(), {"task": TextSettings}):
        assert any(line.startswith(f"  {option.key} ") for line in lines), option.key
        assert option.help.split()[0] in text
    assert max(map(len, lines)) <= 110
    assert text.startswith(f"mambalab {verb.name}: {verb.summary}\n")


@pytest.mark.parametrize("name", options("task"))
def test_the_options_of_each_task_are_listed(name):
    text = verb_help(TRAIN, [f"task={name}"])
    target = compose("train", [f"task={name}"]).task._target_
    for option in walk(TASK_SETTINGS[target], prefix="task."):
        assert f"\n  {option.key} " in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("verb", WITH_SETTINGS, ids=lambda verb: verb.name)
def test_the_examples_are_right(verb):
    assert verb.examples
    for example in verb.examples:
        given_verb, *words = shlex.split(example)
        assert given_verb == verb.name
        overrides = [w for w in words if "=" in w]
        prepare(verb.name, overrides, "-m" in words, verb.settings_class())


def test_groups_show_their_options_and_the_chosen_one(write):
    write("conf/model/mine.yaml", "defaults: [mamba, _self_]\n")
    text = verb_help(TRAIN, ["task=shakespeare"])
    assert " shakespeare* text text8 " in " ".join(text.split())
    models = "hybrid mamba* mine pretrained transformer transformer_equal_depth"
    assert f" model {models} " in " ".join(text.split())
    assert "_base" not in text


def test_values_are_those_of_the_command_line():
    assert "\n  optim.lr                  0.5 " in verb_help(TRAIN, ["optim.lr=0.5"])
    assert '\n  prompt              "\\n" ' in verb_help(GENERATE, ["prompt=\\n"])


def test_choices_are_listed():
    assert "(cosine | exponential | constant)" in " ".join(verb_help(TRAIN, []).split())


def test_help_does_not_insist_on_what_the_verb_needs():
    assert "usage: mambalab sync RUN ..." in verb_help(SYNC, [])


def test_narrow_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    rows = verb_help(TRAIN, []).split("\noptions")[1].split("\nexamples")[0].splitlines()
    assert max(map(len, rows)) <= 72


def test_mistakes_are_found_here_too():
    with pytest.raises(UserError, match="did you mean shakespeare"):
        verb_help(TRAIN, ["task=shakespear"])


def test_help_of_a_sweep_is_of_its_first_job():
    words = ["seed=7,8", "model=transformer,mamba", "sweep.params={optim.lr: [1e-3, 2e-3]}"]
    text = verb_help(TRAIN, words, multirun=True)
    assert "transformer*" in text
    (line,) = [line for line in text.splitlines() if line.startswith("  seed ")]
    assert line.split()[1] == "7"
    with pytest.raises(UserError, match="several values are a sweep"):
        verb_help(TRAIN, ["seed=7,8"])

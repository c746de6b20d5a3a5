import pytest

from mambalab.cli.help import EXAMPLES, verb_help
from mambalab.cli.verbs import VERBS
from mambalab.config.compose import compose
from mambalab.config.overrides import prepare
from mambalab.config.paths import options
from mambalab.config.schema import TASK_SETTINGS, VERB_SETTINGS, settings_class, walk
from mambalab.errors import UserError
from mambalab.settings.task import TextSettings

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.mark.parametrize("verb", VERB_SETTINGS)
def test_every_option_is_listed_with_its_help(verb):
    text = verb_help(verb, VERBS[verb], [])
    lines = text.splitlines()
    for option in walk(settings_class(verb), {"task": TextSettings}):
        assert any(line.startswith(f"  {option.key} ") for line in lines), option.key
        assert option.help.split()[0] in text
    assert max(map(len, lines)) <= 110
    assert text.startswith(f"mambalab {verb}: {VERBS[verb]}\n")


@pytest.mark.parametrize("name", options("task"))
def test_the_options_of_each_task_are_listed(name):
    text = verb_help("train", "x", [f"task={name}"])
    target = compose("train", [f"task={name}"]).task._target_
    for option in walk(TASK_SETTINGS[target], prefix="task."):
        assert f"\n  {option.key} " in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("verb", VERB_SETTINGS)
def test_the_examples_are_right(verb):
    for example in EXAMPLES[verb]:
        program, given_verb, *words = example.replace('"', "").split()
        assert (program, given_verb) == ("mambalab", verb)
        prepare(verb, [w for w in words if "=" in w], multirun="-m" in words)


def test_groups_show_their_options_and_the_chosen_one(write):
    write("conf/model/mine.yaml", "defaults: [mamba, _self_]\n")
    text = verb_help("train", "x", ["task=shakespeare"])
    assert "  shakespeare*  text\n" in text
    assert "  model           hybrid  mamba*  mine  pretrained  transformer\n" in text
    assert "_base" not in text


def test_values_are_those_of_the_command_line():
    assert "\n  optim.lr                  0.5 " in verb_help("train", "x", ["optim.lr=0.5"])
    assert '\n  prompt              "\\n" ' in verb_help("generate", "x", ["prompt=\\n"])


def test_choices_are_listed():
    assert "(cosine | exponential | constant)" in " ".join(verb_help("train", "x", []).split())


def test_help_does_not_insist_on_what_the_verb_needs():
    assert "usage: mambalab sync RUN ..." in verb_help("sync", "x", [])


def test_narrow_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    rows = verb_help("train", "x", []).split("\noptions")[1].split("\nexamples")[0].splitlines()
    assert max(map(len, rows)) <= 72


def test_mistakes_are_found_here_too():
    with pytest.raises(UserError, match="did you mean shakespeare"):
        verb_help("train", "x", ["task=shakespear"])

"""Classes of one's own that are not what they should be: one line each."""

import sys

import pytest

from mambalab import cli
from tests.commands.test_train import TINY, folder, one_line, only_run, summary  # noqa: F401

TASK = "defaults: [text, _self_]\n_target_: {name}.Own\n"
MODEL = "defaults: [_base, _self_]\nname: own\npattern: M\n_target_: {name}.Own\n"


@pytest.fixture
def own(folder, monkeypatch):  # noqa: F811
    """A function that writes a module with a class Own and the options task=own and model=own."""
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)
        for group, option in (("task", TASK), ("model", MODEL)):
            (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
            (folder / "conf" / group / "own.yaml").write_text(option.format(name=name))

    return write


def train(*options: str) -> int:
    words = [word for word in TINY if word != "task=text"]
    return cli.main(["train", *words, *options, "tracking=jsonl", "dropout=none"])


IMPORT = "from mambalab.tasks.base import Task\nfrom torch import nn\n"
TASKS = {
    "class Own: pass": "no Task; derive it from mambalab.tasks.base.Task",
    "class Own(Task): pass": "lacks the method batch, loss, measure, prepare of mambalab.tasks",
    "class Own(Task):\n def __init__(self, settings): pass\n"
    " batch = loss = measure = prepare = None": "its __init__ must take (settings, *, seed, "
    "data_dir, data_fraction): got an unexpected keyword argument",
}
MODELS = {
    "class Own: pass": "no Module; derive it from torch.nn.Module",
    "class Own(nn.Module):\n def __init__(self): pass": "its __init__ must take (settings, "
    "dropout, spec): too many positional arguments",
    "class Own(nn.Module):\n def __init__(self, a, b, c, d): pass": "missing a required argument",
}


@pytest.mark.parametrize(("group", "cases"), [("task", TASKS), ("model", MODELS)])
def test_a_class_that_does_not_fit_is_one_line(own, folder, capsys, group, cases):  # noqa: F811
    for number, (text, message) in enumerate(cases.items()):
        own(f"own_{group}_{number}", f"{IMPORT}{text}\n")
        other = [] if group == "task" else ["task=text"]
        assert train(f"{group}=own", *other) == 1
        line = one_line(capsys)
        assert f"{group}._target_=own_{group}_{number}.Own: " in line
        assert message in line
    assert not (folder / "outputs").exists()


def test_a_module_that_cannot_be_imported_is_one_line(own, capsys):
    own("own_broken", "\nclass Own(:\n")
    assert train("task=text", "model=own") == 1
    assert "own_broken.py, line 2: invalid syntax" in one_line(capsys)


STATELESS = """
class Own(nn.Module):
    def __init__(self, settings, dropout, spec):
        super().__init__()
        self.both = nn.Sequential(nn.Embedding(spec.vocab_size, 8), nn.Linear(8, spec.vocab_size))
    {more}
    def forward(self, tokens):
        return self.both(tokens)
"""
HALF = "def initial_state(self, batch_size, max_len): return None"


@pytest.mark.parametrize(
    ("name", "more", "lacking"),
    [
        ("none", "", "initial_state and context_limit and an argument `state` of forward"),
        ("half", HALF, "context_limit and an argument `state` of forward"),
    ],
)
def test_a_model_without_state_trains_but_cannot_generate(
    own,
    folder,  # noqa: F811
    capsys,
    name,
    more,
    lacking,
):
    own(f"own_stateless_{name}", IMPORT + STATELESS.format(more=more))
    assert train("task=text", "model=own") == 0
    shown = capsys.readouterr().err
    assert "scan" not in shown  # it has no Mamba layer of ours
    assert "backend" not in summary(only_run(folder))
    assert cli.main(["generate", f"trust=own_stateless_{name}"]) == 1
    assert f"its model Own lacks {lacking}" in one_line(capsys)


def test_task_and_model_of_ones_own_may_lie_in_two_modules(own, folder, capsys):  # noqa: F811
    own("own_two_tasks", "from mambalab.tasks.text import TextTask\nclass Own(TextTask): pass\n")
    kept = (folder / "conf/task/own.yaml").read_text()
    own("own_two_models", IMPORT + STATELESS.format(more=""))
    (folder / "conf/task/own.yaml").write_text(kept)
    assert train("task=own", "model=own") == 0
    assert train("task=own", "model=own", "trainer.max_steps=14") == 0
    assert "going on from step 12" in capsys.readouterr().err

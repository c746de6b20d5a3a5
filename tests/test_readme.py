"""The README's own example works as printed, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

from mambalab import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
SMALL = [
    "trainer=smoke",
    "trainer.max_steps=4",
    "tracking=jsonl",
    "model.d_model=16",
    "model.n_layer=2",
    "device=cpu",
]


def block(language: str, first_line: str) -> str:
    found = re.search(rf"```{language}\n({re.escape(first_line)}.*?)```", README, re.DOTALL)
    assert found, first_line
    return found[1]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    return tmp_path


def test_add_your_own_task(workplace, capsys):
    (workplace / "conf/task").mkdir(parents=True)
    (workplace / "conf/task/squares.yaml").write_text(block("yaml", "# conf/task/squares.yaml"))
    (workplace / "my_tasks.py").write_text(block("python", "# my_tasks.py"))
    assert cli.main(["train", "task=squares", *SMALL]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert cli.main(["train", "task=squares", *SMALL, "trainer.max_steps=6"]) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert cli.main(["eval"]) == 1
    assert "trust=my_tasks" in capsys.readouterr().err
    assert cli.main(["eval", "trust=[my_tasks]"]) == 0


def test_add_your_own_model(workplace, capsys):
    (workplace / "conf/model").mkdir(parents=True)
    (workplace / "conf/model/mine.yaml").write_text(
        "defaults:\n  - _base\n  - _self_\nname: mine\npattern: M\n"
        "_target_: my_models.Mine\nparams: {width: 8}\n"
    )
    (workplace / "my_models.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, settings, dropout, spec):\n"
        "        super().__init__()\n"
        "        self.embedding = nn.Embedding(spec.vocab_size, settings.params['width'])\n"
        "        self.head = nn.Linear(settings.params['width'], spec.vocab_size)\n"
        "    def forward(self, tokens):\n"
        "        return self.head(self.embedding(tokens))\n"
    )
    (workplace / "text.txt").write_text("to be or not to be, that is the question. " * 200)
    words = ["train", "task=text", "task.path=text.txt", "task.seq_len=16", "model=mine"]
    assert cli.main([*words, "trainer=smoke", "tracking=jsonl", "device=cpu"]) == 0
    assert "mine: " in capsys.readouterr().err


def test_names_in_the_tables_exist(capsys):
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    keys = set(re.findall(r"`?((?:task|model|dropout|optim|trainer)\.[a-z_A]+)", README))
    assert len(keys) > 15
    assert [
        key for key in sorted(keys) if not re.search(rf"^\s*{re.escape(key)} ", shown, re.M)
    ] == []
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / path).exists(), path


def test_the_operators_are_where_the_readme_says():
    from mambalab.models.heads import LanguageModel
    from mambalab.ops import causal_conv1d, selective_scan

    assert callable(LanguageModel)
    assert callable(causal_conv1d)
    u = torch.randn(1, 5, 3)
    y, state = selective_scan(
        u, u, -torch.rand(3, 2), u[..., :2], u[..., 1:], return_final_state=True
    )
    assert y.shape == (1, 5, 3)
    assert state.shape == (1, 3, 2)

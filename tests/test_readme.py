"""The README's own example works as printed, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

from mambalab.cli import main
from mambalab.config import paths
from mambalab.ops import causal_conv1d

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
    assert main.main(["train", "task=squares", *SMALL]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert main.main(["train", "task=squares", *SMALL, "trainer.max_steps=6"]) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert main.main(["eval"]) == 1
    assert "trust=my_tasks" in capsys.readouterr().err
    assert main.main(["eval", "trust=[my_tasks]"]) == 0


def test_add_your_own_classification(workplace, capsys):
    (workplace / "conf/task").mkdir(parents=True)
    (workplace / "conf/task/parity.yaml").write_text(block("yaml", "# conf/task/parity.yaml"))
    (workplace / "my_classes.py").write_text(block("python", "# my_classes.py"))
    assert main.main(["train", "task=parity", *SMALL]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert main.main(["eval", "split=test", "trust=my_classes"]) == 0
    assert "true, taken for" in capsys.readouterr().out


def test_add_your_own_model(workplace, capsys):
    (workplace / "conf/model").mkdir(parents=True)
    (workplace / "conf/model/mine.yaml").write_text(block("yaml", "# conf/model/mine.yaml"))
    (workplace / "my_models.py").write_text(block("python", "# my_models.py"))
    (workplace / "text.txt").write_text("to be or not to be, that is the question. " * 200)
    words = ["train", "task=text", "task.path=text.txt", "task.seq_len=16", "model=mine"]
    assert main.main([*words, "trainer=smoke", "tracking=jsonl", "device=cpu"]) == 0
    assert "mine: " in capsys.readouterr().err


def test_names_in_the_tables_exist(capsys):
    for task in paths.options("task"):
        assert main.main(["train", f"task={task}", "--help"]) == 0
    shown = capsys.readouterr().out
    keys = set(re.findall(r"(?<!\w)((?:task|model|dropout|optim|trainer)\.[a-z_A]+)", README))
    assert len(keys) > 15
    assert [
        key for key in sorted(keys) if not re.search(rf"^\s*{re.escape(key)}[ .]", shown, re.M)
    ] == []
    for path in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / path).exists(), path


def test_the_library_works_as_printed():
    names: dict = {}
    exec(block("python", "import torch"), names)
    assert names["y"].shape == (1, 100, 64)
    assert names["state"].shape == (1, 64, 16)
    assert callable(causal_conv1d)


def test_models_of_the_library_work_as_printed(workplace):
    (workplace / "text.txt").write_text("to be or not to be, that is the question. " * 200)
    words = ["train", "task=text", "task.path=text.txt", "task.seq_len=16", *SMALL]
    assert main.main(words) == 0
    names: dict = {"torch": torch}
    exec(block("python", "from mambalab import load"), names)
    assert names["logits"].shape[:2] == (1, 3)
    assert names["block"](torch.ones(1, 5, 64)).shape == (1, 5, 64)

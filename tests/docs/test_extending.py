"""What docs/extending.md promises of classes of one's own, tried out."""

import shutil

import pytest

from mambalab.cli import main
from tests.docs import pages
from tests.docs.conftest import SMALL


@pytest.fixture
def place(workplace):
    """The working directory with the page's files, without the small run."""
    shutil.rmtree(workplace / "outputs")
    pages.write_files(pages.page("docs/extending.md").blocks, workplace)
    return workplace


def test_a_task_is_trained_resumed_and_trusted(place, capsys):
    assert main.main(["train", "task=squares", *SMALL]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert main.main(["train", "task=squares", *SMALL, "trainer.max_steps=6"]) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert main.main(["eval"]) == 1
    assert "trust=my_tasks" in capsys.readouterr().err
    assert main.main(["eval", "trust=[my_tasks]"]) == 0


def test_a_task_has_a_metric_of_its_own(place, capsys):
    assert main.main(["train", "task=squares_by_accuracy", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "best     val/accuracy" in out


def test_a_classification_is_tested_at_the_end(place, capsys):
    assert main.main(["train", "task=parity", *SMALL]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert main.main(["eval", "split=test", "trust=my_classes"]) == 0
    assert "true, predicted" in capsys.readouterr().out


def test_a_classification_has_a_metric_of_its_own(place, capsys):
    words = ["task=digits_top3", "task.batch_size=8", "task.eval_batch_size=200"]
    assert main.main(["train", *words, *[w for w in SMALL if "task." not in w]]) == 0
    out = capsys.readouterr().out
    assert "val/accuracy_top3" in out.partition("best ")[2].splitlines()[0]
    assert "test/accuracy_top3" in out
    assert main.main(["eval", "split=val", "trust=my_top3"]) == 0
    assert "val/accuracy_top3" in capsys.readouterr().out


def test_a_model_is_trained(place, capsys):
    words = ["train", "task=text", "task.path=notes.txt", "task.seq_len=16", "model=mine"]
    assert main.main([*words, "trainer=smoke", "tracking=jsonl", "device=cpu"]) == 0
    assert "mine: " in capsys.readouterr().err

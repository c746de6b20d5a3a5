import pytest

from mambalab.plots.words import brief, brief_number, in_words, one_unit_of_loss, unit_of_loss
from mambalab.records.reader import read_run
from tests.records.example_runs import make_run


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("0.00046288990507596195", "4.63e-4"),
        ("0.012200629", "0.0122"),
        ("1.23456", "1.23"),
        ("123456.789", "1.23e5"),
        ("1e-05", "1e-05"),
        ("0.0", "0.0"),
        ("1000", "1000"),
        ("123456", "123456"),
        ("-0.98765", "-0.988"),
        ("a.txt", "a.txt"),
        ("1e999", "1e999"),
    ],
)
def test_a_number_has_three_digits_and_never_seventeen(number, shown):
    assert brief_number(number) == shown


def test_as_many_digits_as_tell_values_apart():
    assert brief(["0.0012344", "0.0012312", "0.5"]) == ["0.001234", "0.001231", "0.5"]
    assert brief(["0.1234", "0.1234"]) == ["0.123", "0.123"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("model.name", "mamba", "Mamba"),
        ("model.name", "mine", "model mine"),
        ("dropout.name", "ssm", "SSM dropout"),
        ("dropout.p", "0.1", "dropout p = 0.1"),
        ("optim.lr", "0.001", "learning rate 0.001"),
        ("task.params.deep_width", "3", "deep width 3"),
    ],
)
def test_settings_are_said_in_words(key, value, text):
    assert in_words(key, value) == text


def test_the_unit_of_a_loss_is_that_of_the_task(tmp_path):
    text = {"name": "t", "_target_": "mambalab.tasks.text.TextTask"}
    kinds = {
        "old": text,
        "char": text | {"tokenizer": None},
        "token": text | {"tokenizer": "x.json"},
        "image": {"name": "mnist", "_target_": "mambalab.tasks.mnist.MnistTask"},
    }
    runs = {name: read_run(make_run(tmp_path / name, task=task)) for name, task in kinds.items()}
    assert {name: unit_of_loss(run) for name, run in runs.items()} == {
        "old": "nats per character",
        "char": "nats per character",
        "token": "nats per token",
        "image": "nats",
    }
    assert one_unit_of_loss([runs["old"], runs["char"]]) == "nats per character"
    assert one_unit_of_loss(runs.values()) == "nats"

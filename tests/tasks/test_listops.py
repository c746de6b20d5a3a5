import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.data.listops_grammar import WORDS, value_of
from mambalab.errors import UserError
from mambalab.inspect.examples import _show_steps
from mambalab.inspect.sequence import InspectedSequence
from mambalab.settings.rules import check
from mambalab.settings.task import ListOpsSettings
from mambalab.tasks import listops
from mambalab.tasks.listops import ListOpsTask
from tests.tasks.toys import build

SETTINGS = ListOpsSettings(
    name="listops",
    _target_="mambalab.tasks.listops.ListOpsTask",
    batch_size=8,
    eval_batch_size=7,
    tune=None,
    params={},
    label_smoothing=0.0,
    path=None,
    min_words=5,
    max_words=30,
    max_depth=4,
    max_args=4,
    train_size=100,
    val_size=20,
    test_size=30,
    data_seed=3,
    round_brackets=False,
)


@pytest.fixture
def make(tmp_path):
    def to_task(**options) -> ListOpsTask:
        return build(ListOpsTask, SETTINGS, data_dir=tmp_path, **options)

    return to_task


def texts(task: ListOpsTask, split: str) -> list[str]:
    """The expressions of a split, as a model gets them."""
    tokens, lengths = task.inputs(split, np.arange(len(task.labels[split])), None)
    ends = [tokens.shape[1]] * len(tokens) if lengths is None else lengths.tolist()
    rows = list(zip(tokens.tolist(), ends, strict=True))
    assert not any(any(row[end:]) for row, end in rows)
    return [" ".join(WORDS[token] for token in row[:end]) for row, end in rows]


def test_splits_hold_distinct_expressions_and_their_values(make):
    task = make()
    held = {split: texts(task, split) for split in ("train", "val", "test")}
    assert [len(part) for part in held.values()] == [100, 20, 30]
    assert len({text for part in held.values() for text in part}) == 150
    for split, part in held.items():
        found = [value_of(bytes(map(WORDS.index, text.split()))) for text in part]
        assert found == task.labels[split].tolist()
    assert texts(task, "train_sample") == held["train"][:20]
    assert (task.spec.vocab_size, task.spec.seq_len, task.spec.classes) == (16, 29, 10)


def test_more_training_expressions_change_no_other_split(make):
    small, large = make(), make(train_size=150)
    for split in ("val", "test"):
        assert texts(small, split) == texts(large, split)
    assert set(texts(small, "train")) < set(texts(large, "train"))


def test_expressions_follow_the_data_seed_not_the_runs(make):
    first, second, other = make(seed=1), make(seed=2), make(data_seed=4)
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint()["sha256"] != other.fingerprint()["sha256"]
    assert texts(first, "train") == texts(second, "train")
    assert not torch.equal(first.batch(0)[1], second.batch(0)[1])


def test_batches_are_a_function_of_the_position(make):
    first, second = make(), make()
    for position in (0, 7, 40):
        (tokens, lengths), labels = first.batch(position)
        (again, _), _ = second.batch(position)
        assert torch.equal(tokens, again)
        assert tokens.dtype == torch.int64
        assert tokens.shape == (8, int(lengths.max()))
        assert labels.shape == (8,)


def test_the_distribution_of_answers_is_told(make, caplog):
    with caplog.at_level(logging.INFO):
        task = make()
    counts = torch.bincount(torch.cat([task.labels[s] for s in ("train", "val", "test")]))
    shown = ", ".join(f"{digit}: {count}" for digit, count in enumerate(counts.tolist()))
    assert f"10 classes ({shown}); expressions: 100 train, 20 val, 30 test" in caplog.text


def test_tuning_takes_a_tenth_of_the_training_part(make):
    plain, task, half = make(), make(tune=True), make(tune=True, data_fraction=0.5)
    assert task.splits == ("train", "val", "train_sample")
    assert set(task.labels) == set(task.splits)
    assert texts(task, "val") + texts(task, "train") == texts(plain, "train")
    assert len(texts(task, "val")) == 10
    assert texts(half, "val") == texts(task, "val")
    assert texts(half, "train") == texts(task, "train")[:45]
    with pytest.raises(UserError, match=r"data_fraction=0\.001: no training expression is left"):
        make(data_fraction=0.001)


def test_parentheses_are_read_if_asked_for(make):
    plain, task = make(), make(round_brackets=True)
    assert (task.spec.vocab_size, task.spec.seq_len) == (18, 3 * 29 - 2)
    for with_them, without in zip(texts(task, "val"), texts(plain, "val"), strict=True):
        assert " ".join(w for w in with_them.split() if w not in "()") == without
        assert with_them.count("(") == len(without.split()) - 1
    assert task.fingerprint() == plain.fingerprint()
    words = [len(text.split()) for text in texts(task, "train")]
    assert task.items_per_batch == round(8 * np.mean(words))
    assert plain.items_per_batch == round(8 * (np.mean(words) + 2) / 3)


def write(folder, **rows: int):
    """Files in the format of Long Range Arena with so many expressions each."""
    folder.mkdir(exist_ok=True)
    for start, (split, count) in enumerate(rows.items()):
        body = [f"( ( ( [SM {n % 10} ) {start} ) ] )\t{(n + start) % 10}" for n in range(count)]
        lines = "\r\n".join(["Source\tTarget", *body, ""])
        (folder / f"basic_{split}.tsv").write_bytes(lines.encode())
    return folder


def test_published_files_are_the_splits(make, tmp_path, caplog):
    folder = write(tmp_path / "lra", train=10, val=5, test=7)
    task = make(path=str(folder))
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 10, "val": 5, "test": 7, "train_sample": 5}
    assert texts(task, "val") == [f"[SM {n} 1 ]" for n in range(5)]
    assert task.labels["val"].tolist() == [1, 2, 3, 4, 5]
    assert task.fingerprint()["path"] == str(folder)
    assert "10 / 5 / 7 expressions instead of the published 96,000 / 2,000 / 2,000" in caplog.text
    assert "copies" not in caplog.text
    assert not (tmp_path / "listops").exists()  # nothing was made up
    caplog.clear()
    write(folder, train=10, val=5, test=7)
    (folder / "basic_val.tsv").write_bytes((folder / "basic_train.tsv").read_bytes())
    make(path=str(folder))
    assert "10 of 10 expressions in val are copies of one in train" in caplog.text


def test_files_of_ones_own_may_have_short_expressions_and_long_ones_are_left_out(
    make, tmp_path, monkeypatch, caplog
):
    folder = write(tmp_path / "lra", train=10, val=5, test=7)
    lines = (folder / "basic_val.tsv").read_bytes() + b"[SM 1 2 3 4 5 6 ]\t1\r\n"
    (folder / "basic_val.tsv").write_bytes(lines)
    monkeypatch.setattr(listops, "PUBLISHED", {"train": 10, "val": 6, "test": 7})
    changes = {"path": str(folder), "min_words": 500, "max_words": 7}
    check(dataclasses.replace(SETTINGS, **changes), "task.")
    task = make(**changes)
    assert len(task.labels["val"]) == 5
    assert "10 / 5 / 7 expressions instead of the published" in caplog.text


def test_missing_published_files_are_named(make, tmp_path):
    folder = write(tmp_path / "lra", train=10, test=7)
    for path in (folder, folder / "absent"):
        with pytest.raises(UserError, match=r"there is no .*basic_.*\.tsv; task=listops") as error:
            make(path=str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_words": 29}, "no length is more than the one and less than the other"),
        ({"max_depth": 1}, "at most 1 words, but must have more than task.min_words=5"),
        ({"max_depth": 2, "max_args": 3}, "at most 5 words"),
        ({"max_args": 1}, "task.max_args=1"),
        ({"min_words": 1, "max_words": 4}, "an expression is one digit, or has four words"),
        ({"min_words": 0, "max_words": 4, "train_size": 9}, "there are ten such expressions"),
        ({"min_words": 0, "max_depth": 1, "train_size": 9}, "there are ten such expressions"),
    ],
)
def test_lengths_that_cannot_be_are_refused_at_once(changes, message):
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(SETTINGS, **changes), "task.")
    check(dataclasses.replace(SETTINGS, max_depth=2, max_args=4), "task.")


def test_inspect_shows_words_and_leaves_padding_out(make):
    task = make()
    for row in range(3):
        tokens, lengths = task.inputs("val", np.array([row, 5]), None)
        first = None if lengths is None else lengths[:1]
        shown = InspectedSequence("", [], labels=[])
        _show_steps(task, shown, tokens[:1], first)
        assert " ".join(shown.labels) == texts(task, "val")[row]
        assert not shown.text


class Knowing(nn.Module):
    """Names the right class of each expression."""

    def forward(self, tokens, lengths):
        rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
        values = [value_of(bytes(row[:length])) for row, length in rows]
        return nn.functional.one_hot(torch.tensor(values), 10).float() * 100


def test_who_works_expressions_out_is_right_everywhere(make):
    task = make()
    for split in task.splits:
        assert task.evaluate(Knowing(), split)[f"{split}/accuracy"] == 1.0

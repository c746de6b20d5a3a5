import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.bench import lra_corpus
from mambalab.errors import UserError
from mambalab.settings.task import PairSettings
from mambalab.tasks import pairs as module
from mambalab.tasks.pairs import PairTask, RetrievalTask

SETTINGS = PairSettings(
    name="pairs",
    _target_="mambalab.tasks.pairs.PairTask",
    batch_size=8,
    eval_batch_size=7,
    params={},
    label_smoothing=0.0,
    path=None,
    max_bytes=50,
    val_fraction=0.1,
    test_fraction=0.2,
)
PARTS = ("train", "val", "test")
ROWS = [("odd" if n % 2 else "even", f"text {n} " + "a" * (n % 40), f"<{n}>") for n in range(200)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def corpus(tmp_path):
    lra_corpus.write(tmp_path / "lra", train=40, eval=10, test=12, size=200, seed=3)
    return tmp_path / "lra"


def make(path, *, cls=PairTask, seed=1, fraction=1.0, **changes):
    settings = dataclasses.replace(SETTINGS, path=None if path is None else str(path), **changes)
    return cls(settings, seed=seed, data_dir=path or ".", data_fraction=fraction)


def ready(*arguments, **options):
    task = make(*arguments, **options)
    task.prepare()
    return task


def test_copies_across_splits_are_told(file, caplog):
    ready(file)
    assert not [r for r in caplog.records if "copies" in r.getMessage()]
    file.write_text(2 * file.read_text())
    task = ready(file)
    told = [r.getMessage() for r in caplog.records if "copies" in r.getMessage()]
    assert len(told) == 3
    seen = {split: {row[1:] for row in texts(task, split)} for split in ("train", "test")}
    count = sum(row[1:] in seen["train"] for row in texts(task, "test"))
    assert f"{file}: {count} of 80 pairs in test are copies of one in train" in told[1]


def test_columns_in_another_order_are_one_line(tmp_path, caplog):
    path = tmp_path / "order.tsv"
    path.write_text("".join(f"{first}\t{second}\t{label}\n" for label, first, second in ROWS))
    with pytest.raises(UserError, match="200 of 200 labels occur once only; the columns must be"):
        ready(path)
    rows = "".join(f"{n}\ta {n}\tb\n" for n in range(5)) + "yes\tc\td\n" * 30
    path.write_text(rows)
    ready(path)
    (told,) = [r.getMessage() for r in caplog.records if "only one row" in r.getMessage()]
    assert "'0', '1', '2' and 2 more; a header" in told


def texts(task, split) -> list[tuple[str, str, str]]:
    rows = np.arange(len(task.labels[split]))
    tokens, lengths = task.inputs(split, rows, None)
    names = [task.classes[label] for label in task.labels[split]]
    return [
        (name, *(bytes(t[:n].tolist()).decode() for t, n in zip(pair, ends, strict=True)))
        for name, pair, ends in zip(names, tokens, lengths, strict=True)
    ]


def test_the_splits_are_disjoint_complete_and_the_same_for_every_seed(file):
    task, other = ready(file), ready(file, seed=2)
    parts = {split: texts(task, split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [140, 20, 40]
    cut = sorted((y, a[:50], b[:50]) for y, a, b in ROWS)
    assert sorted(row for part in parts.values() for row in part) == cut
    assert parts == {split: texts(other, split) for split in parts}
    assert texts(task, "train_sample") == parts["train"][:20]
    assert task.classes == ("even", "odd")
    assert (task.spec.vocab_size, task.spec.seq_len, task.spec.classes) == (256, 50, 2)
    assert task.spec.pair
    assert task.items_per_batch == 8 * 2 * 50


def test_data_fraction_keeps_a_share_of_the_training_part(file):
    whole, half = ready(file), ready(file, fraction=0.5)
    assert texts(half, "train") == texts(whole, "train")[:70]
    assert texts(half, "val") == texts(whole, "val")


def test_a_batch_is_a_function_of_seed_and_position_alone(file):
    one, two, other = ready(file), ready(file), ready(file, seed=2)
    two.batch(7)
    for position in (0, 3, 100):
        (tokens, lengths), labels = one.batch(position)
        (again, ends), same = two.batch(position)
        assert torch.equal(tokens, again)
        assert torch.equal(lengths, ends)
        assert torch.equal(labels, same)
    assert not torch.equal(one.batch(0)[1], other.batch(0)[1]) or not torch.equal(
        one.batch(0)[0][1], other.batch(0)[0][1]
    )
    seen = [tuple(t) for k in range(35) for t in one.batch(k)[0][0][:, 1, :5].tolist()]
    assert len(set(seen)) == 140  # 35 * 8 = two rounds


def test_batches_are_padded_to_the_longest_and_say_where_texts_end(file):
    task = ready(file)
    (tokens, lengths), labels = task.batch(0)
    assert tokens.dtype == lengths.dtype == labels.dtype == torch.int64
    assert tokens.shape == (8, 2, int(lengths.max()))
    assert lengths.shape == (8, 2)
    places = torch.arange(tokens.shape[2])
    assert torch.equal(tokens != 0, places < lengths[..., None])


def test_lengths_are_left_out_where_nothing_is_padded(file):
    tokens, lengths = ready(file, max_bytes=3).inputs("val", np.arange(5), None)
    assert tokens.shape == (5, 2, 3)
    assert lengths is None


class Byte(nn.Module):
    """Knows the label by the last byte of the second text's number."""

    def forward(self, tokens, lengths):
        last = tokens[torch.arange(len(tokens)), 1, lengths[:, 1] - 2]
        return nn.functional.one_hot(last % 2, 2).float() * 20


def test_a_model_that_knows_is_right_on_every_split(file):
    task = ready(file)
    for split in task.splits:
        assert task.evaluate(Byte(), split)[f"{split}/accuracy"] == 1.0
    inputs, labels = task.batch(0)
    assert task.loss(Byte(), (inputs, labels)) < 1e-6


def test_the_fingerprint_is_of_the_content_and_counts_rejected_rows(file, tmp_path):
    found = ready(file).fingerprint()
    assert found["path"] == str(file)
    assert (found["rows"], found["rejected"]) == ("200", "0")
    copy = tmp_path / "copy.tsv"
    copy.write_bytes(b"bad row\n" + file.read_bytes())
    other = ready(copy).fingerprint()
    assert other["sha256"] == found["sha256"]
    assert other["rejected"] == "1"
    assert ready(file, max_bytes=20).fingerprint()["sha256"] != found["sha256"]


def test_a_header_is_noticed(tmp_path, caplog):
    path = tmp_path / "header.tsv"
    path.write_text("label\ttext1\ttext2\n" + "a\tx\ty\nb\tx\ty\n" * 20)
    assert ready(path).classes == ("a", "b", "label")
    assert "only one row has the label 'label'; a header" in caplog.text


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("a\tx\ty\n" * 20, {}, "every row has the label 'a'"),
        ("a\tx\ty\nb\tx\ty\n" * 4, {}, "of 8 pairs, .* 0 for validation and 1 for the test"),
        (
            "a\tx\ty\nb\tx\ty\n" * 20,
            {"val_fraction": 0.5, "test_fraction": 0.6},
            "leave 0 to train, 20 for validation and 24",
        ),
    ],
)
def test_files_that_cannot_be_split_are_refused(tmp_path, content, changes, message):
    path = tmp_path / "small.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        ready(path, **changes)
    assert "\n" not in str(error.value)


def test_a_path_is_needed_and_must_be_the_right_kind(file, tmp_path):
    with pytest.raises(UserError, match="name the TSV file"):
        make(None).read()
    with pytest.raises(UserError, match="no regular file"):
        ready(tmp_path)
    with pytest.raises(UserError, match=r"no folder .*task=pairs task\.path=FILE"):
        ready(file, cls=RetrievalTask)


def test_retrieval_reads_the_three_files_as_splits(corpus):
    task = ready(corpus, cls=RetrievalTask, max_bytes=4000)
    assert {split: len(task.labels[split]) for split in task.splits} == {
        "train": 40,
        "val": 10,
        "test": 12,
        "train_sample": 10,
    }
    assert [int(task.labels[split].sum()) for split in ("train", "val", "test")] == [20, 5, 6]
    with open(corpus / "new_aan_pairs.eval.tsv") as lines:
        expected = [line.rstrip("\n").split("\t") for line in lines]
    assert texts(task, "val") == [(label[0], *both) for label, _, _, *both in expected]
    half = ready(corpus, cls=RetrievalTask, max_bytes=4000, fraction=0.5)
    assert texts(half, "train") == texts(task, "train")[:20]


def test_other_numbers_of_rows_are_warned_of_once_and_recorded(corpus, caplog, monkeypatch):
    task = ready(corpus, cls=RetrievalTask)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "40 / 10 / 12 rows" in warning
    assert "instead of 147,086 / 18,090 / 17,437" in warning
    found = task.fingerprint()
    assert found["rows"] == "40 / 10 / 12"
    assert found["rows_published"] == "147,086 / 18,090 / 17,437"
    assert found["rejected"] == "0"
    caplog.clear()
    monkeypatch.setattr(module, "PUBLISHED", {"train": 40, "eval": 10, "test": 12})
    assert ready(corpus, cls=RetrievalTask).fingerprint()["sha256"] == found["sha256"]
    assert not caplog.records


def test_retrieval_names_missing_files_before_it_converts_any(corpus):
    (corpus / "new_aan_pairs.eval.tsv").unlink()
    (corpus / "new_aan_pairs.test.tsv").unlink()
    lacking = r"lacks new_aan_pairs\.eval\.tsv and new_aan_pairs\.test\.tsv: "
    with pytest.raises(UserError, match=lacking):
        ready(corpus, cls=RetrievalTask)
    assert not list(corpus.glob("*.store"))


def test_retrieval_looks_in_data_dir(corpus, tmp_path):
    corpus.rename(tmp_path / "lra_retrieval")
    settings = dataclasses.replace(SETTINGS)
    task = RetrievalTask(settings, seed=1, data_dir=tmp_path, data_fraction=1.0)
    task.prepare()
    assert task.fingerprint()["path"] == str(tmp_path / "lra_retrieval")


def test_classes_are_told_with_their_counts(tmp_path, caplog):
    caplog.set_level("INFO", logger="mambalab")
    path = tmp_path / "mine.tsv"
    path.write_text("yes\ta\tb\n" * 20 + "no\tc\td\n" * 18 + "Yes \te\tf\n" * 2)
    task = ready(path)
    assert f"{path}: 3 classes (Yes: 2, no: 18, yes: 20); pairs: 28 train, 4 val, 8 test" in (
        caplog.text
    )
    assert "labels with nearly the same name are classes of their own: 'Yes', 'yes'" in caplog.text
    assert task.describe_data() == "pairs, 3 classes; pairs: 28 train, 4 val, 8 test"
    absent = {s: [c for n, c in enumerate(task.classes) if n not in task.labels[s]] for s in PARTS}
    assert absent["val"]
    for split, names in absent.items():
        assert (f"no pair of {', '.join(names)} in {split}" in caplog.text) == bool(names)


def test_quotes_are_told_with_what_takes_them_off(tmp_path, caplog):
    path = tmp_path / "mine.tsv"
    path.write_text('"0"\t"a"\t"b"\n' * 20 + '"1"\t"c"\t"d"\n' * 20)
    ready(path)
    assert "40 of 40 rows have fields in quotation marks" in caplog.text
    assert "python3 -c " in caplog.text


@pytest.mark.parametrize(("first", "second"), [("1", "1.0"), ("no", "NO"), ("é", "e\u0301")])
def test_labels_that_mean_the_same_are_told(tmp_path, caplog, first, second):
    path = tmp_path / "mine.tsv"
    path.write_text(f"{first}\ta\tb\n{second}\tc\td\n" * 20)
    assert len(ready(path).classes) == 2
    assert "nearly the same name" in caplog.text

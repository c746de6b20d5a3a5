"""One text and a label, from a file of one's own."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mambalab
from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.settings.task import ClassifySettings
from mambalab.tasks import splits
from mambalab.tasks.classify import ClassifyTask

SETTINGS = ClassifySettings(
    name="classify",
    _target_="mambalab.tasks.classify.ClassifyTask",
    batch_size=4,
    eval_batch_size=7,
    tune=None,
    params={},
    label_smoothing=0.0,
    path=None,
    text=None,
    label=None,
    max_bytes=50,
    val_size=0.1,
    test_size=0.2,
)
PARTS = ("train", "val", "test")
ROWS = [(f"text {n} " + "a" * (n % 40), "rare" if n % 10 == 0 else "common") for n in range(200)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS))
    return path


def make(path, *, seed=1, fraction=1.0, **changes) -> Any:
    settings = dataclasses.replace(SETTINGS, path=None if path is None else str(path), **changes)
    task = ClassifyTask(settings, seed=seed, data_dir=Path(), data_fraction=fraction)
    task.prepare()
    return task


def texts(task, split):
    inputs, lengths = task.inputs(split, np.arange(len(task.labels[split])), None)
    ends = [inputs.shape[1]] * len(inputs) if lengths is None else lengths.tolist()
    return [bytes(row[:end].tolist()).decode() for row, end in zip(inputs, ends, strict=True)]


def test_splits_hold_every_text_once_and_a_share_of_each_class(file, caplog):
    caplog.set_level(logging.INFO)
    task = make(file)
    assert "texts in column 'text', labels in column 'label'" in caplog.text
    assert "2 classes (common: 180, rare: 20); texts: 140 train, 20 val, 40 test" in caplog.text
    assert task.classes == ("common", "rare")
    found = {split: texts(task, split) for split in PARTS}
    every = [text for part in found.values() for text in part]
    assert sorted(every) == sorted(text for text, _ in ROWS)
    labels = dict(ROWS)
    for split in PARTS:
        named = [task.classes[y] for y in task.labels[split].tolist()]
        assert named == [labels[text] for text in found[split]]
    rare = {split: int(task.labels[split].sum()) for split in PARTS}
    assert rare == {"train": 14, "val": 2, "test": 4}
    assert [texts(make(file, seed=2), split) for split in PARTS] == list(found.values())
    counted = make(file, val_size=30, test_size=5)
    assert [len(counted.labels[split]) for split in PARTS] == [165, 30, 5]
    assert texts(make(file, fraction=0.5), "train") == found["train"][:70]


def test_batches_are_bytes_with_their_lengths(file):
    task = make(file)
    (inputs, lengths), labels = task.batch(3)
    assert lengths is not None
    assert inputs.shape == (4, int(lengths.max()))
    assert inputs.dtype == torch.int64
    again = make(file).batch(3)
    assert torch.equal(again[0][0], inputs)
    assert torch.equal(again[1], labels)
    assert (task.spec.vocab_size, task.spec.seq_len, task.spec.classes) == (256, 50, 2)
    assert not task.spec.pair
    assert task.items_per_batch == 4 * 50


def test_tuning_looks_at_nothing_that_is_reported(file):
    task, tuned = make(file), make(file, tune=True)
    assert tuned.tunes
    assert "test" not in tuned.splits
    assert set(texts(tuned, "train") + texts(tuned, "val")) == set(texts(task, "train"))
    assert len(tuned.labels["val"]) == 14
    assert int(tuned.labels["val"].sum()) in (1, 2)


def test_what_cannot_be_split_or_learnt(file):
    with pytest.raises(UserError, match="task=classify: name the file"):
        make(None)
    with pytest.raises(UserError, match=r"test_size=0\.5 and .*=0\.5 take 200, .* leaves 0"):
        make(file, val_size=0.5, test_size=0.5)
    for wrong in (1.5, 0, True, "x"):
        with pytest.raises(UserError, match=r"task\.val_size=.*: must be (a whole|at least)"):
            make(file, val_size=wrong)
    file.write_text("text,label\n" + "x,same\n" * 10)
    with pytest.raises(UserError, match=r"every row has the label 'same'; at least two .* needed$"):
        make(file)
    file.write_text("text,label\n" + "".join(f"x {n},text {n}\n" for n in range(40)))
    with pytest.raises(UserError, match="labels occur once only; name the column of labels with"):
        make(file)


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_stratified_takes_a_share_of_each_class(total, wanted):
    order = np.random.default_rng(0).permutation(total)
    labels = np.random.default_rng(1).integers(0, 3, total)
    wanted = min(wanted, total)
    chosen, rest = splits.stratified(order, labels, wanted)
    assert len(chosen) == wanted
    assert sorted([*chosen, *rest]) == list(range(total))
    share = np.bincount(labels, minlength=3) * wanted / total
    assert np.all(abs(np.bincount(labels[chosen], minlength=3) - share) < 1)
    places = {row: place for place, row in enumerate(order)}
    assert [places[row] for row in rest] == sorted(places[row] for row in rest)


def test_a_run_is_trained_scored_inspected_and_loaded(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["task=classify", "task.path=mine.csv", "task.max_bytes=20", "model.d_model=16"]
    small = ["model.n_layer=1", "trainer.max_steps=2", "trainer.eval_every=2", "tracking=jsonl"]
    run = mambalab.train([*words, *small, "device=cpu"])
    assert mambalab.evaluate(run, "test")["test/accuracy"] == pytest.approx(0.9)
    source = mambalab.load(run)
    assert source.classes == ["common", "rare"]
    assert source.predict(torch.tensor([list(b"good")]))[0] in source.classes
    assert main.main(["inspect", "latest", "index=1"]) == 0
    assert (run.folder / "inspect/index.html").is_file()
    assert main.main(["eval", "latest", "path=mine.csv"]) == 0
    assert "val/accuracy_of/rare" in capsys.readouterr().out


class TestTokens:
    """task.tokenizer: what a text is cut into."""

    @pytest.fixture
    def wide(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        path = tmp_path / "wide.csv"
        lines = (f"gr\u00e9at film {n} " * (1 + n % 3) + f",{n % 2}\n" for n in range(60))
        path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
        return path

    @pytest.mark.parametrize("tokenizer", ["char", "bpe:270"])
    def test_texts_are_the_same_whatever_their_tokens(self, wide, tokenizer):
        whole, task = make(wide), make(wide, tokenizer=tokenizer)
        size = len(set("gr\u00e9at film 0123456789")) if tokenizer == "char" else 270
        assert task.spec == dataclasses.replace(whole.spec, vocab_size=size)
        rows = np.arange(6)
        inputs, lengths = task.inputs("val", rows, None)
        assert inputs.shape[1] == lengths.max()
        raw, ends = whole.inputs("val", rows, None)
        for row in rows:
            read = task.reader.decode(inputs[row, : lengths[row]].tolist())
            assert read == bytes(raw[row, : ends[row]].tolist()).decode("utf-8", "ignore")
            assert not inputs[row, lengths[row] :].any()
        if tokenizer != "char":
            assert lengths.sum() < ends.sum()

    def test_they_are_learnt_from_what_trains(self, wide):
        task = make(wide, tokenizer="bpe:270")
        few = make(wide, tokenizer="bpe:270", fraction=0.5)
        assert few.reader.sha256() == task.reader.sha256() == task.fingerprint()["tokens"]
        learnt = set(task._parts["train"][1].tolist())
        assert set(task._learnt_from.tolist()) == learnt
        assert not learnt & set(task._parts["test"][1].tolist())
        assert make(wide, tokenizer="bpe:270", tune=True).reader.sha256() != task.reader.sha256()

    def test_a_run_keeps_them_and_reads_them_back(self, wide, tmp_path):
        task = make(wide, tokenizer="bpe:270")
        for name, content in task.assets().items():
            (tmp_path / name).write_text(content)
        assert task.assets().keys() == {"classes.json", "tokenizer.json"}
        again = make(wide, tokenizer=str(tmp_path / "tokenizer.json"))
        assert torch.equal(again.batch(3)[0][0], task.batch(3)[0][0])

    def test_bytes_are_as_before(self, wide):
        task = make(wide, tokenizer="bytes")
        assert task.reader is None
        assert task.settings == make(wide).settings
        assert task.spec.vocab_size == 256
        assert task.assets().keys() == {"classes.json"}

    def test_a_text_cut_within_its_first_character_has_a_token(self, wide, tmp_path):
        path = tmp_path / "cut.csv"
        path.write_text("text,label\n" + "".join(f"\U0001f642{n},{n % 2}\n" for n in range(40)))
        task = make(path, tokenizer="bpe:257", max_bytes=2)
        assert task.inputs("val", np.arange(2), None)[0].shape == (2, 1)


def hub_set(tmp_path, **parts):
    """A data set of the hub that was fetched: a parquet file a split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "hub" / "someone" / "reviews" / "data"
    folder.mkdir(parents=True)
    for split, rows in parts.items():
        texts, labels = zip(*rows, strict=True)
        table = pa.table({"text": texts, "label": labels})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def from_hub(tmp_path, **changes):
    settings = dataclasses.replace(SETTINGS, path="hf:someone/reviews", **changes)
    task = ClassifyTask(settings, seed=1, data_dir=tmp_path, data_fraction=1.0)
    task.prepare()
    return task


def test_splits_that_a_data_set_of_the_hub_has_are_kept(tmp_path):
    hub_set(tmp_path, train=ROWS[:150], test=ROWS[150:])
    task = from_hub(tmp_path)
    assert sorted(texts(task, "test")) == sorted(text[:50] for text, _ in ROWS[150:])
    assert [len(task.labels[part]) for part in PARTS] == [135, 15, 50]
    assert not set(texts(task, "train")) & set(texts(task, "val"))
    assert task.fingerprint()["rows"] == "200"
    assert "test" not in from_hub(tmp_path, tune=True).labels
    (tmp_path / "other").mkdir()
    hub_set(tmp_path / "other", train=ROWS[:150], val=ROWS[150:175], test=ROWS[175:])
    whole = from_hub(tmp_path / "other")
    assert [len(whole.labels[part]) for part in PARTS] == [150, 25, 25]
    assert whole.fingerprint()["sha256"] != task.fingerprint()["sha256"]


def test_a_test_whose_answers_are_kept_back_is_left_out(tmp_path, caplog):
    hidden = [(text, "-1") for text, _ in ROWS[150:]]
    hub_set(tmp_path, train=ROWS[:150], test=hidden)
    task = from_hub(tmp_path)
    assert "left out as test, for it has labels that do not train ('-1')" in caplog.text
    assert len(task.labels["test"]) == 30  # of the 150, by task.test_size
    assert not set(texts(task, "test")) & {text[:50] for text, _ in hidden}
    assert "test" not in from_hub(tmp_path, tune=True).labels


def test_a_test_that_lacks_a_class_keeps_the_numbers_of_those_that_train(tmp_path, caplog):
    classes = sorted({label for _, label in ROWS})
    last = [row for row in ROWS[150:] if row[1] == classes[-1]]
    hub_set(tmp_path, train=ROWS[:150], test=last)
    task = from_hub(tmp_path)
    assert task.labels["test"].tolist() == [len(classes) - 1] * len(last)
    assert f"no row of test has the label '{classes[0]}'" in caplog.text


def test_parts_of_a_data_set_are_told_with_what_can_be_done(tmp_path):
    hub_set(tmp_path, train=ROWS[:150])
    folder = tmp_path / "hub/someone/reviews"
    shutil.copytree(folder / "data", folder / "more")
    with pytest.raises(UserError, match=r"several parts: data, more; fetch .* name one with task"):
        from_hub(tmp_path)

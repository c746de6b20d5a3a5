"""`task.tune=true`: settings are chosen without a look at the splits that are reported."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mambalab.bench import lra_corpus
from mambalab.errors import UserError
from mambalab.runs import user_code
from mambalab.tasks.image_folder import ImageFolderTask
from mambalab.tasks.images import ImageData, Images
from mambalab.tasks.pairs import PairTask, RetrievalTask
from mambalab.tasks.synthetic import EVAL_SEED, InductionHeadsTask, SelectiveCopyingTask
from mambalab.tasks.text import TextTask
from tests.tasks.test_base import Squares
from tests.tasks.test_pairs import ROWS, SETTINGS
from tests.tasks.toys import COPYING, FOLDER, HEADS, PATCHES, PIXELS, Colour, Grey, build, numbers

TEXT = "".join(chr(0x4E00 + n) for n in range(400))  # no character twice: its own place


@pytest.fixture
def text(settings, tmp_path):
    def make(content: str = TEXT, **options) -> TextTask:
        (tmp_path / "text.txt").write_text(content, encoding="utf-8")
        options = {"tune": True, "val_fraction": 0.1} | options
        return build(TextTask, settings(path=str(tmp_path / "text.txt")), **options)

    return make


def held(task: TextTask, split: str) -> str:
    return task.tokenizer.decode(task._data[split].tolist())


def test_the_last_tenth_of_the_training_text_validates(text):
    task = text()
    assert task.splits == ("train", "val", "train_sample")
    assert (held(task, "train"), held(task, "val")) == (TEXT[:324], TEXT[324:360])
    assert task.spec.vocab_size == 400
    half = text(data_fraction=0.5)
    assert (held(half, "train"), held(half, "val")) == (TEXT[:162], TEXT[324:360])
    assert task.fingerprint() == text(tune=None).fingerprint()


def test_the_reported_text_is_not_touched(text):
    changed = text(TEXT[:360] + TEXT[:360:-1] + TEXT[360])  # the same characters, turned round
    for split, ids in text()._data.items():
        assert torch.equal(ids, changed._data[split])


def test_a_text_too_short_to_tune_on_says_so(text):
    with pytest.raises(UserError, match=r"has 80 characters, .* needs at least 90 .*longer text"):
        text(TEXT[:80])
    assert len(text(TEXT[:90])._data["val"]) == 9


@pytest.mark.parametrize(("kind", "settings"), [(Grey, PIXELS), (Colour, PATCHES)])
class TestImages:
    def test_a_tenth_of_the_training_images_validates(self, kind, settings):
        plain, task = build(kind, settings), build(kind, settings, tune=True)
        assert task.splits == ("train", "val", "train_sample")
        assert set(task.labels) == set(task.pixels) == set(task.splits)
        assert numbers(task, "val") + numbers(task, "train") == numbers(plain, "train")
        assert len(numbers(task, "val")) == 4
        half = build(kind, settings, tune=True, data_fraction=0.5)
        assert numbers(half, "train") == numbers(task, "train")[:15]
        assert numbers(half, "val") == numbers(task, "val")
        assert task.fingerprint() == plain.fingerprint()

    def test_the_reported_images_are_not_touched(self, kind, settings):
        task, plain = build(kind, settings, tune=True), build(kind, settings)
        unseen = set(numbers(plain, "val"))

        class Blank(kind):
            def read(self) -> ImageData:
                data = super().read()
                reported = [n for n in range(40) if n in unseen]
                data.train.pixels[reported] = 0
                data.test.pixels.zero_()
                return data

        blank = build(Blank, settings, tune=True)
        for split in task.splits:
            rows = np.arange(len(task.labels[split]))
            found, expected = (t.inputs(split, rows, None)[0] for t in (blank, task))
            assert torch.equal(found, expected)

    def test_a_validation_split_of_their_own_is_left_alone(self, kind, settings):
        class WithVal(kind):
            def read(self) -> ImageData:
                data = super().read()
                val = Images(data.test.pixels.clone(), data.test.labels.clone())
                return dataclasses.replace(data, val=val)

        task = build(WithVal, settings, tune=True)
        assert sorted(numbers(task, "val") + numbers(task, "train")) == list(range(40))


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for name, level in (("dark", 0), ("light", 200)):
        (tmp_path / name).mkdir()
        for number in range(20):
            colour = (level + number,) * 3
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{number}.png")
    task = build(ImageFolderTask, FOLDER, path=str(tmp_path), tune=True)
    plain = build(ImageFolderTask, FOLDER, path=str(tmp_path))
    assert numbers(task, "val") + numbers(task, "train") == numbers(plain, "train")
    assert "test" not in task.labels


def ready(cls, path, **changes):
    fraction = changes.pop("data_fraction", 1.0)
    return build(cls, SETTINGS, path=str(path), data_fraction=fraction, **changes)


@pytest.mark.parametrize("cls", [PairTask, RetrievalTask])
def test_a_tenth_of_the_training_pairs_validates(cls, tmp_path):
    if cls is PairTask:
        path = tmp_path / "mine.tsv"
        path.write_text("".join("\t".join(row) + "\n" for row in ROWS))
    else:
        path = tmp_path / "lra"
        lra_corpus.write(path, train=40, eval=10, test=12, size=200, seed=3)
    plain, task, half = (
        ready(cls, path, **options)
        for options in ({}, {"tune": True}, {"tune": True, "data_fraction": 0.5})
    )

    def rows(task: PairTask, split: str) -> list[int]:
        return task._parts[split][1].tolist()

    assert task.splits == ("train", "val", "train_sample")
    assert rows(task, "val") + rows(task, "train") == rows(plain, "train")
    assert len(rows(task, "val")) == len(rows(plain, "train")) // 10
    assert task._parts["val"][0].source == task._parts["train"][0].source
    assert rows(half, "val") == rows(task, "val")
    assert rows(half, "train") == rows(task, "train")[: len(rows(task, "train")) // 2]
    assert set(task.labels) == {"train", "val", "train_sample"}


class Listener(nn.Module):
    """Keeps what it was asked."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.asked: list[torch.Tensor] = []

    def forward(self, tokens):
        self.asked += list(tokens)
        return F.one_hot(tokens, self.vocab_size).float()


@pytest.mark.parametrize(
    ("kind", "settings"), [(SelectiveCopyingTask, COPYING), (InductionHeadsTask, HEADS)]
)
def test_generated_questions_are_none_of_the_reported(kind, settings):
    task = build(kind, settings, tune=True)
    model = Listener(settings.vocab_size)
    metrics = task.evaluate(model, "val")
    assert set(metrics) == {"val/loss", "val/accuracy"}
    assert len(model.asked) == settings.eval_sequences
    length = settings.seq_len
    for stream in (f"val {length}", f"test {length}", "batch"):
        for number in range(settings.eval_sequences):
            (other,) = task.sequences(EVAL_SEED, number, 1, length, stream)[0]
            assert not any(torch.equal(other, asked) for asked in model.asked)
    with pytest.raises(UserError, match=r"no split 'test'; it has: val$"):
        task.evaluate(model, "test")
    again = Listener(settings.vocab_size)
    assert task.evaluate(again, "val") == metrics


def test_a_class_of_ones_own_has_to_know_of_it(settings):
    class Knowing(Squares):
        def prepare(self, device="cpu"):
            super().prepare(device)
            self.tunes = True

    options = {"seed": 0, "data_dir": Path(), "data_fraction": 1.0}
    user_code.prepare(Squares(settings(), **options), torch.device("cpu"))
    user_code.prepare(Knowing(settings(tune=True), **options), torch.device("cpu"))
    with pytest.raises(UserError, match=r"task\.tune=true: .*Squares does not know it: hold"):
        user_code.prepare(Squares(settings(tune=True), **options), torch.device("cpu"))

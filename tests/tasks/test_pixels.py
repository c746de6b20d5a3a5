"""Pictures pixel by pixel: likelihood, quantisation, class tokens, splits."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mambalab.errors import UserError
from mambalab.models.heads import LanguageModel
from mambalab.runs.pixel_sheet import tokens_of
from mambalab.spec import ModelSpec
from mambalab.tasks import pixels as module
from mambalab.tasks.digits import DigitsTask
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tokenization.pixels import PixelTokens, load_from_run
from tests.conftest import NO_DROPOUT
from tests.tasks.toys import PATCHES, PICTURES, PIXELS, Colour, Fixed, Grey, build


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(module._KNOWN, "digits", Grey)
    monkeypatch.setitem(module._KNOWN, "cifar10", Colour)
    return lambda **changes: build(PixelModelTask, PICTURES, **changes)


def unprepared(**changes) -> PixelModelTask:
    chosen = dataclasses.replace(PICTURES, **changes)
    return PixelModelTask(chosen, seed=0, data_dir=Path("nowhere"), data_fraction=1.0)


@pytest.mark.parametrize(("pattern", "placed"), [("M", False), ("M", True), ("SF", False)])
def test_the_probabilities_of_all_pictures_sum_to_1(build_settings, pattern, placed):
    torch.manual_seed(3)
    settings = build_settings(
        pattern=pattern, d_model=8, n_layer=len(pattern), d_state=2, position_embedding=placed
    )
    spec = ModelSpec(vocab_size=3, seq_len=16, fixed=True)
    model = LanguageModel(settings, NO_DROPOUT, spec).eval()
    nn.init.normal_(model.lm_head.weight)  # far from equal probabilities
    task = unprepared()
    task.tokens = PixelTokens(2, 4, 4, 1)
    every = (torch.arange(2**16)[:, None] >> torch.arange(16)) & 1
    task.levels, task.labels = {"val": every.to(torch.uint8)}, {"val": torch.zeros(2**16).long()}
    with torch.no_grad():
        parts = np.split(np.arange(2**16), 4)
        nats = torch.cat([task.nats(model, task.inputs("val", rows)) for rows in parts])
    assert nats.dtype == torch.float64
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(nats.max() - nats.min()) > 1


@pytest.mark.parametrize("classes", [False, True])
def test_every_value_is_measured_once_and_in_the_right_unit(make, classes):
    task = make(classes=classes, levels=5)
    assert task.spec == ModelSpec(5 + (3 if classes else 1), 24, fixed=True)
    model = Fixed(5, task.spec.vocab_size)
    for split in ("train", "val", "test", "train_sample"):
        levels = task.levels[split].long()
        nats = -(torch.arange(1, 6).double() / 15).log()[levels]
        found = task.evaluate(model, split)
        assert found[f"{split}/loss"] == pytest.approx(float(nats.mean()), rel=1e-6)
        assert found[f"{split}/nats_per_image"] == pytest.approx(
            float(nats.sum(1).mean()), rel=1e-6
        )
        bits = found[f"{split}/loss"] / math.log(2)
        assert found[f"{split}/bits_per_dim"] == pytest.approx(bits)
    assert float(task.loss(model, task.batch(0))) == pytest.approx(
        float(task.nats(model, task.batch(0)).mean() / 24), rel=1e-6
    )


def test_the_model_reads_the_first_token_and_all_values_but_the_last(make):
    plain, told = make(), make(classes=True)
    inputs, targets = told.batch(5)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(plain.batch(5)[1], targets)
    assert set(plain.batch(5)[0][:, 0].tolist()) == {17}
    rows = zip(told.levels["train"].tolist(), told.labels["train"].tolist(), strict=True)
    labels = {tuple(row): label for row, label in rows}
    expected = [17 + labels[tuple(row)] for row in targets.tolist()]
    assert inputs[:, 0].tolist() == expected
    assert told.tokens.classes == ("a", "b", "c")
    assert not torch.equal(told.batch(6)[1], targets)
    assert torch.equal(make(classes=True).batch(5)[0], inputs)  # what a resumed run gets


def test_levels_are_those_of_the_pictures(make):
    task, source = make(levels=7), build(Grey, PIXELS, input_dim=1)
    for split in ("train", "val", "test"):
        values = source.pixels[split].flatten(1).int()
        assert torch.equal(task.levels[split].int(), values * 7 // 256)
        assert torch.equal(task.labels[split], source.labels[split])
    colour = make(data="cifar10", colour=True, levels=256)
    pixels = build(Colour, PATCHES).pixels["test"]
    assert torch.equal(colour.levels["test"], pixels.permute(0, 2, 3, 1).flatten(1))
    assert colour.spec.seq_len == 72
    assert make(data="cifar10").spec.seq_len == 24  # in grey
    assert make(size=2).spec.seq_len == 4


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("kind", [Grey, Colour])
def test_a_picture_of_a_file_is_read_as_those_of_the_data_set(kind, size, monkeypatch, tmp_path):
    class Square(kind):
        def read(self):
            data = super().read()
            for part in (data.train, data.test):
                part.pixels = part.pixels[..., :4]
            return data

    monkeypatch.setitem(module._KNOWN, "digits" if kind is Grey else "cifar10", Square)
    data, colour = ("digits", False) if kind is Grey else ("cifar10", True)
    task = build(PixelModelTask, PICTURES, levels=16, size=size, data=data, colour=colour)
    source = task._source()
    source.prepare()
    for number, picture in enumerate(source.pixels["test"][:3]):
        image = picture.permute(1, 2, 0).numpy()
        Image.fromarray(image if colour else image[..., 0]).save(tmp_path / "a.png")
        found = tokens_of(str(tmp_path / "a.png"), task.tokens)
        assert torch.equal(found[0], task.levels["test"][number])


def test_tuning_and_fractions_are_those_of_the_images(make):
    tuned = make(tune=True)
    assert tuned.tunes
    assert set(tuned.levels) == {"train", "val", "train_sample"}
    assert tuned.splits == ("train", "val", "train_sample")
    assert len(make(data_fraction=0.5).levels["train"]) == 17
    assert make().describe_data() == (
        "pixels of digits, 4 x 6, 17 levels; images: 34 train, 6 val, 10 test"
    )
    assert make().units_per_batch == 4
    assert make().batches_per_epoch == 34 / 4


def test_other_levels_are_other_data(make):
    changes = ({}, {"levels": 16}, {"size": 2}, {"classes": True}, {"data": "cifar10"})
    assert len({make(**one).fingerprint()["sha256"] for one in changes}) == len(changes)
    assert make().fingerprint() == make().fingerprint()


class Share:
    """One of two processes; they add up what `totals` holds."""

    def __init__(self, rank: int, totals: list[dict]) -> None:
        self.rank, self.totals = rank, totals
        self.is_first = rank == 0

    def batches(self, batches, watch):
        yield from batches[self.rank :: 2]

    def sums(self, own):
        self.totals.append(own)
        return {key: sum(one[key] for one in self.totals) for key in own}


def test_two_processes_measure_what_one_does(make):
    task = make()
    model = Fixed(17, 18)
    alone = task.evaluate(model, "val")
    totals = []
    assert task.shares
    for rank in (0, 1):
        task.shared = Share(rank, totals)
        found = task.evaluate(model, "val")
    assert len(totals) == 2
    assert totals[0] != totals[1]
    assert found == pytest.approx(alone, rel=1e-12)
    parts = [task.part(task.batch(0), rank, 2) for rank in (0, 1)]
    for whole, one, two in zip(task.batch(0), *parts, strict=True):
        assert torch.equal(torch.cat((one, two)), whole)


def test_digits_lose_nothing_with_17_levels():
    from sklearn.datasets import load_digits

    task = build(PixelModelTask, PICTURES, val_size=180)
    source = build(DigitsTask, PIXELS, val_size=180, input_dim=8)
    assert torch.equal(task.labels["val"], source.labels["val"])
    found = torch.cat([task.levels[split] for split in ("train", "val", "test")])
    original = torch.from_numpy(load_digits().data).to(torch.uint8)
    assert sorted(found.tolist()) == sorted(original.tolist())


def test_a_folder_of_pictures(tmp_path):
    random = np.random.default_rng(0)
    for number in range(20):
        place = tmp_path / ("cat" if number % 2 else "dog")
        place.mkdir(exist_ok=True)
        picture = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(picture).save(place / f"{number}.png")
    settings = {"data": str(tmp_path), "colour": True, "classes": True, "val_size": 4}
    task = build(PixelModelTask, PICTURES, size=6, **settings)
    assert task.tokens == PixelTokens(17, 6, 6, 3, ("cat", "dog"))
    sizes = {split: len(levels) for split, levels in task.levels.items()}
    assert sizes == {"train": 14, "val": 4, "test": 2, "train_sample": 4}
    assert task.fingerprint()["data"] == str(tmp_path)
    for name, hint in {"nowhere": "", "minst": r"; did you mean mnist\?"}.items():
        told = rf"task.data={name}: no such folder, and none of digits, mnist, cifar10{hint}; name"
        with pytest.raises(UserError, match=told):
            build(PixelModelTask, PICTURES, data=name)


@pytest.mark.parametrize("inside", ["", "photos"])
def test_pictures_without_classes_need_no_sub_folders(tmp_path, inside, caplog):
    caplog.set_level("INFO", "mambalab")
    place = tmp_path / inside
    place.mkdir(exist_ok=True)
    (place / "notes.txt").touch()
    for number in range(20):
        Image.new("L", (6, 6), number).save(place / f"{number}.png")
    task = build(PixelModelTask, PICTURES, size=6, levels=256, data=str(tmp_path), val_size=4)
    assert {s: len(rows) for s, rows in task.levels.items() if s != "train_sample"} == {
        "train": 14,
        "val": 4,
        "test": 2,
    }
    found = torch.cat([task.levels[split][:, 0] for split in ("train", "val", "test")])
    assert sorted(found.tolist()) == [*range(20)]
    told = [line for line in caplog.messages if "images: " in line]
    assert told == [f"{tmp_path}: images: 14 train, 4 val, 2 test"]
    told = "at least two classes" if inside else "there is no sub-folder"
    with pytest.raises(UserError, match=told):
        build(PixelModelTask, PICTURES, data=str(tmp_path), classes=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image here or below"):
        build(PixelModelTask, PICTURES, data=str(tmp_path / "empty"))


def test_pictures_beside_and_below_are_taken_and_folders_without_any_passed_over(tmp_path, caplog):
    caplog.set_level("WARNING", "mambalab")
    for number in range(20):
        place = tmp_path / ("" if number < 12 else "more" if number < 16 else "more/deep")
        place.mkdir(exist_ok=True)
        Image.new("L", (6, 6), number).save(place / f"{number}.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").touch()
    task = build(PixelModelTask, PICTURES, size=6, levels=256, data=str(tmp_path), val_size=4)
    found = torch.cat([task.levels[split][:, 0] for split in ("train", "val", "test")])
    assert sorted(found.tolist()) == [*range(20)]
    assert caplog.messages == []


def test_folders_without_pictures_are_no_other_data(tmp_path):
    for place in ("b", "c"):
        (tmp_path / place).mkdir()
        for number in range(10):
            Image.new("L", (6, 6), number).save(tmp_path / place / f"{number}.png")
    known = build(PixelModelTask, PICTURES, size=6, data=str(tmp_path), val_size=4).fingerprint()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").touch()
    again = build(PixelModelTask, PICTURES, size=6, data=str(tmp_path), val_size=4).fingerprint()
    assert again["sha256"] == known["sha256"]


def test_nothing_is_said_of_classes_that_nobody_asked_for(tmp_path, caplog):
    caplog.set_level("INFO", "mambalab")
    for number in range(20):
        (tmp_path / f"test{number}").mkdir()
        Image.new("L", (6, 6), number).save(tmp_path / f"test{number}/0.png")
    (tmp_path / "empty").mkdir()
    build(PixelModelTask, PICTURES, size=6, data=str(tmp_path), val_size=4)
    assert caplog.messages == [f"{tmp_path}: images: 14 train, 4 val, 2 test"]
    with pytest.raises(UserError, match="empty: no images in this folder"):
        build(PixelModelTask, PICTURES, size=6, data=str(tmp_path), classes=True)


@pytest.mark.parametrize("names", [("train", "test"), ("train2017", "test_images")])
def test_pictures_in_folders_of_splits_need_no_classes(tmp_path, names):
    for split, count in zip(names, (9, 3), strict=True):
        (tmp_path / split).mkdir()
        for number in range(count):
            Image.new("L", (6, 6), number).save(tmp_path / split / f"{number}.png")
    task = build(PixelModelTask, PICTURES, size=6, data=str(tmp_path), val_size=2)
    assert [len(task.levels[split]) for split in ("train", "val", "test")] == [7, 2, 3]


@pytest.mark.parametrize("background", [None, "black", "100"])
def test_a_picture_is_given_as_those_of_the_folder_were_read(tmp_path, background):
    clear = Image.new("LA", (6, 6), (40, 0))
    for number in range(8):
        place = tmp_path / ("cat" if number % 2 else "dog")
        place.mkdir(exist_ok=True)
        clear.putpixel((number % 6, 0), (50 + number, 255))
        clear.save(place / f"{number}.png")
    deep = np.full((6, 6), 2500, np.uint16)  # 12 bits in 16
    Image.fromarray(deep).save(tmp_path / "cat/deep.png")
    Image.fromarray(deep // 2).save(tmp_path / "dog/deep.png")
    settings = {"data": str(tmp_path), "val_size": 2, "background": background, "levels": 256}
    task = build(PixelModelTask, PICTURES, size=6, **settings)
    level = {None: 255, "black": 0, "100": 100}[background]
    assert (task.tokens.background, task.tokens.deep_bits) == (level, 12)
    (tmp_path / "pixels.json").write_text(task.assets()["pixels.json"])
    tokens = load_from_run(tmp_path)
    assert tokens == task.tokens
    known = torch.cat([task.levels[split] for split in ("train", "val", "test")])
    for file in ("dog/2.png", "dog/deep.png", "cat/deep.png"):
        given = tokens_of(str(tmp_path / file), tokens)
        assert (known == given).all(1).any()


def test_what_is_usual_is_not_written_and_data_of_old_runs_stay_the_same(make):
    text = make().tokens.to_json()
    assert "background" not in text
    assert "deep_bits" not in text


def test_what_cannot_be(make):
    with pytest.raises(
        UserError, match=r"task.size=5: the pictures of task.data=digits have 4 x 6"
    ):
        make(size=5)
    with pytest.raises(
        UserError, match=r"task.colour=true: the pictures of task.data=mnist are grey"
    ):
        make(data="mnist", colour=True)


def test_the_shape_is_known_before_the_data():
    def known(**changes):
        return unprepared(**changes).known_spec()

    assert known() == ModelSpec(18, 64, fixed=True)
    assert known(classes=True) == ModelSpec(27, 64, fixed=True)
    assert known(data="cifar10", colour=True, levels=256) == ModelSpec(257, 3072, fixed=True)
    assert known(data="mnist", size=14, levels=2) == ModelSpec(3, 196, fixed=True)
    assert known(data="some/folder") == ModelSpec(18, 1024, fixed=True)
    assert known(data="some/folder", classes=True) is None

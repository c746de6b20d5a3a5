import dataclasses

import numpy as np
import pytest
import torch

from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.settings.task import ImageSettings
from mambalab.tasks import lra_image as module
from mambalab.tasks.images import ImageData
from mambalab.tasks.lra_image import LraImageTask, grey
from tests.tasks.toys import _IMAGES, OFF, build, made

SETTINGS = ImageSettings(**_IMAGES | {"name": "lra_image", "tune": None})
TRAIN, TEST = made(40, 3, 32, 32), made(10, 3, 32, 32, first=40)


@pytest.fixture
def make(monkeypatch):
    data = ImageData(["a", "b", "c"], TRAIN, TEST, {"path": "made up", "encoding": "PNG"})
    monkeypatch.setattr(module, "read_cifar10", lambda folder, name: data)

    def to_task(**changes) -> LraImageTask:
        return build(LraImageTask, SETTINGS, **changes)

    return to_task


def test_grey_is_that_of_tensorflow():
    levels = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)
    corners = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 125, 1)
    random = torch.randint(256, (5000, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    for pixels in (corners, random.to(torch.uint8)):
        red, green, blue = (pixels[:, channel].numpy().astype(np.float64) for channel in range(3))
        scale = 0.2989 * red / 255 + 0.5870 * green / 255 + 0.1140 * blue / 255
        found = grey(pixels)
        assert found.dtype == torch.uint8
        assert found.shape == (len(pixels), 1, *pixels.shape[2:])
        assert np.array_equal(found[:, 0].numpy(), np.floor(scale * 255.5))
    assert grey(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).item() == 255


def test_a_sequence_is_the_grey_levels_row_by_row(make):
    task = make()
    rows = np.array([3, 0])
    for split, images in (("test", TEST), ("train", None)):
        tokens, lengths = task.inputs(split, rows, 5)
        assert lengths is None
        assert (tokens.dtype, tokens.shape) == (torch.int64, (2, 1024))
        if images is not None:
            assert torch.equal(tokens, grey(images.pixels[rows]).flatten(1).long())
    assert (task.spec.vocab_size, task.spec.seq_len) == (256, 1024)
    assert (task.spec.input_dim, task.spec.classes) == (0, 3)


def test_splits_are_chosen_once_and_do_not_overlap(make):
    task, other = make(seed=1), make(seed=2)
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 34, "val": 6, "test": 10, "train_sample": 6}
    assert torch.equal(task.pixels["val"], other.pixels["val"])
    images = torch.cat([task.pixels[split] for split in ("train", "val")]).flatten(1)
    assert len(images.unique(dim=0)) == 40
    assert not torch.equal(task.batch(0)[1], other.batch(0)[1])
    tuned = make(tune=True)
    assert len(tuned.labels["val"]) == 4
    assert torch.equal(
        torch.cat([tuned.pixels["val"], tuned.pixels["train"]]), task.pixels["train"]
    )
    assert task.fingerprint()["encoding"] == "PNG"


def test_augmented_images_are_levels_again(make):
    task = make(augment=dataclasses.replace(OFF, flip=True))
    plain = task.inputs("train", np.arange(34), None)[0].view(34, 32, 32)
    changed = task.inputs("train", np.arange(34), 0)[0].view(34, 32, 32)
    same = (changed == plain).flatten(1).all(1)
    mirrored = (changed == plain.flip(2)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()
    moved = make(augment=dataclasses.replace(OFF, crop=4, rotation=20.0)).batch(0)[0][0]
    assert 0 <= int(moved.min()) <= int(moved.max()) <= 255


def test_the_files_are_those_of_cifar10(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert CATALOG["lra_image"].files == CATALOG["cifar10"].files
    with pytest.raises(UserError, match="cannot fetch CIFAR-10") as error:
        build(LraImageTask, SETTINGS, data_dir=tmp_path)
    assert str(tmp_path / "cifar10" / "train.parquet") in str(error.value)

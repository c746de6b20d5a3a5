import builtins

import numpy as np
import pytest
import torch

from mambalab.errors import UserError
from mambalab.tasks.digits import DigitsTask
from tests.tasks.toys import PIXELS, build


@pytest.fixture
def task():
    return build(DigitsTask, PIXELS, name="digits", val_size=180, input_dim=8)


def test_splits_and_shape(task):
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 1257, "val": 180, "test": 360, "train_sample": 180}
    assert (task.spec.seq_len, task.spec.input_dim, task.spec.classes) == (8, 8, 10)
    assert task.classes == [str(n) for n in range(10)]
    assert "load_digits" in task.fingerprint()["source"]


def test_all_images_are_there_once(task):
    from sklearn.datasets import load_digits

    found = load_digits()
    parts = ("train", "val", "test")
    pixels = torch.cat([task.pixels[name] for name in parts]).flatten(1)
    labels = torch.cat([task.labels[name] for name in parts])
    back = torch.round(pixels.double() * 16 / 255)
    here = sorted(map(tuple, torch.cat((back, labels[:, None].double()), 1).tolist()))
    there = np.concatenate((found.data, found.target[:, None]), 1)
    assert here == sorted(map(tuple, there.tolist()))
    assert pixels.max() == 255


def test_the_test_split_is_the_same_in_every_run(task):
    other = build(DigitsTask, PIXELS, seed=7, val_size=100, data_fraction=0.1, input_dim=1)
    assert torch.equal(other.pixels["test"], task.pixels["test"])
    assert torch.equal(other.labels["test"], task.labels["test"])
    assert np.bincount(task.labels["test"].numpy()).min() > 20  # every class has its share


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    usual = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"is not installed .*pip install .*--upgrade") as error:
        build(DigitsTask, PIXELS)
    assert "\n" not in str(error.value)


def test_a_share_is_held_out_of_each_class(task):
    shared = build(DigitsTask, PIXELS, name="digits", val_size=0.1, input_dim=8)
    counts = torch.bincount(shared.labels["val"])
    every = counts + torch.bincount(shared.labels["train"])
    assert len(shared.labels["val"]) == 144  # of 1,437 that train or validate
    assert (counts - every / 10).abs().max() < 1
    assert torch.equal(shared.labels["test"], task.labels["test"])
    for wrong in (1.0, 0.0, 12.5, "many"):
        with pytest.raises(UserError, match=f"task.val_size={wrong}: must be a whole number, or a"):
            build(DigitsTask, PIXELS, val_size=wrong)

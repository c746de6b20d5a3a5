"""Settings and small made-up data for the tests of tasks on images and probes."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from mambalab.settings.task import (
    AugmentSettings,
    FolderSettings,
    InductionHeadsSettings,
    PatchSettings,
    PixelModelSettings,
    PixelSettings,
    SelectiveCopyingSettings,
)
from mambalab.tasks.images import ImageData, Images, PatchTask, PixelTask

OFF = AugmentSettings(flip=False, crop=0, rotation=0.0, perspective=0.0, erasing=0.0)
_TASK = {"name": "toy", "_target_": "tests", "batch_size": 4, "eval_batch_size": 3, "params": {}}
_IMAGES = _TASK | {"label_smoothing": 0.0, "augment": OFF, "val_size": 6}
PIXELS = PixelSettings(**_IMAGES, input_dim=4, permute=False)
PATCHES = PatchSettings(**_IMAGES, patch_size=2)
PICTURES = PixelModelSettings(
    **_TASK | {"name": "pixels"},
    tune=None,
    data="digits",
    levels=17,
    size=None,
    colour=False,
    classes=False,
    background=None,
    val_size=6,
    test_size=2,
)
FOLDER = FolderSettings(
    **_IMAGES, patch_size=2, path=None, background=None, image_size=8, test_size=4
)
COPYING = SelectiveCopyingSettings(**_TASK, seq_len=20, copies=5, vocab_size=7, eval_sequences=10)
HEADS = InductionHeadsSettings(**_TASK, seq_len=16, vocab_size=8, eval_sequences=10, longest=8)


def build(kind, settings, *, seed=0, data_dir=Path("nowhere"), data_fraction=1.0, **changes):
    """A prepared task of class `kind` with some of its settings changed."""
    chosen = dataclasses.replace(settings, **changes)
    task = kind(chosen, seed=seed, data_dir=data_dir, data_fraction=data_fraction)
    task.prepare()
    return task


def made(count: int, channels: int, height: int, width: int, first: int = 0) -> Images:
    """Random images; the first pixel of each holds its own number, from `first` on."""
    generator = torch.Generator().manual_seed(first + 1)
    shape = (count, channels, height, width)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    numbers = torch.arange(first, first + count)
    pixels[:, 0, 0, 0] = numbers.to(torch.uint8)
    return Images(pixels, numbers % 3)


class Grey(PixelTask):
    """40 training and 10 test images, 4 x 6 grey pixels, three classes."""

    def read(self) -> ImageData:
        train, test = made(40, 1, 4, 6), made(10, 1, 4, 6, first=40)
        return ImageData(["a", "b", "c"], train, test, {"path": "made up"})


class Colour(PatchTask):
    """40 training and 10 test images, 4 x 6 pixels in three colours, three classes."""

    def read(self) -> ImageData:
        train, test = made(40, 3, 4, 6), made(10, 3, 4, 6, first=40)
        return ImageData(["a", "b", "c"], train, test, {"path": "made up"})


def numbers(task, split: str) -> list[int]:
    """The numbers of the images in a split of a toy task."""
    return task.pixels[split][:, 0, 0, 0].tolist()


class Echo(nn.Module):
    """The first step's values as logits."""

    def forward(self, sequences, lengths=None):
        return sequences[:, 0]


class Fixed(nn.Module):
    """The same logits everywhere: value k of `kinds` weighs k + 1, what is no value far more."""

    def __init__(self, kinds: int, vocab_size: int) -> None:
        super().__init__()
        weights = torch.arange(1.0, vocab_size + 1)
        weights[kinds:] = 1e6
        self.register_buffer("logits", weights.log())

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)

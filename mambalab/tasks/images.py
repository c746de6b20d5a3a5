"""Images as sequences: what `task=mnist`, `cifar10`, `digits` and `images` share."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mambalab.errors import UserError
from mambalab.settings.task import ImageSettings, PatchSettings, PixelSettings
from mambalab.spec import ModelSpec
from mambalab.tasks import splits
from mambalab.tasks.augment import augment
from mambalab.tasks.classification import ClassificationTask, Inputs
from mambalab.tasks.sampling import permutation, tuning_size

_SPLIT_SEED = 0  # seed of what is the same in every run: splits, the order of permuted pixels


@dataclass
class Images:
    """Labelled images.

    Attributes:
        pixels: (n, channels, height, width) uint8.
        labels: (n,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def rows(self, rows: np.ndarray) -> Images:
        """Copy the images and labels of some rows."""
        chosen = torch.from_numpy(rows.copy())
        return Images(self.pixels[chosen], self.labels[chosen])


@dataclass
class ImageData:
    """What a task's files hold.

    Attributes:
        classes: names of the labels.
        train: from which `val_size` images are held out at random, the same in every run, unless
            there is `val`.
        test: for the final test.
        source: where the images came from, for the record of the run.
        val: the validation split, if the data have one of their own.
    """

    classes: Sequence[str]
    train: Images
    test: Images
    source: dict[str, str]
    val: Images | None = None


class ImageTask(ClassificationTask):
    """Classify images that a model reads as a sequence of pixels or patches.

    *Splits*: `val` is `val_size` of the training images, chosen once for all seeds (a share:
    as large a one of each class); `data_fraction`
    keeps a share of the rest, likewise chosen; `train_sample` is as many of the training images as
    `val` has, to set beside it. Pixels are normalised by mean and deviation of each channel over
    the training images, validation included. With `task.tune=true` these images are put aside as
    well as those of `test`: `val` is a tenth of the others, chosen by the same rule.

    *Augmentation* (`task.augment`) changes each training image at random (`augment.augment`).

    A subclass writes `read`, and `sequence`, or takes it from `PixelTask` or `PatchTask`.

    Attributes:
        classed: whether anybody asks for the classes; else their absence is no news.
    """

    settings: ImageSettings
    unit = "images"
    classed = True
    published: tuple[int, int, int, int] | None = None
    """Channels, height and width of every image, and classes, where all copies have the same."""

    @abstractmethod
    def read(self) -> ImageData:
        """All images.

        Raises:
            UserError: they are absent and cannot be fetched, or are not what they should be.
        """

    @abstractmethod
    def sequence(self, images: Tensor) -> Tensor:
        """Turn images (b, channels, height, width) float32 into sequences (b, l, input_dim)."""

    @abstractmethod
    def check_shape(self, height: int, width: int) -> None:
        """Raise UserError if images of this size cannot be cut as asked."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image of this size; (0, 0): steps are none."""
        del height, width
        return 0, 0

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the images, split them, and put them on `device`, one byte a value.

        Raises:
            UserError: the data cannot be had, or do not fit the settings.
        """
        data = self.read()
        _, channels, height, width = data.train.pixels.shape
        self.check_shape(height, width)
        if (crop := self.settings.augment.crop) >= min(height, width):
            raise UserError(
                f"task.augment.crop={crop}: would move images of {height} x {width} pixels out of "
                f"sight; at most {min(height, width) - 1}"
            )
        size, total = self.settings.val_size, len(data.train.labels)
        if not data.val and splits.count(size, total) >= total:
            raise UserError(
                f"task.val_size={size}: {self.name} has {total:,} image{'s'[: total != 1]} to "
                f"train and validate with; hold out fewer{smaller(total, 'task.val_size')}"
            )
        order = permutation(_SPLIT_SEED, 0, total, "split")
        val, rest = order[:0], order
        if not data.val:
            val, rest = splits.held_out(data.train.labels.numpy(), size, "split")
        if self.tuning:
            order = rest
            val, rest = np.split(rest, [tuning_size(len(rest))])
            self.tunes = True
        used = rest[: int(len(rest) * self.data_fraction)]
        if not len(used):
            raise UserError(f"data_fraction={self.data_fraction}: no training image is left")
        parts = {"train": data.train.rows(used)}
        if self.tuning:
            parts["val"] = data.train.rows(val)
        else:
            parts |= {"val": data.val or data.train.rows(val), "test": data.test}
        sample = min(len(parts["val"].labels), len(used))
        parts["train_sample"] = parts["train"].rows(np.arange(sample))
        self.pixels = {name: part.pixels.to(device) for name, part in parts.items()}
        self.labels = {name: part.labels.to(device) for name, part in parts.items()}
        self.classes = data.classes
        if self.classed:
            self.warn_of_absent_classes("train", "image")
        seen = data.train.rows(np.sort(order)) if self.tuning else data.train
        mean, deviation = _statistics(seen.pixels)
        self._mean = mean.to(device).view(1, channels, 1, 1)
        self._scale = (1 / deviation.clamp(min=1 / 255)).to(device).view(1, channels, 1, 1)
        self._fingerprint = {"sha256": _digest(data), **data.source}
        self.spec = self._spec(channels, height, width, len(self.classes))

    def _spec(self, channels: int, height: int, width: int, classes: int) -> ModelSpec:
        _, length, values = self.sequence(torch.empty(1, channels, height, width)).shape
        rows, columns = self.grid(height, width)
        return ModelSpec(0, length, input_dim=values, classes=classes, rows=rows, columns=columns)

    def known_spec(self) -> ModelSpec | None:
        """Return the shape of a task whose images are `published`.

        Raises:
            UserError: they cannot be cut as asked.
        """
        if self.published is None:
            return None
        self.check_shape(*self.published[1:3])
        return self._spec(*self.published)

    def fingerprint(self) -> dict[str, str]:
        """sha256 of all pixels and labels, and where they came from."""
        return dict(self._fingerprint)

    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """The images' sequences (b, l, input_dim) float32; none is padded."""
        pixels = self.pixels[split]
        chosen = pixels[torch.from_numpy(rows).to(pixels.device)]
        images = (chosen.float() / 255 - self._mean) * self._scale
        if position is not None:
            images = augment(images, self.settings.augment, self.seed, position)
        return self.sequence(images), None


class PixelTask(ImageTask):
    """Images read row by row, `input_dim` pixels a step; grey ones only."""

    settings: PixelSettings

    def check_shape(self, height: int, width: int) -> None:
        """Raise UserError unless input_dim divides the number of pixels."""
        if (height * width) % self.settings.input_dim:
            raise UserError(
                f"task.input_dim={self.settings.input_dim}: must divide the {height * width} "
                f"pixels of an image of {self.name}"
            )

    def sequence(self, images: Tensor) -> Tensor:
        """Turn (b, 1, height, width) into (b, height * width / input_dim, input_dim)."""
        pixels = images.flatten(1)
        if self.settings.permute:
            order = permutation(_SPLIT_SEED, 0, pixels.shape[1], "pixels").copy()
            pixels = pixels[:, torch.from_numpy(order).to(pixels.device)]
        return pixels.unflatten(1, (-1, self.settings.input_dim))


class PatchTask(ImageTask):
    """Images read patch by patch, row by row; a step holds a patch's pixels of all channels."""

    settings: PatchSettings

    def check_shape(self, height: int, width: int) -> None:
        """Raise UserError unless patch_size divides both sides."""
        side = self.settings.patch_size
        if height % side or width % side:
            raise UserError(
                f"task.patch_size={side}: must divide the {height} x {width} pixels of an image "
                f"of {self.name}"
            )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image of this size."""
        return height // self.settings.patch_size, width // self.settings.patch_size

    def sequence(self, images: Tensor) -> Tensor:
        """Turn (b, channels, height, width) into (b, patches, channels * patch_size^2)."""
        side = self.settings.patch_size
        tiles = images.unflatten(2, (-1, side)).unflatten(4, (-1, side))
        return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0 to 1."""
    totals = torch.zeros(2, pixels.shape[1], dtype=torch.float64)
    for part in pixels.split(4096):
        values = part.double() / 255
        totals[0] += values.sum((0, 2, 3))
        totals[1] += values.square().sum((0, 2, 3))
    mean, square = totals / (pixels.numel() / pixels.shape[1])
    return mean.float(), (square - mean**2).clamp(min=0).sqrt().float()


def smaller(total: int, *keys: str) -> str:
    """Suggest how many of `total` images to hold out, as a clause; "" if there are too few."""
    share = max(total * 3 // 20, 1)
    if total <= len(keys):
        return ""
    left = total - share * len(keys)
    return f", e.g. {' '.join(f'{key}={share}' for key in keys)}: {left:,} are left to train"


def _digest(data: ImageData) -> str:
    """sha256 of everything a model is trained and scored on."""
    digest = hashlib.sha256(repr([list(data.classes), data.train.pixels.shape[1:]]).encode())
    for images in filter(None, (data.train, data.test, data.val)):
        digest.update(images.pixels.contiguous().numpy().data)
        digest.update(images.labels.contiguous().numpy().data)
    return digest.hexdigest()

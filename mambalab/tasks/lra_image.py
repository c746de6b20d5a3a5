"""The image task of Long Range Arena: `task=lra_image`."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from mambalab.spec import ModelSpec
from mambalab.tasks.augment import augment
from mambalab.tasks.cifar10 import SIDE, read_cifar10
from mambalab.tasks.classification import Inputs
from mambalab.tasks.images import ImageData, Images, ImageTask

LEVELS = 256
"""Grey levels of a pixel, each a token."""

_WEIGHTS = (2989, 5870, 1140)  # of red, green and blue, in ten thousandths


class LraImageTask(ImageTask):
    """CIFAR-10 in grey, a pixel a step (arXiv 2011.04006, section 2.2.4): which of ten things?

    A sequence is the 1,024 pixels, row by row; each is a token, its grey level of 256 (`grey`). The
    files are those of `task=cifar10`. *Splits*: 45,000 training images, 5,000 for validation,
    chosen once for all seeds, and the 10,000 test images.
    """

    def read(self) -> ImageData:
        """All images, in grey.

        Raises:
            UserError: absent and not to be fetched, or not what they should be.
        """
        data = read_cifar10(self.data_dir, "lra_image")
        train, test = (Images(grey(part.pixels), part.labels) for part in (data.train, data.test))
        return dataclasses.replace(data, train=train, test=test)

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the images, split them, and put them on `device`, a byte a pixel.

        Raises:
            UserError: the data cannot be had, or do not fit the settings.
        """
        super().prepare(device)
        self.spec = ModelSpec(LEVELS, SIDE * SIDE, classes=len(self.classes))

    def check_shape(self, height: int, width: int) -> None:
        """Accept the one size there is."""
        assert height == width == SIDE

    def sequence(self, images: Tensor) -> Tensor:
        """Turn (b, 1, height, width) into (b, height * width, 1), row by row."""
        return images.flatten(1)[:, :, None]

    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """The images' grey levels (b, 1024) int64, which are tokens; none is padded."""
        pixels = self.pixels[split]
        chosen = pixels[torch.from_numpy(rows).to(pixels.device)]
        if position is not None and self._augments:
            images = (chosen.float() / 255 - self._mean) * self._scale
            images = augment(images, self.settings.augment, self.seed, position)
            levels = (images / self._scale + self._mean) * 255
            chosen = levels.round().clamp(0, LEVELS - 1)
        return chosen.flatten(1).long(), None

    @property
    def _augments(self) -> bool:
        return any(dataclasses.astuple(self.settings.augment))


def grey(pixels: Tensor) -> Tensor:
    """Turn colours into grey levels, as Long Range Arena does with `tf.image.rgb_to_grayscale`.

    That is y = 0.2989 red + 0.5870 green + 0.1140 blue on a scale of 0 to 1, and the whole part of
    255.5 y. Here it is worked out in whole numbers, without rounding errors; TensorFlow's float32
    may fall on the other side of a whole number in rare cases.

    Args:
        pixels: (n, 3, height, width) uint8.

    Returns:
        (n, 1, height, width) uint8.
    """
    weights = torch.tensor(_WEIGHTS, dtype=torch.int32).view(1, 3, 1, 1)
    found = torch.empty_like(pixels[:, :1])
    for part, target in zip(pixels.split(4096), found.split(4096), strict=True):
        # 255.5 * total / (255 * 10000), both sides doubled: below 2^31.
        total = (part.int() * weights).sum(1, keepdim=True, dtype=torch.int32)
        target.copy_(511 * total // (2 * 255 * 10_000))
    return found

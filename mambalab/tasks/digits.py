"""Small digits that need no download: `task=digits`."""

from __future__ import annotations

from typing import Any

import torch

from mambalab.errors import UserError
from mambalab.tasks.images import ImageData, Images, PixelTask
from mambalab.tasks.sampling import permutation
from mambalab.utils.packages import pip_install, why_not_imported

_TEST_IMAGES = 360  # a fifth


class DigitsTask(PixelTask):
    """1,797 handwritten digits of 8 x 8 grey pixels (UCI "optical recognition of handwritten
    digits", test part), which come with scikit-learn.

    360 of them, chosen once for all runs, are the test split. `task.input_dim` pixels make a step.
    """

    published = (1, 8, 8, 10)

    def read(self) -> ImageData:
        """All images.

        Raises:
            UserError: scikit-learn is not installed, or cannot be imported.
            ImportError: because memory ran out.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                f"task=digits: its images come with scikit-learn, which is "
                f"{why_not_imported(error)}: {pip_install('--upgrade scikit-learn')}"
            ) from error
        found: Any = load_digits()
        pixels = torch.from_numpy(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
        images = Images(pixels, torch.from_numpy(found.target).long())
        order = permutation(0, 0, len(pixels), "digits")
        test, train = images.rows(order[:_TEST_IMAGES]), images.rows(order[_TEST_IMAGES:])
        names = [str(digit) for digit in range(10)]
        return ImageData(names, train, test, {"source": "sklearn.datasets.load_digits"})

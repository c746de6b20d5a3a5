"""Images of your own: `task=images task.path=FOLDER`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from mambalab.errors import UserError
from mambalab.tasks.images import ImageData, Images, PatchTask
from mambalab.tasks.sampling import permutation
from mambalab.tasks.settings import FolderSettings

_MOST = 8_000_000_000  # bytes of pixels that are kept in memory


class ImageFolderTask(PatchTask):
    """Any folder with a sub-folder of images (JPEG, PNG, ...) for each class.

    Images are scaled so that their shorter side is `task.image_size` and cropped to the middle
    square. If the folder has sub-folders `train` and `test` with the classes inside, these are the
    splits; otherwise `task.test_size` images, chosen once for all runs, are the test split.
    """

    settings: FolderSettings

    def read(self) -> ImageData:
        """All images, scaled and cropped.

        Raises:
            UserError: no such folder, no classes, an image that cannot be read, or too many.
        """
        if self.settings.path is None:
            raise UserError("task=images: name the folder with task.path=FOLDER")
        path = Path(os.path.expanduser(self.settings.path))
        if not path.is_dir():
            raise UserError(f"there is no folder {path.absolute()} (task.path)")
        source = {"path": str(path.absolute())}
        if (path / "train").is_dir() and (path / "test").is_dir():
            classes, train = self._folder(path / "train")
            others, test = self._folder(path / "test")
            if classes != others:
                odd = sorted(set(classes) ^ set(others))
                raise UserError(f"{path}: train and test differ in their classes: {odd[0]}")
            return ImageData(classes, train, test, source)
        classes, images = self._folder(path)
        held_out, total = self.settings.test_size, len(images.labels)
        if held_out >= total:
            raise UserError(f"task.test_size={held_out}: {path} holds only {total:,} images")
        order = permutation(0, 0, total, "test")
        test, train = images.rows(order[:held_out]), images.rows(order[held_out:])
        return ImageData(classes, train, test, source)

    def _folder(self, path: Path) -> tuple[list[str], Images]:
        from torchvision.datasets import ImageFolder

        try:
            found = ImageFolder(str(path))
        except (FileNotFoundError, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{path}: {reason}; put a sub-folder of images there for each class"
            ) from None
        side = self.settings.image_size
        size = len(found.samples) * 3 * side * side
        if size > _MOST:
            raise UserError(
                f"{path}: {len(found.samples):,} images of {side} x {side} pixels take "
                f"{size / 1e9:.1f} GB of memory, at most {_MOST / 1e9:g}: use a smaller "
                "task.image_size"
            )
        pixels = torch.empty(len(found.samples), 3, side, side, dtype=torch.uint8)
        for row, (file, _) in enumerate(found.samples):
            pixels[row] = _load(file, side)
        labels = torch.from_numpy(np.asarray(found.targets, dtype=np.int64))
        return list(found.classes), Images(pixels, labels)


def _load(file: str, side: int) -> torch.Tensor:
    """An image file as (3, side, side) uint8: shorter side scaled, middle cropped."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): mend or remove it") from None
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

"""Images of your own: `task=images task.path=FOLDER`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch

from mambalab.data import duplicates
from mambalab.errors import UserError, first_line
from mambalab.settings.task import FolderSettings
from mambalab.tasks.images import ImageData, Images, PatchTask
from mambalab.tasks.sampling import permutation

LOG = logging.getLogger("mambalab")
_MAX_PIXEL_BYTES = 8_000_000_000  # bytes of pixels that are kept in memory
_MAX_CLASSES_NAMED = 10  # classes that are named at the start


class ImageFolderTask(PatchTask):
    """Any folder with a sub-folder of images (JPEG, PNG, ...) for each class.

    Images are scaled so that their shorter side is `task.image_size` and cropped to the middle
    square. If the folder has a sub-folder `train` with the classes inside, and `val` or `test` or
    both beside it, these are the splits; what is missing of them, and all splits otherwise, are
    images held out at random, the same in every run: `task.val_size`, `task.test_size`.
    """

    settings: FolderSettings

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read, split and place the images; log the classes, and warn of images in two splits."""
        super().prepare(device)
        images = ", ".join(f"{len(self.labels[s]):,} {s}" for s in ("train", "val", "test"))
        names = ", ".join(self.classes[:_MAX_CLASSES_NAMED]) + (
            ", ..." if len(self.classes) > _MAX_CLASSES_NAMED else ""
        )
        LOG.info(
            "%s: %s classes (%s); images: %s", self.settings.path, len(self.classes), names, images
        )
        digests = {
            name: np.array([duplicates.digest(row.numpy()) for row in self.pixels[name].cpu()])
            for name in ("train", "val", "test")
        }
        duplicates.warn(self.settings.path, "images", digests)

    def read(self) -> ImageData:
        """All images, scaled and cropped.

        Raises:
            UserError: no such folder, no classes, an image that cannot be read, or too many.
        """
        if self.settings.path is None:
            raise UserError("task=images: name the folder with task.path=FOLDER")
        path = Path(os.path.expanduser(self.settings.path))
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise UserError(
                f"{path.absolute()} (task.path) {what}; a folder with a sub-folder of images for "
                "each class is needed"
            )
        source = {"path": str(path.absolute())}
        parts = _splits(path)
        classes, train = self._folder(parts.get("train", path))
        if len(classes) < 2:
            raise UserError(
                f"{parts.get('train', path)}: one sub-folder, {classes[0]}, has images; at least "
                "two classes are needed"
            )
        found: dict[str, Images] = {}
        for split in ("val", "test"):
            if split in parts:
                others, found[split] = self._folder(parts[split])
                if others != classes:
                    odd = sorted(set(classes) ^ set(others))[0]
                    place, lacks = ("train", split) if odd in classes else (split, "train")
                    raise UserError(
                        f"{path}: the class {odd} is in {place} and not in {lacks}: each split "
                        "needs a sub-folder for every class"
                    )
        if "test" not in found:
            held_out, total = self.settings.test_size, len(train.labels)
            if held_out >= total:
                raise UserError(
                    f"task.test_size={held_out}: {path} holds only {total:,} images; hold out "
                    "fewer with task.test_size=... and task.val_size=..."
                )
            order = permutation(0, 0, total, "test")
            found["test"], train = train.rows(order[:held_out]), train.rows(order[held_out:])
        return ImageData(classes, train, found["test"], source, found.get("val"))

    def _folder(self, path: Path) -> tuple[list[str], Images]:
        from torchvision.datasets import ImageFolder

        class Visible(ImageFolder):
            """An ImageFolder that passes over folders which file managers and notebooks make."""

            def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
                every, _ = super().find_classes(directory)
                names = [name for name in every if not name.startswith((".", "__"))]
                return names, {name: label for label, name in enumerate(names)}

        try:
            found = Visible(str(path), allow_empty=True)
        except (FileNotFoundError, OSError) as error:
            reason = first_line(error)
            raise UserError(
                f"{path}: {reason}; put a sub-folder of images there for each class"
            ) from None
        counts = np.bincount(found.targets, minlength=len(found.classes)).tolist()
        if empty := [name for name, n in zip(found.classes, counts, strict=True) if not n]:
            shown = ", ".join(str(path / name) for name in empty[:3])
            raise UserError(
                f"{shown}{' and others' if len(empty) > 3 else ''}: no images in this folder; put "
                f"some there, or remove it if it is no class"
            )
        side = self.settings.image_size
        size = len(found.samples) * 3 * side * side
        if size > _MAX_PIXEL_BYTES:
            raise UserError(
                f"{path}: {len(found.samples):,} images of {side} x {side} pixels take "
                f"{size / 1e9:.1f} GB of memory, at most {_MAX_PIXEL_BYTES / 1e9:g}: use a smaller "
                "task.image_size"
            )
        pixels = torch.empty(len(found.samples), 3, side, side, dtype=torch.uint8)
        for row, (file, _) in enumerate(found.samples):
            pixels[row] = _load(file, side)
        labels = torch.from_numpy(np.asarray(found.targets, dtype=np.int64))
        return list(found.classes), Images(pixels, labels)


def _splits(path: Path) -> dict[str, Path]:
    """Sub-folders that are splits rather than classes: `train` with at least one other."""
    names = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
    found = {names.get(p.name.lower(), p.name.lower()): p for p in path.iterdir() if p.is_dir()}
    parts = {name: found[name] for name in ("train", "val", "test") if name in found}
    return parts if "train" in parts and len(parts) > 1 else {}


def _load(file: str, side: int) -> torch.Tensor:
    """An image file as (3, side, side) uint8: shorter side scaled, middle cropped."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):  # convert() would clip all but the darkest to white
                deep = np.asarray(image).astype(np.uint16)
                upright = Image.fromarray((deep >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise UserError(f"{file} has 32 bits a pixel: convert it to 8 bits")
            else:
                upright = ImageOps.exif_transpose(image)
            fitted = ImageOps.fit(upright.convert("RGB"), (side, side))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): mend or remove it") from None
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)

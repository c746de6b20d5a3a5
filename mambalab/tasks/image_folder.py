"""Images of your own: `task=images task.path=FOLDER`."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from mambalab.data import duplicates, image_tree
from mambalab.data.image_pixels import ImageReader
from mambalab.data.image_tree import ImageTree
from mambalab.errors import UserError
from mambalab.settings.task import FolderSettings
from mambalab.tasks import splits
from mambalab.tasks.images import ImageData, Images, PatchTask, smaller
from mambalab.utils.text import alike, printable

LOG = logging.getLogger("mambalab")
_MAX_PIXEL_BYTES = 8_000_000_000  # bytes of pixels that are kept in memory
_MAX_CLASSES_NAMED = 10  # classes that are named at the start
_GREY_LEVELS = {None: 255, "white": 255, "black": 0}


class ImageFolderTask(PatchTask):
    """Any folder with a sub-folder of images (JPEG, PNG, ...) for each class.

    Images are scaled so that their shorter side is `task.image_size` and cropped to the middle
    square; what is transparent shows `task.background`. If the folder has a sub-folder `train` with
    the classes inside, and `val` or `test` or both beside it, these are the splits; what is missing
    of them, and all splits otherwise, are images held out at random, the same in every run:
    `task.val_size`, `task.test_size`, whole numbers or shares of each class (`val_size` of what
    the test leaves). The classes are those of `train`; another split may lack
    some.

    Attributes:
        keys: what the settings of the folder and of the size are called, for messages.
        classed: whether classes are asked for; else one is enough, images in the folder itself are
            taken, too, and folders without images are passed over.
        deep_bits: see `ImageReader`; known once the images are read.
    """

    settings: FolderSettings
    keys: Mapping[str, str] = MappingProxyType({"path": "task.path", "side": "task.image_size"})
    deep_bits = 0

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read, split and place the images; log the classes, and warn of images in two splits and
        of splits without any image of a class."""
        super().prepare(device)
        splits = [split for split in ("train", "val", "test") if split in self.splits]
        images = ", ".join(f"{len(self.labels[split]):,} {split}" for split in splits)
        names = ", ".join(map(printable, self.classes[:_MAX_CLASSES_NAMED])) + (
            ", ..." if len(self.classes) > _MAX_CLASSES_NAMED else ""
        )
        classes = f"{len(self.classes)} classes ({names}); " if self.classed else ""
        LOG.info("%s: %simages: %s", self.settings.path, classes, images)
        digests = {
            name: np.array([duplicates.digest(row.numpy()) for row in self.pixels[name].cpu()])
            for name in splits
        }
        duplicates.warn(self.settings.path, "images", digests)
        for split in splits[1:] if self.classed else ():
            self.warn_of_absent_classes(split, "image")

    def read(self) -> ImageData:
        """All images, scaled and cropped.

        Raises:
            UserError: no such folder, no classes, an image that cannot be read, or too many.
        """
        path = self._path()
        layout = image_tree.layout(path, flat=not self.classed)
        trees = {
            split: image_tree.scan(part, flat=not self.classed)
            for split, part in layout.parts.items()
        }
        self._check_train(trees["train"], path)
        for split in [split for split, tree in trees.items() if not tree.files]:
            self._leave_out_split(split, trees.pop(split))
        if layout.ignored or layout.loose:
            beside = [f"images ({layout.loose:,})"] if layout.loose else []
            names = ", ".join([*map(printable, layout.ignored), *beside])
            LOG.warning("%s: left out beside train: %s, no split by name", path, names)
        if layout.doubtful and self.classed:
            LOG.warning(
                "%s: the class train holds folders, like a split; if these are the classes, use "
                "%s=%s",
                path,
                self.keys["path"],
                trees["train"].path / "train",
            )
        if self.classed and image_tree.like_splits(classes := trees["train"].classes):
            LOG.warning(
                "%s: the classes are %s, which are named like splits; if they are splits, put a "
                "sub-folder of images for each class into each of them",
                path,
                ", ".join(map(printable, classes)),
            )
        source = {"path": str(path.absolute())}
        for tree in trees.values():
            if left_out := tree.left_out():
                LOG.info("%s: left out: %s", tree.path, left_out)
                source["left_out"] = "; ".join(filter(None, [source.get("left_out"), left_out]))
        for tree in trees.values():
            self._check_memory(tree.path, len(tree.files))
        reader = ImageReader(self.settings.image_size, grey_level(self.settings.background))
        classes = trees["train"].classes
        found = {split: self._images(tree, classes, reader) for split, tree in trees.items()}
        reader.finish()
        self.deep_bits = reader.deep_bits
        source |= self._describe(reader, path)
        train, test, val = found["train"], found.get("test"), found.get("val")
        if test is None:
            size, total = self.settings.test_size, len(train.labels)
            if splits.count(size, total) >= total:
                raise UserError(
                    f"task.test_size={size}: {path} holds only {total:,} images; hold out "
                    "fewer with task.test_size=... and task.val_size=..."
                    + smaller(total, "task.test_size", *(["task.val_size"] if val is None else []))
                )
            chosen, others = splits.held_out(train.labels.numpy(), size, "test")
            test, train = train.rows(chosen), train.rows(others)
        return ImageData(classes, train, test, source, val)

    def _leave_out_split(self, split: str, tree: ImageTree) -> None:
        """Say that a split's folder gives no images to use, so that others are held out."""
        why = f"{tree.loose:,} images without labels" if tree.loose else "no images"
        where = " in sub-folders of classes" if self.classed else ""
        told = "%s: %s%s; the %s split is held out of train instead"
        LOG.warning(told, tree.path, why, where, split)

    def _path(self) -> Path:
        if self.settings.path is None:
            raise UserError("task=images: name the folder with task.path=FOLDER")
        path = Path(os.path.expanduser(self.settings.path))
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise UserError(
                f"{path.absolute()} (task.path) {what}; a folder with a sub-folder of images for "
                "each class is needed"
            )
        return path

    def _check_train(self, tree: ImageTree, path: Path) -> None:
        """Raise UserError unless there are two classes, all with images, or an image where nobody
        asks for classes; warn of names that only seem to differ."""
        if not self.classed:
            if not tree.files:
                others = f" (it has {kinds})" if (kinds := image_tree.named(tree.others)) else ""
                raise UserError(f"{tree.path}: no image here or below{others}")
            return
        if not tree.classes:
            raise UserError(
                f"{tree.path}: there is no sub-folder; put a sub-folder of images there for each "
                "class"
            )
        counts = tree.counts()
        if empty := [name for name, n in zip(tree.classes, counts, strict=True) if not n]:
            places = [tree.path / name for name in empty[:3]]
            kinds = [(place, image_tree.extensions_in(place)) for place in places]
            shown = ", ".join(f"{place}{f' (it has {k})' if k else ''}" for place, k in kinds)
            raise UserError(
                f"{printable(shown)}{' and others' if len(empty) > 3 else ''}: no images in this "
                f"folder; put some there, or remove it if it is no class"
            )
        if len(tree.classes) < 2:
            inside = image_tree.scan(tree.path / tree.classes[0]).classes
            hint = (
                f"; or {self.keys['path']}={tree.path / tree.classes[0]}" if len(inside) > 1 else ""
            )
            raise UserError(
                f"{tree.path}: one sub-folder, {printable(tree.classes[0])}, has images; at least "
                f"two classes are needed{hint}"
            )
        times = Counter(map(alike, tree.classes))
        if twins := [name for name in tree.classes if times[alike(name)] > 1]:
            LOG.warning(
                "%s: sub-folders with nearly the same name are classes of their own: %s",
                path,
                ", ".join(ascii(name) for name in twins),
            )

    def _images(self, tree: ImageTree, classes: list[str], reader: ImageReader) -> Images:
        """The images of a split, labelled by the classes of `train`.

        Raises:
            UserError: it has images of a class that `train` lacks.
        """
        counts = tree.counts()
        place: dict[int, int] = {}
        for label, (name, count) in enumerate(zip(tree.classes, counts, strict=True)):
            match = image_tree.same_name(name, classes)
            if match is None and not self.classed:
                match = classes[0]
            if match is None and count:
                near = [c for c in classes if alike(c) == alike(name)]
                called = f" (there it is called {near[0]})" if near else ""
                raise UserError(
                    f"{tree.path}: the class {printable(name)} has images here and none in train"
                    f"{called}: put some there, or take {tree.path / name} away"
                )
            if match is not None:
                place[label] = classes.index(match)
        side = self.settings.image_size
        pixels = torch.empty(len(tree.files), 3, side, side, dtype=torch.uint8)
        for row, (file, _) in enumerate(tree.files):
            reader.read(file, pixels[row])
        labels = [place[label] for _, label in tree.files]
        return Images(pixels, torch.tensor(labels, dtype=torch.int64))

    def _describe(self, reader: ImageReader, path: Path) -> dict[str, str]:
        """What had to be decided about pixels, logged and for the record."""
        facts: dict[str, str] = {}
        if reader.transparent:
            shown = self.settings.background or "white"
            facts["transparent"] = f"{reader.transparent:,} images, on background {shown}"
            LOG.info(
                "%s: transparent: %s; another with task.background=...", path, facts["transparent"]
            )
        if reader.deep_bits:
            largest = 1 << max(reader.deep_bits, 8)
            facts["deep"] = f"values 0 to {largest - 1:,} become 0 to 255"
            LOG.info("%s: images of 16 bits: %s", path, facts["deep"])
        if reader.many_frames:
            facts["many_frames"] = f"{reader.many_frames:,} files, the first picture of each"
            LOG.info("%s: files of several pictures: %s", path, facts["many_frames"])
        return facts

    def _check_memory(self, path: Path, images: int) -> None:
        side = self.settings.image_size
        size = images * 3 * side * side
        if size > _MAX_PIXEL_BYTES:
            raise UserError(
                f"{path}: {images:,} images of {side} x {side} pixels take {size / 1e9:.1f} GB of "
                f"memory, at most {_MAX_PIXEL_BYTES / 1e9:g}: use a smaller {self.keys['side']}"
            )


def grey_level(background: str | None) -> int:
    """Grey level, 0 to 255, that `task.background` names; None is white."""
    known = _GREY_LEVELS.get(background)
    return known if known is not None else int(background or 0)

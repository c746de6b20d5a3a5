"""Pictures as a language model writes them, pixel by pixel: `task=pixels`."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.settings.task import (
    AugmentSettings,
    DiffusionSettings,
    FolderSettings,
    PatchSettings,
    PixelModelSettings,
    PixelSettings,
)
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task
from mambalab.tasks.cifar10 import Cifar10Task
from mambalab.tasks.digits import DigitsTask
from mambalab.tasks.image_folder import ImageFolderTask, grey_level
from mambalab.tasks.images import ImageTask, PatchTask
from mambalab.tasks.mnist import MnistTask
from mambalab.tasks.sampling import shuffled
from mambalab.tokenization.pixels import PIXELS, PixelTokens
from mambalab.utils.text import did_you_mean, short

PixelBatch = tuple[Tensor, Tensor]

_FOLDER_SIDE = 32  # pixels of a side, of pictures of a folder
_KNOWN: dict[str, type[ImageTask]] = {
    "digits": DigitsTask,
    "mnist": MnistTask,
    "cifar10": Cifar10Task,
}
_PLAIN = AugmentSettings(flip=False, crop=0, rotation=0.0, perspective=0.0, erasing=0.0)


class _FolderOfPictures(ImageFolderTask):
    """A folder of pictures, its settings called as those of `task=pixels`."""

    keys = MappingProxyType({"path": "task.data", "side": "task.size"})


class PixelModelTask(Task):
    """Predict each value of a picture from those before it, in raster order (arXiv 1601.06759).

    A value of 0 to 255 becomes one of `task.levels` tokens, floor(v * levels / 256); the tokens of
    a picture, row by row, with `task.colour` red, green and blue of each pixel one after the other,
    follow a first token, which tells the class with `task.classes`. The model reads that and all
    values but the last, and each value is predicted once, the first one too: a distribution over
    the levels, so that the probabilities of all pictures sum to 1.

    *Metrics*: `<split>/loss` (mean nats per value), `<split>/bits_per_dim` (the same in bits) and
    `<split>/nats_per_image` (mean of a picture's negative log likelihood). They are of the
    pictures as quantised: other levels or sizes, other numbers.

    *Splits* are those of the task that reads the same pictures as classes (`images.ImageTask`).
    *Training batch k*: `batch_size` pictures of the training split, which is gone through in a new
    order each round (`sampling.shuffled`).

    Attributes:
        tokens: what the tokens mean.
        levels: for each split its pictures, (n, values) uint8 on the device.
        labels: for each split the classes of its pictures, (n,) int64 on the device.
    """

    settings: PixelModelSettings
    splits = ("train", "val", "test", "train_sample")
    shares = True
    loss_unit = "nats per value"
    unit = "images"

    tokens: PixelTokens
    levels: dict[str, Tensor]
    labels: dict[str, Tensor]

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the pictures, split and quantise them, and put them on `device`, a byte a value.

        Raises:
            UserError: the data cannot be had, or do not fit the settings.
        """
        source = self._source()
        source.classed = self.settings.classes
        source.prepare(device)
        self.tunes = source.tunes
        channels, height, width = source.pixels["train"].shape[1:]
        self.tokens = self._tokens(channels, height, width, list(source.classes))
        content = f"{source.fingerprint()['sha256']} {self.tokens.to_json()}"
        if isinstance(source, ImageFolderTask):
            level = grey_level(self.settings.background)
            self.tokens = replace(self.tokens, background=level, deep_bits=source.deep_bits)
        elif height > self.tokens.height:
            self.tokens = replace(self.tokens, read_side=height)
        fitted = {split: self.tokens.fitted(found) for split, found in source.pixels.items()}
        self.levels = {split: self.tokens.quantise(found) for split, found in fitted.items()}
        self.labels = source.labels
        self._fingerprint = source.fingerprint()
        self._fingerprint["sha256"] = hashlib.sha256(content.encode()).hexdigest()
        if (folder := self.settings.folder()) is not None:
            self._fingerprint["data"] = os.path.abspath(os.path.expanduser(folder))
        self.spec = ModelSpec(self.tokens.vocab_size, self.tokens.values, fixed=True)

    def _source(self) -> ImageTask:
        """The task that reads these pictures as classes.

        Raises:
            UserError: the folder does not exist.
        """
        settings = self.settings
        common: dict[str, Any] = {
            "name": settings.name,
            "_target_": settings._target_,
            "batch_size": settings.batch_size,
            "eval_batch_size": settings.eval_batch_size,
            "tune": settings.tune,
            "params": {},
            "label_smoothing": 0.0,
            "augment": _PLAIN,
            "val_size": settings.val_size,
        }
        where: dict[str, Any] = {
            "seed": self.seed,
            "data_dir": self.data_dir,
            "data_fraction": self.data_fraction,
        }
        if (folder := settings.folder()) is not None:
            place = Path(os.path.expanduser(folder))
            if place.is_file():
                raise UserError(f"task.data={folder} is a file: name a folder of pictures")
            if not place.is_dir():
                text = ["text"] * isinstance(settings, DiffusionSettings)
                known = ", ".join([*_KNOWN, *text])
                raise UserError(
                    f"task.data={folder}: no such folder, and none of {known}"
                    f"{did_you_mean(folder, [*_KNOWN, *text])}; name a folder of pictures"
                )
            side = settings.size or _FOLDER_SIDE
            more = {"path": folder, "background": settings.background, "image_size": side}
            more["test_size"] = settings.test_size
            return _FolderOfPictures(FolderSettings(**common, **more, patch_size=1), **where)
        kind = _KNOWN[settings.data]
        if issubclass(kind, PatchTask):
            return kind(PatchSettings(**common, patch_size=1), **where)
        return kind(PixelSettings(**common, input_dim=1, permute=False), **where)

    def _tokens(self, channels: int, height: int, width: int, classes: list[str]) -> PixelTokens:
        """What the tokens of pictures of this size mean.

        Raises:
            UserError: they are smaller than `task.size`.
        """
        side = self.settings.size
        if side is not None and side > min(height, width):
            raise UserError(
                f"task.size={side}: the pictures of task.data={self.settings.data} have {height} x "
                f"{width} pixels, and are made smaller only"
            )
        return PixelTokens(
            self.settings.levels,
            side or height,
            side or width,
            channels if self.settings.colour else 1,
            tuple(map(str, classes)) if self.settings.classes else (),
        )

    def known_spec(self) -> ModelSpec | None:
        """Return the shape, but of a folder's pictures with classes, which are counted later.

        Raises:
            UserError: the pictures are smaller than `task.size`.
        """
        if self.settings.folder() is None:
            published = _KNOWN[self.settings.data].published
            if published is None:
                return None
            channels, height, width, count = published
            tokens = self._tokens(channels, height, width, list(map(str, range(count))))
        elif self.settings.classes:
            return None
        else:
            side = self.settings.size or _FOLDER_SIDE
            tokens = self._tokens(3, side, side, [])
        return ModelSpec(tokens.vocab_size, tokens.values, fixed=True)

    @property
    def units_per_batch(self) -> int:
        """Pictures in a training batch."""
        return self.settings.batch_size

    @property
    def batches_per_epoch(self) -> float:
        """Batches that hold as many pictures as the training split."""
        return len(self.levels["train"]) / self.settings.batch_size

    def describe_data(self) -> str:
        """Describe the data in a line: size, levels, pictures of each split."""
        tokens, splits = self.tokens, [name for name in self.splits if name != "train_sample"]
        sizes = ", ".join(f"{len(self.levels[split]):,} {split}" for split in splits)
        colour = ", in colour" if tokens.channels == 3 else ""
        told = f", {len(tokens.classes)} classes told" if tokens.classes else ""
        return (
            f"{self.name} of {short(self.settings.data, 60)}, {tokens.height} x {tokens.width}"
            f"{colour}, {tokens.levels} levels{told}; images: {sizes}"
        )

    def fingerprint(self) -> dict[str, str]:
        """sha256 of the pictures with their levels and size, and where they came from."""
        return dict(self._fingerprint)

    def assets(self) -> dict[str, str]:
        """What the tokens mean, so that the model can write pictures without the data."""
        return {PIXELS: self.tokens.to_json()}

    def batch(self, position: int) -> PixelBatch:
        """Build batch `position`: inputs and targets (b, l) int64, targets one value ahead."""
        total, count = len(self.levels["train"]), self.settings.batch_size
        return self.inputs("train", shuffled(self.seed, position, count=count, total=total))

    def inputs(self, split: str, rows: np.ndarray) -> PixelBatch:
        """Inputs and targets (b, l) int64 of some pictures of a split."""
        levels = self.levels[split]
        chosen = torch.from_numpy(rows).to(levels.device)
        targets = levels[chosen].long()
        first = self.tokens.first(self.labels[split][chosen])
        return torch.cat((first[:, None], targets[:, :-1]), dim=1), targets

    def loss(self, model: nn.Module, batch: PixelBatch) -> Tensor:
        """Compute the mean cross-entropy in nats per value: a float32 scalar."""
        inputs, targets = batch
        logits = self._logits(model, inputs)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def nats(self, model: nn.Module, batch: PixelBatch) -> Tensor:
        """Negative log likelihood (b,) float64 of each picture, in nats."""
        inputs, targets = batch
        logits = self._logits(model, inputs)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return each.view(targets.shape).double().sum(1)

    def _logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits (b, l, levels) float32: a first token never comes again."""
        return model(inputs)[..., : self.tokens.levels].float()

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure nats per value, bits per value and nats per picture over a split."""
        count, size = len(self.levels[split]), self.settings.eval_batch_size
        total = 0.0
        for start in self.eval_batches(range(0, count, size)):
            rows = np.arange(start, min(start + size, count))
            total += float(self.nats(model, self.inputs(split, rows)).sum())
        nats = self.summed({"nats": total})["nats"] / count
        loss = nats / self.tokens.values
        return {
            f"{split}/loss": loss,
            f"{split}/bits_per_dim": loss / math.log(2),
            f"{split}/nats_per_image": nats,
        }

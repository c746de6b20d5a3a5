"""Sheets of pictures of `task=pixels`: a callback while it trains, and for `mambalab generate`."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.generation.sampling import Sampling
from mambalab.plots import sheet
from mambalab.runs.callbacks import Sample
from mambalab.runs.diffusion_model import LoadedDenoiser
from mambalab.runs.given_pictures import tokens_of
from mambalab.runs.pixel_model import LoadedPixelModel
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tokenization.pixels import PixelTokens
from mambalab.train.progress import StoppedError
from mambalab.utils import console
from mambalab.utils.files import obstacle
from mambalab.utils.text import printable, short

LOG = logging.getLogger("mambalab")
PICTURES = 36  # that are written from nothing
COMPLETIONS = 8  # whose upper half is given
_FREE = "pictures that the model made from nothing"
_COMPLETED = "above: pictures held out; below: the same, the lower half made by the model"
_GIVEN_FIRST = "first the given picture, then what the model made of it"
_MAX_NAMES = 200  # letters of the names of classes in a caption
MAX_CLASS_COLUMNS = 16  # up to so many classes, a column of the sheet is a class


class PixelSheet(Sample):
    """Writes `samples/step-<step>.png` after each evaluation.

    Above are 36 pictures, written at temperature 1 from the same random numbers each time. Below
    are the first 8 of the validation split, and beneath each what the model made of its lower half.

    Args:
        model, task, options: as of `Sample`.
        writer: makes the pictures; None = the model writes them pixel by pixel.
    """

    task: PixelModelTask

    def __init__(
        self,
        model: nn.Module,
        task: PixelModelTask,
        writer: LoadedPixelModel | LoadedDenoiser | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, task, **options)
        place = str(self.folder)
        self.writer = writer or LoadedPixelModel(
            model, task.tokens, self.device, self.precision, place
        )

    def write(self, stem: Path, found: np.ndarray) -> Path:
        """Write the sheet."""
        return sheet.write(stem.with_suffix(".png"), found)

    def obstacle(self) -> str | None:
        """Say why the model makes no pictures; nothing hinders one that fills in."""
        return None if isinstance(self.writer, LoadedDenoiser) else super().obstacle()

    def sample(self) -> np.ndarray:
        """Generate a sheet."""
        tokens, task = self.task.tokens, self.task
        free = self._written(labels_in_turn(tokens.classes, PICTURES))
        levels = task.levels["val"][:COMPLETIONS].cpu()
        half = tokens.height // 2 * tokens.width * tokens.channels
        true = tokens.pictures(levels).numpy()
        completed = self._written(task.labels["val"][:COMPLETIONS].cpu(), levels[:, :half])
        below = sheet.grid(np.concatenate((true, completed)), len(true))
        in_turn = columns(tokens.classes, PICTURES)
        told = f"{_FREE}, {_in_columns(tokens, PICTURES, in_turn)}" if in_turn else _FREE
        above = sheet.captioned(sheet.grid(free, in_turn), told)
        return sheet.stacked([above, sheet.captioned(below, _COMPLETED)])

    def _written(self, labels: torch.Tensor, given: torch.Tensor | None = None) -> np.ndarray:
        found = self.writer.pictures(
            labels, given, rules=self._rules(), seed=self.seed, on_token=self._check
        )
        return found.numpy()

    def _rules(self) -> Sampling:
        return Sampling(allowed=self.task.tokens.levels)

    def _check(self) -> None:
        if name := self.stop_requested():
            raise StoppedError(name)


def labels_in_turn(classes: tuple[str, ...], count: int) -> torch.Tensor:
    """Labels (count,) int64 of pictures that show each class in turn; zeros without classes."""
    return torch.arange(count) % max(1, len(classes))


def labels_asked(tokens: PixelTokens, label: str | None, count: int) -> torch.Tensor:
    """Labels (count,) int64 of pictures of the class `label`; None = each class in turn.

    Raises:
        UserError: no such class.
    """
    if label is None:
        return labels_in_turn(tokens.classes, count)
    return torch.full((count,), tokens.label(label))


def tell_turns(tokens: PixelTokens, label: str | None, count: int, image: str | None) -> None:
    """Say as which classes a picture is completed for which nobody named one."""
    if image is None or label is not None or not tokens.classes:
        return
    told = tokens.classes[:count]
    names = ", ".join(told[:10]) + " ..." * (len(told) > 10)
    which = f"class {names}" if len(told) == 1 else f"each class in turn ({names})"
    LOG.warning("%s is completed as %s: class=... names another", image, which)


def known_values(tokens: PixelTokens, rows: int | None, name: str) -> int:
    """Values of the upper `rows` of a picture; None = of half of them.

    Raises:
        UserError: there are not so many, or nothing is left to write; `name` is the model's.
    """
    kept = tokens.height // 2 if rows is None else rows
    if not 0 < kept < tokens.height:
        raise UserError(
            f"rows={kept}: pictures of {name} have {tokens.height} rows, of which at least one is "
            "given and one written"
        )
    return kept * tokens.width * tokens.channels


def columns(classes: tuple[str, ...], count: int) -> int | None:
    """Pictures in a row of a sheet of `count` that shows the classes in turn: each of them as often
    as makes about a square; None = as many as rows."""
    if not 1 < len(classes) <= MAX_CLASS_COLUMNS:
        return None
    return len(classes) * max(1, round(math.sqrt(count) / len(classes)))


def caption(tokens: PixelTokens, label: str | None, count: int, image: str | None) -> str | None:
    """Words below a sheet of `mambalab generate`; None if there is nothing to say.

    Args:
        tokens: of the model.
        label: of the class that was asked for; None = each in turn.
        count: of pictures.
        image: file of the picture that they complete, if any.
    """
    if image is None:
        in_turn = columns(tokens.classes, count) if label is None else None
        return _in_columns(tokens, count, in_turn) if in_turn else None
    if label is not None or not tokens.classes:
        return _GIVEN_FIRST
    return f"{_GIVEN_FIRST} as {_names(tokens.classes[:count])}" + " in turn" * (count > 1)


def _in_columns(tokens: PixelTokens, count: int, columns: int) -> str:
    """Name the classes of so many pictures, one after the other."""
    shown = tokens.classes[:count]
    if len(shown) == 1:
        return f"class {_names(shown)}"
    again = ", and so on" * (columns > len(tokens.classes))
    return f"a column a class: {_names(shown)}{again}"


def _names(classes: tuple[str, ...]) -> str:
    """Names of classes, as many as there is room for."""
    return short(", ".join(map(printable, classes)), _MAX_NAMES)


def check_size(tokens: PixelTokens, count: int, in_turn: int | None) -> None:
    """Raise UserError for more pictures than a sheet can show: what most programs open."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    height, width = sheet.size(count, tokens.height, tokens.width, in_turn)
    if limit is not None and height * width > limit:
        most = count * limit // (height * width)
        raise UserError(
            f"num_samples={count:,}: a sheet of so many pictures would have {width:,} x {height:,} "
            f"pixels, more than most programs open; ask for {most:,} or fewer at a time, each time "
            "with another seed and out"
        )


def write_sheet(
    source: LoadedPixelModel,
    out: Path,
    *,
    count: int,
    label: str | None,
    image: str | None,
    rows: int | None,
    rules: Sampling,
    seed: int,
    batch: int,
) -> str:
    """Write pictures into one PNG; returns a line that says how many values, and how fast.

    Args:
        source: the model.
        out: the file.
        count: of pictures.
        label: name or number of their class; None = each class in turn, if the model is told any.
        image: file of a picture that they complete; its own picture comes first on the sheet.
        rows: of it that are given; None = half of them.
        rules, seed, batch: as of `LoadedPixelModel.pictures`.

    Raises:
        UserError: no such class, an image that cannot be read, or too many of its rows; the sheet
            cannot be written.
    """
    tokens = source.tokens
    labels = labels_asked(tokens, label, count)
    given, before = None, np.empty((0, tokens.height, tokens.width, tokens.channels), np.uint8)
    if image is not None:
        whole = tokens_of(image, tokens)
        given = whole[:, : known_values(tokens, rows, source.name)].expand(count, -1)
        before = tokens.pictures(whole).numpy()
    check_place(out, read={"prompt_image": image})
    in_turn = columns(tokens.classes, count) if label is None and image is None else None
    check_size(tokens, count + len(before), in_turn)
    tell_turns(tokens, label, count, image)
    began = time.perf_counter()
    steps = -(-count // batch) * (tokens.values - (0 if given is None else given.shape[1]))
    with console.progress(steps, f"writing {count:,} picture{'s'[: count != 1]}") as told:
        made = source.pictures(labels, given, rules=rules, seed=seed, batch=batch, on_token=told)
    found = made.numpy()
    seconds = time.perf_counter() - began
    written = count * (tokens.values - (0 if given is None else given.shape[1]))
    found = sheet.grid(np.concatenate((before, found)), in_turn)
    words = caption(tokens, label, count, image)
    try:
        sheet.write(out, sheet.captioned(found, words) if words else found)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; name another with out=") from error
    return f"wrote {count:,} picture{'s'[: count != 1]}, {written / seconds:,.0f} values a second"


def check_place(
    out: Path, key: str = "out", ending: str = ".png", read: Mapping[str, str | None] | None = None
) -> None:
    """Check a file before the pictures take their time.

    Args:
        out: the file.
        key: of it, for messages.
        ending: that it has to have.
        read: files that are read, by their keys.

    Raises:
        UserError: it is no file, cannot be written, or is one of those that are read.
    """
    for name, file in (read or {}).items():
        if file is not None and _same(out, Path(file).expanduser()):
            raise UserError(f"{key}={out} is {name}, which would be lost: name another with {key}=")
    if out.is_dir():
        name = out / f"sheet{ending}"
        raise UserError(f"{key}={out} is a folder: name a file in it, such as {name}")
    if out.suffix.lower() != ending:
        what = "sheets are PNG files" if ending == ".png" else "stages of a text are lines of text"
        raise UserError(f"{key}={out}: {what}, name one that ends in {ending}")
    if why := obstacle(out.absolute().parent):
        raise UserError(f"{key}={out} cannot be written: {why}; name another with {key}=")


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file, through links, too."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False

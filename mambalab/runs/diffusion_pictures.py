"""Fills in pictures for `mambalab generate`: a sheet, and the stages on the way."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambalab.errors import UserError
from mambalab.generation.infilling import Filled
from mambalab.generation.sampling import Sampling
from mambalab.plots import sheet
from mambalab.runs.diffusion_model import LoadedDenoiser
from mambalab.runs.given_pictures import gaps_of, tokens_of
from mambalab.runs.pixel_sheet import (
    caption,
    check_place,
    check_size,
    columns,
    known_values,
    labels_asked,
    tell_turns,
)
from mambalab.tokenization.pixels import PixelTokens
from mambalab.utils import console

LOG = logging.getLogger("mambalab")
STRIP = 9  # stages in a row of a strip
MOVING = 65  # stages of an animation, at most
MAX_SHOWN = 36  # pictures whose stages are shown
_HIDDEN = (70, 110, 190)  # colour of a hidden pixel; no grey has it
_BLUE = {  # by the channels of a pixel
    1: "blue is not filled in yet",
    3: "of a blue pixel at least one of its three colours is not filled in yet",
}
_MS_EACH, _MS_LAST = 80, 2000  # that a stage of an animation is shown


@dataclass(frozen=True)
class Files:
    """Where pictures go.

    Attributes:
        out: the sheet.
        frames: the strip, each picture a row of stages; None = none.
        animation: the stages as a moving sheet; None = none.
    """

    out: Path
    frames: Path | None = None
    animation: Path | None = None

    def check(self, read: Mapping[str, str | None]) -> None:
        """Raise UserError for a file that is none, for one named twice, or one of those that are
        read, by their keys."""
        seen: dict[Path, str] = {}
        for key, path in self.named().items():
            check_place(path, key, read=read)
            if other := seen.get(path.resolve()):
                raise UserError(f"{other} and {key} are the same file {path}: name two")
            seen[path.resolve()] = key

    def named(self) -> dict[str, Path]:
        """The files that were asked for, by their keys."""
        files = {"out": self.out, "frames": self.frames, "animation": self.animation}
        return {key: path for key, path in files.items() if path is not None}

    def stages(self) -> int:
        """How many stages are needed."""
        return MOVING if self.animation is not None else STRIP if self.frames is not None else 0


def write_pictures(
    source: LoadedDenoiser,
    files: Files,
    *,
    count: int,
    label: str | None,
    image: str | None,
    rows: int | None,
    mask_image: str | None,
    steps: int | None,
    rules: Sampling,
    seed: int,
    batch: int,
) -> str:
    """Write a sheet of pictures, with their stages; returns a line that says how many, how fast.

    Args:
        source: the model.
        files: where they go.
        count: of pictures.
        label: name or number of their class; None = each class in turn, if the model is told any.
        image: file of a picture of which a part is given; it comes first on the sheet.
        rows: of it that are given, from above; None = half of them.
        mask_image: file of a picture that is white where `image` is not given.
        steps: as of `LoadedDenoiser.plan`.
        rules, seed, batch: as of `infilling.fill`.

    Raises:
        UserError: no such class, an image that cannot be read, nothing to fill in; a file cannot be
            written.
    """
    tokens = source.tokens
    labels = labels_asked(tokens, label, count)
    values = torch.zeros(1, tokens.values, dtype=torch.int64)
    gaps = torch.ones(tokens.values, dtype=torch.bool)
    before = np.empty((0, tokens.height, tokens.width, tokens.channels), np.uint8)
    if image is not None:
        values = tokens_of(image, tokens)
        before = tokens.pictures(values).numpy()
        if mask_image is None:
            gaps[: known_values(tokens, rows, source.name)] = False
        else:
            gaps = gaps_of(mask_image, image, tokens)
    files.check({"prompt_image": image, "mask_image": mask_image})
    in_turn = columns(tokens.classes, count) if label is None and image is None else None
    check_size(tokens, count + len(before), in_turn)
    tell_turns(tokens, label, count, image)
    source.plan(steps, int(gaps.sum()))
    began = time.perf_counter()
    whole = -(-count // batch) * source.steps
    with console.progress(whole, f"making {count:,} picture{'s'[: count != 1]}") as told:
        found = source.fill(
            source.with_gaps(labels, values, gaps),
            rules=rules,
            seed=seed,
            batch=batch,
            stages=files.stages(),
            shown=MAX_SHOWN,
            on_step=told,
        )
    seconds = time.perf_counter() - began
    every = np.concatenate((before, tokens.pictures(found.tokens[:, 1:]).numpy()))
    made = sheet.grid(every, in_turn)
    new = [path for path in files.named().values() if not path.exists()]
    try:
        words = caption(tokens, label, count, image)
        sheet.write(files.out, sheet.captioned(made, words) if words else made)
        if found.stages is not None:
            _write_stages(found, files, tokens, source.spec.mask, in_turn)
    except OSError as error:
        for path in new:
            path.unlink(missing_ok=True)
        name = error.filename or files.out
        keys = "out=, frames= or animation="
        raise UserError(
            f"cannot write {name}: {error.strerror}; name another with {keys}"
        ) from error
    written = count * int(gaps.sum()) / seconds
    pictures = f"{count:,} picture{'s'[: count != 1]}"
    taken = f"{found.steps:,} step{'s'[: found.steps != 1]}"
    return f"made {pictures} in {taken}, {written:,.0f} values a second"


def _write_stages(
    found: Filled, files: Files, tokens: PixelTokens, mask: int, in_turn: int | None
) -> None:
    """Write the strip and the animation, as far as they have a file."""
    assert found.stages is not None, "they were asked for"
    every = [stage_of(stage, tokens, mask) for stage in found.stages[:, :, 1:]]
    if files.frames is not None:
        last = len(every) - 1
        chosen = sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})
        strip = np.stack([every[number] for number in chosen], axis=1)
        rows = sheet.grid(strip.reshape(-1, *strip.shape[2:]), len(chosen))
        steps = ", ".join(str(found.at[number]) for number in chosen)
        words = f"a row is a picture after {steps} steps; {_BLUE[tokens.channels]}"
        sheet.write(files.frames, sheet.captioned(rows, words))
    if files.animation is not None:
        times = [*[_MS_EACH] * (len(every) - 1), _MS_LAST]
        sheet.write_moving(files.animation, [sheet.grid(one, in_turn) for one in every], times)


def stage_of(values: Tensor, tokens: PixelTokens, mask: int) -> np.ndarray:
    """Pictures (n, height, width, 3) uint8 of values (n, l), hidden pixels in a colour."""
    hidden = values == mask
    pictures = tokens.pictures(values.masked_fill(hidden, 0)).numpy()
    pictures = np.repeat(pictures, 3 // tokens.channels, axis=-1)
    pixels = hidden.view(len(values), tokens.height, tokens.width, -1).any(-1).numpy()
    pictures[pixels] = _HIDDEN
    return pictures

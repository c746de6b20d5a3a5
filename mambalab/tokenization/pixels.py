"""Pictures as tokens: the grey levels of their pixels in raster order, and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.errors import UserError
from mambalab.utils.files import read_json

PIXELS = "pixels.json"
"""File of a run folder: the fields of `PixelTokens`."""

_GREY = (0.2989, 0.5870, 0.1140)  # weights of red, green and blue (ITU-R BT.601)
_USUAL = {"background": 255, "deep_bits": 0, "read_side": 0}
_MAX_SIDE = 4096  # pixels of a side that a file may ask for


@dataclass(frozen=True)
class PixelTokens:
    """What the tokens of pictures of one size mean.

    A value v of 0 to 255 becomes the level floor(v * levels / 256), which is its token. A picture
    is read row by row, pixel by pixel; the channels of a pixel follow each other (red, green,
    blue). Before it stands one more token: `levels`, or `levels` + class if the class is told.

    Attributes:
        levels: 2 to 256.
        height, width: of a picture, in pixels.
        channels: 1 or 3.
        classes: names of the classes that the first token tells; empty if it tells none.
        background: grey level, 0 to 255, on which transparent pictures lay.
        deep_bits: bits of the largest value of the pictures that had more than 8 bits; 0 if none
            had.
        read_side: pixels of a side to which a picture of a file is brought before it is made
            smaller as those of the training were; 0 = `height` at once.
    """

    levels: int
    height: int
    width: int
    channels: int
    classes: tuple[str, ...] = ()
    background: int = 255
    deep_bits: int = 0
    read_side: int = 0

    @property
    def values(self) -> int:
        """Values of a picture: its dimensions, and the steps of a sequence."""
        return self.height * self.width * self.channels

    @property
    def vocab_size(self) -> int:
        """Levels and first tokens."""
        return self.levels + max(1, len(self.classes))

    def first(self, labels: Tensor) -> Tensor:
        """First tokens (n,) int64 of pictures of the classes `labels` (n,) int64."""
        return labels + self.levels if self.classes else torch.full_like(labels, self.levels)

    def label(self, name: str) -> int:
        """Number of a class, given its name or its number.

        Raises:
            UserError: there is no such class, or this model is told none.
        """
        if not self.classes:
            raise UserError(
                f"class={name}: this model was trained without classes (task.classes=true tells "
                "them)"
            )
        if name in self.classes:
            return self.classes.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self.classes):
            return int(name)
        raise UserError(f"class={name}: no such class; there are: {', '.join(self.classes)}")

    def quantise(self, pictures: Tensor) -> Tensor:
        """Tokens (n, values) uint8 of pictures (n, channels, height, width) uint8."""
        levels = (pictures.int() * self.levels) >> 8
        return levels.to(torch.uint8).permute(0, 2, 3, 1).flatten(1)

    def pictures(self, tokens: Tensor) -> Tensor:
        """Pictures (n, height, width, channels) uint8 of tokens (n, values), on the CPU.

        Level l is shown as l * 255 / (levels - 1), rounded to the next value that belongs to it:
        the lowest is black, the highest white, and `quantise` gives the same levels again.
        """
        shown = self._shown[tokens.cpu().long()]
        return shown.view(len(tokens), self.height, self.width, self.channels)

    @cached_property
    def _shown(self) -> Tensor:
        level = torch.arange(self.levels)
        lowest = -(-256 * level // self.levels)
        highest = -(-256 * (level + 1) // self.levels) - 1
        evenly = (level * 255 / (self.levels - 1)).round().long()
        return evenly.clamp(lowest, highest).to(torch.uint8)

    def fitted(self, pictures: Tensor) -> Tensor:
        """Bring pictures (n, 1 or 3, h, w) uint8 to this size and these channels, uint8.

        Colours become grey by the weights of ITU-R BT.601, grey becomes three equal channels;
        a smaller size is the mean of the areas, rounded.
        """
        if pictures.shape[1] > self.channels:
            weights = torch.tensor(_GREY, device=pictures.device).view(1, 3, 1, 1) / sum(_GREY)
            grey = [(part * weights).sum(1, keepdim=True) for part in pictures.split(1024)]
            pictures = torch.cat(grey).round().to(torch.uint8)
        pictures = pictures.expand(-1, self.channels, -1, -1)
        if pictures.shape[2:] == (self.height, self.width):
            return pictures
        size = self.height, self.width
        parts = [F.adaptive_avg_pool2d(part.float(), size) for part in pictures.split(1024)]
        return torch.cat(parts).round().to(torch.uint8)

    def to_json(self) -> str:
        """The content of `PIXELS`; how pictures of files were read, where it is not as usual."""
        fields = asdict(self)
        for name, usual in _USUAL.items():
            if fields[name] == usual:
                del fields[name]
        return json.dumps(fields, indent=1) + "\n"


def load_from_run(run_dir: Path) -> PixelTokens | None:
    """Read what a run folder says of its pictures; None if it has none.

    Raises:
        UserError: the file is damaged.
    """
    path = run_dir / PIXELS
    if not path.exists():
        return None
    found = read_json(path, run_dir)
    if (tokens := _read(found)) is None:
        raise UserError(f"{path} is damaged: bring it back from a copy")
    return tokens


def _read(found: dict[str, Any]) -> PixelTokens | None:
    sizes = [found.get(key) for key in ("levels", "height", "width", "channels")]
    names = found.get("classes")
    if not all(type(n) is int and 1 <= n <= _MAX_SIDE for n in sizes):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    levels, height, width, channels = map(int, filter(None, sizes))
    if not 2 <= levels <= 256 or channels not in (1, 3):
        return None
    read = {name: found.get(name, usual) for name, usual in _USUAL.items()}
    if not all(type(n) is int and 0 <= n <= 255 for n in read.values()):
        return None
    return PixelTokens(levels, height, width, channels, tuple(names), **read)

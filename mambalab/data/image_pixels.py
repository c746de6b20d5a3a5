"""One image file after the other as pixels: whatever Pillow reads becomes three channels of bytes.

What is transparent lies on one grey background. Images of more than 8 bits a pixel are scaled
together, by the largest value that any of them has. Damaged files are collected, so that a person
learns of all of them at once.
"""

from __future__ import annotations

import os
import stat
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mambalab.data.image_tree import formats
from mambalab.errors import UserError, first_line
from mambalab.utils.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_BAD_NAMED = 10  # damaged images that an error names
_DEEP_MAX = (1 << 16) - 1  # the largest value of 16 bits


class ImageReader:
    """Reads image files as (3, side, side) uint8: shorter side scaled, middle cropped.

    Args:
        side: height and width of the result, in pixels.
        background: grey level, 0 to 255, behind what is transparent.
        deep_bits: bits of the largest value that other images with more than 8 bits have.

    Attributes:
        transparent: how many images were laid on the background.
        deep_bits: bits that the largest value of all images with more than 8 bits has; 0 if there
            are none.
        many_frames: how many files hold several pictures; the first is taken.
        bad: what is wrong with files that cannot be read.
    """

    def __init__(self, side: int, background: int, deep_bits: int = 0) -> None:
        self.side = side
        self.background = background
        self.transparent = 0
        self.many_frames = 0
        self.deep_bits = deep_bits
        self.bad: list[str] = []
        self._deep: list[tuple[str, Tensor]] = []

    def read(self, file: str, target: Tensor) -> None:
        """Read a file into `target` (3, side, side) uint8, images of 16 bits when `finish` is
        called; one that cannot be read is noted in `bad`."""
        image = self._open(file, target)
        if image is not None:
            self._put(image, target)

    def finish(self) -> None:
        """Read the images of 16 bits, now that their range is known.

        The range is the next power of two above the largest value, 8 bits at least: 12-bit
        exports in 16-bit files keep their shades.

        Raises:
            UserError: files could not be read: the first ten by name.
        """
        shift = max(self.deep_bits - 8, 0)
        for file, target in self._deep:
            with _opened(file) as image:
                values, clear = _deep_values(image)
            grey = (values >> shift).astype(np.uint8)
            if clear is not None and clear.any():
                self.transparent += 1
                grey[clear] = self.background
            self._put(_from_array(grey), target)
        if not self.bad:
            return
        first, *more = self.bad[:_MAX_BAD_NAMED]
        if not more:
            raise UserError(f"{first}: mend or remove it")
        rest = len(self.bad) - _MAX_BAD_NAMED
        raise UserError(
            f"{len(self.bad):,} images cannot be used: {'; '.join([first, *more])}"
            f"{f'; and {rest:,} more' if rest > 0 else ''}: mend or remove them"
        )

    def _open(self, file: str, target: Tensor) -> Image | None:
        """The upright image in colours; None if it is bad, or of 16 bits and read later."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of oddities in files; what matters is an error
                with _opened(file) as image:
                    if image.mode.startswith("I;16") or image.mode == "I":
                        values, _ = _deep_values(image)
                        self.deep_bits = max(self.deep_bits, int(values.max()).bit_length())
                        self._deep.append((file, target))
                        return None
                    if image.mode == "F":
                        raise _TooDeepError
                    result = self._flat(image)
                    if image.format != "MPO":  # a photograph with a small copy of itself
                        self.many_frames += bool(getattr(image, "is_animated", False))
                    return result
        except MemoryError:
            raise
        except _TooDeepError:
            self.bad.append(f"{printable(file)} has 32 bits a pixel (convert it to 8 bits)")
        except Exception as error:  # readers of damaged files raise whatever they stumble over
            self.bad.append(
                f"{printable(file)} cannot be read as an image ({printable(first_line(error))})"
            )
        return None

    def _flat(self, image: Image) -> Image:
        """The image turned as its camera was, in RGB, on the background where it is clear."""
        from PIL import Image as Images
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        straight = {"La": "LA", "RGBa": "RGBA"}.get(upright.mode)
        clear = (upright.convert(straight) if straight else upright).convert("RGBA")
        if np.asarray(clear.getchannel("A")).min() == 255:  # opaque everywhere
            return upright.convert("RGB")
        self.transparent += 1
        flat = Images.new("RGBA", clear.size, (*3 * (self.background,), 255))
        flat.alpha_composite(clear)
        return flat.convert("RGB")

    def _put(self, image: Image, target: Tensor) -> None:
        from PIL import ImageOps

        fitted = ImageOps.fit(image.convert("RGB"), (self.side, self.side))
        target.copy_(torch.from_numpy(np.array(fitted)).permute(2, 0, 1))


class _TooDeepError(Exception):
    """An image has values that do not fit into 16 bits."""


def _opened(file: str) -> Image:
    from PIL import Image as Images

    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
        raise OSError("it is no regular file")
    return Images.open(file, formats=formats())


def _deep_values(image: Image) -> tuple[np.ndarray, np.ndarray | None]:
    """The upright values (h, w) int32 of an image of one deep channel, and where it is clear."""
    from PIL import ImageOps

    values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)
    if values.min() < 0 or values.max() > _DEEP_MAX:
        raise _TooDeepError
    clear = image.info.get("transparency")
    return values, values == clear if isinstance(clear, int) else None


def _from_array(grey: np.ndarray) -> Image:
    from PIL import Image as Images

    return Images.fromarray(grey)

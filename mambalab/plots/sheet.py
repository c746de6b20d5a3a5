"""Sheets: many small pictures in one, pixel for pixel, as PNG; several of them as a moving one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mambalab.utils.files import replacing

GAP = 4  # pixels between two pictures
APART = 16  # pixels between two grids
_BETWEEN = 128  # grey level there: dark and light pictures both end visibly
_SIDE = 64  # pixels of a side that a picture has at least on a sheet
_LETTERS = 13  # pixels of height of a caption's letters
_NARROWEST = 300  # pixels of width that a caption may have at least


def grid(pictures: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay pictures side by side, row by row.

    Small ones are shown larger, each pixel as a square, so that a side has 64 pixels or more.

    Args:
        pictures: (n, height, width, 1 or 3) uint8, n >= 1.
        columns: pictures in a row; None = as many as make a square.

    Returns:
        (rows, columns of pixels, 1 or 3) uint8, with a border of `GAP` pixels.
    """
    count, height, width, channels = pictures.shape
    shape = size(count, height, width, columns)
    columns = columns or math.ceil(math.sqrt(count))
    scale = scale_of(height, width)
    large = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    down, across = height * scale + GAP, width * scale + GAP
    found = np.full((*shape, channels), _BETWEEN, dtype=np.uint8)
    for number, picture in enumerate(large):
        y, x = GAP + number // columns * down, GAP + number % columns * across
        found[y : y + height * scale, x : x + width * scale] = picture
    return found


def size(count: int, height: int, width: int, columns: int | None = None) -> tuple[int, int]:
    """Rows and columns of pixels of the grid of `count` pictures; arguments as of `grid`."""
    columns = columns or math.ceil(math.sqrt(count))
    rows, scale = -(-count // columns), scale_of(height, width)
    across = min(columns, count) * (width * scale + GAP)
    return rows * (height * scale + GAP) + GAP, across + GAP


def scale_of(height: int, width: int) -> int:
    """How many pixels of a sheet a pixel of a picture is wide."""
    return max(1, -(-_SIDE // max(height, width)))


def stacked(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Lay grids of the same channels below each other, `APART` pixels apart."""
    width = max(one.shape[1] for one in grids)
    parts: list[np.ndarray] = []
    for one in grids:
        if parts:
            parts.append(np.full((APART, width, one.shape[2]), _BETWEEN, dtype=np.uint8))
        parts.append(_widened(one, width))
    return np.concatenate(parts)


def captioned(sheet: np.ndarray, caption: str) -> np.ndarray:
    """Write black words below a sheet (rows, columns, 1 or 3), its pixels stay where they are.

    A sheet that is narrow is made wider, to the right.
    """
    from PIL import Image, ImageDraw, ImageFont, features

    size = _LETTERS if features.check_module("freetype2") else None  # else one size alone is there
    font = ImageFont.load_default(size)
    limit = max(sheet.shape[1], _NARROWEST) - 2 * GAP
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= limit or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    text = "\n".join(lines)
    _, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), text, font
    )
    width = max(sheet.shape[1], math.ceil(right) + 2 * GAP)
    below = Image.new("L", (width, math.ceil(bottom - top) + 2 * GAP), _BETWEEN)
    ImageDraw.Draw(below).multiline_text((GAP, GAP - top), text, fill=0, font=font)
    words = np.asarray(below)[..., None].repeat(sheet.shape[2], axis=2)
    return np.concatenate((_widened(sheet, width), words))


def _widened(sheet: np.ndarray, width: int) -> np.ndarray:
    """Add the colour between pictures at the right of a sheet."""
    more = ((0, 0), (0, width - sheet.shape[1]), (0, 0))
    return np.pad(sheet, more, constant_values=_BETWEEN)


def write(path: Path, sheet: np.ndarray) -> Path:
    """Write (rows, columns, 1 or 3) uint8 as PNG, complete or not at all; returns the path.

    Raises:
        OSError: it cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)
    with replacing(path) as partial:
        image.save(partial, format="PNG", optimize=True)
    return path


def write_moving(path: Path, sheets: Sequence[np.ndarray], shown: Sequence[int]) -> Path:
    """Write sheets (rows, columns, 3) uint8 of one size as an animated PNG that goes on for ever.

    Args:
        path: the file; it is there completely or not at all.
        sheets: the frames.
        shown: milliseconds that each is shown.

    Raises:
        OSError: it cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = map(Image.fromarray, sheets)
    with replacing(path) as partial:
        first.save(
            partial, format="PNG", save_all=True, append_images=rest, duration=list(shown), loop=0
        )
    return path

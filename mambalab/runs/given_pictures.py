"""Pictures that a person gives `mambalab generate`: to be completed, and as masks of others."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from mambalab.data.image_pixels import ImageReader
from mambalab.errors import UserError, first_line
from mambalab.tokenization.pixels import PixelTokens

LOG = logging.getLogger("mambalab")
_COLOURED = 32  # levels, of 256, between the channels of a pixel that has a colour
_FORMS_DIFFER = 0.02  # of width times height, from which two pictures have another form


def tokens_of(image: str, tokens: PixelTokens, key: str = "prompt_image") -> Tensor:
    """Read an image file as those were that the model learnt from.

    What was made of it, of a transparent picture or of one of another form, is said.

    Args:
        image: the file.
        tokens: of the model.
        key: of the file, for messages.

    Returns:
        Tokens (1, values) uint8.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(image).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{key}={path} {what}: name a file with a picture")
    side = tokens.read_side or tokens.height
    pixels = torch.empty(1, 3, side, side, dtype=torch.uint8)
    reader = ImageReader(side, tokens.background, tokens.deep_bits)
    reader.read(str(path), pixels[0])
    reader.finish()
    width, height = _form_of(image)
    if key == "prompt_image" and _forms_differ((width, height), (1, 1)):
        short = min(width, height)
        LOG.warning(
            "%s=%s has %d x %d pixels: the %d x %d in its middle are taken",
            *(key, image, width, height, short, short),
        )
    if reader.transparent:
        LOG.warning(
            "%s=%s is transparent in places: they are taken as grey level %d of 255",
            *(key, image, tokens.background),
        )
    if reader.many_frames:
        LOG.warning("%s=%s holds several pictures: the first is taken", key, image)
    return tokens.quantise(tokens.fitted(pixels))


def gaps_of(mask: str, image: str, tokens: PixelTokens) -> Tensor:
    """Find which values of a picture are hidden: those of the pixels that are white in a mask.

    What is transparent in the mask is not white; a colour is white if its grey is lighter than
    half.

    Args:
        mask, image: files, of the mask and of the picture.
        tokens: of the model.

    Returns:
        (l,) bool.

    Raises:
        UserError: the mask cannot be read, is of another form, or nothing of it is white.
    """
    grey = PixelTokens(2, tokens.height, tokens.width, 1, background=0)
    hidden = tokens_of(mask, grey, "mask_image")[0].bool()
    (w, h), (width, height) = _form_of(mask), _form_of(image)
    if _forms_differ((w, h), (width, height)):
        raise UserError(
            f"mask_image={mask} has {w} x {h} pixels and prompt_image={image} {width} x {height}: "
            "the middle of each would be taken, and they would not lie on each other; paint the "
            "mask on a copy of the picture"
        )
    if not hidden.any():
        raise UserError(
            f"mask_image={mask}: no pixel of it is white, so there is nothing to fill in; paint "
            "white what the model is to make"
        )
    if hidden.all():
        LOG.warning("mask_image=%s has no black pixel: nothing of %s is given", mask, image)
    if share := _coloured(mask):
        LOG.warning(
            "mask_image=%s has colours (%.0f %% of its pixels): where they are lighter than half, "
            "they count as white",
            *(mask, 100 * share),
        )
    return hidden.repeat_interleave(tokens.channels)


def _form_of(image: str) -> tuple[int, int]:
    """Width and height in pixels of an image file, turned as its camera was.

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image, ImageOps

    path = Path(image).expanduser()
    try:
        with Image.open(path) as found:
            return ImageOps.exif_transpose(found).size
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise UserError(f"{path} cannot be read as an image ({first_line(error)})") from error


def _forms_differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two widths and heights are in another proportion."""
    (w, h), (width, height) = one, other
    return abs(w * height - h * width) > _FORMS_DIFFER * w * height


def _coloured(image: str) -> float:
    """The share of the pixels of an image file, which can be read, that have a colour."""
    import numpy as np
    from PIL import Image

    with Image.open(Path(image).expanduser()) as found:
        pixels = np.asarray(found.convert("RGB")).astype(int)
    return float((np.ptp(pixels, axis=-1) > _COLOURED).mean())

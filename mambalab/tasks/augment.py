"""Random changes to images, each image its own, on tensors and on their device.

Mirroring, turning, tilting and shifting are one projective map of the image plane, so that every
pixel is interpolated once. All random numbers are addressed by (seed, batch): a resumed run sees
the same images as an uninterrupted one, on any device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.settings.task import AugmentSettings
from mambalab.tasks.sampling import uniform

_DRAWS_PER_IMAGE = 11  # random numbers an image


def augment(images: Tensor, settings: AugmentSettings, seed: int, position: int) -> Tensor:
    """Change each image of a training batch at random.

    Args:
        images: (b, channels, height, width) float32, normalised: 0, their mean, fills what comes
            into view from outside and what is erased.
        settings: what may happen, and how strongly.
        seed, position: of the run and of the batch; they address the random numbers.

    Returns:
        A tensor of the same shape; `images` itself if everything is switched off.
    """
    batch, _, height, width = images.shape
    drawn = uniform(seed, position, count=_DRAWS_PER_IMAGE * batch, stream="augment").reshape(
        _DRAWS_PER_IMAGE, batch
    )
    moved = settings.flip or settings.crop or settings.rotation or settings.perspective
    if moved:
        maps = _maps(settings, drawn, height, width)
        images = _warp(images, torch.from_numpy(maps).to(images))
    if settings.erasing:
        images = images * _outside_erased(settings.erasing, drawn[6:], height, width, images.device)
    return images


def _maps(settings: AugmentSettings, drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """Projective maps (b, 3, 3) from a pixel of the result to where it comes from, in pixels from
    the middle of the image."""
    batch = drawn.shape[1]
    signed = 2 * drawn - 1
    maps = np.zeros((batch, 3, 3))
    angle = math.radians(settings.rotation) * signed[0]
    mirror = np.where(drawn[1] < 0.5, -1.0, 1.0) if settings.flip else 1.0
    maps[:, 0, 0], maps[:, 0, 1] = mirror * np.cos(angle), -mirror * np.sin(angle)
    maps[:, 1, 0], maps[:, 1, 1] = np.sin(angle), np.cos(angle)
    # Whole pixels, all shifts from -crop to crop equally likely.
    for row, number in ((0, 2), (1, 3)):
        shift = np.floor(drawn[number] * (2 * settings.crop + 1)) - settings.crop
        maps[:, row, 2] = shift
    # At strength 1 one edge of the image may come twice as near as its middle, or recede as far.
    spread = math.hypot(height, width)
    direction = 2 * math.pi * drawn[4]
    strength = settings.perspective * drawn[5] / spread
    maps[:, 2, 0], maps[:, 2, 1] = strength * np.cos(direction), strength * np.sin(direction)
    maps[:, 2, 2] = 1.0
    return maps


def _warp(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear look-up of every pixel of the result through its image's map."""
    _, _, height, width = images.shape
    y = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    # Written out rather than as a matrix product, which TF32 or autocast would round.
    across, down, depth = (
        m[:, 0] * x + m[:, 1] * y + m[:, 2] for m in maps[..., None, None].unbind(1)
    )
    places = (across / depth * (2 / width), down / depth * (2 / height))  # -1 .. 1: the edges
    grid = torch.stack(places, dim=-1)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _outside_erased(
    p: float, drawn: np.ndarray, height: int, width: int, device: torch.device
) -> Tensor:
    """A mask (b, 1, height, width): 0 inside each image's erased rectangle, 1 elsewhere.

    Random erasing (arXiv 1708.04896): 2 to 33 % of the area, sides up to 1 : 3.3.
    """
    area = (0.02 + 0.31 * drawn[1]) * height * width
    ratio = np.exp(math.log(3.3) * (2 * drawn[2] - 1))
    tall = np.minimum(np.sqrt(area * ratio), height)
    wide = np.minimum(np.sqrt(area / ratio), width)
    top, left = drawn[3] * (height - tall), drawn[4] * (width - wide)
    hit = drawn[0] < p
    edges = np.stack((top, top + tall, left, left + wide)).round()
    edges[1::2] = np.where(hit, edges[1::2], -1.0)  # a rectangle that ends before it begins
    low_y, high_y, low_x, high_x = torch.from_numpy(edges).float().to(device)[..., None]
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (y >= low_y) & (y < high_y), (x >= low_x) & (x < high_x)
    return (~(rows[:, :, None] & columns[:, None, :])).float()[:, None]

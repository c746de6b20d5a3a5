import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mambalab.settings.task import AugmentSettings
from mambalab.tasks.augment import augment
from mambalab.tasks.sampling import uniform
from tests.tasks.toys import OFF

EVERYTHING = dataclasses.replace(
    OFF, flip=True, crop=4, rotation=15.0, perspective=0.5, erasing=0.5
)


def images(count: int = 200, channels: int = 3, height: int = 12, width: int = 10):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, generator=generator)


def only(**changes):
    return dataclasses.replace(OFF, **changes)


def near(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B,) whether images are the same but for rounding."""
    return ((one - other).abs() < 1e-4).flatten(1).all(1)


def shifted(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """(C, H, W) whose pixel (y, x) is the image's (y + dy, x + dx), 0 outside."""
    _, height, width = image.shape
    most = max(abs(dy), abs(dx))
    padded = torch.nn.functional.pad(image, (most,) * 4)
    return padded[:, most + dy : most + dy + height, most + dx : most + dx + width]


def test_switched_off_nothing_is_touched():
    before = images()
    assert augment(before, OFF, 1, 2) is before


def test_flip_mirrors_half_of_the_images():
    before = images(1000)
    after = augment(before, only(flip=True), 1, 2)
    kept, mirrored = near(after, before), near(after, before.flip(-1))
    assert (kept ^ mirrored).all()
    assert 430 < int(mirrored.sum()) < 570


def test_crop_shifts_by_whole_pixels_all_shifts_alike():
    before = images(2000, 1)
    after = augment(before, only(crop=2), 1, 2)
    counts = {}
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            moved = torch.stack([shifted(image, dy, dx) for image in before])
            counts[dy, dx] = int(near(after, moved).sum())
    assert sum(counts.values()) == 2000
    # Chi-squared with 24 degrees of freedom: 51.2 is its 99.9th percentile; the seed is fixed.
    assert sum((n - 80) ** 2 / 80 for n in counts.values()) < 51.2


def test_rotation_is_scipys():
    before = images(40, 1, 15, 15)
    bound = 180.0
    after = augment(before, only(rotation=bound), 3, 4)
    angles = bound * (2 * uniform(3, 4, count=11 * 40, stream="augment")[:40] - 1)
    assert angles.min() < -90
    assert angles.max() > 90
    for image, turned, angle in zip(before[:, 0], after[:, 0], angles, strict=True):
        options = {"reshape": False, "order": 1, "mode": "grid-constant"}
        one, other = (ndimage.rotate(image.numpy(), sign * angle, **options) for sign in (1, -1))
        error = min(np.abs(turned.numpy() - one).max(), np.abs(turned.numpy() - other).max())
        assert error < 1e-3, angle
        assert turned[7, 7] == pytest.approx(float(image[7, 7]), abs=1e-4)


def test_rotation_in_an_oblong_image_keeps_distances():
    # A bright spot, far from the middle, stays at its distance in pixels whatever the angle.
    before = torch.zeros(50, 1, 31, 61)
    before[:, 0, 15, 38:41] = before[:, 0, 14:17, 39] = 1.0  # 9 pixels right of the middle
    after = augment(before, only(rotation=180.0), 1, 1)[:, 0]
    y, x = torch.meshgrid(torch.arange(31.0) - 15, torch.arange(61.0) - 30, indexing="ij")
    weight = after.sum((1, 2))
    distance = torch.hypot((after * y).sum((1, 2)) / weight, (after * x).sum((1, 2)) / weight)
    torch.testing.assert_close(distance, torch.full((50,), 9.0), atol=0.15, rtol=0)


def test_rotation_stays_within_its_bound():
    before = torch.zeros(300, 1, 41, 41)
    before[:, 0, 20, 33:38] = 1.0
    after = augment(before, only(rotation=15.0), 1, 1)[:, 0]
    offset = torch.arange(41.0) - 20
    y = (after * offset[:, None]).sum((1, 2))
    x = (after * offset).sum((1, 2))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() < 15.5
    assert angles.min() < -13
    assert angles.max() > 13
    assert angles.abs().mean() == pytest.approx(7.5, abs=0.8)


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_perspective_keeps_the_middle_and_never_turns_inside_out(strength):
    before = images(300, 2, 15, 15)
    after = augment(before, only(perspective=strength), 1, 2)
    assert torch.isfinite(after).all()
    torch.testing.assert_close(after[:, :, 7, 7], before[:, :, 7, 7], atol=1e-4, rtol=0)
    assert not near(after, before).all()
    change = (after - before).abs().mean()
    weaker = (augment(before, only(perspective=strength / 10), 1, 2) - before).abs().mean()
    assert weaker < change


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (64, 40)])
def test_erased_rectangles_have_2_to_33_per_cent_of_the_area(size):
    before = torch.ones(2000, 2, *size)
    after = augment(before, only(erasing=1.0), 5, 6)
    assert torch.equal(after[:, 0], after[:, 1])
    gone = after[:, 0] == 0
    assert ((after == 0) | (after == 1)).all()
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(rows * columns, gone.sum((1, 2))), "rectangles"
    share = gone.double().mean((1, 2))
    # Edges are rounded to pixels, so that a side may be one longer or shorter.
    assert share.min() > 0.012
    assert share.max() < 0.36
    assert float(share.mean()) == pytest.approx(0.175, abs=0.01)
    assert ((rows - 1) / (columns + 1)).max() < 3.3
    assert ((columns - 1) / (rows + 1)).max() < 3.3
    assert gone.any(0).double().mean() > 0.99  # no place is spared


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_erasing_hits_images_with_its_probability(p):
    before = torch.ones(4000, 1, 32, 32)
    hit = (augment(before, only(erasing=p), 1, 1) == 0).flatten(1).any(1)
    assert float(hit.double().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


def test_each_image_has_its_own_change():
    before = images(1, 1, 16, 16).expand(64, -1, -1, -1)
    after = augment(before, EVERYTHING, 1, 2)
    assert len({tuple(image.flatten().tolist()) for image in after}) == 64


def test_changes_are_addressed_by_seed_and_batch():
    before = images(16)
    after = augment(before, EVERYTHING, 1, 2)
    augment(before, EVERYTHING, 1, 3)
    assert torch.equal(augment(before, EVERYTHING, 1, 2), after)
    for seed, position in ((1, 3), (2, 2)):
        assert not torch.equal(augment(before, EVERYTHING, seed, position), after)


def test_the_input_stays_as_it_was_and_nothing_is_nan():
    before = images()
    copy = before.clone()
    for position in range(20):
        after = augment(before, dataclasses.replace(EVERYTHING, rotation=180.0), 0, position)
        assert torch.isfinite(after).all()
        assert after.shape == before.shape
        assert after.dtype == torch.float32
        # Bilinear look-up makes means of neighbours: nothing lies outside their range.
        assert after.abs().max() <= before.abs().max() + 1e-4
    assert torch.equal(before, copy)


def test_small_images_survive():
    for size in ((1, 1), (2, 8), (8, 8)):
        after = augment(images(50, 1, *size), EVERYTHING, 0, 0)
        assert torch.isfinite(after).all()


def test_autocast_does_not_move_a_pixel():
    every = AugmentSettings(flip=True, crop=4, rotation=15.0, perspective=0.3, erasing=0.5)
    pictures = images(8, 3, 64, 64)
    plain = augment(pictures, every, 0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(pictures, every, 0, 1), plain)

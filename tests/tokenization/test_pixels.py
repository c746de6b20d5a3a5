import json

import numpy as np
import pytest
import torch

from mambalab.errors import UserError
from mambalab.tokenization.pixels import PIXELS, PixelTokens, load_from_run

EVERY = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)


def test_a_level_is_shown_as_a_value_that_belongs_to_it():
    for levels in range(2, 257):
        check(levels)


def check(levels: int) -> None:
    tokens = PixelTokens(levels, 1, 1, 1)
    found = tokens.quantise(EVERY)[:, 0]
    assert found.tolist() == [v * levels // 256 for v in range(256)]
    shown = tokens.pictures(torch.arange(levels)[:, None])
    assert torch.equal(tokens.quantise(shown.permute(0, 3, 1, 2))[:, 0].int(), torch.arange(levels))
    assert shown.flatten()[[0, -1]].tolist() == [0, 255]
    evenly = np.round(np.arange(levels) * 255 / (levels - 1))
    assert np.abs(shown.flatten().numpy() - evenly).max() <= 1
    if levels in (2, 16, 17, 256):  # there rounding stays within the level
        assert shown.flatten().tolist() == evenly.tolist()


def test_the_channels_of_a_pixel_follow_each_other_row_by_row():
    pixels = torch.arange(2 * 3 * 2 * 4, dtype=torch.uint8).view(2, 3, 2, 4)
    tokens = PixelTokens(256, 2, 4, 3)
    found = tokens.quantise(pixels)
    assert (found.shape, tokens.values) == ((2, 24), 24)
    assert found[0, :6].tolist() == [0, 8, 16, 1, 9, 17]
    assert found[1, 12:15].tolist() == [24 + 4, 24 + 12, 24 + 20]
    assert torch.equal(tokens.pictures(found), pixels.permute(0, 2, 3, 1))


def test_first_tokens_tell_the_class_or_nothing():
    labels = torch.tensor([1, 0])
    assert PixelTokens(17, 8, 8, 1).first(labels).tolist() == [17, 17]
    assert PixelTokens(17, 8, 8, 1).vocab_size == 18
    told = PixelTokens(17, 8, 8, 1, ("7", "cat", "0"))
    assert (told.first(labels).tolist(), told.vocab_size) == ([18, 17], 20)
    assert [told.label(name) for name in ("cat", "7", "0", "1")] == [1, 0, 2, 1]
    for name in ("3", "dog", "-1"):
        with pytest.raises(UserError, match=f"class={name}: no such class; there are: 7, cat, 0"):
            told.label(name)
    with pytest.raises(UserError, match="class=1: this model was trained without classes"):
        PixelTokens(17, 8, 8, 1).label("1")


def test_pictures_become_grey_and_smaller():
    random = torch.randint(256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    grey = random.to(torch.uint8)
    same = PixelTokens(4, 4, 4, 1)
    assert torch.equal(same.fitted(grey), grey)
    assert torch.equal(same.fitted(grey.expand(-1, 3, -1, -1)), grey)  # grey stays what it is
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert PixelTokens(4, 1, 1, 1).fitted(red).item() == round(255 * 0.2989 / 0.9999)
    small = PixelTokens(4, 2, 2, 1).fitted(grey)
    means = grey.view(3, 1, 2, 2, 2, 2).float().mean((3, 5))
    assert torch.equal(small, means.round().to(torch.uint8))
    assert PixelTokens(4, 2, 2, 3).fitted(grey).shape == (3, 3, 2, 2)


def test_a_run_keeps_what_its_tokens_mean(tmp_path):
    assert load_from_run(tmp_path) is None
    tokens = PixelTokens(17, 8, 6, 3, ("a", "b"))
    (tmp_path / PIXELS).write_text(tokens.to_json())
    assert load_from_run(tmp_path) == tokens
    whole = json.loads(tokens.to_json())
    for change in ({"levels": 1}, {"height": "8"}, {"channels": 2}, {"classes": [1]}, {"width": 0}):
        (tmp_path / PIXELS).write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match=r"pixels.json is damaged"):
            load_from_run(tmp_path)

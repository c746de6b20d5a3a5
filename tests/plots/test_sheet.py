import numpy as np
import pytest
from PIL import Image, features

from mambalab.plots import sheet
from mambalab.plots.sheet import APART, GAP


def numbered(count: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    """Pictures all of whose values are their number, the first one's 0."""
    shape = (count, height, width, channels)
    return np.broadcast_to(np.arange(count)[:, None, None, None], shape).astype(np.uint8)


def test_pictures_lie_side_by_side_row_by_row():
    found = sheet.grid(numbered(5, 64, 80), columns=3)
    assert found.shape == (2 * 64 + 3 * GAP, 3 * 80 + 4 * GAP, 1)
    for number in range(5):
        y, x = GAP + number // 3 * (64 + GAP), GAP + number % 3 * (80 + GAP)
        assert (found[y : y + 64, x : x + 80] == number).all()
    between = np.ones(found.shape[:2], dtype=bool)
    for number in range(5):
        y, x = GAP + number // 3 * (64 + GAP), GAP + number % 3 * (80 + GAP)
        between[y : y + 64, x : x + 80] = False
    assert (found[between] == 128).all()  # the place of a sixth included


def test_a_sheet_is_square_unless_asked_and_small_pictures_are_enlarged():
    found = sheet.grid(numbered(36, 8, 8))
    assert sheet.scale_of(8, 8) == 8
    assert found.shape == (6 * 64 + 7 * GAP, 6 * 64 + 7 * GAP, 1)
    picture = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    large = sheet.grid(picture)[GAP:-GAP, GAP:-GAP]
    assert np.array_equal(large[::8, ::8, 0], picture[0, ..., 0])
    assert np.array_equal(large[7::8, 7::8, 0], picture[0, ..., 0])
    assert [sheet.scale_of(*size) for size in ((28, 28), (32, 20), (64, 3), (200, 9))] == [
        3,
        2,
        1,
        1,
    ]
    assert sheet.grid(numbered(2, 64, 64), columns=10).shape[1] == 2 * 64 + 3 * GAP


def test_grids_below_each_other_and_their_file(tmp_path):
    wide, narrow = (sheet.grid(numbered(n, 64, 64, 3), columns=n) for n in (3, 2))
    found = sheet.stacked([wide, narrow])
    assert found.shape == (2 * (64 + 2 * GAP) + APART, wide.shape[1], 3)
    assert np.array_equal(found[: len(wide)], wide)
    assert np.array_equal(found[-len(narrow) :, : narrow.shape[1]], narrow)
    assert (found[-len(narrow) :, narrow.shape[1] :] == 128).all()
    path = sheet.write(tmp_path / "samples" / "step-00000001.png", found)
    assert np.array_equal(np.asarray(Image.open(path)), found)
    grey = sheet.write(tmp_path / "grey.png", wide[..., :1])
    assert np.asarray(Image.open(grey)).shape == wide.shape[:2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grey.png", "samples"]


@pytest.mark.parametrize("freetype", [True, False])  # Pillow can be built without
@pytest.mark.parametrize(("count", "channels"), [(1, 3), (12, 1)])
def test_captions_stand_below_and_move_no_pixel(count, channels, freetype, monkeypatch):
    if not freetype:
        monkeypatch.setattr(features, "check_module", lambda feature: feature != "freetype2")
    grid = sheet.grid(numbered(count, 28, 28, channels), columns=12)
    short = sheet.captioned(grid, "a row")
    found = sheet.captioned(grid, "first the given picture, then what the model made of it " * 4)
    assert np.array_equal(found[: len(grid), : grid.shape[1]], grid)
    assert (found[: len(grid), grid.shape[1] :] == 128).all()
    assert found.shape[1] <= max(300, grid.shape[1])
    assert len(found) > len(short) > len(grid)
    words = found[len(grid) :, ..., 0]
    assert words.min() < 40  # letters, none of them cut off at an edge
    for edge in (words[:2], words[-2:], words[:, :2], words[:, -2:]):
        assert (edge == 128).all()

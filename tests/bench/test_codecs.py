import io

import numpy as np
import pytest
from PIL import Image

from mambalab.bench import codecs
from mambalab.tasks import pixels
from tests.tasks.toys import Grey


def test_bits_are_those_of_the_files(capsys):
    random = np.random.default_rng(0).integers(0, 16, (6, 8, 8, 1), dtype=np.uint8)
    found = codecs.bits_per_dim(random, 16)
    sizes = []
    for picture in random:
        file = io.BytesIO()
        Image.fromarray(picture[..., 0]).save(file, "WEBP", lossless=True, quality=100, method=6)
        sizes.append(len(file.getvalue()))
    assert found["webp"] == pytest.approx(8 * sum(sizes) / random.size, rel=0.05)
    # Random levels of 4 bits: no codec can do better, and PNG needs hardly more, headers apart.
    assert 4 < found["png_all"] < found["png"]
    assert 4 < found["webp_all"] < found["webp"]
    assert found["png_all"] < 8
    flat = codecs.bits_per_dim(np.zeros_like(random), 16)
    assert flat["png_all"] < 2 < found["png_all"]
    colour = codecs.bits_per_dim(
        np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8), 256
    )
    assert all(bits > 8 for bits in colour.values())


def test_histograms_are_codes():
    train = np.array([[0, 1], [0, 1], [0, 0]], np.uint8)
    test = np.array([[0, 1]], np.uint8)
    found = codecs.histograms(train, test, 2)
    assert found["histogram"] == pytest.approx((np.log2(8 / 5) + np.log2(8 / 3)) / 2)
    assert found["histogram_places"] == pytest.approx((np.log2(5 / 4) + np.log2(5 / 3)) / 2)
    every = np.array([[a, b] for a in range(2) for b in range(2)], np.uint8)
    for name in found:  # the probabilities of all pictures sum to 1
        bits = [2 * codecs.histograms(train, row[None], 2)[name] for row in every]
        assert sum(2.0**-b for b in bits) == pytest.approx(1)


def test_a_picture_comes_back_from_the_sheet():
    levels = np.arange(6 * 2 * 3, dtype=np.uint8).reshape(6, 2, 3, 1)
    sheet = codecs._side_by_side(levels)
    assert sheet.shape == (2, 18, 1)
    assert np.array_equal(sheet[:, 3:6], levels[1])


def test_the_command_says_what_it_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(pixels._KNOWN, "digits", Grey)
    words = ["task.size=2", "task.levels=2", "task.test_size=3", f"out={tmp_path}/new/codecs.json"]
    assert codecs.main(words) == 1
    assert "error: task.test_size: that is for a folder" in capsys.readouterr().err
    assert codecs.main([words[0], words[1], words[3]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pixels of digits, 2 x 2, 2 levels; images: 3")
    assert lines[1].startswith("PNG")
    assert lines[2].startswith("WebP, lossless")
    assert lines[3].startswith("histogram")
    assert '"pictures": 10' in (tmp_path / "new/codecs.json").read_text()


def test_help_is_its_own_description(capsys):
    assert codecs.main(["--help"]) == 0
    assert "task.levels=16" in capsys.readouterr().out

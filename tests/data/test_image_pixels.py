import os

import numpy as np
import pytest
import torch
from PIL import Image

from mambalab.data.image_pixels import ImageReader
from mambalab.errors import UserError


def read(*paths, background: int = 255, side: int = 8) -> tuple[ImageReader, torch.Tensor]:
    """The reader, and the pixels of some files (n, 3, side, side)."""
    reader = ImageReader(side, background)
    pixels = torch.zeros(len(paths), 3, side, side, dtype=torch.uint8)
    for path, target in zip(paths, pixels, strict=True):
        reader.read(str(path), target)
    reader.finish()
    return reader, pixels


def half_clear(mode: str) -> tuple[Image.Image, dict]:
    """A black image of 8 x 8 pixels whose right half is clear, and how to save it."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, :4] = 255
    black = np.zeros((8, 8), np.uint8)
    if mode == "RGBA":
        return Image.fromarray(np.stack([black, black, black, alpha], -1)), {}
    if mode == "LA":
        return Image.merge("LA", (Image.fromarray(black), Image.fromarray(alpha))), {}
    if mode == "PA":
        image = Image.fromarray(black).convert("P")
        image.putalpha(Image.fromarray(alpha))
        return image, {}
    if mode in ("La", "RGBa"):
        straight = {"La": "LA", "RGBa": "RGBA"}[mode]
        return half_clear(straight)[0].convert(mode), {}
    if mode == "I;16":
        return Image.fromarray(np.where(alpha, 0, 7).astype(np.uint16)), {"transparency": 7}
    image = Image.fromarray(np.where(alpha, 0, 255).astype(np.uint8))
    if mode == "P bytes":
        return image.convert("P"), {"transparency": bytes([255] * 255 + [0])}
    if mode == "P":
        return image.convert("P"), {"transparency": 255}
    clear = {"L": 255, "1": 255, "RGB": (255, 255, 255)}[mode]
    return image.convert(mode), {"transparency": clear}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P bytes", "L", "1", "RGB", "I;16"])
@pytest.mark.parametrize("background", [255, 0, 128])
def test_what_is_clear_shows_the_background(tmp_path, mode, background):
    image, options = half_clear(mode)
    image.save(tmp_path / "a.png", **options)
    reader, pixels = read(tmp_path / "a.png", background=background)
    assert reader.transparent == 1
    assert pixels[..., :4].eq(0).all()
    assert pixels[..., 4:].eq(background).all()


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "RGBA", "LA"])
def test_every_mode_with_alpha_is_flattened(mode):
    flat = ImageReader(8, 255)._flat(half_clear(mode)[0])
    assert flat.mode == "RGB"
    assert np.asarray(flat)[:, :4].max() == 0
    assert np.asarray(flat)[:, 4:].min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_opaque_images_with_alpha_are_read_as_ever(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": bytes([255] * 256)} if mode == "P" else {}))
    reader, pixels = read(tmp_path / "a.png", side=20)
    assert reader.transparent == 0
    wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(pixels[0].numpy(), wanted)


@pytest.mark.parametrize(
    ("values", "shades"),
    [
        ([0, 1024, 4095], [0, 64, 255]),  # 12 bits
        ([0x2000, 0x8000, 0xFFFF], [0x20, 0x80, 0xFF]),  # as ever
        ([0, 100, 255], [0, 100, 255]),
        ([0, 1], [0, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_by_the_range_of_all(tmp_path, values, shades, kind):
    paths = [tmp_path / f"{value}.{kind}" for value in values]
    for path, value in zip(paths, values, strict=True):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(path)
    _, pixels = read(*paths)
    assert pixels[:, 0, 0, 0].tolist() == shades
    assert (pixels == pixels[:, :1, :1, :1]).all()


def test_a_16_bit_image_is_turned_as_its_camera_was(tmp_path):
    values = np.zeros((8, 8), np.uint16)
    values[:4] = 60000
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    _, pixels = read(tmp_path / "a.png")
    assert pixels[0, 0, :, 4:].min() == 60000 >> 8
    assert pixels[0, 0, :, :4].max() == 0


def test_the_first_of_several_pictures_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 20)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        reader, pixels = read(tmp_path / name)
        assert reader.many_frames == 1
        assert pixels[0, :, 0, 0].tolist() == [10, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_small_and_narrow_images_are_read(tmp_path, size):
    Image.new("CMYK", size, (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    _, pixels = read(tmp_path / "a.jpg")
    assert pixels[0, 0].float().mean() > 240
    assert pixels[0, 1:].float().mean() < 15


def test_a_pipe_is_not_waited_for_and_no_program_draws(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="no regular file"):
        read(tmp_path / "pipe.png")
    (tmp_path / "drawn.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\n")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read(tmp_path / "drawn.png")


def test_a_name_may_hold_anything(tmp_path):
    path = tmp_path / "a\nb\x1b[2J.png"
    path.touch()
    with pytest.raises(UserError, match=r"a\?b\?\[2J\.png cannot be read"):
        read(path)
    Image.new("RGB", (8, 8)).save(path)
    read(path)

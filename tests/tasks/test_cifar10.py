import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import ParquetFile

from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.tasks import cifar10 as module
from mambalab.tasks.cifar10 import CLASSES, Cifar10Task, read_parquet
from tests.data.hub_server import encode, parquet
from tests.tasks.toys import PATCHES, build

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
LABELS = [*range(10), 3, 3]


def encoded(kind: str = "PNG") -> list[bytes]:
    return [encode(image, kind) for image in PIXELS]


@pytest.fixture
def write(tmp_path):
    def to_file(content: bytes) -> Path:
        path = tmp_path / "x.parquet"
        path.write_bytes(content)
        return path

    return to_file


def test_png_images_come_back_pixel_by_pixel(write):
    images, encoding = read_parquet(write(parquet(encoded(), LABELS)))
    assert encoding == "PNG"
    assert images.pixels.dtype == torch.uint8
    assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert images.labels.tolist() == LABELS
    assert images.labels.dtype == torch.int64


def test_jpeg_copies_are_taken_and_named(write):
    images, encoding = read_parquet(write(parquet(encoded("JPEG"), LABELS)))
    assert encoding == "JPEG (lossy copies)"
    assert images.pixels.shape == (12, 3, 32, 32)


def test_grey_images_get_three_channels(write):
    grey = [encode(image[..., 0]) for image in PIXELS]
    images, _ = read_parquet(write(parquet(grey, LABELS)))
    assert np.array_equal(images.pixels.numpy(), np.repeat(PIXELS[:, None, ..., 0], 3, axis=1))


@pytest.mark.parametrize("data", [b"nothing", b"", None, encode(PIXELS[0])[:200]])
def test_a_broken_image_is_named_by_its_row(write, data):
    content = encoded()
    content[7] = data
    with pytest.raises(UserError, match=r"x\.parquet, row 7: not an image") as error:
        read_parquet(write(parquet(content, LABELS)))
    assert "\n" not in str(error.value)


def test_an_image_of_another_size_is_named_by_its_row(write):
    content = encoded()
    content[2] = encode(PIXELS[0][:, :30])
    with pytest.raises(UserError, match=r"row 2: an image of 30 x 32 pixels, not 32 x 32"):
        read_parquet(write(parquet(content, LABELS)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no parquet", "does not hold CIFAR-10"),
        (parquet(encoded(), LABELS, image="image"), "does not hold CIFAR-10"),
        (parquet(encoded(), [*LABELS[:-1], 10]), "labels must be 0 to 9"),
        (parquet(encoded(), [*LABELS[:-1], -1]), "labels must be 0 to 9"),
        (parquet(encoded(), [*LABELS[:-1], None]), "does not hold CIFAR-10"),
        (parquet([], []), "there must be some"),
    ],
)
def test_other_files_are_refused(write, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_parquet(write(content))
    assert "\n" not in str(error.value)


def test_too_few_images_are_refused_before_they_are_read(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / "cifar10" / f"{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(parquet(encoded(), LABELS))
    with pytest.raises(UserError, match=r"train\.parquet is not .*12 rows instead of 50,000"):
        build(Cifar10Task, PATCHES, data_dir=tmp_path)


def test_without_network_it_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot fetch CIFAR-10") as error:
        build(Cifar10Task, PATCHES, data_dir=tmp_path)
    message = str(error.value)
    assert "task=digits" in message
    assert str(tmp_path / "cifar10" / "train.parquet") in message
    assert "plain_text/train-00000-of-00001.parquet" in message
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder():
    """A data_dir that holds the real images."""
    found = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if CATALOG["cifar10"].missing(found):
        pytest.skip("no CIFAR-10: set MAMBALAB_DATA_DIR to a folder that holds it")
    return found


@pytest.fixture(scope="module")
def tested(folder):
    """The real test images and their encoding (all 60,000 would take this file too long)."""
    return read_parquet(folder / "cifar10" / "test.parquet")


class TestReal:
    def test_the_check_at_every_start_reads_no_image(self, folder, monkeypatch):
        read = []
        real = ParquetFile.read

        def spy(self, columns=None, **options):
            read.append(columns)
            return real(self, columns=columns, **options)

        monkeypatch.setattr(ParquetFile, "read", spy)
        for name in ("iter_batches", "read_row_group", "read_row_groups"):
            monkeypatch.setattr(ParquetFile, name, None)
        CATALOG["cifar10"].verify(folder)
        assert set(map(tuple, read)) == {("label",)}

    def test_the_images_are_what_they_should_be(self, tested):
        images, encoding = tested
        assert images.pixels.shape == (10_000, 3, 32, 32)
        assert torch.bincount(images.labels).tolist() == [1000] * 10
        assert encoding.startswith(("PNG", "JPEG"))
        # Known of the training images; test images and lossy copies are near.
        pixels = images.pixels.double() / 255
        mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
        assert deviation.tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=0.01)

    def test_splits_and_shape(self, folder, tested, monkeypatch):
        asked = []
        monkeypatch.setattr(module, "read_parquet", lambda path: asked.append(path) or tested)
        task = build(
            Cifar10Task, PATCHES, name="cifar10", data_dir=folder, val_size=1000, patch_size=4
        )
        assert asked == [folder / "cifar10" / f"{split}.parquet" for split in ("train", "test")]
        sizes = {split: len(labels) for split, labels in task.labels.items()}
        assert sizes == {"train": 9000, "val": 1000, "test": 10_000, "train_sample": 1000}
        assert (task.spec.seq_len, task.spec.input_dim, task.spec.classes) == (64, 48, 10)
        assert task.classes == CLASSES
        fingerprint = task.fingerprint()
        assert fingerprint["encoding"] == tested[1]
        assert fingerprint["path"] == str((folder / "cifar10").absolute())

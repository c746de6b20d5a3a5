import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.tasks.mnist import MnistTask, read_idx
from tests.tasks.toys import PIXELS, build


def idx(values: np.ndarray, magic: bytes = b"\0\0\x08") -> bytes:
    return (
        magic
        + bytes([values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + bytes(values.tobytes())
    )


VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("values", [VALUES, VALUES.reshape(-1), VALUES[:0]])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_packed_or_not(tmp_path, values, packed):
    path = tmp_path / ("x-ubyte.gz" if packed else "x-ubyte")
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), values)
    found += 1  # its own memory, writable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no idx file"),
        (b"\0\0", "no idx file"),
        (b"\0\0\x08\x03\0\0", "no idx file"),
        (idx(VALUES, magic=b"\0\0\x0d"), "no idx file"),
        (b"<!DOCTYPE html><html>", "no idx file"),
        (idx(VALUES)[:-1], "is cut short"),
        (idx(VALUES) + b"!", "is cut short: 41 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_other_files_are_refused(tmp_path, content, message, packed):
    path = tmp_path / ("x-ubyte.gz" if packed else "x-ubyte")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "no gzip", "flipped", "absent", "folder"])
def test_damaged_gzip_is_one_line(tmp_path, damage):
    path = tmp_path / "x-ubyte.gz"
    content = bytearray(gzip.compress(idx(VALUES)))
    content[15] ^= 0xFF
    contents = {"cut": gzip.compress(idx(VALUES))[:-9], "no gzip": b"none", "flipped": content}
    if damage == "folder":
        path.mkdir()
    elif damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"cannot read .*x-ubyte\.gz") as error:
        read_idx(path)
    assert "\n" not in str(error.value)


def test_a_damaged_file_in_data_dir_is_refused_before_it_is_read(tmp_path):
    for file in CATALOG["mnist"].files:
        path = tmp_path / f"{file.path}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(VALUES)))
    with pytest.raises(UserError, match="is not the published file") as error:
        build(MnistTask, PIXELS, data_dir=tmp_path)
    assert "mambalab data fetch mnist" in str(error.value)


@pytest.fixture(scope="module")
def mnist():
    """The real data."""
    folder = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if CATALOG["mnist"].missing(folder):
        pytest.skip("no MNIST: set MAMBALAB_DATA_DIR to a folder that holds it")
    return build(MnistTask, PIXELS, name="mnist", data_dir=folder, val_size=5000, input_dim=28)


class TestReal:
    def test_splits_and_shape(self, mnist):
        sizes = {split: len(labels) for split, labels in mnist.labels.items()}
        assert sizes == {"train": 55_000, "val": 5000, "test": 10_000, "train_sample": 5000}
        assert (mnist.spec.seq_len, mnist.spec.input_dim, mnist.spec.classes) == (28, 28, 10)
        assert mnist.classes == [str(digit) for digit in range(10)]
        assert mnist.fingerprint()["path"].endswith("MNIST/raw")

    def test_the_labels_are_the_published_ones(self, mnist):
        assert mnist.labels["test"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
        every = torch.cat((mnist.labels["train"], mnist.labels["val"]))
        published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert torch.bincount(every).tolist() == published

    def test_the_statistics_are_the_known_ones(self, mnist):
        assert float(mnist._mean) == pytest.approx(0.1307, abs=1e-4)
        assert float(1 / mnist._scale) == pytest.approx(0.3081, abs=1e-4)

    def test_the_borders_of_digits_are_empty_rows(self, mnist):
        sequences, _ = mnist.inputs("test", np.arange(100), None)
        blank = -float(mnist._mean * mnist._scale)
        torch.testing.assert_close(sequences[:, 0], torch.full((100, 28), blank))
        assert sequences[:, 14].max() > 2

"""Sequential MNIST: `task=mnist`."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.tasks.images import ImageData, Images, PixelTask


class MnistTask(PixelTask):
    """60,000 training and 10,000 test images of digits, 28 x 28 grey pixels.

    `task.input_dim` pixels make a step: 1 gives 784 steps, 28 one step a row. `task.permute` reads
    them in a fixed random order (permuted MNIST). The files are looked for in
    `data_dir`/MNIST/raw, compressed or not, and fetched if they are not there.
    """

    published = (1, 28, 28, 10)

    def read(self) -> ImageData:
        """All images.

        Raises:
            UserError: absent and not to be fetched, or not MNIST's files.
        """
        paths = CATALOG["mnist"].require(self.data_dir)
        train_x, train_y, test_x, test_y = (read_idx(path) for path in paths)
        train, test = (
            Images(train_x[:, None], train_y.long()),
            Images(test_x[:, None], test_y.long()),
        )
        folder = {"path": str(paths[0].parent.absolute())}
        return ImageData([str(digit) for digit in range(10)], train, test, folder)


def read_idx(path: Path) -> Tensor:
    """The uint8 array of an idx file (the format of MNIST), compressed with gzip or not.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    dimensions = data[3] if len(data) > 3 else 0
    head = 4 + 4 * dimensions
    if data[:3] != b"\0\0\x08" or len(data) < head:
        raise UserError(f"{path} is no idx file of bytes, the format of MNIST")
    shape = np.frombuffer(data, ">u4", dimensions, 4).astype(np.int64)
    if len(data) - head != shape.prod():
        raise UserError(f"{path} is cut short: {len(data):,} bytes for an array of {shape}")
    values = np.frombuffer(data, np.uint8, offset=head).reshape(shape)
    return torch.from_numpy(values.copy())

"""CIFAR-10 as patches: `task=cifar10`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from mambalab.data.catalog import CATALOG
from mambalab.data.image_tree import formats
from mambalab.errors import UserError, first_line
from mambalab.tasks.images import ImageData, Images, PatchTask

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIDE = 32


class Cifar10Task(PatchTask):
    """50,000 training and 10,000 test images, 32 x 32 pixels in three colours, ten classes.

    A patch of `task.patch_size` pixels square is a step: 4 gives 64 steps of 48 values. The files
    are looked for in `data_dir`/cifar10 as the Hugging Face hub has them (`train.parquet`,
    `test.parquet`; columns `img` and `label`) and fetched from there if absent. Copies of another
    image format (JPEG) are taken as they are; the run records what they were.
    """

    published = (3, 32, 32, 10)

    def read(self) -> ImageData:
        """All images.

        Raises:
            UserError: absent and not to be fetched, or not what they should be.
        """
        return read_cifar10(self.data_dir)


def read_cifar10(data_dir: Path, name: str = "cifar10") -> ImageData:
    """All images, looked for in `data_dir` and fetched if absent.

    Args:
        data_dir: folder of the data sets.
        name: of the data set in the catalogue.

    Raises:
        UserError: absent and not to be fetched, or not what they should be.
    """
    paths = CATALOG[name].require(data_dir)
    (train, encoding), (test, _) = (read_parquet(path) for path in paths)
    source = {"path": str(paths[0].parent.absolute()), "encoding": encoding}
    return ImageData(CLASSES, train, test, source)


def read_parquet(path: Path) -> tuple[Images, str]:
    """All images of a parquet file with the hub's columns, and their encoding (PNG, JPEG).

    Raises:
        UserError: it cannot be read, or does not hold what it should.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    try:
        table = pq.read_table(path, columns=["img", "label"])
        encoded = [cell["bytes"] for cell in table["img"].to_pylist()]
        labels = np.asarray(table["label"].to_pylist(), dtype=np.int64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} does not hold CIFAR-10 as the hub has it (columns img, label): {reason}"
        ) from None
    if not len(labels) or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise UserError(f"{path}: labels must be 0 to {len(CLASSES) - 1}, and there must be some")
    pixels = np.empty((len(labels), SIDE, SIDE, 3), dtype=np.uint8)
    for row, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data), formats=formats()) as image:
                size, values = image.size, np.asarray(image.convert("RGB"))
        except MemoryError:
            raise
        except Exception as error:  # readers of damaged files raise whatever they stumble over
            reason = first_line(error)
            raise UserError(f"{path}, row {row}: not an image ({reason})") from None
        if size != (SIDE, SIDE):
            raise UserError(
                f"{path}, row {row}: an image of {size[0]} x {size[1]} pixels, not {SIDE} x {SIDE}"
            )
        pixels[row] = values
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Images(planes, torch.from_numpy(labels)), _encoding(encoded[0])


def _encoding(data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        return "PNG"
    return "JPEG (lossy copies)" if data.startswith(b"\xff\xd8") else "unknown"

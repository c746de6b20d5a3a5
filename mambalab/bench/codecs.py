"""Bits a dimension of PNG, lossless WebP and histograms, to set beside a model of `task=pixels`:

    python -m mambalab.bench.codecs task.data=mnist task.levels=16 out=codecs.json

The pictures are those of the test split, as quantised. Their levels are encoded (0 to levels - 1,
not stretched to 255), each picture in a file of its own, and all side by side in one: small
pictures pay for their headers, which the second way spares them. WebP has at most 16,383 rows, so
there may be several files. Of the settings that Pillow has those of the smallest files are taken,
which takes minutes for MNIST.

Two histograms of the training split show what is to be had without any model: how often each level
occurs, anywhere and at its place. They are ideal codes, to which nothing is added for the header.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mambalab import config
from mambalab.errors import UserError, first_line
from mambalab.runs import build
from mambalab.tasks.pixels import PixelModelTask
from mambalab.utils import console
from mambalab.utils.files import obstacle

_WEBP_ROWS = 16_383  # of a file, at most
_STRATEGIES = range(5)  # of zlib: default, filtered, Huffman only, run lengths, fixed
_MAX_WIDTH = 1024  # pixels of a row, of pictures side by side


def bits_per_dim(levels: np.ndarray, count: int) -> dict[str, float]:
    """Measure both codecs on pictures.

    Args:
        levels: (n, height, width, 1 or 3) uint8, below `count`.
        count: of levels, 2 to 256.

    Returns:
        Bits per value: `png`, `webp` (each picture a file), `png_all` and `webp_all` (few files).
    """
    sheet = _side_by_side(levels)
    rows = _WEBP_ROWS // levels.shape[1] * levels.shape[1]
    parts = [sheet[start : start + rows] for start in range(0, len(sheet), rows)]
    sizes = {
        "png": sum(_png(one, count) for one in levels),
        "webp": sum(_webp(one) for one in levels),
        "png_all": _png(sheet, count),
        "webp_all": sum(map(_webp, parts)),
    }
    return {name: 8 * size / levels.size for name, size in sizes.items()}


def histograms(train: np.ndarray, test: np.ndarray, count: int) -> dict[str, float]:
    """Measure the codes that the frequencies of levels make, each frequency counted once more.

    Args:
        train: (m, values) levels, below `count`, to count.
        test: (n, values) levels, to encode.
        count: of levels.

    Returns:
        Bits per value: `histogram` (one for all places), `histogram_places` (one for each).
    """
    places = np.stack([(train == level).sum(0) for level in range(count)]) + 1.0
    levels, at = test.astype(int), np.arange(test.shape[1])
    everywhere = places.sum(1) - places.shape[1] + 1
    codes = {
        "histogram": np.log2(everywhere.sum() / everywhere)[levels],
        "histogram_places": np.log2(places.sum(0) / places)[levels, at],
    }
    return {name: float(bits.mean()) for name, bits in codes.items()}


def _side_by_side(levels: np.ndarray) -> np.ndarray:
    """One picture of all, without a gap or a rest: as many in a row as divide their number."""
    count, height, width, channels = levels.shape
    most = max(1, _MAX_WIDTH // width)
    columns = next(n for n in range(min(most, count), 0, -1) if count % n == 0)
    rows = levels.reshape(-1, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, columns * width, channels))


def _png(levels: np.ndarray, count: int) -> int:
    """Bytes of the smallest PNG: a byte a value, or as few bits as hold the levels."""
    ways: list[dict[str, Any]] = [{}]
    if levels.shape[2] == 1 and count <= 16:
        bits = next(bits for bits in (1, 2, 4) if count <= 1 << bits)
        ways.append({"palette": count, "bits": bits})
    packed = [{"optimize": True}, *({"compress_level": 9, "compress_type": t} for t in _STRATEGIES)]
    return min(_size(levels, "PNG", **way, **how) for way in ways for how in packed)


def _webp(levels: np.ndarray) -> int:
    return _size(levels, "WEBP", lossless=True, quality=100, method=6, exact=True)


def _size(levels: np.ndarray, kind: str, *, palette: int = 0, **options: Any) -> int:
    """Bytes of a picture (height, width, 1 or 3) in a file."""
    from PIL import Image

    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    if palette:
        image.putpalette([level for level in range(palette) for _ in range(3)])
    file = io.BytesIO()
    image.save(file, kind, **options)
    return len(file.getvalue())


def measure(overrides: Sequence[str]) -> dict[str, Any]:
    """Measure both codecs on the test split of `task=pixels` with some settings.

    Args:
        overrides: settings, as of `mambalab train`.

    Raises:
        UserError: they are wrong, or the data cannot be had.
    """
    settings = config.compose("train", ["task=pixels", *overrides])
    task = build.build_task(settings)
    if not isinstance(task, PixelModelTask):
        raise UserError("codecs are measured on task=pixels")
    task.prepare()
    split = "val" if task.tuning else "test"
    tokens, levels = task.tokens, task.levels[split]
    shape = (-1, tokens.height, tokens.width, tokens.channels)
    found = bits_per_dim(levels.view(shape).numpy(), tokens.levels)
    found |= histograms(task.levels["train"].numpy(), levels.numpy(), tokens.levels)
    return {
        "data": task.describe_data(),
        "sha256": task.fingerprint()["sha256"],
        "split": split,
        "pictures": len(levels),
        "bits_per_dim": {name: round(value, 4) for name, value in found.items()},
        **_versions(),
    }


def _versions() -> dict[str, str]:
    import PIL
    from PIL import features

    libraries = {name: features.version(name) for name in ("zlib", "webp")}
    return {"pillow": PIL.__version__} | {k: v for k, v in libraries.items() if v}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Say for people what was measured."""
    yield f"{found['data']}; {found['pictures']:,} pictures of {found['split']}"
    names = {"png": "PNG", "webp": "WebP, lossless"}
    for name, title in names.items():
        alone, together = (found["bits_per_dim"][key] for key in (name, f"{name}_all"))
        yield f"{title:<15} {alone:.4f} bits/dim a file each, {together:.4f} all in one"
    everywhere, places = (found["bits_per_dim"][f"histogram{key}"] for key in ("", "_places"))
    yield f"{'histogram':<15} {everywhere:.4f} bits/dim one for all places, {places:.4f} one each"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line asks, `out=FILE.json` writes the record; returns the status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-h"} & {*words}:
        print((__doc__ or "").rstrip())
        return 0
    out = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    for path in map(Path, out):
        if why := f"{path} is a folder" if path.is_dir() else obstacle(path.absolute().parent):
            print(f"mambalab: error: out={path} cannot be written: {why}", file=sys.stderr)
            return 1
    try:
        found = measure([word for word in words if not word.startswith("out=")])
    except UserError as error:
        print(f"mambalab: error: {error}", file=sys.stderr)
        return 1
    for line in lines(found):
        console.result(line)
    for path in out:
        try:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"mambalab: error: out={path}: {first_line(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

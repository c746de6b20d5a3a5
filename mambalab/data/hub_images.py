"""Labelled images from the Hugging Face hub, one parquet file a split."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.data import hub
from mambalab.data.dataset import DataFile, Dataset
from mambalab.data.download import LOG, DownloadError
from mambalab.data.image_tree import formats
from mambalab.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_COLUMNS = ["img", "label"]
_FORMATS = {"PNG": "PNG (lossless)", "JPEG": "JPEG (lossy copies of the originals)"}


@dataclass(frozen=True)
class HubFile(DataFile):
    """A split as a parquet file with the columns `img` ({bytes, path}) and `label`.

    The hub has a checksum of its own file, but a user may bring what another reader wrote, with
    other bytes for the same images. So a file is known by the number of its images, of every
    class the same, and their size. One in the cache of Hugging Face's libraries is used there.

    Attributes:
        size: of the hub's own file, in bytes.
        repository: owner/name on the hub.
        name: of the file in the repository.
        count: images in it.
        classes: how many; labels are 0 to classes - 1.
        side: height and width of an image, in pixels.
    """

    repository: str
    name: str
    count: int
    classes: int
    side: int

    def find(self, data_dir: Path) -> Path | None:
        """The path below `data_dir`, else in the hub's cache; None if the file is in neither."""
        cached = (folder / self.name for folder in hub.snapshots(self.repository, "dataset"))
        return super().find(data_dir) or next(filter(Path.is_file, cached), None)

    def fault(self, data_dir: Path) -> str | None:
        """Check columns, number of rows and labels, not the images: what is wrong, or None.

        Raises:
            UserError: the file cannot be read.
        """
        return self.fault_of(self.find(data_dir) or self.target(data_dir))

    def fault_of(self, path: Path) -> str | None:
        """Check a file at any path as `fault` does."""
        import pyarrow as pa

        with _parquet(path) as file:
            if file is None:
                return "no parquet file"
            try:
                schema = file.schema_arrow
            except (ValueError, pa.ArrowException) as error:  # names that are no text, say
                return f"its schema is damaged: {first_line(error)}"
            if double := [name for name in _COLUMNS if schema.names.count(name) > 1]:
                return f"more than one column {double[0]!r}"
            absent = [name for name in _COLUMNS if name not in schema.names]
            if absent:
                return f"no column {absent[0]!r}; it has: {', '.join(schema.names)}"
            image, label = (schema.field(name).type for name in _COLUMNS)
            fields = {field.name: field.type for field in image} if _is_struct(image) else {}
            if not any(kind == fields.get("bytes") for kind in (pa.binary(), pa.large_binary())):
                return f"column 'img' holds {image}, not {{bytes, path}} of encoded images"
            if not pa.types.is_integer(label):
                return f"column 'label' holds {label}, not integers"
            if file.metadata.num_rows != self.count:
                return f"{file.metadata.num_rows:,} rows instead of {self.count:,}"
            try:
                labels = Counter(file.read(columns=["label"])["label"].to_pylist())
            except (OSError, pa.ArrowException) as error:
                return f"column 'label' is damaged: {first_line(error)}"
        each = self.count // self.classes
        for label in range(self.classes):
            if labels.pop(label, 0) != each:
                return f"class {label} has not {each:,} images"
        assert not labels, "all rows are accounted for"
        return None

    def report(self, data_dir: Path) -> str:
        """Decode every image and say what they are.

        Raises:
            UserError: one is damaged, or of another size.
        """
        import pyarrow as pa

        path, seen, row = self.find(data_dir) or self.target(data_dir), Counter[str](), 0
        try:
            with _parquet(path) as file:
                assert file is not None, "checked before"
                for batch in file.iter_batches(batch_size=1024, columns=["img"]):
                    for cell in batch["img"].to_pylist():
                        seen[self._decode(cell, path, row)] += 1
                        row += 1
        except (ValueError, pa.ArrowException) as error:  # a path that is no text, say
            raise UserError(f"{path}: column 'img' is damaged: {first_line(error)}") from None
        formats = " and ".join(
            (f"{count:,} " if len(seen) > 1 else "") + _FORMATS.get(name, name)
            for name, count in seen.most_common()
        )
        return (
            f"{self.count:,} images, {self.count // self.classes:,} of each of {self.classes} "
            f"classes, all of them readable: {formats}; no checksum to compare with"
        )

    def _decode(self, cell: dict[str, Any] | None, path: Path, row: int) -> str:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(cell["bytes"]), formats=formats()) as image:  # pyright: ignore
                image.load()
                size, kind = image.size, image.format or "unknown"
        except MemoryError:
            raise
        except Exception as error:  # readers of damaged files raise whatever they stumble over
            raise UserError(f"{path}, row {row}: not an image ({first_line(error)})") from None
        if size != (self.side, self.side):
            raise UserError(
                f"{path}, row {row}: an image of {size[0]} x {size[1]} pixels, not "
                f"{self.side} x {self.side}"
            )
        return kind

    def _state(self, data_dir: Path) -> str:
        return "counts ok" if self.fault(data_dir) is None else "WRONG"


@dataclass(frozen=True)
class HubDataset(Dataset):
    """Splits of a data set of the hub; each of `files` is a `HubFile`."""

    def fetch(self, data_dir: Path) -> None:
        """Download the missing splits as the hub has them, checked against its checksums.

        Raises:
            UserError: names the reason, the file to put where, and how to train offline.
        """
        missing = [file for file in self.missing(data_dir) if isinstance(file, HubFile)]
        if not missing:
            return
        file = missing[0]
        try:
            listing = hub.list_files(file.repository, "dataset")
            LOG.info("fetching %s from %s", file.repository, hub.endpoint())
            for file in missing:
                path = file.target(data_dir).absolute()
                listing.fetch(file.name, path)
                if (fault := file.fault_of(path)) is not None:
                    path.unlink()
                    raise DownloadError(f"the hub has another {file.name} now: {fault}")
        except DownloadError as error:
            raise self.failed(file, data_dir, error) from None


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile | None]:
    """Open a file; None if it is no parquet file.

    Raises:
        UserError: it cannot be read at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            try:
                file = pq.ParquetFile(stream)
            except (ValueError, pa.ArrowException):  # names that are no text, say
                file = None
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind)

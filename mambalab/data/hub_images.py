"""Labelled images from the Hugging Face hub, kept as one parquet file a split."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mambalab.data.dataset import DataFile, Dataset
from mambalab.data.download import PATIENCE, open_url, reason
from mambalab.data.partial_file import DownloadError, PartFile, locked_part
from mambalab.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_CACHE = ".fetching-"  # folders for what the libraries keep begin so
_CHUNK = 1 << 20
_NO_BARS = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
_COLUMNS = ["img", "label"]
_FORMATS = {"PNG": "PNG (lossless)", "JPEG": "JPEG (lossy copies of the originals)"}


@dataclass(frozen=True)
class HubFile(DataFile):
    """A split as a parquet file with the columns `img` ({bytes, path}) and `label`.

    Each reader writes other bytes for the same images, so that there is no checksum to compare
    with; what can be known is their number, of every class the same, and their size.

    Attributes:
        size: of the hub's own file, in bytes.
        split: its name on the hub.
        count: images in it.
        classes: how many; labels are 0 to classes - 1.
        side: height and width of an image, in pixels.
    """

    split: str
    count: int
    classes: int
    side: int

    def fault(self, data_dir: Path) -> str | None:
        """What is wrong with columns, number of rows or labels; no image is looked at.

        Raises:
            UserError: the file cannot be read.
        """
        return self.fault_of(data_dir / self.path)

    def fault_of(self, path: Path) -> str | None:
        """As `fault`, of a file elsewhere."""
        import pyarrow as pa

        with _parquet(path) as file:
            if file is None:
                return "no parquet file"
            schema = file.schema_arrow
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

        path, seen, row = data_dir / self.path, Counter[str](), 0
        try:
            with _parquet(path) as file:
                assert file is not None, "checked before"
                for batch in file.iter_batches(batch_size=1024, columns=["img"]):
                    for cell in batch["img"].to_pylist():
                        seen[self._decode(cell, path, row)] += 1
                        row += 1
        except pa.ArrowException as error:
            raise UserError(f"{path}: column 'img' is damaged: {first_line(error)}") from None
        formats = " and ".join(
            (f"{count:,} " if len(seen) > 1 else "") + _FORMATS.get(name, name)
            for name, count in seen.most_common()
        )
        return (
            f"{self.count:,} images, {self.count // self.classes:,} of each of {self.classes} "
            f"classes, all of them readable: {formats}; no checksum is published"
        )

    def _decode(self, cell: dict[str, Any] | None, path: Path, row: int) -> str:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(cell["bytes"])) as image:  # pyright: ignore
                image.load()
                size, kind = image.size, image.format or "unknown"
        except (OSError, ValueError, SyntaxError, TypeError, KeyError) as error:
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
    """Splits of a data set of the hub; each of `files` is a `HubFile`.

    Attributes:
        repository: owner/name on the hub.
    """

    repository: str = ""

    def fetch(self, data_dir: Path) -> None:
        """Download the missing splits with the library `datasets`, one process at a time.

        The library's own copies are made in a folder beside the files and removed again.

        Raises:
            UserError: names the reason, the file to put where, and how to train offline.
        """
        missing = [file for file in self.missing(data_dir) if isinstance(file, HubFile)]
        if not missing:
            return
        folder = missing[0].target(data_dir).absolute().parent
        try:
            preflight()
            with ExitStack() as held:
                parts: list[tuple[HubFile, PartFile]] = []
                for file in missing:  # in one order everywhere: no two wait for each other
                    part = held.enter_context(locked_part(file.target(data_dir).absolute()))
                    if part is not None:
                        parts.append((file, part))
                if parts:
                    self._fetch(parts, folder)
        except DownloadError as error:
            raise self.failed(missing[0], data_dir, error) from None

    def _fetch(self, parts: list[tuple[HubFile, PartFile]], folder: Path) -> None:
        """Fill and publish the parts, whose locks are held."""
        print(f"fetching {self.repository} from {endpoint()}", file=sys.stderr)
        for abandoned in folder.glob(f"{_CACHE}*"):  # of a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(
                prefix=_CACHE, dir=folder, ignore_cleanup_errors=True
            ) as name:
                came = {file.split: Path(name, f"{file.split}.parquet") for file, _ in parts}
                _load(self.repository, Path(name), came)
                for file, part in parts:
                    if (fault := file.fault_of(came[file.split])) is not None:
                        raise DownloadError(f"the hub sent another split {file.split}: {fault}")
                    _copy(came[file.split], part)
                    part.publish()
        except OSError as error:
            raise DownloadError(f"cannot write {folder}: {first_line(error)}") from None
        finally:
            for _, part in parts:
                if part.path.exists():
                    part.restart("", None)  # half a file is of no use: nothing stays


def _load(repository: str, cache: Path, wanted: dict[str, Path]) -> None:
    """Write splits of a data set of the hub as parquet files.

    A process of its own, because the libraries read their environment when they are imported: it
    alone keeps their copies (as large as the data, several times over) out of the user's folders.

    Args:
        repository: owner/name.
        cache: folder for whatever the libraries keep.
        wanted: path of the file for each split.

    Raises:
        DownloadError: with what the libraries say.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{path}" if path else package}
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE"):
        environment[name] = str(cache / name.lower())
    if not sys.stderr.isatty():  # a log wants no bars
        environment |= dict.fromkeys(_NO_BARS, "1")
    splits = [part for split, target in wanted.items() for part in (split, str(target))]
    done = subprocess.run(
        [sys.executable, "-c", f"import {__name__} as hub; hub.convert()", repository, *splits],
        cwd=cache,  # where no folder can be taken for the data set
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stdout.strip().splitlines()
        reason = said[-1] if said else f"its process ended with status {done.returncode}"
        raise DownloadError(f"the library datasets failed: {reason}")


def convert() -> None:
    """The process of `_load`: sys.argv holds the repository, then each split and its path.

    Images stay encoded as they came. Ends with status 1 and the reason on stdout if it fails.
    """
    repository, *pairs = sys.argv[1:]
    try:
        import datasets

        splits: Any = datasets.load_dataset(repository)
        for split, target in zip(pairs[::2], pairs[1::2], strict=True):
            rows = splits[split].select_columns(_COLUMNS)
            rows.cast_column("img", datasets.Image(decode=False)).to_parquet(target)
    except Exception as error:  # of half a dozen libraries, none of which promises which
        print(first_line(error))
        sys.exit(1)


def _copy(source: Path, part: PartFile) -> None:
    part.restart("", None)
    with source.open("rb") as file:
        while data := file.read(_CHUNK):
            part.append(data)


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def preflight() -> None:
    """See in a few seconds whether the hub answers: the library takes minutes to find out.

    Raises:
        DownloadError: it does not, or is not to be asked.
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError(f"{name}={os.environ[name]} forbids the network")
    url = endpoint()
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"HF_ENDPOINT={url} is no http(s) address")
    try:
        open_url(urllib.request.Request(url, method="HEAD"), PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()  # an answer is an answer
    except Exception as error:
        raise DownloadError(reason(error, url, PATIENCE)) from None


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile | None]:
    """The open file; None if it is no parquet file.

    Raises:
        UserError: it cannot be read at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            try:
                file = pq.ParquetFile(stream)
            except pa.ArrowException:
                file = None
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind)

"""A data set: files below data_dir, fetched if absent, and checked.

`catalog` lists the data sets; a module that brings a kind of its own takes the classes from here.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, NamedTuple

from mambalab.data.download import DownloadError, download
from mambalab.data.progress import human_bytes
from mambalab.errors import UserError

MAX_LISTED_BYTES = 100_000_000
"""Bytes of a file that `mambalab data list` is willing to checksum."""

DAMAGED = (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError)
"""What is raised while a damaged packed file is read, besides OSError."""

_READ_BYTES = 1 << 20


class Row(NamedTuple):
    """A line of `mambalab data list`, in words."""

    here: bool
    size: str
    checksum: str
    where: str
    source: str


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Attributes:
        path: below data_dir.
        url: where it is fetched from.
        sha256: in hex; empty if none is published.
        size: in bytes.
    """

    path: str
    url: str
    sha256: str
    size: int

    def target(self, data_dir: Path) -> Path:
        """The path that the file is fetched to."""
        return data_dir / self.path

    def find(self, data_dir: Path) -> Path | None:
        """The path of the file; None if it is not here."""
        path = data_dir / self.path
        return path if os.path.exists(path) else None

    def fault(self, data_dir: Path) -> str | None:
        """Compare the file that is here with the published one: what is wrong in words, or None.

        Raises:
            UserError: it cannot be read.
        """
        path = data_dir / self.path
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        return _difference(size, sha256, self.size, self.sha256)

    def report(self, data_dir: Path) -> str:
        """Check the file that is here more closely; returns what was found, for people.

        Raises:
            UserError: it is not what it should be, or cannot be read.
        """
        return "checksum ok"

    def row(self, data_dir: Path) -> Row:
        """Make the file's line in `mambalab data list`."""
        path = self.find(data_dir)
        if path is None:
            where = str(self.target(data_dir).absolute())
            return Row(False, human_bytes(self.size), "-", where, self.url)
        size, checksum = path.stat().st_size, "unchecked"
        if size <= MAX_LISTED_BYTES:
            checksum = self._state(data_dir)
        return Row(True, human_bytes(size), checksum, str(path.absolute()), self.url)

    def _state(self, data_dir: Path) -> str:
        return "ok" if self.fault(data_dir) is None else "WRONG"


@dataclass(frozen=True)
class GzipFile(DataFile):
    """A published .gz file that may be here compressed, compressed anew, or unzipped.

    What counts is its content; `sha256` and `size` are those of the published .gz.

    Attributes:
        path: of the unzipped file; the compressed one has `.gz` appended.
        content_sha256, content_size: of the unzipped content.
        also: other paths below data_dir at which people have the unzipped file.
    """

    content_sha256: str
    content_size: int
    also: tuple[str, ...] = ()
    packed: ClassVar[str] = ".gz"

    def target(self, data_dir: Path) -> Path:
        """The path that the .gz is fetched to."""
        return data_dir / f"{self.path}{self.packed}"

    def find(self, data_dir: Path) -> Path | None:
        """The unzipped file, else the .gz; else one of `also` that has the published content (other
        data sets use the same names). None if none is here."""
        paths = (data_dir / self.path, self.target(data_dir))
        others = (data_dir / f"{name}{end}" for name in self.also for end in ("", self.packed))
        found = (path for path in paths if os.path.exists(path))
        return next(found, None) or next(filter(self._is_published, others), None)

    def open(self, path: Path) -> IO[bytes] | gzip.GzipFile:
        """Open the content of a file at `path`, which is packed if its name says so.

        Raises:
            OSError, and one of `DAMAGED`, also while it is read.
        """
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")

    def _is_published(self, path: Path) -> bool:
        try:
            return os.path.isfile(path) and self._fault(path) is None
        except UserError:
            return False

    def fault(self, data_dir: Path) -> str | None:
        """Compare the content with the published one: what is wrong in words, or None.

        Raises:
            UserError: the file cannot be read.
        """
        return self._fault(self.find(data_dir) or self.target(data_dir))

    def _fault(self, path: Path) -> str | None:
        digest, size = hashlib.sha256(), 0
        try:
            with self.open(path) as file:
                # A byte too many is enough to know; the rest may be without end.
                while size <= self.content_size and (data := file.read(_READ_BYTES)):
                    digest.update(data)
                    size += len(data)
        except DAMAGED as error:
            return f"damaged {'zip' if self.packed == '.zip' else 'gzip'} data: {error}"
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if size > self.content_size:
            return f"its content is longer than {self.content_size:,} bytes"
        return _difference(size, digest.hexdigest(), self.content_size, self.content_sha256)


@dataclass(frozen=True)
class Dataset:
    """The data of one task.

    A data set that takes more than fetching files (unpacking, converting) overrides `missing`,
    `fetch`, `verify` and `require`; `report` and `rows`, too, if its parts are no `DataFile`s.

    Attributes:
        name: of the task that uses it.
        title: as a sentence would say it.
        licence: in short.
        source: a page or address for people to read.
        files: what it consists of; empty if it needs no download.
        offline: the option with which to train if the files cannot be had.
    """

    name: str
    title: str
    licence: str
    source: str
    files: tuple[DataFile, ...] = ()
    offline: str = "task=text"

    @property
    def needs_download(self) -> bool:
        """Whether there is anything to fetch at all."""
        return bool(self.files)

    def missing(self, data_dir: Path) -> list[DataFile]:
        """The files that are neither below `data_dir` nor found elsewhere."""
        return [file for file in self.files if file.find(data_dir) is None]

    def verify(self, data_dir: Path) -> None:
        """Check the files that are here, quickly enough for every start; needs no network.

        Raises:
            UserError: names the first that is not as published, and what to do.
        """
        for file in self.files:
            path = file.find(data_dir)
            if path is not None and (fault := file.fault(data_dir)) is not None:
                raise UserError(
                    f"{path.absolute()} is not the published file ({fault}): move it away and run "
                    f"`mambalab data fetch {self.name}`, or put {file.url} in its place"
                )

    def report(self, data_dir: Path) -> list[str]:
        """Check the files, however long that takes, and say of each what was found.

        Raises:
            UserError: as `verify`.
        """
        self.verify(data_dir)
        found = [(file, file.find(data_dir)) for file in self.files]
        return [f"{path.absolute()}: {file.report(data_dir)}" for file, path in found if path]

    def fetch(self, data_dir: Path) -> None:
        """Download what is missing; never touches a file that is here.

        Raises:
            UserError: names the reason, the file to put where, and how to train offline.
        """
        for file in self.missing(data_dir):
            path = file.target(data_dir).absolute()
            try:
                download(file.url, path, sha256=file.sha256, size=file.size)
            except DownloadError as error:
                raise self.failed(file, data_dir, error) from None

    def failed(self, file: DataFile, data_dir: Path, reason: object) -> UserError:
        """Build the error that `file` cannot be fetched because of `reason`, a clause."""
        others = [other for other in self.missing(data_dir) if other != file]
        wanted = []
        for absent in (file, *others):
            checksum = f" (sha256 {absent.sha256})" if absent.sha256 else ""
            wanted.append(f"{absent.url}{checksum} at {absent.target(data_dir).absolute()}")
        return UserError(
            f"cannot fetch {self.title}: {reason}. Put {', and '.join(wanted)}, or name the folder "
            f"that has {'them' if others else 'it'} with data_dir=FOLDER, or train offline: "
            f"{self.offline}"
        )

    def require(self, data_dir: Path) -> list[Path]:
        """Find or fetch the files, check them, and return their paths in their order.

        Raises:
            UserError: as `fetch` and `verify`.
        """
        self.fetch(data_dir)
        self.verify(data_dir)
        return [file.find(data_dir) or file.target(data_dir) for file in self.files]

    def rows(self, data_dir: Path) -> list[Row]:
        """Make the lines in `mambalab data list`, one a file.

        Raises:
            UserError: a file cannot be read.
        """
        if not self.needs_download:
            return [Row(True, "-", "-", f"{self.title}: needs no download", self.source)]
        return [file.row(data_dir) for file in self.files]


def _difference(size: int, sha256: str, size_wanted: int, sha256_wanted: str) -> str | None:
    if sha256 == sha256_wanted:
        return None
    return (
        f"{size:,} bytes with sha256 {sha256} instead of {size_wanted:,} bytes with sha256 "
        f"{sha256_wanted}"
    )

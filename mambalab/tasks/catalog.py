"""Which files each task needs: where they lie, where they come from, how to know them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mambalab.errors import UserError
from mambalab.tasks.download import DownloadError, download


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Attributes:
        path: below data_dir.
        url: where it is fetched from.
        sha256: in hex.
        size: in bytes.
    """

    path: str
    url: str
    sha256: str
    size: int

    def fault(self, data_dir: Path) -> str | None:
        """What is wrong with the file that is here, in words; None if it is the published one.

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
        if sha256 == self.sha256:
            return None
        return (
            f"{size:,} bytes with sha256 {sha256} instead of {self.size:,} bytes with sha256 "
            f"{self.sha256}"
        )


@dataclass(frozen=True)
class Dataset:
    """The data of one task.

    A data set that takes more than fetching files (unpacking, converting) overrides `fetch`.

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

    def missing(self, data_dir: Path) -> list[DataFile]:
        """The files that are not below `data_dir`."""
        return [file for file in self.files if not os.path.exists(data_dir / file.path)]

    def verify(self, data_dir: Path) -> None:
        """Compare the files that are here with the published ones; needs no network.

        Raises:
            UserError: names the first that differs, and what to do.
        """
        for file in self.files:
            path = data_dir / file.path
            if os.path.exists(path) and (fault := file.fault(data_dir)) is not None:
                raise UserError(
                    f"{path.absolute()} is not the published file ({fault}): move it away and run "
                    f"`mambalab data fetch {self.name}`, or put {file.url} in its place"
                )

    def fetch(self, data_dir: Path) -> None:
        """Download what is missing; never touches a file that is here.

        Raises:
            UserError: names the reason, the file to put where, and how to train offline.
        """
        for file in self.missing(data_dir):
            path = (data_dir / file.path).absolute()
            try:
                download(file.url, path, sha256=file.sha256, size=file.size)
            except DownloadError as error:
                raise UserError(
                    f"cannot fetch {self.title}: {error}. Put {file.url} (sha256 {file.sha256}) at "
                    f"{path}, or name the folder that has it with data_dir=FOLDER, or train "
                    f"offline: {self.offline}"
                ) from None

    def require(self, data_dir: Path) -> list[Path]:
        """The paths of the files, found or fetched, and checked either way.

        Raises:
            UserError: as `fetch` and `verify`.
        """
        self.fetch(data_dir)
        self.verify(data_dir)
        return [data_dir / file.path for file in self.files]


CATALOG: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="shakespeare",
            title="tiny Shakespeare",
            licence="public domain",
            source="https://github.com/karpathy/char-rnn",
            files=(
                DataFile(
                    path="tinyshakespeare/input.txt",
                    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                    "tinyshakespeare/input.txt",
                    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    size=1_115_394,
                ),
            ),
        ),
        Dataset(
            name="text",
            title="the help topics of CPython",
            licence="PSF-2.0",
            source="https://docs.python.org/3/reference/",
        ),
    )
}

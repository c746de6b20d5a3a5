"""Where document retrieval comes from: three files out of Long Range Arena's archive."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mambalab.data.dataset import DataFile, Dataset, Row
from mambalab.data.download import LOG, DownloadError, download
from mambalab.data.pair_rows import LRA
from mambalab.data.pair_store import count_rows, open_store
from mambalab.data.progress import human_bytes
from mambalab.errors import UserError
from mambalab.utils.locks import locked_folder

FOLDER = "lra_retrieval"
"""Below data_dir."""

PUBLISHED = {"train": 147_086, "eval": 18_090, "test": 17_437}
"""Rows of each file."""

_URL = "https://storage.googleapis.com/long-range-arena/lra_release.gz"
_ARCHIVE = "lra_release.gz"
_ARCHIVE_BYTES = 7_700_000_000  # of the archive, about; the files' own sizes are not published
_TEXT_BYTES = 4000  # what conf/task/retrieval.yaml cuts a text to: converted ahead of the first run
_READ_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
_EXTENDED_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


def file_name(part: str) -> str:
    """Name one of the three files: `part` is train, eval or test."""
    return f"new_aan_pairs.{part}.tsv"


@dataclass(frozen=True)
class PairFile(DataFile):
    """A file known by its number of rows, because no checksum of it was published.

    Attributes:
        rows: lines in it.
    """

    rows: int

    def fault(self, data_dir: Path) -> str | None:
        """Count the rows of the file that is here: what is wrong in words, or None.

        Raises:
            UserError: it cannot be read.
        """
        rows = count_rows(data_dir / self.path)
        return None if rows == self.rows else f"{rows:,} rows instead of {self.rows:,}"

    def report(self, data_dir: Path) -> str:
        """Say that the number of rows is right, for people."""
        return f"{self.rows:,} rows, as published (no checksum was)"

    def row(self, data_dir: Path) -> Row:
        """Make the line in `mambalab data list`; with the archive's size until the file is here."""
        found = super().row(data_dir)
        return found if found.here else found._replace(size=f"in {human_bytes(self.size)}")


@dataclass(frozen=True)
class LraArchive(Dataset):
    """The data of `task=retrieval`: an archive of 7.7 GB of which three files remain.

    An archive that is in the folder already is used and stays; one that was fetched is deleted
    when the files are out of it.
    """

    def verify(self, data_dir: Path) -> None:
        """Compare the numbers of rows of the files that are here with the published ones.

        Raises:
            UserError: names the first that differs, and what to do.
        """
        for file in self.files:
            path = data_dir / file.path
            if os.path.exists(path) and (fault := file.fault(data_dir)) is not None:
                raise UserError(
                    f"{path.absolute()} is not the published file ({fault}): move it away and run "
                    f"`mambalab data fetch {self.name}`; to train on it as it is, name its folder "
                    "with task.path=FOLDER"
                )

    def fetch(self, data_dir: Path) -> None:
        """Bring the files that are missing here, and convert all for training.

        Never touches a file that is here. Stopped at any point, it goes on when called again: the
        download where it was, the unpacking from its beginning.

        Raises:
            UserError: names the reason, what to put where, and how to train offline.
        """
        if not self.missing(data_dir):
            return
        folder = (data_dir / FOLDER).absolute()
        try:
            with locked_folder(folder, f"fetching {self.title}"):
                if missing := self.missing(data_dir):
                    self._bring(folder, [Path(file.path).name for file in missing])
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
        for file in self.files:
            open_store(data_dir / file.path, LRA, _TEXT_BYTES)

    def _bring(self, folder: Path, names: list[str]) -> None:
        archive = folder / _ARCHIVE
        ours = not archive.exists()
        try:
            download(self.files[0].url, archive)
        except DownloadError as error:
            raise UserError(
                f"cannot fetch {self.title}: {error}. Put {self.files[0].url} at {archive}, or "
                f"{', '.join(names)} into {folder}, or name the folder that has the three files "
                f"with task.path=FOLDER, or train offline: {self.offline}"
            ) from None
        rows = {
            Path(file.path).name: file.rows for file in self.files if isinstance(file, PairFile)
        }
        LOG.info("retrieval: unpacking %s from %s; this takes minutes", ", ".join(names), archive)
        extract(archive, folder, {name: rows[name] for name in names})
        if ours:
            archive.unlink()
            LOG.info("retrieval: unpacked; deleted %s", archive)
        else:
            LOG.info("retrieval: unpacked; %s is not needed any more", archive)


def extract(archive: Path, folder: Path, rows: dict[str, int]) -> None:
    """Unpack some members of a gzipped tar file, in one pass that ends with the last of them.

    A member is taken for its base name alone and written to `folder` under that name, whatever
    path the archive gives it: nothing can be written anywhere else. All files appear together, or
    none.

    Args:
        archive: the file.
        folder: exists.
        rows: base name of each wanted member, and how many lines it must have.

    Raises:
        UserError: not such an archive, cut short, a wanted member absent, under an unsafe path, no
            plain file, or with another number of lines; or the disk is full.
        OSError: the folder cannot be written.
    """
    parts = {name: folder / f"{name}.part" for name in rows}
    try:
        try:
            with tarfile.open(archive, "r|gz", tarinfo=_Member) as tar:
                _take(tar, archive, parts, rows)
        except (tarfile.TarError, EOFError, zlib.error, _ArchiveError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{archive} is not Long Range Arena's archive, or is cut short ({reason}): move it "
                "away and start again"
            ) from None
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()


class _Member(tarfile.TarInfo):
    """A member whose extended header is of a sane size: tarfile reads it into memory as a whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED_HEADERS and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {human_bytes(self.size)}")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


class _ArchiveError(Exception):
    """What is wrong with an archive, in words."""


def _take(
    tar: tarfile.TarFile, archive: Path, parts: dict[str, Path], rows: dict[str, int]
) -> None:
    wanted = set(parts)
    while wanted and (member := _next(tar)) is not None:
        name = member.name.rpartition("/")[2]
        if name not in wanted:
            continue
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise _ArchiveError(f"the path of {member.name} leads out of the folder")
        if not member.isreg() or member.issparse():
            raise _ArchiveError(f"{member.name} is not a plain file")
        free = shutil.disk_usage(parts[name].parent).free
        if free < member.size:
            raise UserError(
                f"the disk is full: {human_bytes(member.size)} are needed in {parts[name].parent} "
                f"for {name}, {human_bytes(free)} are free"
            )
        content = tar.extractfile(member)
        assert content is not None, "a plain file has content"
        found = _copy(content, parts[name])
        if found != rows[name]:
            raise _ArchiveError(f"{member.name} has {found:,} rows instead of {rows[name]:,}")
        wanted.discard(name)
    if wanted:
        raise _ArchiveError(f"it has no {' and no '.join(sorted(wanted))}")


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Go to the next member; tarfile would remember all of the hundreds of thousands."""
    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]: public, but in no stub
    try:
        return tar.next()
    except OSError as error:  # gzip's own, such as a wrong checksum
        raise _ArchiveError(error.strerror or str(error)) from None


def _copy(content: IO[bytes], target: Path) -> int:
    """Write a member to `target`, durably; returns its number of lines."""
    rows, last = 0, b"\n"
    with target.open("wb") as file:
        while chunk := _read(content):
            file.write(chunk)
            rows, last = rows + chunk.count(b"\n"), chunk[-1:]
        file.flush()
        os.fsync(file.fileno())
    return rows + (last != b"\n")


def _read(content: IO[bytes]) -> bytes:
    try:
        return content.read(_READ_BYTES)
    except OSError as error:
        raise _ArchiveError(error.strerror or str(error)) from None


def _files(rows: Iterable[tuple[str, int]]) -> tuple[PairFile, ...]:
    return tuple(
        PairFile(f"{FOLDER}/{file_name(part)}", _URL, sha256="", size=_ARCHIVE_BYTES, rows=count)
        for part, count in rows
    )


RETRIEVAL = LraArchive(
    name="retrieval",
    title="document retrieval of Long Range Arena",
    licence="unknown (LRA's code: Apache-2.0; texts: ACL Anthology)",
    source="https://github.com/google-research/long-range-arena",
    files=_files(PUBLISHED.items()),
    offline="task=pairs task.path=FILE, or task=text",
)

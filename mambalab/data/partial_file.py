"""The unfinished part of a download: locked, resumable, published when it is complete.

`FILE.part` holds the bytes so far and carries the lock (the kernel frees it when its holder dies,
however it dies): the lock is the data, so that it cannot be one of `utils.locks`, nor the file one
of a library. `FILE.part-from` says which version of which address the bytes are from. Publishing
is a rename, so `FILE` is either absent or complete.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mambalab.errors import UserError

LOG = logging.getLogger("mambalab")

_MAX_RACES = 1000  # how often other processes may take the part file away before this one gives up


class DownloadError(UserError):
    """Why a file could not be fetched, in one line."""


class PartialFile:
    """The bytes fetched so far, open and locked. Made by `locked_partial`."""

    def __init__(self, descriptor: int, path: Path, target: Path) -> None:
        self._descriptor = descriptor
        self.path = path
        self.target = target
        self._origin = path.with_name(path.name + "-from")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Write `data` at the end.

        Raises:
            DownloadError: the disk is full, or cannot be written.
        """
        rest = memoryview(data)
        try:
            os.lseek(self._descriptor, 0, os.SEEK_END)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def origin(self, url: str) -> str | None:
        """The ETag or date of the version that the bytes are from; None if unknown."""
        try:
            content = json.loads(self._origin.read_text(encoding="utf-8"))
            return content["validator"] if content["url"] == url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Cut short by a kill, or written by another version: then the download starts over.
            return None

    def restart(self, url: str, validator: str | None) -> None:
        """Drop all bytes; those to come are from version `validator` of `url`."""
        try:
            # In this order: whatever is killed in between, bytes never carry a wrong mark.
            os.ftruncate(self._descriptor, 0)
            self._origin.unlink(missing_ok=True)
            if validator is not None:
                self._origin.write_text(json.dumps({"url": url, "validator": validator}))
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def publish(self) -> None:
        """Make the bytes the target file, durably and at once."""
        try:
            os.fsync(self._descriptor)
            os.replace(self.path, self.target)
            self._origin.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_write(self.target, error) from None

    def close(self) -> None:
        """Free the lock; leave no file if no byte has come."""
        try:
            if _is_same(self._descriptor, self.path) and self.size == 0:
                self.path.unlink()
                self._origin.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


@contextmanager
def locked_partial(target: Path) -> Iterator[PartialFile | None]:
    """Open and lock the part file of `target`, for one process at a time.

    Waits while another process has it; yields None if that one has meanwhile published `target`.
    Folders made for it are removed again if nothing came to be in them.

    Raises:
        DownloadError: the folder cannot be made or written.
    """
    folders = [folder for folder in target.parents if not os.path.exists(folder)]
    part: PartialFile | None = None
    try:
        part = _acquire(target)
        yield part
    finally:
        if part is not None:
            part.close()
        with suppress(OSError):  # the first folder with something in it ends the clearing up
            for folder in folders:
                folder.rmdir()


def _acquire(target: Path) -> PartialFile | None:
    path = target.with_name(target.name + ".part")
    trouble: OSError | None = None
    waited = False
    for _ in range(_MAX_RACES):
        if os.path.exists(target):
            return None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as error:
            trouble = error  # perhaps another process cleared its empty folder up just now
            continue
        except OSError as error:
            raise _cannot_write(path, error) from None
        try:
            waited = _lock(descriptor, path, quietly=waited)
        except BaseException:
            os.close(descriptor)
            raise
        part = PartialFile(descriptor, path, target)
        # While this process waited, the file may have been published or cleared away, and then the
        # lock is on a file that no longer has this name.
        if _is_same(descriptor, path) and not os.path.exists(target):
            return part
        part.close()
    raise _cannot_write(path, trouble or BlockingIOError(errno.EBUSY, os.strerror(errno.EBUSY)))


def _lock(descriptor: int, path: Path, quietly: bool) -> bool:
    """Take the lock; returns whether that meant waiting (now or before, if `quietly`)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not quietly:
            LOG.warning("another process is fetching %s; waiting for it", path.stem)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except OSError as error:
        # Some network file systems have no locks; the download is still checked and atomic.
        LOG.warning("no lock on %s (%s): fetch it once at a time", path, error.strerror)
    return quietly


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _cannot_write(path: Path, error: OSError) -> DownloadError:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return DownloadError(f"cannot write {path}: a part of this path is a file, not a folder")
    return DownloadError(f"cannot write {path}: {error.strerror}")

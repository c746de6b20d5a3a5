"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = logging.getLogger("mambalab")
_LOCK = ".lock"
_RACES = 1000  # how often other processes may take the lock file away before this one gives up


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Work in `folder` alone; waits while another process does.

    The kernel frees the lock when its holder dies, however it dies. The lock file goes when the
    work is done, and so do folders that were made for it and in which nothing came to be.

    Args:
        folder: made if need be.
        doing: completes "another process is ...; waiting for it".

    Raises:
        OSError: the folder cannot be made or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        descriptor = _acquire(folder, doing)
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / _LOCK).unlink()  # while it is held: whoever waits for it notices
            os.close(descriptor)
    finally:
        with suppress(OSError):  # the first folder with something in it ends the clearing up
            for path in made:
                path.rmdir()


def _acquire(folder: Path, doing: str) -> int:
    path = folder / _LOCK
    told = False
    for _ in range(_RACES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # another process cleared its empty folder up just now
        try:
            told = _wait(descriptor, path, doing, told)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # its holder took it away when done: that lock guards nothing any more
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _wait(descriptor: int, path: Path, doing: str, told: bool) -> bool:
    """Take the lock; returns whether the user has been told of the waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not told:
            LOG.warning("another process is %s; waiting for it", doing)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except OSError as error:
        # Some network file systems have no locks; what is written is still renamed whole.
        LOG.warning("no lock on %s (%s): start one process at a time", path, error.strerror)
    return told

"""Locks between processes: a file that the kernel unlocks when its holder dies, however it dies.

Built on `filelock`. Where a file system has no locks, work goes on unguarded and says so once: a
marker file in their place (filelock's soft lock) would outlive a killed process.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

LOG = logging.getLogger("mambalab")
LOCK = ".lock"
"""Name of the file that carries the lock of a folder."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# What open and flock say of a folder, beyond those, where they take none or it may not be read.
_NO_FOLDER_LOCKS = _NO_LOCKS | {errno.EBADF, errno.EINVAL, errno.EISDIR, errno.EACCES, errno.EPERM}
_POLL_SECONDS = 0.1
_MAX_RACES = 1000  # how often others may clear an empty folder away before this process gives up
_unguarded: set[Path] = set()  # folders of which this process has said that they have no locks


class InUseError(Exception):
    """Another living process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool, doing: str = "") -> Iterator[None]:
    """Hold the lock of the file `path` inside the block; the file stays.

    Args:
        path: of the lock file, in a folder that exists.
        wait: for the process that holds it; False = raise at once.
        doing: completes "another process is ...; waiting for it", which is said once; empty =
            wait in silence.

    Raises:
        InUseError: another process holds it, and `wait` is False.
        OSError: the folder is absent or cannot be written.
    """
    from filelock import FileLock, Timeout  # here: a command that only reads needs none

    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path.parent))
    lock = FileLock(path, thread_local=False, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise InUseError(str(path)) from None
            if doing:
                LOG.warning("another process is %s; waiting for it", doing)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if path.parent not in _unguarded:
            _unguarded.add(path.parent)
            LOG.warning("no lock on %s (%s): start one process at a time", path, error.strerror)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def itself_locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself inside the block: nobody can delete it and leave the folder.

    To be held beside `locked` of the file `LOCK` in it, which other machines see, too: on network
    file systems a folder's own lock counts on one machine only, or does not exist, which is said.

    Raises:
        InUseError: another process holds it; somebody has deleted its lock file, then.
        OSError: the folder is absent, or descriptors or memory have run out.
    """
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
            descriptor = None
        if isinstance(error, BlockingIOError):
            raise InUseError(str(folder)) from None
        if error.errno not in _NO_FOLDER_LOCKS:
            raise
        if folder not in _unguarded:
            _unguarded.add(folder)
            LOG.warning("%s itself cannot be locked (%s): leave its %s alone while a process "
                        "works there", folder, error.strerror, LOCK)  # fmt: skip
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # a forked child may have the descriptor still
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Work in `folder` alone; waits while another process does.

    The lock file goes when the work is done, and so do folders that were made for it and in which
    nothing came to be.

    Args:
        folder: made if need be.
        doing: completes "another process is ...; waiting for it".

    Raises:
        OSError: the folder cannot be made or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / LOCK
    with ExitStack() as held:
        held.callback(_remove_empty, made)
        for race in range(1, _MAX_RACES + 1):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(lock, wait=True, doing=doing if race == 1 else ""))
                break
            except (FileNotFoundError, FileExistsError):
                # Another process cleared its empty folder up just now: before this one opened the
                # lock, or between mkdir's "exists" and pathlib's look whether it is a folder.
                if race == _MAX_RACES or _in_the_way(folder):
                    raise
        # Removed while it is held: filelock gives nobody a lock on a file without a name.
        held.callback(_remove, lock)
        yield


def _in_the_way(folder: Path) -> bool:
    """Whether `folder` or one above it is something else than a folder."""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            if not S_ISDIR(path.stat().st_mode):  # one call: what is there may go before a second
                return True
    return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # the first folder with something in it ends the clearing up
        for folder in folders:
            folder.rmdir()

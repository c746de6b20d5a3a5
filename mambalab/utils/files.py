"""Files that appear whole or not at all, and their checksums."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.utils import process, reading

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path beside `target` to write to; the file there takes the place of `target`.

    Readers see the old file or the new one, never half of it. If the block raises, the old file
    stays and what was begun is removed. The suffix is that of `target`, for writers that go by it.

    Args:
        target: the file.
        durable: wait for the disk before the old file goes: a power cut leaves the old one or the
            new one, not an empty one.

    Raises:
        OSError: the file cannot be written or put in place; it names `target`.
    """
    partial = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    partial.unlink(missing_ok=True)  # a stranger's link of that name would be written through
    try:
        yield partial
        if durable:
            flush_to_disk(partial)
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(partial), partial):
            error.filename = str(target)  # a write fails without a name, as on a full disk
        raise


def is_partial(name: str, target: str) -> bool:
    """Whether `name` is that of an unfinished `target`, as `replacing` or older versions name it.

    One that is left over belongs to a process that was killed while it wrote.
    """
    found = unfinished(name)
    return found is not None and found[0] == target


def unfinished(name: str) -> tuple[str, int] | None:
    """Name of the target and id of the process that an unfinished file's name tells, or None."""
    found = re.fullmatch(r"\.(.+?)\.(\d+)(\.\w+)?", name, re.ASCII)
    return (found[1] + (found[3] or ""), int(found[2])) if found else None


def remove_unfinished(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Remove what processes that are dead left half-written in a folder.

    Args:
        folder: need not exist; what cannot be removed stays.
        wanted: whether a target of this name is one that may be cleared.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            found = unfinished(path.name)
            if found and wanted(found[0]) and not process.exists(found[1]) and path.is_file():
                with contextlib.suppress(OSError):
                    path.unlink()


def free_name(path: Path) -> Path:
    """A path beside `path` that nobody has, to set it aside: its name with `.old1`, `.old2`, ..."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.old{number}")):
        number += 1
    return aside


def unlink_copies(path: Path) -> None:
    """Give a file that has other names (`cp -al`) a body of its own, before it is appended to.

    Raises:
        OSError: it cannot be copied.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        with replacing(path, durable=True) as partial:
            shutil.copy2(path, partial)


def write_text(target: Path, text: str, *, durable: bool = False) -> Path:
    """Write a text file as UTF-8 in one step, its folder made if need be; returns its path.

    Args:
        target: the file.
        text: its content.
        durable: as of `replacing`.

    Raises:
        OSError: it cannot be written; an older file stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def write_json(target: Path, data: Mapping[str, Any]) -> None:
    """Write a small JSON object in one step, into a folder that exists; it survives a power cut.

    Raises:
        OSError: it cannot be written; an older file stays as it was.
    """
    with replacing(target, durable=True) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path, within: Path | None = None) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one.

    Args:
        path: the file.
        within: the folder that a link may not lead out of; None follows every link.

    Raises:
        UserError: the file is damaged, too large, no regular file, or cannot be read.
    """
    try:
        data = json.loads(reading.read_bytes(path, within))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is damaged ({reason}): mend or delete it") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged (not an object): mend or delete it")
    return data


def is_damaged_json(path: Path) -> bool:
    """Whether what is there is no JSON object; not if the system does not let us read it."""
    try:
        return not isinstance(json.loads(reading.read_bytes(path, path.parent)), dict)
    except reading.CannotReadError as error:
        return getattr(error.error, "errno", None) == errno.ELOOP
    except OSError:
        return False
    except (UserError, ValueError, RecursionError):
        return True


def obstacle(folder: Path) -> str | None:
    """Why a folder could not be made or written, a clause, or None; makes nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is a file"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not writable"
    return None


def describe(error: OSError, place: Path) -> str:
    """Say in one line what the system refused, where, and what to do.

    Args:
        error: as it was caught.
        place: where it may have been, if the error does not say.
    """
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename or place}: {reason}; {remedy(error)}"


def remedy(error: Exception) -> str:
    """Say what to do about something that could not be written or read, and what follows."""
    code = getattr(error, "errno", None)
    todo = "mend that"
    if code in NO_SPACE:
        todo = "make room there"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        todo = "allow it"
    return f"{todo}, and the same command goes on"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits; UserError if it is no regular file."""
    with reading.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

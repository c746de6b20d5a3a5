"""Files that appear whole or not at all, and their checksums."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.utils import reading


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; the file there takes the place of `target`.

    Readers see the old file or the new one, never half of it. If the block raises, the old file
    stays and what was begun is removed. The suffix is that of `target`, for writers that go by it.

    Raises:
        OSError: the file cannot be put in place.
    """
    partial = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    partial.unlink(missing_ok=True)  # a stranger's link of that name would be written through
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def is_partial(name: str, target: str) -> bool:
    """Whether `name` is that of an unfinished `target`, as `replacing` or older versions name it.

    One that is left over belongs to a process that was killed while it wrote.
    """
    stem, suffix = re.escape(Path(target).stem), re.escape(Path(target).suffix)
    return re.fullmatch(rf"\.{stem}(\.\d+{suffix}|{suffix}\.\d+)", name) is not None


def write_text(target: Path, text: str) -> Path:
    """Write a text file as UTF-8 in one step, its folder made if need be; returns its path.

    Raises:
        OSError: it cannot be written; an older file stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def write_json(target: Path, data: Mapping[str, Any]) -> None:
    """Write a small JSON object in one step, into a folder that exists.

    Raises:
        OSError: it cannot be written; an older file stays as it was.
    """
    with replacing(target) as partial:
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

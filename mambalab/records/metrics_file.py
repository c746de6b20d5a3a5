"""metrics.jsonl while a run writes it: lines arrive whole, on the disk, and where they belong.

The file is kept open. Somebody may rename, delete or cut it meanwhile, or the whole run folder:
`sync` notices, puts the file back where that can be done, and says so.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from mambalab.errors import UserError
from mambalab.records.run_folder import METRICS, Row, read_rows
from mambalab.utils.files import flush_to_disk, free_name, replacing, unlink_copies

_CHUNK_BYTES = 1 << 20


class FolderGoneError(UserError):
    """The run folder is not where it was: nothing may be written at its old place."""


class FolderWatch:
    """Remembers which folder a path means, to notice that it means another one or none.

    Args:
        path: of a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._which = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None

    def check(self) -> None:
        """Raise FolderGoneError if the folder was renamed, deleted or replaced."""
        if self._identity() != self._which:
            raise FolderGoneError(
                f"the run folder {self.path} was renamed or deleted while the run trained: bring "
                "it back, and the same command goes on from its last checkpoint"
            )


class MetricsFile:
    """The open metrics.jsonl of a run.

    Attributes:
        path: of the file.
        old: its complete lines when it was opened.
        rows: number of its lines.
        size: bytes of its lines.

    Args:
        run_dir: the run folder, held by the caller; the file is made if need be. A last line that
            was cut short is cut off, and a body shared with a copy of the folder (`cp -al`) is
            given up for one of its own.

    Raises:
        UserError: a line is damaged.
        OSError: the file cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / METRICS
        self.old: list[Row]
        self.old, self.size = read_rows(self.path)
        self.rows = len(self.old)
        unlink_copies(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(self._descriptor, self.size)
        self._said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, line: bytes) -> None:
        """Add a line; raises OSError if that fails, nothing of the line is left then."""
        self._recount()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            error.filename = str(self.path)
            raise
        self.size += len(line)
        self.rows += 1

    def sync(self) -> list[str]:
        """Wait until all lines have reached the disk, in the file that bears the name.

        Returns:
            What had happened to the file meanwhile and was mended, a line for people each.

        Raises:
            OSError: it cannot be written.
        """
        self._recount()
        if not self._is_in_place():
            self._put_back()
        os.fsync(self._descriptor)
        said, self._said = self._said, []
        return said

    def settle(self) -> None:
        """Wait until all lines have reached the disk, if it takes them: an error comes too late."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _recount(self) -> None:
        """Go on after the last whole line of what somebody else made of the file."""
        before, now = self.size, os.fstat(self._descriptor).st_size
        if now == before:
            return
        data = b"".join(self._content(now))
        self.size = data.rfind(b"\n") + 1
        self.rows = data.count(b"\n")
        os.ftruncate(self._descriptor, self.size)
        self._said.append(
            f"{self.path} was changed by another program while the run trained: it had {before} "
            f"bytes and has {self.size} now; what is gone does not come back"
        )

    def _put_back(self) -> None:
        """Write the file again under its name: its body lives as long as it is open."""
        happened = "was renamed or deleted while the run trained: it is written again"
        if os.path.lexists(self.path):
            aside = free_name(self.path)
            self.path.rename(aside)
            happened = f"was replaced while the run trained: the other file is {aside.name} now"
        with replacing(self.path, durable=True) as partial:
            partial.write_bytes(b"".join(self._content(self.size)))
        flush_to_disk(self.path.parent)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._said.append(f"{self.path} {happened}")

    def _content(self, size: int) -> Iterator[bytes]:
        """Read the first `size` bytes, in parts."""
        position = 0
        while position < size:
            part = os.pread(self._descriptor, min(_CHUNK_BYTES, size - position), position)
            if not part:
                return
            yield part
            position += len(part)

"""Ways to damage a file: what bad disks, sync programs, editors and strangers leave behind."""

import os
import random
import shutil
from pathlib import Path

WAYS = (
    *("truncated", "a flipped bit", "zero-filled", "empty", "gone", "garbage"),
    *("a folder", "a FIFO", "a broken link", "a link loop", "appended to"),
)


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Damage a file in one of the WAYS."""
    data = path.read_bytes() if path.is_file() else b""
    if how == "truncated":
        path.write_bytes(data[: rng.randrange(max(1, len(data)))])
    elif how == "a flipped bit":
        at = rng.randrange(max(1, len(data)))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
    elif how == "zero-filled":
        path.write_bytes(bytes(len(data)))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(rng.randbytes(max(64, len(data))))
    elif how == "appended to":
        path.write_bytes(data + rng.randbytes(rng.randrange(1, 500)))
    else:
        path.unlink(missing_ok=True)
        put(path, how.removeprefix("a "))


def put(path: Path, what: str) -> None:
    """Put something that is no plain file at a path where nothing is; `gone` puts nothing."""
    if what == "folder":
        path.mkdir()
    elif what == "FIFO":
        os.mkfifo(path)
    elif what == "broken link":
        path.symlink_to("/nonexistent/anywhere")
    elif what == "link loop":
        path.symlink_to(path.name)
    elif what == "file":
        path.write_bytes(b"no folder")
    else:
        assert what == "gone", what


def clear(path: Path) -> None:
    """Remove whatever lies at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

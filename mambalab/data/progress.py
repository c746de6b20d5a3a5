"""How far a download is: a bar on a terminal, plain lines elsewhere (a log wants no bars)."""

from __future__ import annotations

import sys
import time
from typing import Any

_PLAIN_SECONDS = 10.0  # between plain lines


def human_bytes(count: int) -> str:
    """`count` bytes for people: 512 B, 1.1 MB, 7.7 GB (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


class Progress:
    """Context manager that shows bytes as they come, on stderr."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._plainly = not sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, done: int, total: int | None) -> None:
        """The transfer begins with `done` bytes of `total` (None = unknown) already here."""
        from tqdm import tqdm

        self._done, self._total, self._said = done, total, time.monotonic()
        self._bar = tqdm(
            desc=self._label,
            initial=done,
            total=total,
            unit="B",
            unit_scale=True,
            disable=self._plainly,
        )
        if self._plainly:
            self._say_size("fetching")

    def advance(self, count: int) -> None:
        """`count` more bytes have come."""
        self._done += count
        self._bar.update(count)
        if self._plainly and time.monotonic() - self._said >= _PLAIN_SECONDS:
            self._said = time.monotonic()
            self._say_size("fetching")

    def done(self) -> None:
        """The transfer is complete."""
        if self._plainly:
            self._say_size("done")

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        from tqdm import tqdm

        tqdm.write(f"{self._label}: {line}", file=sys.stderr)

    def _say_size(self, word: str) -> None:
        total = "" if self._total is None else f" of {human_bytes(self._total)}"
        self.say(f"{word}, {human_bytes(self._done)}{total}")

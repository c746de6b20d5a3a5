"""Shows how far a download is: a bar on a terminal, plain lines elsewhere (a log wants no bars).

Both only where somebody listens to the logger `mambalab` at level INFO, as the command line does.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from mambalab.utils.console import LOG, bar_options

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
    """Shows the bytes of one transfer as they come.

    Args:
        label: name of the file.
        done: bytes that are here already.
        total: bytes of the whole file; None = unknown.
    """

    def __init__(self, label: str, done: int, total: int | None) -> None:
        self._label, self._done, self._total = label, done, total
        self._said = time.monotonic()
        self._bar: Any = None
        if not sys.stderr.isatty():
            self._say("fetching")
        elif LOG.isEnabledFor(logging.INFO):
            from tqdm import tqdm

            width = bar_options(sys.stderr)
            self._bar = tqdm(
                desc=label, initial=done, total=total, unit="B", unit_scale=True, **width
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error is None:
            self._say("done")

    def advance(self, count: int) -> None:
        """Show that `count` more bytes have come."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._said >= _PLAIN_SECONDS:
            self._said = time.monotonic()
            self._say("fetching")

    def _say(self, word: str) -> None:
        total = "" if self._total is None else f" of {human_bytes(self._total)}"
        LOG.info("%s: %s, %s%s", self._label, word, human_bytes(self._done), total)

"""Sends messages of the logger `mambalab` to the terminal and to train.log."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

LOG = logging.getLogger("mambalab")


class _Console(logging.Handler):
    """Prints messages on standard error, above the progress bar if there is one.

    Errors are left out: they end the program, and the command line prints them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    level, propagate = LOG.level, LOG.propagate
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = propagate
        handler.close()


def show_log() -> contextlib.AbstractContextManager[None]:
    """Print messages of the logger `mambalab` on standard error."""
    return _handled_by(_Console())


def log_to(path: Path) -> contextlib.AbstractContextManager[None]:
    """Write messages of the logger `mambalab` to a file, with the time of day."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return _handled_by(handler)

"""How the program speaks to people: results to standard output, messages to standard error.

A library function never prints. It logs to the logger `mambalab`, and returns its results; a verb
hands these to `result`. `show_log` makes the messages visible, above a progress bar if there is
one: the command line does so once for every verb.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

LOG = logging.getLogger("mambalab")
NARROW_COLUMNS = 60


class Console(logging.Handler):
    """Prints messages on standard error, above the progress bar if there is one.

    Errors are left out: they end the program, and the command line prints them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        if record.levelno < logging.ERROR:
            _print_above_bar(self.format(record), sys.stderr)


def result(value: Any = "", end: str = "\n") -> None:
    """Print a result on standard output and flush it, above the progress bar if there is one."""
    if end == "\n":
        _print_above_bar(str(value), sys.stdout)
    else:
        print(value, end=end)
    sys.stdout.flush()


def bar_options(stream: TextIO) -> dict[str, Any]:
    """Return the arguments by which tqdm finds the width of a bar.

    A terminal may have no columns (`script`, some of `docker exec -t`): nothing at all would be
    shown there, so it counts as `$COLUMNS` wide, or 80.
    """
    try:
        unknown = os.get_terminal_size(stream.fileno()).columns == 0
    except (OSError, ValueError):
        unknown = False
    if not unknown:
        return {"dynamic_ncols": True}
    given = os.environ.get("COLUMNS", "")
    return {"ncols": int(given) if given.isdecimal() and 0 < int(given) < 1000 else 80}


def is_narrow(stream: TextIO) -> bool:
    """Return whether a terminal has no room for a bar beside its text."""
    try:
        return 0 < os.get_terminal_size(stream.fileno()).columns < NARROW_COLUMNS
    except (OSError, ValueError):
        return False


def show_log() -> contextlib.AbstractContextManager[None]:
    """Show messages of the logger `mambalab` on standard error; nested uses show them once."""
    if any(isinstance(handler, Console) for handler in LOG.handlers):
        return contextlib.nullcontext()
    return _handled_by(Console())


def log_to(path: Path) -> contextlib.AbstractContextManager[None]:
    """Write messages of the logger `mambalab` to a file, with date and time."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return _handled_by(handler)


def _print_above_bar(text: str, stream: Any) -> None:
    """Print a line; if a progress bar may be drawn, tqdm moves that below it."""
    if tqdm := sys.modules.get("tqdm"):  # nobody draws bars before it was imported
        tqdm.tqdm.write(text, file=stream)
    else:
        print(text, file=stream)


@contextlib.contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    """Let a handler have the messages of the logger `mambalab`, from level INFO."""
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

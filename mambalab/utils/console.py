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
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

from mambalab.utils.files import free_name, unlink_copies
from mambalab.utils.text import harmless

LOG = logging.getLogger("mambalab")
NARROW_COLUMNS = 60


class Console(logging.Handler):
    """Prints messages on standard error, above the progress bar if there is one.

    Errors are left out: they end the program, and the command line prints them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        if record.levelno < logging.ERROR:
            _print_above_bar(harmless(self.format(record)), sys.stderr)


def result(value: Any = "", end: str = "\n", *, exact: bool = False) -> None:
    """Print a result on standard output and flush it, above the progress bar if there is one.

    Args:
        value: what `str` makes a text of; control characters in it become `?`.
        end: what comes after it.
        exact: leaves control characters as they are, unless standard output is a terminal.
    """
    text = str(value)
    if not exact or sys.stdout.isatty():
        text = harmless(text)
    if end == "\n":
        _print_above_bar(text, sys.stdout)
    else:
        print(text, end=end)
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
    handler = _LogFile(path)
    handler.setFormatter(_HarmlessFormatter("%(asctime)s %(levelname)s %(message)s"))
    return _handled_by(handler)


def _make_room(path: Path) -> None:
    """Move what is no file out of the place of a log: a pipe would be waited for without end."""
    if path.is_symlink():  # a stranger's: what it leads to is not ours to write
        path.unlink()
    elif path.exists() and not path.is_file():
        aside = path.rename(free_name(path))
        LOG.warning("%s is no file: it is called %s now", path, aside.name)


class _LogFile(WatchedFileHandler):
    """Appends messages to a file; one that cannot be written is said once, and no more.

    A file that was renamed or deleted meanwhile is begun again, unless its folder was; one that
    has other names (`cp -al`) is copied before. A folder, pipe or device in its place is renamed.
    """

    def __init__(self, path: Path) -> None:
        _make_room(path)
        unlink_copies(path)
        super().__init__(path, encoding="utf-8")
        self.failed = False
        self.folder = path.parent.stat()

    def reopenIfNeeded(self) -> None:
        """Begin the file again if it went, in the folder where it was."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.folder, os.stat(os.path.dirname(self.baseFilename))):
                _make_room(Path(self.baseFilename))
                super().reopenIfNeeded()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why a message could not be written."""
        error = sys.exc_info()[1]
        if not self.failed and isinstance(error, OSError):
            text = f"cannot write {self.baseFilename}: {error.strerror}"
            _print_above_bar(text, sys.stderr)
        self.failed = True

    def close(self) -> None:
        """Close the file; what it did not take any more is lost."""
        with contextlib.suppress(OSError):
            super().close()


class _HarmlessFormatter(logging.Formatter):
    """Formats a message, its traceback included, so that `cat` can show the file."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one message."""
        return harmless(super().format(record))


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

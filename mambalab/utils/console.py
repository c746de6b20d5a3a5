"""How the program speaks to people: results to standard output, messages to standard error.

A library function never prints. It logs to the logger `mambalab`, and returns its results; a verb
hands these to `result`. `show_log` makes the messages visible, above a progress bar if there is
one: the command line does so once for every verb.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

from mambalab.utils import torchrun
from mambalab.utils.files import free_name, unlink_copies
from mambalab.utils.text import harmless

LOG = logging.getLogger("mambalab")
NARROW_COLUMNS = 60
SILENT_SECONDS = 1.0  # after which a person is told what takes so long
_FIT = "fit"  # attribute of a log record: what writes it for a terminal of so many columns


class Console(logging.Handler):
    """Prints messages on standard error, above the progress bar if there is one.

    Errors are left out: they end the program, and the command line prints them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        if record.levelno < logging.ERROR:
            fit, width = getattr(record, _FIT, None), columns(sys.stderr)
            text = self.format(record) if fit is None or width is None else fit(width)
            print_above_bar(harmless(text), sys.stderr)


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
        print_above_bar(text, sys.stdout)
    else:
        print(text, end=end)
    sys.stdout.flush()


def say(fit: Callable[[int | None], str], level: int = logging.INFO) -> None:
    """Log a message that a terminal shows in its own width, and a file or a pipe in full.

    Args:
        fit: writes the message for so many columns; None = without end.
        level: of the message.
    """
    LOG.log(level, "%s", fit(None), extra={_FIT: fit})


@contextlib.contextmanager
def meanwhile(doing: str) -> Iterator[None]:
    """Log what is done, once, if the block lasts longer than `SILENT_SECONDS`."""

    def tell() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: no news for them
            LOG.info("%s ...", doing)

    timer = threading.Timer(SILENT_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def columns(stream: TextIO) -> int | None:
    """Return how wide a terminal is, `$COLUMNS` or 80 if it does not know; None if it is none."""
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    if found:
        return found
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and 0 < int(given) < 1000 else 80


def bars(stream: TextIO) -> tuple[Any, bool]:
    """Return the class of progress bars, and whether they are drawn: on a terminal, in a notebook.

    A notebook without ipywidgets gets plain lines, as a pipe does.
    """
    import tqdm.asyncio
    import tqdm.auto

    in_notebook = tqdm.auto.tqdm is not tqdm.asyncio.tqdm_asyncio
    return tqdm.auto.tqdm, in_notebook or stream.isatty()


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
    return {"ncols": columns(stream) or 80}


def show_log() -> contextlib.AbstractContextManager[None]:
    """Show messages of the logger `mambalab` on standard error; nested uses show them once."""
    if any(isinstance(handler, Console) for handler in LOG.handlers):
        return contextlib.nullcontext()
    if torchrun.is_follower():  # rank 0 says it
        return _handled_by(logging.NullHandler())
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
            print_above_bar(text, sys.stderr)
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


def print_above_bar(text: str, stream: Any) -> None:
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


@contextlib.contextmanager
def progress(steps: int, doing: str) -> Iterator[Callable[[], None]]:
    """Show how far something has come: a bar on a terminal, a word elsewhere if it takes a while.

    Args:
        steps: that it takes.
        doing: what it is, for people.

    Yields:
        What to call after each step.
    """
    draw, live = bars(sys.stderr)
    with (
        contextlib.nullcontext() if live else meanwhile(doing),
        draw(total=steps, desc=doing, leave=False, delay=1, disable=not live) as bar,
    ):

        def step() -> None:
            bar.update()

        yield step

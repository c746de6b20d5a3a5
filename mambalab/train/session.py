"""What surrounds a run: the place for its folder, its log file, and being asked to stop."""

import os
import signal
import threading
from pathlib import Path
from typing import Any, Self

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.utils.console import log_to as log_to
from mambalab.utils.console import show_log as show_log


def check_writable(run_dir: Path) -> None:
    """Raise UserError if a run folder could not be made or written; makes nothing."""
    if why := obstacle(run_dir):
        raise UserError(
            f"cannot make the run folder {run_dir}: {why}; "
            f"choose another place with output_dir=FOLDER"
        )


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


def make_folder(run_dir: Path) -> None:
    """Make a run folder with its parents; raises UserError if that fails."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {run_dir}: {error.strerror}") from error


def set_aside(run_dir: Path) -> Path:
    """Rename an earlier run out of the way; returns its new path.

    Raises:
        UserError: if another process still works in it.
    """
    number = 1
    while (aside := run_dir.with_name(f"{run_dir.name}.old{number}")).exists():
        number += 1
    with run_folder.hold(run_dir):
        run_dir.rename(aside)
    return aside


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a polite request; the second acts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def requested(self) -> str | None:
        """Name of the signal that asked the run to stop, or None."""
        return self.received

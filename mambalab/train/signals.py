"""Handles SIGINT and SIGTERM while a run trains."""

import signal
import threading
from typing import Any, Self


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

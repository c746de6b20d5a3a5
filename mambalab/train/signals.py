"""Handles SIGINT, SIGTERM and SIGHUP while a run trains."""

import os
import signal
import threading
from contextlib import suppress
from typing import Any, Self

from mambalab.utils import torchrun


class StopSignals:
    """Turns the first signal into a polite request; a second SIGINT or SIGTERM acts at once.

    A terminal that closes may send SIGHUP more than once, so that one never acts at once. What
    `nohup` has the process ignore stays ignored.

    In a process that torchrun started no second one acts at once: SLURM sends a signal to every
    process of a job, and torchrun passes its own on to the same ones. In a job of SLURM a second
    SIGTERM does not: preemption sends two, some time apart. Both kill whoever takes too long.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}
        self._terminals: list[int] = []
        self._final = (signal.SIGINT, signal.SIGTERM)
        if torchrun.place() is not None:
            self._final = ()
        elif "SLURM_JOB_ID" in os.environ:
            self._final = (signal.SIGINT,)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
            for number in numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(*self._previous)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            signal.signal(number, self._previous.get(number, signal.SIG_DFL))

    def _handle(self, number: int, _frame: object) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
        if number == signal.SIGHUP:
            self._leave_terminal()
        else:
            self._restore(*self._final)

    def _leave_terminal(self) -> None:
        """Write nowhere instead of to a terminal that is gone: that would be an error."""
        for descriptor in [d for d in self._terminals if not os.isatty(d)]:
            self._terminals.remove(descriptor)
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)

    def requested(self) -> str | None:
        """Name of the signal that asked the run to stop, or None."""
        return self.received

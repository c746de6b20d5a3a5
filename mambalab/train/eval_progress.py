"""Watches a measurement over a whole split: shows how far it is, and ends it when asked to."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from mambalab.train.progress import PLAIN_SECONDS
from mambalab.train.protocols import Watchable

QUIET_SECONDS = 2.0  # a measurement shorter than this shows nothing


class StoppedError(Exception):
    """The person wants the run to stop.

    Attributes:
        signal: name of the signal that asked for it.
    """

    def __init__(self, signal: str) -> None:
        super().__init__(f"stopped by {signal}")
        self.signal = signal


class Watch:
    """Called between the batches of a measurement: a bar on a terminal, plain lines elsewhere.

    Args:
        doing: what is done, for people: `testing`.
        stop_requested: returns the name of a signal once the person wants the run to stop.
        stream: where to write; standard error by default.
    """

    def __init__(
        self, doing: str, stop_requested: Callable[[], str | None], stream: TextIO | None = None
    ) -> None:
        self.doing = doing
        self.stop_requested = stop_requested
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.next_line = time.monotonic() + QUIET_SECONDS
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` batches are measured.

        Raises:
            StoppedError: the person wants the run to stop.
        """
        if name := self.stop_requested():
            raise StoppedError(name)
        now = time.monotonic()
        if now < self.next_line:
            return
        if not self.live:
            self.next_line = now + PLAIN_SECONDS
            print(f"{self.doing} {done:,}/{total:,} ...", file=self.stream, flush=True)
            return
        if self.bar is None:
            text = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left"
            self.bar = tqdm(
                desc=self.doing,
                total=total,
                file=self.stream,
                leave=False,
                dynamic_ncols=True,
                bar_format=text,
            )
        self.bar.n = done
        self.bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def watching(
    task: Watchable, doing: str, stop_requested: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """While the block runs, what `task` measures is shown, and ends when the person asks for it.

    Args:
        task: calls its `on_eval_batch` between the batches of a measurement.
        doing: what is done, for people: `testing`.
        stop_requested: as of `Watch`.

    Raises:
        StoppedError: from within the measurement, when `stop_requested` names a signal.
    """
    watch = task.on_eval_batch = Watch(doing, stop_requested)
    try:
        yield
    finally:
        task.on_eval_batch = None
        watch.close()

"""Shows how far training and evaluations are: a tqdm bar on a terminal, plain lines elsewhere.

`watching` also ends an evaluation early, between two batches, when a signal asked for it.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from mambalab.train.protocols import Watchable
from mambalab.utils.console import bar_options, is_narrow
from mambalab.utils.text import duration

PLAIN_SECONDS = 15.0  # between two plain lines
QUIET_SECONDS = 2.0  # a measurement shorter than this shows nothing


class Progress:
    """Shows step, loss, validation, speed and time left; knows nothing of training.

    Args:
        done: share of the run already done when it starts (a resumed run), in [0, 1].
        stream: where to write; standard error by default.
    """

    def __init__(self, done: float = 0.0, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self.first = done
        self.last_line = 0.0
        narrow = is_narrow(self.stream)
        self.bar = tqdm(
            total=100,
            initial=round(100 * done, 2),
            file=self.stream,
            disable=not self.live,
            bar_format="{percentage:3.0f}%" + ("  {desc}" if narrow else "|{bar}| {desc}"),
            **bar_options(self.stream),
        )

    def update(
        self,
        progress: float,
        step: int,
        loss: float,
        validation: str,
        speed: float,
        *,
        milestone: bool = False,
    ) -> None:
        """Show the state of the run.

        Args:
            progress: share of the run done, in [0, 1].
            step: optimiser steps done.
            loss: latest training loss; NaN while none was logged.
            validation: latest validation metric, already formatted, or an empty string.
            speed: training items per second; 0 while unknown.
            milestone: an evaluation has just ended: always worth a plain line.
        """
        now = time.monotonic()
        share = progress - self.first
        left = (now - self.started) * (1 - progress) / share if share > 0 else None
        logged = "" if math.isnan(loss) else f"loss {loss:.4f}"
        parts = [f"step {step:,}", logged, validation]
        if speed:
            parts.append(f"{speed:,.0f} tok/s")
        if left is not None:
            parts.append(f"{duration(left)} left")
        text = "  ".join(part for part in parts if part)
        if self.live:
            self.bar.set_description_str(text, refresh=False)
            self.bar.n = round(100 * min(progress, 1.0), 2)
            self.bar.refresh()
        elif milestone or now - self.last_line >= PLAIN_SECONDS:
            self.last_line = now
            print(f"{100 * min(progress, 1.0):3.0f}%  {text}", file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.close()


class StoppedError(Exception):
    """Raised within an evaluation or before a step when a signal asked the run to stop.

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
        stop_requested: returns the name of a signal once the user asked the run to stop.
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
            StoppedError: `stop_requested` names a signal.
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
                bar_format=text,
                **bar_options(self.stream),
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
    """Show what `task` measures while the block runs; end it when `stop_requested` says so.

    Args:
        task: calls its `on_eval_batch` between the batches of a measurement.
        doing: what is done, for people: `testing`.
        stop_requested: returns the name of a signal once the user asked the run to stop.

    Raises:
        StoppedError: from within the measurement, when `stop_requested` names a signal.
    """
    watch = task.on_eval_batch = Watch(doing, stop_requested)
    try:
        yield
    finally:
        task.on_eval_batch = None
        watch.close()

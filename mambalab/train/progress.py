"""Shows how far training and evaluations are: a tqdm bar on a terminal, plain lines elsewhere.

`watching` also ends an evaluation early, between two batches, when a signal asked for it.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from mambalab.train.protocols import Watchable
from mambalab.utils.console import NARROW_COLUMNS, bar_options, bars, columns, meanwhile
from mambalab.utils.text import duration, fewer

BAR_SECONDS = 0.5  # between two states of the bar
PLAIN_SECONDS = 15.0  # between two plain lines
QUIET_SECONDS = 1.5  # a measurement shorter than this shows nothing


class Progress:
    """Shows step, loss, validation, speed and time left; knows nothing of training.

    Args:
        done: share of the run already done when it starts (a resumed run), in [0, 1].
        stream: where to write; standard error by default.
    """

    def __init__(self, done: float = 0.0, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        bar, self.live = bars(self.stream)
        self.started = self.shown = time.monotonic()
        self.first = done
        self.bar = bar(
            total=100,
            initial=round(100 * done, 2),
            file=self.stream,
            desc="starting",
            disable=not self.live,
            bar_format=_bar_format(columns(self.stream)),
            **bar_options(self.stream),
        )
        self.waiting = contextlib.ExitStack()

    def wait_for_step(self) -> None:
        """Say so where no bar does if the first step takes long: until `is_due` is asked."""
        if not self.live:
            self.waiting.enter_context(meanwhile("the first step makes the kernels ready"))

    def is_due(self) -> bool:
        """Return whether a person should see again where the run is, after a step."""
        self.waiting.close()
        return time.monotonic() - self.shown >= (BAR_SECONDS if self.live else PLAIN_SECONDS)

    def update(self, progress: float, step: int, loss: float, validation: str, speed: str) -> None:
        """Show the state of the run.

        Args:
            progress: share of the run done, in [0, 1].
            step: optimiser steps done.
            loss: latest training loss; NaN while none was logged.
            validation: latest validation metric, already formatted, or an empty string.
            speed: likewise; an empty string while unknown.
        """
        self.shown = now = time.monotonic()
        share, over = progress - self.first, progress >= 1
        trained = "" if math.isnan(loss) else f"loss {loss:.4f}"
        clock = f"in {duration(now - self.started)}" if over else ""
        if share > 0 and not over:
            clock = f"{duration((now - self.started) * (1 - progress) / share)} left"
        fields = [f"step {step:,}", trained, validation, speed, clock]
        if not self.live:
            text = "  ".join(filter(None, fields))
            print(f"{100 * min(progress, 1.0):3.0f}%  {text}", file=self.stream, flush=True)
            return
        width = columns(self.stream)
        room = None if width is None else width - (7 if width < NARROW_COLUMNS else 12)
        drop = [trained, clock, validation] if over else [validation, trained, clock]
        fields = fewer(fields, room, [speed, *drop])
        self.bar.bar_format = _bar_format(width)
        self.bar.set_description_str("  ".join(fields), refresh=False)
        self.bar.n = round(100 * min(progress, 1.0), 2)
        self.bar.refresh()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.waiting.close()
        self.bar.close()


def _bar_format(width: int | None) -> str:
    """How tqdm writes the bar; a narrow terminal has no room for one beside the text."""
    narrow = width is not None and width < NARROW_COLUMNS
    return "{percentage:3.0f}%" + ("  {desc}" if narrow else "|{bar}| {desc}")


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
        self.draw, self.live = bars(self.stream)
        self.next_line = time.monotonic() + QUIET_SECONDS
        self.bar: Any = None

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
            self.bar = self.draw(
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

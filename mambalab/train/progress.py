"""The live view of a run: a tqdm bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from typing import TextIO

from tqdm import tqdm

PLAIN_SECONDS = 15.0


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m 05s` or `2h 07m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole // 60 % 60:02d}m"


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
        self.bar = tqdm(
            total=100,
            initial=round(100 * done, 2),
            file=self.stream,
            disable=not self.live,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            dynamic_ncols=True,
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

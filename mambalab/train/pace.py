"""How far a run is, by steps or by the clock, how fast it goes, and what ends it."""

from mambalab.records.summary import EndedBy
from mambalab.settings.train import TrainerSettings
from mambalab.train import limits
from mambalab.train.protocols import TrainableTask
from mambalab.train.ranks import Ranks
from mambalab.train.state import TrainState


class Pace:
    """Measures a run against its limits.

    Args:
        settings: the limits.
        state: of the loop.
        ranks: the processes that train; the first one's clock counts.
        task: how much a batch holds.

    Attributes:
        max_steps: optimiser steps after which the run ends; None if only the clock ends it.

    Raises:
        UserError: epochs are asked of a task that has none.
    """

    def __init__(
        self, settings: TrainerSettings, state: TrainState, ranks: Ranks, task: TrainableTask
    ) -> None:
        self.settings = settings
        self.state = state
        self.ranks = ranks
        self.task = task
        self.max_steps = limits.steps(settings, task.batches_per_epoch)
        self._agreed: float | None = None  # seconds of training by the first one's clock

    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]: by steps or by time, whichever is further."""
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(self.state.step / self.max_steps)
        if self.settings.max_minutes is not None:
            shares.append(self._elapsed() / (60 * self.settings.max_minutes))
        return max(shares)

    def agree(self, stop: str | None) -> str | None:
        """Let several processes agree on the time, and on the signal that asked to stop.

        Args:
            stop: the signal that asked this process, or None.

        Returns:
            A signal that asked any of them.
        """
        if self.ranks.size > 1:
            stop, self._agreed = self.ranks.agree(stop, self.state.clock.elapsed())
        return stop

    def reached_limit(self) -> tuple[EndedBy, str] | None:
        """The limit that ends the run and how to say it, or None."""
        state, settings = self.state, self.settings
        if settings.max_steps is not None and state.step >= settings.max_steps:
            return EndedBy.max_steps, f"max_steps={settings.max_steps} reached"
        if self.max_steps is not None and state.step >= self.max_steps:
            return EndedBy.max_epochs, f"max_epochs={settings.max_epochs:g} reached"
        if settings.max_minutes is not None and self._elapsed() >= 60 * settings.max_minutes:
            return EndedBy.max_minutes, f"max_minutes={settings.max_minutes:g} reached"
        if settings.patience is not None and state.evaluations_since_best >= settings.patience:
            evaluations = f"{settings.patience} evaluations"
            return EndedBy.patience, f"no improvement of {self.task.metric} in {evaluations}"
        return None

    def tokens_per_second(self) -> float:
        """Training speed of this session after warm-up, evaluations left out; 0 if unknown."""
        clock = self.state.clock
        if not clock.timed_steps:
            return 0.0
        items = self.task.items_per_batch * self.settings.grad_accum * clock.timed_steps
        return items / clock.step_seconds

    def _elapsed(self) -> float:
        return self.state.clock.elapsed() if self._agreed is None else self._agreed

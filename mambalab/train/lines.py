"""Writes an evaluation and the speed of training as a person reads them."""

import math

from mambalab.settings.train import TrainerSettings
from mambalab.train import limits
from mambalab.train.protocols import TrainableTask
from mambalab.train.state import TrainState
from mambalab.utils.text import fewer, number, packed


def speed(task: TrainableTask, tokens_per_second: float) -> str:
    """Write the training speed in what the task counts, e.g. `1,200 images/s`; "" if unknown."""
    if not tokens_per_second:
        return ""
    ratio = task.units_per_batch / task.items_per_batch
    return f"{tokens_per_second * ratio:,.0f} {task.unit}/s"


def validation(task: TrainableTask, state: TrainState) -> str:
    """Write the latest value of the metric that chooses checkpoints; "" before the first.

    Its standard error stands behind it if it is an estimate: `<metric>_stderr` says so.
    """
    if not state.last:
        return ""
    error = state.last.get(f"{task.metric}_stderr")
    estimate = "" if error is None else f" ± {number(error)}"
    return f"{task.metric} {number(state.last[task.metric])}{estimate}"


def evaluation(
    task: TrainableTask,
    state: TrainState,
    settings: TrainerSettings,
    tokens_per_second: float,
    columns: int | None = None,
) -> str:
    """Write an evaluation that was just made in a line, two where there is no room.

    Args:
        task: of the run; says what a pass over its data is, and what speed is counted in.
        state: of the run.
        settings: of the run.
        tokens_per_second: of training; 0 if unknown.
        columns: of the terminal. A narrow one shows no speed, then no epoch: the bar does, or the
            log.
    """
    passes = limits.epochs(state.step, settings, task.batches_per_epoch)
    epoch = "" if passes is None else f"epoch {passes:.2f}"
    is_best = state.best is not None and state.best.step == state.step
    fields = [
        f"step {state.step:,}",
        epoch,
        "" if math.isnan(state.latest_loss) else f"train {number(state.latest_loss)}",
        validation(task, state) + (" best" if is_best else ""),
        rate := speed(task, tokens_per_second),
    ]
    return packed(fewer(fields, columns, [rate, epoch]), columns)

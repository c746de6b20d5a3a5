"""Turns the limits of a run into a number of optimiser steps."""

import math

from mambalab.errors import UserError
from mambalab.settings.train import TrainerSettings


def steps(settings: TrainerSettings, batches_per_epoch: float | None) -> int | None:
    """Compute the optimiser steps after which a run ends; None if only the clock ends it.

    Epochs end with the first step that completes them.

    Args:
        settings: the limits, and the batches in a step.
        batches_per_epoch: of the task; None if its examples are drawn without end.

    Raises:
        UserError: epochs of such a task.
    """
    if settings.max_epochs is None:
        return settings.max_steps
    if batches_per_epoch is None:
        raise UserError(
            f"trainer.max_epochs={settings.max_epochs:g}: this task draws its examples without "
            "end, it has no epochs; give trainer.max_steps=N"
        )
    batches = settings.max_epochs * batches_per_epoch
    found = max(1, math.ceil(batches / settings.grad_accum * (1 - 1e-12)))  # 3 * (n / 3) is n
    return found if settings.max_steps is None else min(found, settings.max_steps)


def describe(settings: TrainerSettings, batches_per_epoch: float | None) -> str:
    """Write how far a run may go, in steps and in epochs where there are any.

    Args:
        settings: the limits, and the batches in a step.
        batches_per_epoch: of the task; None if its examples are drawn without end.
    """
    last = steps(settings, batches_per_epoch)
    minutes = "" if settings.max_minutes is None else f"{settings.max_minutes:g} minutes"
    if last is None:
        passes = epochs(1, settings, batches_per_epoch)
        return minutes if passes is None else f"{minutes}, an epoch has {1 / passes:,.0f} steps"
    passes = epochs(last, settings, batches_per_epoch)
    told = f"{last:,} steps" if passes is None else f"{last:,} steps make {passes:.3g} epochs"
    return f"{told}, at most {minutes}" if minutes else told


def epochs(step: int, settings: TrainerSettings, batches_per_epoch: float | None) -> float | None:
    """Compute the passes over the training data that `step` optimiser steps made."""
    if batches_per_epoch is None:
        return None
    return step * settings.grad_accum / batches_per_epoch

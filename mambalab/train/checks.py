"""What training asks of a task's answers, told in one line where a task of the user's own errs."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mambalab.errors import UserError


def check_loss(loss: Any) -> None:
    """Raise UserError unless `loss` is one number that gradients can flow from."""
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        found = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(
            f"the task's loss must return one float32 number, a tensor without dimensions, not "
            f"{found}: take the mean"
        )
    if not loss.requires_grad:
        raise UserError(
            "the task's loss returns a number that does not depend on the model's weights: "
            "no detach(), item() or no_grad() on the way from the model's output"
        )


def check_metrics(metrics: Any, chosen_by: str) -> dict[str, float]:
    """Return `metrics` with NaN for None; UserError unless they are numbers by name, `chosen_by`
    among them.

    Args:
        metrics: what the task measured on the validation split.
        chosen_by: the metric by which checkpoints are chosen, `task.metric`.
    """
    if not isinstance(metrics, dict):
        raise UserError(
            f"the task's measure must return metrics by name, such as {{'{chosen_by}': 1.5}}, "
            f"not {type(metrics).__name__}"
        )
    for name, value in metrics.items():
        if not isinstance(value, (int, float, type(None))):
            raise UserError(
                f"the task's measure returns {name} as {type(value).__name__}, not as a number: "
                "write float(...) or .item()"
            )
    if chosen_by not in metrics:
        names = ", ".join(map(str, metrics)) or "nothing"
        raise UserError(
            f"the task's measure must return {chosen_by}, by which checkpoints are chosen "
            f"(the task's `metric`); it returned {names}"
        )
    if metrics[chosen_by] is None:
        raise UserError(f"the task's measure returns None for {chosen_by}, not a number")
    return numbers(metrics)


def numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Copy metrics with NaN for None, by which a user's own task may say that it has none."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def describe_changes(before: dict[str, str], now: dict[str, str]) -> str:
    """Say in brackets what two fingerprints of data record differently, digests and paths aside; ""
    if that is nothing."""
    keys = sorted((before.keys() | now.keys()) - {"sha256", "path"})
    changes = [
        f"{key}: {before.get(key, 'none')} before, {now.get(key, 'none')} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]
    return f" ({'; '.join(changes)})" if changes else ""


def ranking_key(metrics: Mapping[str, float], metric: str, maximize: bool) -> tuple[float, float]:
    """Compute the key by which evaluations are ranked, more is better: `metric`, then `val/loss`.

    Small splits often give equal accuracies. NaN is worse than everything.
    """
    value = metrics[metric]
    if math.isnan(value):
        return -math.inf, 0.0
    return value if maximize else -value, -metrics.get("val/loss", 0.0)

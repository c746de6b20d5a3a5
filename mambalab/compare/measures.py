"""What a comparison takes from one run."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mambalab.compare.comparability import seed_of
from mambalab.records.reader import Curve, RunRecord, best_of

LOSS, TRAIN, SECONDS = "val/loss", "train/loss", "time/seconds"
MIN_SLOPE_POINTS = 3  # evaluations in the last quarter of a run: a line through them tells


@dataclass(frozen=True)
class Metric:
    """What runs are compared by.

    Attributes:
        name: as in metrics.jsonl.
        maximize: whether more is better.
    """

    name: str
    maximize: bool

    @property
    def of_test(self) -> str:
        """Name of the same metric on the test split: `test/accuracy` for `val/accuracy`."""
        return f"test/{self.name.rpartition('/')[2]}"

    def reaches(self, value: float, goal: float) -> bool:
        """Tell whether a value is at least as good as a goal."""
        return value >= goal if self.maximize else value <= goal


@dataclass(frozen=True)
class Measured:
    """One run in numbers; None for what it does not tell.

    Attributes:
        path, seed: which run.
        best, best_step, last: best value of the metric, where, and the value at the end.
        best_loss, last_loss: the same of `val/loss`.
        gap: last `val/loss` less the mean `train/loss` since the evaluation before it (the last
            `train/loss` if there is none since).
        rise: last `val/loss` less the best.
        excess: mean height of `val/loss` above the lowest value until then, over the steps from
            the first evaluation to the last: the area of over-fitting (noise adds to it).
        end_slope: change of the metric in the last tenth of the run, by a straight line through
            the last quarter of its evaluations; None with fewer than MIN_SLOPE_POINTS of them.
        evaluations: how often the metric was evaluated.
        test: metrics of the test split by name, of the weights that validation chose.
        parameters, steps, minutes: of the run from its start to its end.
        tokens_per_second: of training after warm-up.
        tokens_per_step: of one optimiser step.
        goal_step, goal_seconds, goal_tokens: what it took to reach the goal of the comparison.
    """

    path: str
    seed: int | str
    best: float
    best_step: int
    last: float | None
    best_loss: float | None
    last_loss: float | None
    gap: float | None
    rise: float | None
    excess: float | None
    end_slope: float | None
    evaluations: int
    test: dict[str, float]
    parameters: float | None
    steps: int | None
    minutes: float | None
    tokens_per_second: float | None
    tokens_per_step: float | None
    goal_step: int | None = None
    goal_seconds: float | None = None
    goal_tokens: float | None = None


def measure(record: RunRecord, metric: Metric) -> Measured | None:
    """Measure a run; None if it holds no finite value of the metric.

    Raises:
        UserError: metrics.jsonl is damaged.
    """
    best = best_value(record, metric)
    if best is None:
        return None
    loss = best_value(record, Metric(LOSS, maximize=False))
    last_loss = last_value(record, LOSS)
    return Measured(
        path=str(record.path),
        seed=seed_of(record),
        best=best[0],
        best_step=best[1],
        last=last_value(record, metric.name),
        best_loss=loss[0] if loss else None,
        last_loss=last_loss,
        gap=_gap(record, last_loss),
        rise=last_loss - loss[0] if loss and last_loss is not None else None,
        excess=_excess(record.curves.get(LOSS, [])),
        end_slope=_end_slope(record.curves.get(metric.name, [])),
        evaluations=len(record.curves.get(metric.name, [])),
        test=dict(record.summary.test.metrics) if record.summary.test else {},
        parameters=_number(record.summary.parameters),
        steps=record.step,
        minutes=record.minutes,
        tokens_per_second=_number(record.summary.tokens_per_second or None),
        tokens_per_step=_number(record.summary.tokens_per_step),
    )


def best_value(record: RunRecord, metric: Metric) -> tuple[float, int] | None:
    """Return the best finite value of a metric and its step, or None."""
    if metric.name == record.metric and metric.maximize == record.maximize:
        best = record.best
    elif metric.name in record.curves:
        best = best_of(record.curves[metric.name], metric.name, maximize=metric.maximize)
    else:
        best = None
    if best is None or _number(best.value) is None or not isinstance(best.step, int):
        return None
    return float(best.value), best.step


def last_value(record: RunRecord, metric: str) -> float | None:
    """Return the value of a metric at the last evaluation; None if that was not finite."""
    if metric in record.curves:
        return record.curves[metric][-1][1]
    return _number((record.summary.last or {}).get(metric))


def _gap(record: RunRecord, last_loss: float | None) -> float | None:
    evaluations, training = record.curves.get(LOSS, []), record.curves.get(TRAIN, [])
    if last_loss is None or not evaluations:
        return None
    end = evaluations[-1][0]
    start = evaluations[-2][0] if len(evaluations) > 1 else -1
    recent = [v for step, v in training if start < step <= end and v is not None]
    if not recent:
        latest = _value_at(training, end)
        recent = [] if latest is None else [latest]
    return last_loss - sum(recent) / len(recent) if recent else None


def _excess(points: Curve) -> float | None:
    """Return the area between a curve and its running minimum, per step, by trapezoids."""
    finite = [(step, value) for step, value in points if value is not None]
    if len(finite) < 2:
        return None
    lowest, area, above = finite[0][1], 0.0, 0.0
    for (before, _), (step, value) in pairwise(finite):
        lowest = min(lowest, value)
        area += (step - before) * (above + value - lowest) / 2
        above = value - lowest
    return area / (finite[-1][0] - finite[0][0])


def _end_slope(points: Curve) -> float | None:
    import numpy as np

    finite = [(step, value) for step, value in points if value is not None]
    if not finite:
        return None
    end = finite[-1][0]
    late = [(step, value) for step, value in finite if step >= 0.75 * end]
    if len(late) < MIN_SLOPE_POINTS:
        return None
    steps, values = np.array(late, dtype=float).T
    slope = np.polyfit(steps - steps.mean(), values, 1)[0]
    return float(slope * end / 10)


def reached(record: RunRecord, metric: Metric, goal: float) -> dict[str, Any]:
    """Measure `goal_step`, `goal_seconds` and `goal_tokens`: the first evaluation at least as good
    as the goal, training time and tokens until then; None for what is not known or never was."""
    step = next(
        (
            step
            for step, value in record.curves.get(metric.name, [])
            if value is not None and metric.reaches(value, goal)
        ),
        None,
    )
    if step is None:
        return {"goal_step": None, "goal_seconds": None, "goal_tokens": None}
    tokens = _number(record.summary.tokens_per_step)
    return {
        "goal_step": step,
        "goal_seconds": _value_at(record.curves.get(SECONDS, []), step),
        "goal_tokens": None if tokens is None else step * tokens,
    }


def _value_at(points: Curve, step: int) -> float | None:
    """Return the last finite value at or before a step, or None."""
    finite = [(s, v) for s, v in points if v is not None]
    position = bisect_right([s for s, _ in finite], step)
    return finite[position - 1][1] if position else None


def _number(value: Any) -> float | None:
    """Return a finite number from a file that may hold anything, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < float("inf") else None

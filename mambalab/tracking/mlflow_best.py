"""The best evaluation as metrics of MLflow's: `best/val_loss`, `best/step`.

MLflow's lists show the last value of each metric. These have one value, at step 0: so MLflow draws
them as bars, one for each run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.summary import RunSummary
from mambalab.tracking.mlflow_names import BEST
from mambalab.utils.files import read_json


@dataclass(frozen=True)
class BestEvaluation:
    """An evaluation that was the best.

    Attributes:
        metric: by which it is.
        step: optimiser steps done.
        values: metrics of its split, by name.
        stamp: when it was, Unix milliseconds.
        job: of a sweep: the name of the job; empty for a run.
    """

    metric: str
    step: int
    values: Mapping[str, float]
    stamp: int
    job: str = ""

    def as_metrics(self) -> dict[str, float]:
        """Name the values as MLflow gets them."""
        named = {f"{BEST}{name.replace('/', '_')}": value for name, value in self.values.items()}
        return {**named, f"{BEST}step": float(self.step)}


def points(best: BestEvaluation, after: int) -> list[Any]:
    """Make MLflow's points of an evaluation, later than `after` (Unix milliseconds).

    They all have step 0, of which MLflow shows the latest, and of equally late ones the largest.
    """
    from mlflow.entities import Metric

    stamp = max(best.stamp, after + 1)
    return [Metric(key, value, stamp, 0) for key, value in best.as_metrics().items()]


def shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """The best evaluation as a run in the store shows it, of all its latest metrics."""
    return {name: value for name, value in metrics.items() if name.startswith(BEST)}


def latest_stamp(client: Any, run_id: str, metrics: Mapping[str, float]) -> int:
    """When the newest best evaluation in the store was, Unix milliseconds; 0 if there is none.

    Args:
        client: of MLflow.
        run_id: of the run.
        metrics: that it has there.
    """
    key = f"{BEST}step"
    history = client.get_metric_history(run_id, key) if key in metrics else []
    return max((m.timestamp for m in history), default=0)


class BestSoFar:
    """Follows the best evaluation of a run while its metrics.jsonl is read.

    Args:
        run_dir: the run folder; summary.json tells the metric, `val/loss` if it does not.
    """

    def __init__(self, run_dir: Path) -> None:
        self._summary = run_dir / run_folder.SUMMARY
        self._metric: tuple[str, bool] | None = None
        self._rank = (-math.inf, 0.0)
        self.found: BestEvaluation | None = None

    def clear(self) -> None:
        """Begin again: the file is read from its start."""
        self._metric, self._rank, self.found = None, (-math.inf, 0.0), None

    def see(self, step: int, values: Mapping[str, float | None], stamp: int) -> None:
        """Take a row into account; ranks as the training does: the metric, then `val/loss`."""
        if self._metric is None:
            if not any(name.startswith("val/") for name in values):
                return
            self._metric = self._read_metric()
        metric, maximize = self._metric
        value = values.get(metric)
        if value is None:
            return
        rank = (value if maximize else -value, -(values.get("val/loss") or 0.0))
        if rank > self._rank:
            split = metric.partition("/")[0]
            known = {
                name: number
                for name, number in values.items()
                if number is not None and name.count("/") == 1 and name.startswith(f"{split}/")
            }
            self._rank, self.found = rank, BestEvaluation(metric, step, known, stamp)

    def _read_metric(self) -> tuple[str, bool]:
        try:
            summary = RunSummary.read(self._summary)
        except (UserError, OSError):
            return "val/loss", False
        return summary.metric or "val/loss", bool(summary.maximize)


def best_of_sweep(folder: Path, stamp: int) -> BestEvaluation | None:
    """Find the best job of a sweep by its sweep.json; None if no job has a result.

    Args:
        folder: of the sweep.
        stamp: Unix milliseconds.
    """
    found: list[tuple[float, str, dict[str, Any]]] = []
    try:
        for name, entry in read_json(folder / run_folder.SWEEP, folder).get("jobs", {}).items():
            best = entry.get("best")
            if best and (not found or best["metric"] == found[0][2]["metric"]):
                found.append((best["value"] if best["maximize"] else -best["value"], name, best))
    except (UserError, OSError, KeyError, TypeError, AttributeError):  # mended by hand, perhaps
        return None
    if not found:
        return None
    _, name, best = max(found, key=lambda job: job[0])
    metric = best["metric"]
    return BestEvaluation(metric, best["step"], {metric: best["value"]}, stamp, name)

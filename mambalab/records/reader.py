"""Finds and reads run folders: their settings, summary and curves. Imports no torch."""

import logging
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.run_folder import CONFIG, METRICS, SUMMARY, RunFolder
from mambalab.records.summary import RunSummary, Status
from mambalab.utils.reading import NotYamlError, read_yaml

LOG = logging.getLogger("mambalab")

Curve = list[tuple[int, float | None]]

# Folders that hold no run; MLflow's copies of run files would look like runs.
_FOLDERS_WITHOUT_RUNS = {
    "mlartifacts",
    "checkpoints",
    "plots",
    "samples",
    "tables",
    "tensorboard",
    "wandb",
    "multirun",
    "__pycache__",
}


@dataclass(frozen=True)
class Best:
    """The best value of a run's metric.

    Attributes:
        metric: its name, e.g. `val/loss`.
        value: the best value.
        step: where it was reached first.
    """

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run folder says about its run.

    Attributes:
        path: the folder.
        config: config.yaml as plain data; nothing in it is resolved or imported.
        summary: summary.json; all None if there is none.
    """

    path: Path
    config: dict[str, Any]
    summary: RunSummary

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Points of metrics.jsonl by metric; raises UserError if the file is damaged."""
        return read_curves(self.path)

    @property
    def status(self) -> str:
        """State of the run: FINISHED, FAILED, KILLED, RUNNING or UNKNOWN.

        RUNNING is what a process wrote at its start: if it is dead, the run was killed. For a
        process of another machine that cannot be known and RUNNING remains.
        """
        if self.summary.status is Status.RUNNING and self.summary.writer_alive() is False:
            return Status.KILLED.value
        status = self.summary.status or self.summary.other.get("status", "UNKNOWN")
        return str(status)

    @property
    def metric(self) -> str:
        """Name of the metric the run is judged by: `val/loss` unless the summary names another."""
        return self.summary.metric or "val/loss"

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return bool(self.summary.maximize)

    @property
    def best(self) -> Best | None:
        """The best finite value of the metric in metrics.jsonl, else the summary's, or None."""
        of_summary, chosen = self.summary.best, None
        named = of_summary.metrics.get(self.metric) if of_summary is not None else None
        if of_summary is not None and _is_finite(named):
            chosen = Best(self.metric, named, of_summary.step)
        if self.metric not in self.curves:  # a run that kept no metrics.jsonl
            return chosen
        found = best_of(self.curves[self.metric], self.metric, maximize=self.maximize)
        if found is None or chosen is None:
            return found
        # Of equal values training may have preferred a later one, with a lower loss. The summary of
        # a record has more digits than its curve.
        if chosen.value == found.value:
            return chosen
        there = dict(self.curves[self.metric]).get(chosen.step) == found.value
        return Best(found.metric, found.value, chosen.step) if there else found

    @property
    def step(self) -> int | None:
        """The last step done, by metrics.jsonl or the summary, or None."""
        steps = [points[-1][0] for points in self.curves.values()]
        if self.summary.step is not None:
            steps.append(self.summary.step)  # metrics come every log_every steps only
        return max(steps, default=None)

    @property
    def minutes(self) -> float | None:
        """Training time so far, by the last `time/seconds` or the summary, or None."""
        seconds = [v for _, v in self.curves.get("time/seconds", []) if v is not None]
        if _is_finite(self.summary.seconds):
            # Of the last session's end: later than the last point, or older.
            seconds.append(self.summary.seconds)
        return max(seconds) / 60 if seconds else None

    def setting(self, name: str) -> Any:
        """A value of the config by its dotted name, or None."""
        value: Any = self.config
        for part in name.split("."):
            if not isinstance(value, dict):
                return None
            value = value.get(part)
        return value


@dataclass(frozen=True)
class StoredRun(RunRecord):
    """A run whose curves are at hand: kept in MLflow, or in a file of records.

    Attributes:
        path: its name; there need be no such folder.
        points: values of each metric, by name.
    """

    points: dict[str, Curve]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Values of each metric, by name."""
        return self.points


def _is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value of a summary, which anybody may have written, is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def best_of(points: Curve, metric: str, *, maximize: bool = False) -> Best | None:
    """Find the best finite point of a curve, the earliest of equals; None if there is none."""
    finite = [(value, step) for step, value in points if value is not None]
    if not finite:
        return None
    value = max(v for v, _ in finite) if maximize else min(v for v, _ in finite)
    return Best(metric, value, next(step for v, step in finite if v == value))


def read_curves(run_dir: Path) -> dict[str, Curve]:
    """Read metrics.jsonl as (step, value) pairs by metric, sorted by step; None = not finite.

    A last line that is still being written is left out; a (key, step) that a foreign file holds
    twice counts once, the first.

    Raises:
        UserError: if a complete line is damaged.
    """
    points: dict[str, dict[int, float | None]] = {}
    rows, _ = run_folder.read_rows(run_dir / METRICS)
    for step, values in rows:
        for key, value in values.items():
            points.setdefault(key, {}).setdefault(step, value)
    return {key: sorted(values.items()) for key, values in points.items()}


def read_run(path: Path) -> RunRecord:
    """Read a run folder; its metrics are read when they are asked for.

    Raises:
        UserError: if it is no run folder, or one of its files is damaged.
    """
    if not is_run(path):
        raise UserError(
            f"{path} is no run folder: it has no {CONFIG} with {SUMMARY}, {METRICS} or a checkpoint"
        )
    try:
        config = read_yaml(path / CONFIG, path)
    except FileNotFoundError as error:  # since it was looked at
        raise UserError(f"{path} is no run folder: it has no {CONFIG}") from error
    except NotYamlError as error:
        raise UserError(f"{path / CONFIG} is damaged ({error.reason}): mend it") from error
    if not isinstance(config, dict):
        raise UserError(f"{path / CONFIG} is damaged (no settings in it): mend it")
    return RunRecord(path, config, RunFolder(path).summary())


def is_run(path: Path) -> bool:
    """Whether a folder is a run folder."""
    if not (path / CONFIG).is_file():
        return False
    return any((path / n).is_file() for n in (SUMMARY, METRICS)) or has_checkpoint(path)


def find_runs(folder: Path) -> list[Path]:
    """Find the run folders in a folder and below it, sorted by path; none if it does not exist."""
    found = []
    for name, below, _ in os.walk(folder):
        path = Path(name)
        if is_run(path):
            found.append(path)
            below.clear()
        below[:] = [d for d in below if d not in _FOLDERS_WITHOUT_RUNS and not d.startswith(".")]
    return sorted(found)


def last_activity(run_dir: Path) -> float:
    """Unix time of the latest record in a run folder."""
    files = (run_dir / METRICS, run_dir / CONFIG)
    return max((f.stat().st_mtime for f in files if f.is_file()), default=0.0)


def latest(output_dir: Path, *, trained: bool = False) -> Path:
    """Find the run below a folder that was trained last.

    Args:
        output_dir: the folder.
        trained: pass over runs without a checkpoint, with a warning that names the last of them,
            unless none has one.

    Raises:
        UserError: if there is none.
    """
    runs = sorted(find_runs(output_dir), key=last_activity)
    if not runs:
        raise UserError(f"no run below {output_dir}: train one first, or give output_dir=FOLDER")
    usable = [path for path in runs if has_checkpoint(path)] if trained else []
    if usable and usable[-1] != runs[-1]:
        LOG.warning("run=latest: %s has no checkpoint yet, taking %s", runs[-1], usable[-1])
    return (usable or runs)[-1]


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run folder holds weights."""
    return RunFolder(run_dir).has_checkpoint()


def resolve_run(run: str, output_dir: Path, *, trained: bool = True) -> Path:
    """Find the folder that `run=` means: a path, or `latest`.

    Args:
        run: as given; a path counts from the working directory, else from `output_dir`.
        output_dir: where `latest` looks.
        trained: for `latest`: pass over runs without a checkpoint.

    Raises:
        UserError: if it is no run folder; the message names runs that may have been meant.
    """
    if run == "latest":
        return latest(output_dir, trained=trained)
    path = Path(run).expanduser()
    if not path.exists() and not path.is_absolute() and is_run(output_dir / path):
        return output_dir / path
    if path.name in (CONFIG, METRICS, SUMMARY) and is_run(path.parent):
        return path.parent
    if is_run(path):
        return path
    if not path.exists():
        raise UserError(f"run={run}: no such folder; `mambalab runs` lists what there is")
    if (path / "config.json").is_file():
        raise UserError(
            f"run={run} is a checkpoint, no run: generate and inspect read it with pretrained={run}"
        )
    if (path / "checkpoints").is_dir() and not (path / CONFIG).exists():
        raise UserError(
            f"run={run} has no {CONFIG}: bring the file back from a copy, or the same command that "
            "trained it begins anew with resume=never"
        )
    below = [str(p) for p in find_runs(path)[:3]] if path.is_dir() else []
    hint = f"did you mean {', '.join(below)}?" if below else "`mambalab runs` lists what there is"
    raise UserError(f"run={run} is no run folder; {hint}")

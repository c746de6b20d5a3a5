"""A run as Python sees it: its folder, and what it says."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import reader, run_folder
from mambalab.records.reader import Best, RunRecord, is_run
from mambalab.records.run_folder import METRICS
from mambalab.records.summary import RunSummary
from mambalab.utils.frames import frame


class Run:
    """A run in its folder. What it says is read from there when it is asked for.

    Attributes:
        folder: of the run.
        trust: modules outside mambalab whose classes `model` may use.
    """

    def __init__(self, folder: Path, trust: Sequence[str] = ()) -> None:
        self.folder = folder
        self.trust = list(trust)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        record = self.record
        best = record.best
        value = "" if best is None else f", {best.metric} {best.value:.4f} at step {best.step:,}"
        return f"<Run {self.folder}: {record.status}{value}>"

    @property
    def record(self) -> RunRecord:
        """Everything that the folder says.

        Raises:
            UserError: it is no run folder any more, or one of its files is damaged.
        """
        return reader.read_run(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The run's configuration as nested plain values, as in its config.yaml."""
        return self.record.config

    @property
    def summary(self) -> RunSummary:
        """What the run says of itself: how it was made, how far it came, how it ended."""
        return self.record.summary

    @property
    def status(self) -> str:
        """State of the run: FINISHED, FAILED, KILLED, RUNNING or UNKNOWN."""
        return self.record.status

    @property
    def best(self) -> Best | None:
        """Best value of the metric by which weights are chosen: `metric`, `value`, `step`.

        None before the first evaluation.
        """
        return self.record.best

    @property
    def metrics(self) -> Any:
        """Every recorded metric: a pandas DataFrame with a row for each step, a column for each.

        Without pandas, a list of dicts with the key `step`. Empty with `tracking=none`, which
        records nothing.

        Raises:
            UserError: metrics.jsonl is damaged, or the folder is not there (any more, or from the
                working directory of now).
        """
        if not is_run(self.folder):
            raise UserError(
                f"{self.folder.absolute()} is no run folder: it was moved, or the working "
                "directory is another one now"
            )
        steps: dict[int, dict[str, Any]] = {}
        for step, values in run_folder.read_rows(self.folder / METRICS)[0]:
            row = steps.setdefault(step, {"step": step})
            for name, value in values.items():
                row.setdefault(name, value)
        return frame([steps[step] for step in sorted(steps)], index="step")

    @cached_property
    def model(self) -> Any:
        """The trained model with its best weights, in evaluation mode; read once.

        Raises:
            UserError: the folder holds no weights, or is damaged.
        """
        from mambalab.runs.load import load_run

        return load_run(self.folder, device="auto", trust=self.trust).model

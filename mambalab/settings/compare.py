"""Settings of `mambalab compare` (no scipy, no matplotlib here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, option


class Interval(Enum):
    """How the 95 % interval of a mean over seeds is found."""

    t = "t"
    bootstrap = "bootstrap"


@dataclass
class CompareSettings:
    """`mambalab compare PATH...`."""

    paths: list[str] = option("run folders, folders of runs, or latest (the newest sweep)")
    mlflow: str | None = option("MLflow experiment whose runs are compared instead of folders")
    uri: str | None = option("MLflow tracking URI; null = sqlite:///<output_dir>/mlflow.db")
    output_dir: str = option("folder of runs, sweeps and the MLflow store", **FOLDER)
    out: str | None = option("folder for the files; null = beside the sweep's runs", **FOLDER)
    metric: str | None = option("metric to judge by; null = what the runs are judged by")
    to: float | None = option("value to which time and tokens are measured; null = a common one")
    baseline: str | None = option("group to compare with, or part of its name; null = no dropout")
    interval: Interval = option("95 % intervals of means: Student's t, or resampled")

    def check_ready(self) -> None:
        """Raise UserError if there is nothing to compare."""
        if self.mlflow is None and not self.paths:
            raise UserError(
                "compare: which runs? e.g. mambalab compare latest (the newest sweep), "
                "a folder of runs, or mlflow=EXPERIMENT"
            )
        if self.mlflow is not None and self.paths:
            raise UserError("compare: give paths or mlflow=EXPERIMENT, not both")

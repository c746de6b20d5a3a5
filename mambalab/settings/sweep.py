"""Settings of sweeps and of the launchers that start their jobs (no torch, no optuna here)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, option

OnFailure = Enum("OnFailure", {"continue": "continue", "stop": "stop"})


class Search(Enum):
    """Where the values of the jobs come from."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


@dataclass
class SweepSettings:
    """`mambalab train -m`: several runs from one command."""

    dir: str | None = option("folder of the sweep; null = named after what it varies", **FOLDER)
    on_failure: OnFailure = option(  # pyright: ignore[reportInvalidTypeForm]
        "when a job fails: continue with the others, or stop them, too"
    )
    params: dict[str, Any] = option(
        "what varies: KEY: [values], or KEY: {low: a, high: b, log: true, step: s} to search"
    )
    search: Search = option("every combination, random ones, or Optuna's TPE")
    trials: int = option("number of jobs of a random or TPE search", ge=1)
    prune: bool = option("TPE: stop a job early that is worse than the median of the others")

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        for key, values in self.params.items():
            where = f"sweep.params.{key}"
            if isinstance(values, dict):
                if self.search is Search.grid:
                    raise UserError(
                        f"{where}: a range cannot be tried in full; list its values, or search it "
                        "with sweep.search=tpe or sweep.search=random"
                    )
                _check_range(where, values)
            elif isinstance(values, list) and any(isinstance(v, dict) for v in values):
                raise UserError(f"{where}: a value must be a number, a text or a list of these")
            elif not isinstance(values, list) or not values:
                raise UserError(f"{where}={values}: expected a list of values or a range")
        if self.search is not Search.grid and not self.params:
            raise UserError(
                f"sweep.search={self.search.name}: nothing to search; declare ranges in "
                "sweep.params, as in 'sweep.params={optim.lr: {low: 1e-4, high: 1e-2, log: true}}'"
            )


def _check_range(where: str, given: dict[str, Any]) -> None:
    """Raise UserError if this is no range {low, high, log, step}."""
    if unknown := sorted(set(given) - {"low", "high", "log", "step"}):
        raise UserError(f"{where}: {unknown[0]} is none of low, high, log, step")
    for name in ("low", "high", "step"):
        value = given.get(name)
        if name == "step" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: {name}={value}: expected a number")
    if not isinstance(given.get("log", False), bool):
        raise UserError(f"{where}: log={given['log']}: expected true or false")
    if given["low"] >= given["high"]:
        raise UserError(f"{where}: low={given['low']} must be below high={given['high']}")
    if given.get("log") and (given["low"] <= 0 or given.get("step") is not None):
        raise UserError(f"{where}: log=true needs low above 0 and no step")
    if given.get("step") is not None and given["step"] <= 0:
        raise UserError(f"{where}: step={given['step']} must be above 0")


@dataclass
class LauncherSettings:
    """`hydra/launcher=basic`: one job after the other."""


@dataclass
class LocalSettings(LauncherSettings):
    """`hydra/launcher=local`: several jobs at once on this machine."""

    n_jobs: int = option("jobs at once; -1 = as many as there are cores, or GPUs", ge=-1)
    jobs_per_gpu: int = option("jobs that share a GPU", ge=1)

    def check(self) -> None:
        """Raise UserError for zero jobs."""
        if self.n_jobs == 0:
            raise UserError("hydra.launcher.n_jobs=0: must be -1 or at least 1")


@dataclass
class SubmititSettings(LocalSettings):
    """`hydra/launcher=submitit_local|submitit_slurm`: jobs that submitit hands on."""

    timeout_min: int = option("minutes after which a job is stopped and queued again", ge=1)
    max_num_timeout: int = option("how often a job that ran out of time is queued again", ge=0)
    setup: list[str] = option("shell commands before a job starts")


@dataclass
class SlurmSettings(SubmititSettings):
    """`hydra/launcher=submitit_slurm`: jobs of a SLURM cluster."""

    partition: str | None = option("SLURM partition; null = the cluster's own choice")
    account: str | None = option("SLURM account")
    qos: str | None = option("SLURM quality of service")
    constraint: str | None = option("features that a node must have")
    gpus_per_node: int = option("GPUs of a job", ge=0)
    cpus_per_task: int = option("cores of a job", ge=1)
    mem_gb: float | None = option("memory of a job in GB; null = the cluster's default", gt=0)
    additional_parameters: dict[str, Any] = option("further sbatch options, name: value")


LAUNCHERS: dict[str, type[LauncherSettings]] = {
    "basic": LauncherSettings,
    "local": LocalSettings,
    "submitit_local": SubmititSettings,
    "submitit_slurm": SlurmSettings,
}

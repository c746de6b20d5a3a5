"""The MLflow run of a sweep, under which MLflow's pages show the runs of its jobs.

Fed from the sweep's folder by the same thread that feeds a run's (`mlflow_mirror`): a server that
does not answer costs the sweep nothing. The jobs find their parent through that folder, whenever
it comes to be.
"""

import copy
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mambalab.config import to_plain
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import find_runs, read_run
from mambalab.settings.train import TrackingKind
from mambalab.sweep import folder as states
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import Job, Plan
from mambalab.tracking import mlflow_store
from mambalab.tracking.description import (
    DEFAULT_EXPERIMENT,
    Description,
    experiment_name,
    labels_of,
    params_of,
)
from mambalab.tracking.mlflow_mirror import MlflowMirror
from mambalab.tracking.mlflow_names import SECONDS_METRIC
from mambalab.tracking.recorder import sync_command
from mambalab.tracking.sync import Receipt, experiment_of, send
from mambalab.utils.command import as_line


class MlflowParent:
    """Mirrors a sweep in MLflow, if that is where its jobs are recorded.

    Args:
        plan: of the sweep.
        sweep: its folder, held by the caller.
        say: shows one line to the person.

    Raises:
        UserError: the MLflow store cannot be used.
    """

    def __init__(self, plan: Plan, sweep: SweepFolder, say: Any) -> None:
        self.sweep = sweep
        self._say = say
        self._told_spared = False
        self._mirror: MlflowMirror | None = None
        tracking = plan.first.tracking
        sweep.record = {
            "experiment": experiment_name(tracking.experiment_name, plan.first.task.name),
            "params": params_of(_params(plan, sweep)),
        }
        if labels := labels_of(to_plain(plan.first)):
            sweep.record["labels"] = labels
        if tracking.kind is not TrackingKind.mlflow:
            return
        output_dir = Path(plan.first.output_dir)
        uri = mlflow_store.store_uri(tracking.uri, output_dir)
        mlflow_store.check(uri)
        self._mirror = MlflowMirror(
            plan.folder,
            uri,
            output_dir=output_dir,
            description=describe(sweep),
            sync_command=sync_command(plan.folder, tracking, output_dir),
        )

    def start(self) -> None:
        """Begin; returns at once."""
        if self._mirror is not None:
            self._mirror.start()

    def changed(self) -> None:
        """Record how many jobs have ended and how, after one has."""
        if self._mirror is None:
            return
        entries = list(self.sweep.jobs.values())
        ended = [e for e in entries if e.status not in (states.WAITING, states.RUNNING)]
        values = {f"jobs/{status.lower()}": float(sum(e.status == status for e in ended))
                  for status in (states.FINISHED, states.FAILED, states.PRUNED)}  # fmt: skip
        path = self.sweep.path / run_folder.METRICS
        values[SECONDS_METRIC] = max(0.0, round(time.time() - self.sweep.began, 3))
        with suppress(OSError, UserError):  # a full disk: the counts are in sweep.json, too
            rows, end = run_folder.read_rows(path)
            with path.open("ab") as file:
                file.truncate(end)  # a line that was cut short
                file.write(run_folder.encode(len(rows) + 1, values))
        self.attach([self.sweep.path / run_folder.SWEEP])

    def attach(self, files: list[Path]) -> None:
        """Copy files below the sweep's folder to its MLflow run."""
        if self._mirror is not None:
            for path in files:
                self._mirror.file(path)

    def finish(self, status: str) -> None:
        """End the record: FINISHED, FAILED or KILLED."""
        if self._mirror is not None:
            self.attach([self.sweep.path / run_folder.SWEEP])
            self._mirror.finish(status)
            self.pass_on_notices()

    def pass_on_notices(self) -> None:
        """Show what the thread has to say."""
        while self._mirror is not None and not self._mirror.notices.empty():
            self._say(self._mirror.notices.get().text)

    def adapt(self, job: Job) -> Job:
        """Spare a job the wait for a server that does not answer now; `sync` sends it later.

        Returns:
            The job, or one that is recorded in its folder only.
        """
        if self._mirror is None or not self._mirror.is_silent:
            return job
        if not self._told_spared:
            self._told_spared = True
            self._say("as long as it is silent, new jobs are recorded in their folders only")
        config = copy.deepcopy(job.config)
        config.tracking.kind = TrackingKind.jsonl
        return Job(job.name, config)


def describe(sweep: SweepFolder) -> Description:
    """Describe the MLflow run of a sweep."""
    command = _command(sweep)
    return Description(
        experiment=sweep.record.get("experiment", DEFAULT_EXPERIMENT),
        params=sweep.record.get("params", {"command": command}),
        tags={
            mlflow_store.KIND: mlflow_store.SWEEP,
            "command": command,
            **sweep.record.get("labels", {}),
        },
        start_ms=round(1000 * sweep.began),
    )


def _command(sweep: SweepFolder) -> str:
    return as_line(["train", "-m", *sweep.command])


def _params(plan: Plan, sweep: SweepFolder) -> dict[str, Any]:
    return {
        "command": _command(sweep),
        "varies": ", ".join(plan.varying),
        "search": plan.settings.search.name,
        "launcher": plan.launcher_name,
        "task": {"name": plan.first.task.name},
    }


def send_sweep(folder: Path, uri: str, output_dir: Path) -> Receipt:
    """Make the store hold the sweep's own run: parameters, counts, comparison, status.

    Args:
        folder: of the sweep.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.

    Raises:
        UserError: the folder is in use or damaged, or the store refuses.
        SilentStoreError: the store does not answer.
    """
    with run_folder.hold(folder, "running or sending this sweep"):
        sweep = SweepFolder.read(folder)
        about = describe(sweep)
        if not sweep.record and (runs := find_runs(folder)):  # as older sweeps kept none
            about = replace(about, experiment=experiment_of(read_run(runs[0])))
        return send(folder, uri, output_dir, about, sweep.status, _last_job_end(folder))


def _last_job_end(folder: Path) -> float:
    """Return the seconds after which the last job of a sweep had ended."""
    rows, _ = run_folder.read_rows(folder / run_folder.METRICS)
    return max((values.get(SECONDS_METRIC) or 0.0 for _, values in rows), default=0.0)

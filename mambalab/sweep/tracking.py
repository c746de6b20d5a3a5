"""The MLflow run of a sweep, under which MLflow's pages show the runs of its jobs.

Fed from the sweep's folder by the same thread that feeds a run's (`mlflow_sink`): a server that
does not answer costs the sweep nothing. The jobs find their parent through that folder, whenever
it comes to be.
"""

import copy
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mambalab.records import run_folder
from mambalab.settings.train import TrackingKind
from mambalab.sweep import folder as states
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import Job, Plan
from mambalab.tracking import mlflow_store
from mambalab.tracking.mlflow_mirror import MlflowSink
from mambalab.tracking.mlflow_run import flatten
from mambalab.tracking.recorder import sync_command


class SweepRecord:
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
        self._sink: MlflowSink | None = None
        tracking = plan.first.tracking
        sweep.record = {
            "experiment": tracking.experiment_name or plan.first.task.name,
            "params": flatten(_params(plan, sweep)),
        }
        if tracking.kind is not TrackingKind.mlflow:
            return
        output_dir = Path(plan.first.output_dir)
        uri = mlflow_store.store_uri(tracking.uri, output_dir)
        mlflow_store.check(uri)
        self._sink = MlflowSink(
            plan.folder,
            uri,
            output_dir=output_dir,
            **description(sweep),
            remedy=sync_command(plan.folder, tracking, output_dir),
        )

    def start(self) -> None:
        """Begin; returns at once."""
        if self._sink is not None:
            self._sink.start()

    def changed(self) -> None:
        """After a job has ended: count the jobs, note the best."""
        if self._sink is None:
            return
        entries = list(self.sweep.jobs.values())
        ended = [e for e in entries if e.status not in (states.WAITING, states.RUNNING)]
        values = {f"jobs/{status.lower()}": float(sum(e.status == status for e in ended))
                  for status in (states.FINISHED, states.FAILED, states.PRUNED)}  # fmt: skip
        path = self.sweep.path / run_folder.METRICS
        values["time/seconds"] = round(time.time() - self.sweep.began, 3)
        with suppress(OSError):  # a full disk: the counts stand in sweep.json, too
            rows, end = run_folder.read_rows(path)
            with path.open("ab") as file:
                file.truncate(end)  # a line that was cut short
                file.write(run_folder.encode(len(rows) + 1, values))
        self.attach([self.sweep.path / run_folder.SWEEP])

    def attach(self, files: list[Path]) -> None:
        """Copy files below the sweep's folder to its MLflow run."""
        if self._sink is not None:
            for path in files:
                self._sink.file(path)

    def finish(self, status: str) -> None:
        """End the record: FINISHED, FAILED or KILLED."""
        if self._sink is not None:
            self.attach([self.sweep.path / run_folder.SWEEP])
            self._sink.finish(status)
            self.pass_on_messages()

    def pass_on_messages(self) -> None:
        """Show what the thread has to say."""
        while self._sink is not None and not self._sink.messages.empty():
            self._say(self._sink.messages.get())

    def adapt(self, job: Job) -> Job:
        """Spare a job the wait for a server that does not answer now; `sync` sends it later."""
        if self._sink is None or not self._sink.silent:
            return job
        if not self._told_spared:
            self._told_spared = True
            self._say("as long as it is silent, new jobs are recorded in their folders only")
        config = copy.deepcopy(job.config)
        config.tracking.kind = TrackingKind.jsonl
        return Job(job.name, config)


def description(sweep: SweepFolder) -> dict[str, Any]:
    """How MLflow is told about a sweep: experiment, params, tags and start_ms of its run."""
    command = f"mambalab train -m {shlex.join(sweep.command)}"
    return {
        "experiment": sweep.record.get("experiment", "mambalab"),
        "params": sweep.record.get("params", {"command": command}),
        "tags": {mlflow_store.KIND: mlflow_store.SWEEP, "command": command},
        "start_ms": round(1000 * sweep.began),
    }


def _params(plan: Plan, sweep: SweepFolder) -> dict[str, Any]:
    return {
        "command": f"mambalab train -m {shlex.join(sweep.command)}",
        "varies": ", ".join(plan.varying),
        "search": plan.settings.search.name,
        "launcher": plan.launcher_name,
        "task": {"name": plan.first.task.name},
    }

"""The MLflow run of a sweep, under which MLflow's pages show the runs of its jobs.

Fed from the sweep's folder by the same thread that feeds a run's (`mlflow_sink`): a server that
does not answer costs the sweep nothing. The jobs find their parent through that folder, whenever
it comes to be.
"""

import time
from pathlib import Path
from typing import Any

from mambalab import run_folder
from mambalab.config.multirun import Plan
from mambalab.sweep import folder as states
from mambalab.sweep.folder import SweepFolder
from mambalab.train import mlflow_store
from mambalab.train.mlflow_run import flatten
from mambalab.train.mlflow_sink import MlflowSink
from mambalab.train.settings import TrackingKind


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
        self._sink: MlflowSink | None = None
        tracking = plan.first.tracking
        if tracking.kind is not TrackingKind.mlflow:
            return
        output_dir = Path(plan.first.output_dir)
        uri = mlflow_store.store_uri(tracking.uri, output_dir)
        mlflow_store.check(uri)
        words = " ".join(sweep.command)
        self._sink = MlflowSink(
            plan.folder,
            uri,
            output_dir=output_dir,
            experiment=tracking.experiment_name or plan.first.task.name,
            params=flatten(_params(plan, words)),
            tags={mlflow_store.KIND: mlflow_store.SWEEP, "command": f"mambalab train -m {words}"},
            start_ms=round(1000 * sweep.began),
            remedy=f"mambalab sync {plan.folder}",
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
        step = run_folder.read_rows(path)[0]
        values["time/seconds"] = round(time.time() - self.sweep.began, 3)
        with path.open("ab") as file:
            file.write(run_folder.encode(len(step) + 1, values))
        self.attach([self.sweep.path / run_folder.SWEEP])
        self._pass_on_messages()

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
            self._pass_on_messages()

    def _pass_on_messages(self) -> None:
        assert self._sink is not None
        while not self._sink.messages.empty():
            self._say(self._sink.messages.get())


def _params(plan: Plan, words: str) -> dict[str, Any]:
    return {
        "command": f"mambalab train -m {words}",
        "varies": ", ".join(plan.varying),
        "search": plan.settings.search.name,
        "launcher": plan.launcher_name,
        "task": {"name": plan.first.task.name},
    }

"""The sink that keeps MLflow up to date beside the training."""

from pathlib import Path

from mambalab.tracking import mlflow_store as store
from mambalab.tracking.description import Description
from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.mlflow_system import SystemMonitor
from mambalab.tracking.note import Note
from mambalab.tracking.sink import Sink
from mambalab.utils.secrets import hide_password


class MlflowMirror(Sink):
    """Mirrors a run folder in MLflow while it grows.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.
        description: of the run.
        sync_command: what a person types to send the run later.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        *,
        output_dir: Path,
        description: Description,
        sync_command: str,
    ) -> None:
        super().__init__(
            run_dir,
            attachments(run_dir),
            sync_command=sync_command,
            is_remote=store.is_remote(uri),
        )
        self._run = MlflowRun(
            run_dir, uri, output_dir=output_dir, experiment=description.experiment, tick=self._tick
        )
        self._run.note.state = "sending"
        self._system = SystemMonitor()
        self._description = description

    @property
    def note(self) -> Note:
        """What the folder knows of its MLflow run."""
        return self._run.note

    @property
    def place(self) -> str:
        """Name the store, without a password."""
        return f"MLflow at {hide_password(self._run.uri)}"

    @property
    def is_open(self) -> bool:
        """Whether the store has the run."""
        return self._run.is_open

    def open(self) -> None:
        """Find the folder's run in the store or create it; close those of dead processes."""
        run, about = self._run, self._description
        run.open(params=about.params, tags=about.tags, start_ms=about.start_ms)
        run.set_running()
        run.close_dead_runs()
        if run.copy_of is not None:
            self._tell(f"{run.run_dir} is a copy of {run.copy_of}: an MLflow run of its own")

    def advance(self, files: dict[Path, None], ended: tuple[str, int] | None) -> None:
        """Send points, files and the end; what the store holds otherwise is said."""
        run = self._run
        run.advance(files, ended)
        if not run.is_sweep and (self._system.due() or ended is not None):
            run.send_system(self._system.look())
        if run.conflicts:
            self._tell(
                f"{self.place} holds other values than metrics.jsonl for "
                f"{run.conflicts} points; the file is right, MLflow cannot be corrected"
            )
            run.conflicts = 0

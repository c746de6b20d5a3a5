"""Removes the MLflow run of a run folder: it goes to MLflow's trash, as its own pages do it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.tracking import mlflow_names as names
from mambalab.tracking import mlflow_store as store
from mambalab.tracking.note import Note
from mambalab.tracking.store_failure import failure_of
from mambalab.utils.secrets import hide_password


class MlflowRuns:
    """The MLflow runs of some folders; nothing is opened if none of them has one.

    Args:
        folders: of runs and sweeps.
        uri: of the store, or None for the one in `output_dir`.
        output_dir: holds the default store.

    Raises:
        UserError: a folder was recorded in another store, or the store cannot be used.
    """

    def __init__(self, folders: Sequence[Path], uri: str | None, output_dir: Path) -> None:
        self._uri = store.store_uri(uri, output_dir)
        self._output_dir = output_dir
        self._shown = hide_password(self._uri)
        self._notes = {path: note for path in folders if (note := Note.read(path)).run_id}
        self._client: Any = None
        for path, note in self._notes.items():
            if note.uri not in (None, self._shown):
                raise UserError(
                    f"{path} is recorded in {note.uri}, too: add uri={note.uri} to remove it "
                    "there, or mlflow=false to leave it"
                )
        file = store.sqlite_path(self._uri)
        if file is not None and not file.exists():
            self._notes = {}  # the store is gone
        if self._notes:
            store.check(self._uri)

    def __len__(self) -> int:
        """How many of the folders have an MLflow run."""
        return len(self._notes)

    def remove(self, folders: Sequence[Path]) -> int:
        """Move the runs of some of the folders to MLflow's trash; returns how many there were.

        Raises:
            UserError: the store does not do it.
        """
        count = 0
        for path in folders:
            if (note := self._notes.get(path)) is not None:
                count += self._remove(path, note)
        return count

    def _remove(self, path: Path, note: Note) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                self._client = store.connect(self._uri, self._output_dir)
            try:
                run = self._client.get_run(note.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            ours = names.tag(run.data.tags, names.UID) == note.uid
            if not ours or run.info.lifecycle_stage == "deleted":
                return False
            self._client.delete_run(note.run_id)
        except Exception as error:  # MLflow and its drivers raise all kinds
            raise UserError(
                f"{path} stays: its MLflow run in {self._shown} cannot be removed: "
                f"{failure_of(error).reason}; mlflow=false leaves that alone"
            ) from error
        return True

"""`mambalab sync RUN...`: send run folders to MLflow; what is there already is not sent again.

The folder of a sweep stands for the sweep's own MLflow run and the runs in it, which hang below
that, also those that were sent before.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import RunRecord, find_runs, read_run, resolve_run
from mambalab.settings.tracking import SyncSettings
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.tracking import description
from mambalab.tracking import mlflow_store
from mambalab.tracking.mlflow_mirror import SILENT, reason
from mambalab.tracking.mlflow_run import SECONDS, MlflowRun, Note, attachments, flatten

# Entries of summary.json that a run's MLflow tags show.
_TAGS = ("device", "precision", "backend", "git_revision", "task", "model", "dropout")


class SilentStoreError(UserError):
    """The store does not answer: no use to try another run."""


@dataclass
class Sent:
    """What `send` did: points sent now, points in the store, and where."""

    new: int
    points: int
    experiment: str
    run_id: str


def run(cfg: SyncSettings) -> int:
    """Send each run; the others go on if one fails. 1 if any failed."""
    output_dir = Path(cfg.output_dir)
    uri = mlflow_store.store_uri(cfg.uri, output_dir)
    mlflow_store.check(uri)
    shown = mlflow_store.hide_password(uri)
    failed = 0
    names = [path for name in cfg.runs for path in _unfolded(name, output_dir)]
    for position, name in enumerate(names):
        try:
            path = name if isinstance(name, Path) else resolve_run(name, output_dir, trained=False)
            hint = _other_store(path, shown)
            is_sweep = (path / run_folder.SWEEP).is_file()
            sent = (send_sweep if is_sweep else send)(path, uri, output_dir)
        except SilentStoreError as error:
            print(error, file=sys.stderr)
            if others := len(names) - position - 1:
                print(f"{others} more not tried", file=sys.stderr)
            return 1
        except UserError as error:
            failed += 1
            print(error, file=sys.stderr)
            continue
        print(
            f"{path}: {sent.new:,} points sent, {sent.points:,} there now "
            f"(experiment {sent.experiment}, run {sent.run_id}){hint}"
        )
    if failed < len(names):
        print(f"MLflow store: {shown}")
    return 1 if failed else 0


def _unfolded(name: str, output_dir: Path) -> list[Path] | list[str]:
    """A sweep's folder and those of its runs, the sweep first; or the name as it is."""
    path = Path(name).expanduser()
    if path.name == run_folder.SWEEP:
        path = path.parent
    for folder in (path, output_dir / path):
        if (folder / run_folder.SWEEP).is_file():
            return [folder, *find_runs(folder)]
    return [name]


def _other_store(run_dir: Path, uri: str) -> str:
    """A remark if the run was recorded for another store; that is never followed by itself."""
    meant = Note.read(run_dir).uri
    if meant is None or meant == uri:
        return ""
    return f"; its record names another store, too: add uri={meant} to send it there"


def send(run_dir: Path, uri: str, output_dir: Path) -> Sent:
    """Make the store hold what a run folder holds.

    Args:
        run_dir: the run folder.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.

    Raises:
        UserError: the folder is in use, damaged or without metrics, or the store refuses or does
            not answer.
    """
    record = read_run(run_dir)
    if record.status == "RUNNING" and record.summary.writer_alive():
        raise UserError(f"{run_dir} is still being trained here: sync it when it has ended")
    if not (run_dir / run_folder.METRICS).exists():
        raise UserError(
            f"{run_dir} has no {run_folder.METRICS} (tracking=none keeps none): nothing to send"
        )
    with run_folder.hold(run_dir):
        mlflow_run = MlflowRun(run_dir, uri, output_dir=output_dir, experiment=_experiment(record))
        return _sent(mlflow_run, lambda: _send(record, mlflow_run))


def send_sweep(folder: Path, uri: str, output_dir: Path) -> Sent:
    """Make the store hold the sweep's own run: parameters, counts, comparison, status.

    Args:
        folder: of the sweep.
        uri, output_dir: as of `send`.

    Raises:
        UserError: as `send`.
    """
    with run_folder.hold(folder, "running or sending this sweep"):
        sweep = SweepFolder.read(folder)
        about = description(sweep)
        experiment = about.pop("experiment")
        if not sweep.record and (runs := find_runs(folder)):  # as older sweeps kept none
            experiment = _experiment(read_run(runs[0]))
        mlflow_run = MlflowRun(folder, uri, output_dir=output_dir, experiment=experiment)
        # One whose end nobody noted was killed: it is not held any more.
        status = sweep.status if sweep.status in ("FINISHED", "FAILED") else "KILLED"
        return _sent(mlflow_run, lambda: _send_all(mlflow_run, about, status, _last(folder)))


def _last(folder: Path) -> float:
    """Seconds after which the last job of a sweep had ended."""
    rows, _ = run_folder.read_rows(folder / run_folder.METRICS)
    return max((values.get(SECONDS) or 0.0 for _, values in rows), default=0.0)


def _sent(mlflow_run: MlflowRun, work: Callable[[], int]) -> Sent:
    """Do the sending and note that it is done; what goes wrong becomes a UserError."""
    run_dir = mlflow_run.run_dir
    try:
        new = work()
    except UserError:
        raise
    except Exception as error:  # MLflow and its drivers raise all kinds
        shown = mlflow_store.hide_password(mlflow_run.uri)
        why = reason(error)
        kind = SilentStoreError if why == SILENT else UserError
        raise kind(f"{run_dir}: cannot send it to {shown}: {why}") from error
    note = mlflow_run.note
    note.state, note.problem = "complete", None
    note.write(run_dir)
    if mlflow_run.conflicts:
        print(
            f"{run_dir}: the store holds other values than metrics.jsonl for "
            f"{mlflow_run.conflicts} points; MLflow cannot correct them",
            file=sys.stderr,
        )
    return Sent(new, note.points, mlflow_run.experiment, str(note.run_id))


def _experiment(record: RunRecord) -> str:
    named = record.setting("tracking.experiment_name") or record.setting("task.name")
    return str(named or "mambalab")


def _send(record: RunRecord, mlflow_run: MlflowRun) -> int:
    started = record.summary.started
    if started is None:
        started = (record.path / run_folder.CONFIG).stat().st_mtime
    about = {
        "params": flatten(record.config),
        "tags": {k: str(v) for k in _TAGS if (v := getattr(record.summary, k))},
        "start_ms": round(1000 * started),
    }
    return _send_all(mlflow_run, about, _status(record), 60 * (record.minutes or 0.0))


def _send_all(mlflow_run: MlflowRun, about: dict[str, Any], status: str, seconds: float) -> int:
    """Send everything; how many points were new."""
    mlflow_run.open(**about)
    new = mlflow_run.send()
    for path in attachments(mlflow_run.run_dir):
        mlflow_run.send_file(path)
    mlflow_run.end(status, mlflow_run.start_ms + round(1000 * seconds))
    return new


def _status(record: RunRecord) -> str:
    """MLflow's word for how a run ended; one whose end nobody noted was killed."""
    return record.status if record.status in ("FINISHED", "FAILED") else "KILLED"

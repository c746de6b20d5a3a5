"""Sending a folder to a tracker after the fact; what that holds already is not sent again."""

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import RunRecord, read_run
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store
from mambalab.tracking.description import (
    Description,
    experiment_name,
    labels_of,
    params_of,
    tags_of,
    without_labels,
)
from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import check, make_sink, sync_command
from mambalab.tracking.store_failure import SilentStoreError, failure_of
from mambalab.utils.secrets import hide_password

LOG = logging.getLogger("mambalab")
_NOTES = {
    TrackingKind.mlflow: run_folder.MLFLOW,
    TrackingKind.wandb: run_folder.WANDB,
    TrackingKind.tensorboard: run_folder.TENSORBOARD,
}


@dataclass(frozen=True)
class Receipt:
    """What was sent, and where it is now.

    Attributes:
        new: points sent now.
        points: points in the store.
        conflicts: points of which the store holds another value than metrics.jsonl.
        experiment, run_id: of the MLflow run.
    """

    new: int
    points: int
    conflicts: int
    experiment: str
    run_id: str


def send_run(run_dir: Path, uri: str, output_dir: Path) -> Receipt:
    """Make the store hold what a run folder holds.

    Args:
        run_dir: the run folder.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.

    Raises:
        UserError: the folder is in use, damaged or without metrics, or the store refuses.
        SilentStoreError: the store does not answer.
    """
    record = _recorded(run_dir)
    seconds = 60 * (record.minutes or 0.0)
    with run_folder.hold(run_dir):
        return send(run_dir, uri, output_dir, describe(record), record.status, seconds)


def _recorded(run_dir: Path) -> RunRecord:
    """Read a run that has ended and kept its metrics; raises UserError for any other."""
    record = read_run(run_dir)
    if record.status == "RUNNING" and record.summary.writer_alive():
        raise UserError(f"{run_dir} is still being trained here: sync it when it has ended")
    if not (run_dir / run_folder.METRICS).exists():
        raise UserError(
            f"{run_dir} has no {run_folder.METRICS} (tracking=none keeps none): nothing to send"
        )
    return record


def _check_place(record: RunRecord, settings: TrackingSettings) -> None:
    """Raise UserError if a run was meant for a server of wandb's that is not named now."""
    meant = record.setting("tracking.uri")
    of_wandb = record.setting("tracking.kind") == settings.kind.name == "wandb"
    if of_wandb and meant and settings.uri is None:
        raise UserError(
            f"{record.path} was recorded for the server {meant}: add "
            f"{shlex.quote(f'uri={meant}')}, or name another one"
        )


def send_to(run_dir: Path, settings: TrackingSettings, output_dir: Path) -> str:
    """Make wandb, or TensorBoard's event files, hold what a run folder holds.

    Args:
        run_dir: the run folder.
        settings: which of the two, and where; a project that is None is the one that the run was
            recorded in.
        output_dir: folder of all runs.

    Returns:
        Where to look, or what to do next.

    Raises:
        UserError: the folder is in use, damaged or without metrics, or it could not be sent.
    """
    record = _recorded(run_dir)
    kind = settings.kind
    _check_place(record, settings)
    if record.setting("tracking.kind") == kind.name and settings.experiment_name is None:
        name = record.setting("tracking.experiment_name")
        settings = replace(settings, experiment_name=str(name) if name else None)
    check(settings, output_dir=output_dir)
    status = record.status if record.status in ("FINISHED", "FAILED") else "KILLED"
    with run_folder.hold(run_dir):
        rows, _ = run_folder.read_rows(run_dir / run_folder.METRICS)
        sink = make_sink(
            run_dir,
            settings,
            output_dir=output_dir,
            params=record.config,
            tags=tags_of(record.summary.to_json()),
            rows=len(rows),
        )
        assert sink is not None, "these two have one"
        sink.start()
        sink.finish(status, waited_for=False)
        if sink.note.state != "complete":
            raise UserError(f"{run_dir}: {sink.place}: {sink.note.problem}")
    if kind is TrackingKind.tensorboard:
        return f"{sink.note.points:,} points in {run_dir / run_folder.EVENTS}"
    there = sink.note.uri or sink.sync_command
    return f"{len(rows):,} rows in {sink.note.experiment} ({there})"


def send_rest(run_dir: Path, settings: TrackingSettings, output_dir: Path) -> None:
    """Send what its tracker lacks of a finished run that was killed before it had sent its end.

    Says so in one line, also if the tracker does not take it; a run that was sent whole, or is
    not recorded there, is left alone.

    Args:
        run_dir: the run folder.
        settings: where the record goes.
        output_dir: holds the MLflow store unless settings or environment name one.
    """
    name = _NOTES.get(settings.kind)
    if name is None or not (run_dir / name).exists():
        return
    place = settings.kind.name if settings.kind is not TrackingKind.mlflow else "MLflow"
    command = sync_command(run_dir, settings, output_dir)
    try:
        if Note.read(run_dir, name).state == "complete":
            return
        if settings.kind is not TrackingKind.mlflow:
            told = send_to(run_dir, settings, output_dir)
            LOG.info("%s lacked the end of this run: sent now, %s", place, told)
            return
        uri = mlflow_store.store_uri(settings.uri, output_dir)
        mlflow_store.check(uri)
        sent = send_run(run_dir, uri, output_dir)
    except UserError as error:
        LOG.warning("%s lacks the end of this run: %s; try again with `%s`", place, error, command)
    else:
        LOG.info("MLflow lacked the end of this run: sent now, with %s points", f"{sent.new:,}")


def describe(record: RunRecord) -> Description:
    """Describe a run by its folder."""
    started = record.summary.started
    if started is None:
        started = (record.path / run_folder.CONFIG).stat().st_mtime
    return Description(
        experiment_of(record),
        params_of(without_labels(record.config)),
        tags_of(record.summary.to_json()) | labels_of(record.config),
        start_ms=round(1000 * started),
    )


def experiment_of(record: RunRecord) -> str:
    """Name the experiment to which a run belongs."""
    return experiment_name(record.setting("tracking.experiment_name"), record.setting("task.name"))


def send(
    folder: Path, uri: str, output_dir: Path, about: Description, status: str, seconds: float
) -> Receipt:
    """Make the store hold what a folder holds: metrics, files and how it ended.

    Args:
        folder: of a run or a sweep, held by the caller.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.
        about: describes the run.
        status: how it ended. One that did not end by itself was killed: nobody holds its folder.
        seconds: from its start to its end.

    Raises:
        UserError: the folder is damaged, or the store refuses.
        SilentStoreError: the store does not answer.
    """
    run = MlflowRun(folder, uri, output_dir=output_dir, experiment=about.experiment)
    status = status if status in ("FINISHED", "FAILED") else "KILLED"
    try:
        run.open(params=about.params, tags=about.tags, start_ms=about.start_ms)
        if run.copy_of is not None:
            LOG.warning("%s is a copy of %s: an MLflow run of its own", folder, run.copy_of)
        ended = (status, run.start_ms + round(1000 * seconds))
        new = run.advance(dict.fromkeys(attachments(folder)), ended)
    except UserError:
        raise
    except Exception as error:  # MLflow and its drivers raise all kinds
        failure = failure_of(error)
        kind = SilentStoreError if failure.is_silent else UserError
        shown = hide_password(uri)
        raise kind(f"{folder}: cannot send it to {shown}: {failure.reason}") from error
    run.note.set_complete(folder)
    return Receipt(new, run.note.points, run.conflicts, run.experiment, str(run.note.run_id))

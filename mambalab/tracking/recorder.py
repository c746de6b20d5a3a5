"""Recording a run: metrics.jsonl in the run folder is the truth, a tracker is told of it.

The training thread writes a line and flushes it; whatever takes time happens in a thread beside
it (`sink`). A run killed at any moment loses at most the line that was being written.
"""

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.metrics_file import FolderWatch, MetricsFile
from mambalab.records.run_folder import CONFIG, METRICS
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store, tensorboard_sink, wandb_sink
from mambalab.tracking.description import (
    SUMMARY_TAGS,
    Description,
    experiment_name,
    params_of,
    without_labels,
)
from mambalab.tracking.mlflow_mirror import MlflowMirror
from mambalab.tracking.sink import Sink
from mambalab.tracking.tensorboard_sink import TensorBoardSink
from mambalab.tracking.wandb_sink import WandbSink
from mambalab.utils.secrets import hide_password

_log = logging.getLogger(__name__)
STORE_IS_SILENT = "store_is_silent"  # attribute of log records, see `Notice.store_is_silent`


class Announce(Protocol):
    """Shows one line to the person, as a logger's `warning` does."""

    def __call__(self, msg: str, /, *, extra: Mapping[str, object] | None = None) -> None:
        """Show the line; `extra` are attributes of its log record, if it becomes one."""
        ...


def check(settings: TrackingSettings, *, output_dir: Path) -> None:
    """Check, before anything is created, whether runs can be recorded as the settings ask.

    Raises:
        UserError: the tracker's package is missing, or its store cannot be used.
    """
    if settings.kind is TrackingKind.mlflow:
        mlflow_store.check(mlflow_store.store_uri(settings.uri, output_dir))
    elif settings.kind is TrackingKind.wandb:
        wandb_sink.check(settings)
    elif settings.kind is TrackingKind.tensorboard:
        tensorboard_sink.check(settings)


def make_sink(
    run_dir: Path,
    settings: TrackingSettings,
    *,
    output_dir: Path,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    rows: int,
) -> Sink | None:
    """Make the sink that the settings ask for, to be started; None if the run folder is enough.

    Args:
        run_dir: the run folder, held by the caller.
        settings: which tracker, and where.
        output_dir: folder of all runs.
        params: the resolved config, nested.
        tags: facts of this session (`git_revision`, `machine`, ...).
        rows: of metrics.jsonl that were there before this session.
    """
    command = sync_command(run_dir, settings, output_dir)
    if settings.kind is TrackingKind.wandb:
        return WandbSink(
            run_dir,
            settings,
            params,
            facts={key: value for key, value in tags.items() if key in SUMMARY_TAGS},
            output_dir=output_dir,
            rows=rows,
            sync_command=command,
        )
    if settings.kind is TrackingKind.tensorboard:
        return TensorBoardSink(run_dir, params, sync_command=command)
    if settings.kind is not TrackingKind.mlflow:
        return None
    flat = params_of(without_labels(params))
    name = experiment_name(settings.experiment_name, flat.get("task.name"))
    if line := mlflow_store.origin(settings.uri):
        _log.info(line)
    return MlflowMirror(
        run_dir,
        mlflow_store.store_uri(settings.uri, output_dir),
        output_dir=output_dir,
        description=Description(name, flat, tags, start_ms=round(1000 * time.time())),
        sync_command=command,
    )


def sync_command(run_dir: Path, settings: TrackingSettings, output_dir: Path) -> str:
    """Return what a person types to send a run to its tracker later."""
    words = ["mambalab", "sync", str(run_dir)]
    if settings.kind in (TrackingKind.wandb, TrackingKind.tensorboard):
        of_wandb = settings.kind is TrackingKind.wandb and settings.uri
        server = [f"uri={hide_password(settings.uri)}"] if of_wandb and settings.uri else []
        return shlex.join([*words, f"to={settings.kind.name}", *server])
    if (uri := settings.uri or mlflow_store.of_environment()) is not None:
        words.append(f"uri={hide_password(uri)}")
    elif str(output_dir) != "outputs":
        words.append(f"output_dir={output_dir}")
    return shlex.join(words)


class Recorder:
    """The training thread's only door to tracking.

    A context manager: leaving it by an exception records FAILED (KILLED for an interrupt) unless
    `finish` was called before.

    Args:
        run_dir: the run folder; created by `start` if missing.
        settings: where the record goes. `none` writes nothing at all, `jsonl` the run folder.
        output_dir: folder of all runs; holds the MLflow store that `store_uri` means by None.
        announce: shows a line to the person; only ever called in the thread that calls the
            recorder, from within its methods. By default a warning of this module's logger.
        stop_requested: whether the user has asked the run to stop: `finish` then hurries.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        *,
        output_dir: Path,
        announce: Announce | None = None,
        stop_requested: Callable[[], object] = lambda: None,
    ) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self.output_dir = output_dir
        self._announce: Announce = announce or _log.warning
        self.stop_requested = stop_requested
        self._file: MetricsFile | None = None
        self._watch: FolderWatch | None = None
        self._sink: Sink | None = None
        self._open = False
        self._held = ExitStack()
        self._last: dict[str, int] = {}  # highest step of each key that is in the file
        self._old: dict[str, dict[int, float | None]] = {}  # points of earlier sessions, by key
        self._differed = False
        # That the caller's thread has spent here between start and finish; not in `flush`, which
        # is a part of writing checkpoints: they wait for the disk.
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")

    def start(self, *, params: Mapping[str, object], tags: Mapping[str, str], resume: bool) -> None:
        """Begin to record; returns at once, the tracker is reached in the background.

        Args:
            params: the resolved config, nested or flat; becomes MLflow's parameters.
            tags: facts of this session (`git_revision`, `machine`, ...); MLflow's tags.
            resume: go on with the record in the folder, cutting off a line that was cut short,
                and with the same run in the tracker. Otherwise a record in the folder is deleted.

        Raises:
            UserError: the folder cannot be written, another process records into it, the record
                is damaged, the tracker's package is missing, or its store cannot be used.
        """
        assert not self._open, "start is called once"
        kind = self.settings.kind
        if kind is not TrackingKind.none:
            check(self.settings, output_dir=self.output_dir)
            try:
                self._open_file(resume=resume)
            except OSError as error:
                raise UserError(f"cannot write in {self.run_dir}: {error.strerror}") from error
        try:
            self._sink = make_sink(
                self.run_dir,
                self.settings,
                output_dir=self.output_dir,
                params=params,
                tags=tags,
                rows=self._file.rows if self._file is not None else 0,
            )
            if self._sink is not None:
                self._sink.start()
        except BaseException:
            self._held.close()
            raise
        if self.run_dir.is_dir():
            self._watch = FolderWatch(self.run_dir)
        self._open = True

    def _open_file(self, *, resume: bool) -> None:
        path = self.run_dir / METRICS
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            held.enter_context(run_folder.hold(self.run_dir))
            if not resume:
                if path.exists() and path.stat().st_size:  # else they are notes of this very run,
                    for name in run_folder.NOTES:  # that was stopped as it began
                        (self.run_dir / name).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            self._file = held.enter_context(MetricsFile(self.run_dir))
            for step, values in self._file.old:
                for key, value in values.items():
                    self._old.setdefault(key, {}).setdefault(step, value)
            self._last = {key: max(points) for key, points in self._old.items()}
            self._held = held.pop_all()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of one step: a line in metrics.jsonl, flushed; the tracker follows.

        A resumed run may come by steps again that are in the file: what is there stays, and
        if a recomputed value differs from it (`time/` aside) that is announced once.

        Args:
            step: optimiser steps done.
            values: by name (`train/loss`). A value that is not finite is recorded as null.

        Raises:
            UserError: a name MLflow could not take, a step recorded before, or a full disk.
        """
        assert self._open, "metrics comes between start and finish"
        began = time.perf_counter()
        try:
            self._record(step, values)
        finally:
            self.seconds += time.perf_counter() - began

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        if self._sink is not None:
            self._pass_on_notices(self._sink)
        if self._file is None:
            return
        new = {k: run_folder.finite(v) for k, v in values.items()}
        new = {k: v for k, v in new.items() if self._is_new(k, step, v)}
        if not new:
            return
        try:
            self._file.append(run_folder.encode(step, new))
        except OSError as error:
            raise UserError(f"cannot write {self.run_dir / METRICS}: {error.strerror}") from error

    def flush(self) -> dict[str, int] | None:
        """Wait until all rows are on the disk; say if somebody moved their file meanwhile.

        Returns:
            `rows` and `bytes` of metrics.jsonl, for a checkpoint to know later what was lost; None
            if there is no such file.

        Raises:
            UserError: the run folder was moved or deleted (`FolderGoneError`), or a full disk.
        """
        if self._watch is not None:
            self._watch.check()
        if self._file is None:
            return None
        try:
            for line in self._file.sync():
                self._announce(line)
        except OSError as error:
            raise UserError(f"cannot write {self.run_dir / METRICS}: {error.strerror}") from error
        return {"rows": self._file.rows, "bytes": self._file.size}

    def kept_until(self, step: int) -> int | None:
        """The latest step, up to `step`, that earlier sessions left a row of; None if none did."""
        steps = (s for points in self._old.values() for s in points if s <= step)
        return max(steps, default=None)

    def _is_new(self, key: str, step: int, value: float | None) -> bool:
        last = self._last.get(key)
        if last is None:
            if problem := run_folder.name_problem(key):
                raise UserError(f"metric {key!r}: {problem}")
        elif step <= last:
            return self._is_new_among_old(key, step, value)
        self._last[key] = step
        return True

    def _is_new_among_old(self, key: str, step: int, value: float | None) -> bool:
        old = self._old.get(key, {})
        if step not in old:
            if not old or step > max(old):
                raise UserError(f"metric {key!r}: step {step} was recorded before")
            old[step] = value
            return True
        if old[step] != value and not key.startswith("time/") and not self._differed:
            self._differed = True
            self._announce(
                f"this resumed run does not reproduce the steps after its checkpoint: {key} at "
                f"step {step} was {old[step]}, is {value} now; the first value stays recorded "
                f"(runs that max_minutes ends differ, so do other devices and versions)"
            )
        return False

    def artifact(self, path: Path) -> None:
        """Give a file below the run folder to the tracker soon, under its relative path.

        The same file may come again when it has changed. After `start(resume=True)` and in
        `mambalab sync` config.yaml, summary.json, plots/, samples/ and tables/ are copied by
        themselves.

        Raises:
            ValueError: if the path is not below the run folder.
        """
        assert self._open, "artifact comes between start and finish"
        began = time.perf_counter()
        path.relative_to(self.run_dir)
        if self._sink is not None:
            self._sink.file(path)
        self.seconds += time.perf_counter() - began

    def finish(self, status: str) -> None:
        """End the record; further calls do nothing.

        Write summary.json before: the tracker gets it here. Waits for that as long as it makes
        progress, and a few seconds for a server that does not answer.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        assert status in ("FINISHED", "FAILED", "KILLED"), status
        if not self._open:
            return
        self._open = False
        with self._held:
            if self._file is not None:
                self._file.settle()
            if self._sink is not None:
                for name in (CONFIG, run_folder.SUMMARY):
                    self._sink.file(self.run_dir / name)
                self._sink.finish(status, self.stop_requested)
                self._pass_on_notices(self._sink)

    def _pass_on_notices(self, sink: Sink) -> None:
        while not sink.notices.empty():
            notice = sink.notices.get()
            self._announce(notice.text, extra={STORE_IS_SILENT: notice.store_is_silent})

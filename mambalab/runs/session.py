"""One session of training a run: builds it, holds its folder, trains, and records how it ended."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambalab import config
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.metrics_file import FolderGoneError
from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs import (
    build,
    facts,
    headlines,
    load,
    rebuild,
    tidy,
    user_code,
)
from mambalab.runs.callback_list import CallbackList
from mambalab.runs.resolve import ResolvedRun
from mambalab.settings.train import Resume, TrackingKind
from mambalab.tracking import recorder
from mambalab.tracking.description import labels_of, tags_of
from mambalab.train import checkpoint, limits, runtime, signals
from mambalab.train.callbacks import Callback, Result
from mambalab.train.loop import Trainer
from mambalab.train.ranks import ALONE, Ranks, ending_together
from mambalab.train.together import together
from mambalab.utils import console, memory
from mambalab.utils.files import describe, write_text
from mambalab.utils.text import wrapped

LOG = logging.getLogger("mambalab")


class TrainingRun:
    """One training session of a run: acquires the folder's lock, trains, records, releases it.

    Making it builds task and model. Before `run` nothing is written in the run folder but its lock;
    data may be fetched.

    Args:
        resolved: what to train.
        callbacks: called after those that every run has.
        ranks: the processes that train, of which this is the first.

    Raises:
        UserError: the data are absent, user code fails, or the record cannot be kept as asked.
    """

    def __init__(
        self, resolved: ResolvedRun, callbacks: Sequence[Callback] = (), ranks: Ranks = ALONE
    ) -> None:
        self.begun = time.monotonic()
        self.ranks = ranks
        self.resolved = resolved
        self.settings = settings = resolved.settings
        self.recorded = config.as_recorded(settings)
        self.folder = folder = resolved.folder
        self.device, self.precision = resolved.device, resolved.precision
        runtime.forget_peak_memory(self.device)
        start = resolved.initial_weights
        self.task: Any = build.build_task(settings, vocabulary=start.tokenizer, ends=start.ends)
        build.check_model(settings, self.task)
        with console.meanwhile("reading the data"):
            user_code.prepare(self.task, self.device)
        limits.steps(
            settings.trainer, self.task.batches_per_epoch
        )  # refused before anything is made
        runtime.seed_everything(settings.seed)
        self.model = build.build_model(settings, self.task.spec).to(self.device)
        resolved.initial_weights.fill(self.model)
        if resolved.checkpoint is None:
            rows = settings.model.vocab_size or self.task.spec.vocab_size
            user_code.check_output(self.model, self.task, self.device, rows=rows)
            user_code.check_measure(self.model, self.task, self.device)
        user_code.warn_of_parts(self.model, self.task, self.device, ranks.size)
        self.summary = facts.of_run(resolved, self.model, ranks)
        begun_with = resolved.initial_weights.checkpoint
        output_dir = Path(settings.output_dir)
        recorder.check(settings.tracking, output_dir=output_dir)
        self.signals = signals.StopSignals()
        self.recorder = recorder.Recorder(
            folder.path,
            settings.tracking,
            output_dir=output_dir,
            announce=LOG.warning,
            stop_requested=self.signals.requested,
        )
        self.callbacks = CallbackList(
            settings,
            self.model,
            self.task,
            device=self.device,
            precision=self.precision,
            folder=folder,
            recorder=self.recorder,
            stop_requested=self.signals.requested,
            tested=resolved.summary.test,
            ranks=ranks,
            files=[folder.config, folder.spec, *map(folder.path.joinpath, self._assets())],
            write=self._write_settings,
        )
        self.trainer = Trainer(
            self.model,
            self.task,
            optim=settings.optim,
            settings=settings.trainer,
            run_dir=folder.path,
            recorder=self.recorder,
            device=self.device,
            precision=self.precision,
            stop_requested=self.signals.requested,
            callbacks=[*self.callbacks.all, *callbacks],
            evaluate_first=settings.model.pretrained is not None,
            run={"uid": self.summary.uid or "", "settings": config.settings_hash(self.recorded)},
            facts={
                "spec": dataclasses.asdict(self.task.spec),
                "began_with": begun_with,
                "data": facts.of_data(self.task),
            },
            together=together(self.model, settings.trainer, ranks, settings.seed),
        )

    def run(self) -> RunSummary:
        """Train until a limit, a signal or an error ends the session.

        Returns:
            The summary that was written: how it ended.

        Raises:
            UserError: another process works in the folder, a checkpoint cannot be read or
                written, the numbers broke, or user code failed.
        """
        try:
            return self._run()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(describe(error, self.folder.path)) from error

    def _run(self) -> RunSummary:
        source, damaged = self.resolved.checkpoint, []
        if self.settings.resume is Resume.never and self.folder.path.exists():
            LOG.info("the earlier run was moved to %s", self.folder.set_aside())
        if source is not None:
            source, damaged = self._restore()
            self.summary.resumed_from = source.step
            if headlines.rises_again(self.settings.optim, self.trainer, self.resolved.summary):
                self.summary.lengthened_at = source.step
        lacks_curve = not self.folder.metrics.exists()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.signals)  # a run that is being opened ends as one that trains
            self._open(stack)
            for line in damaged:
                LOG.warning("%s", line)
            if source is not None:
                LOG.info("going on from step %s of %s", f"{source.step:,}", self.folder)
                tidy.say_what_the_curve_lacks(self.recorder, self.trainer, absent=lacks_curve)
            elif not lacks_curve:
                LOG.warning("%s has no checkpoint to go on from: it begins again", self.folder)
            earlier = self.resolved.summary
            for line in headlines.surprises(self.settings.optim, self.trainer, earlier):
                console.say(functools.partial(wrapped, line), logging.WARNING)
            try:
                with ending_together(self.ranks, self.signals.requested):
                    result = self.trainer.run()
                self._ended(result)
            except BaseException as error:
                if (short := memory.shortage(error)) is not None:
                    self._failed(UserError(short), None)
                    raise
                line = user_code.describe_user_error(
                    error, task=type(self.task), model=type(self.model)
                )
                self._failed(error, line)
                if line is None:
                    raise
                raise UserError(f"{line}; its traceback is in {self.folder.log}") from error
        self.summary.unheard = self.signals.received
        return self.summary

    # -- before the loop ----------------------------------------------------------------------

    def _restore(self) -> tuple[checkpoint.Checkpoint, list[str]]:
        """Go back to the newest checkpoint that is whole.

        Returns:
            That checkpoint, and what to say of the damaged ones after it.

        Raises:
            UserError: none is whole, one cannot be read, or another process holds the folder.
        """
        damaged: list[checkpoint.DamagedError] = []
        for source in checkpoint.find_all(self.folder.path, "last"):
            try:
                self.trainer.restore(source)
            except UserError as error:
                self.folder.check_free()  # replaced by another process: that is the reason
                if not isinstance(error, checkpoint.DamagedError):
                    raise
                damaged.append(error)
            else:
                told = [f"{e.what}: going on from the checkpoint before it" for e in damaged]
                return source, told
        raise damaged[0] if damaged else UserError(f"{self.folder} lost its checkpoints")

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Acquire the folder's lock, and record what this run is.

        Raises:
            UserError: another process holds the folder, or trained the run since it was resolved.
        """
        folder, previous = self.folder, self.resolved.summary
        resumed = folder.is_begun()
        if self.settings.tracking.kind is TrackingKind.none:
            folder.make()
            stack.enter_context(run_folder.hold(folder.path))
        stack.enter_context(self.recorder)
        with console.meanwhile("opening the record"):
            self.recorder.start(
                params=config.to_plain(self.recorded), tags=self._tags(), resume=resumed
            )
        moved_on = self.resolved.checkpoint != checkpoint.find(folder.path, "last")
        if moved_on or not self.resolved.is_current():
            raise UserError(f"{folder} was trained further meanwhile: start again")
        tidy.sweep(folder.path, set(self._assets()))
        stack.enter_context(console.log_to(folder.log))
        self._write_settings()
        self.summary.metric = self.task.metric
        self.summary.maximize = self.task.maximize
        self.summary.data = facts.of_data(self.task)
        self.summary.follow(previous)
        self.summary.test = previous.test  # until other weights are tested
        running = previous.updated(self.summary)  # how far it came is still true
        running.status, running.reason = Status.RUNNING, None
        running.nulls.discard("reason")
        running.sign()
        rebuild.set_damaged_aside(folder.summary_file)
        running.write(folder.summary_file)
        self.recorder.artifact(folder.config)
        for line in headlines.first_lines(
            self.settings, self.task, self.model, self.summary, folder.path
        ):
            console.say(functools.partial(wrapped, line))

    def _write_settings(self) -> None:
        """Write what tells how to build task and model again."""
        folder = self.folder
        write_text(folder.config, config.to_yaml(self.recorded), durable=True)
        load.write_spec(folder.path, self.task.spec)
        for name, text in self._assets().items():
            write_text(folder.path / name, text, durable=True)

    def _assets(self) -> dict[str, str]:
        """Return what else is kept in the run folder, by file name: tokenizer, end tokens."""
        return self.task.assets() | self.resolved.initial_weights.assets

    def _tags(self) -> dict[str, str]:
        return tags_of(self.summary.to_json()) | labels_of(config.to_plain(self.recorded))

    # -- after the loop -----------------------------------------------------------------------

    def _ended(self, result: Result) -> None:
        """Record how training ended; a limit or a signal ended it."""
        summary = self.summary
        summary.status = result.status
        summary.ended_by = result.ended_by
        summary.reason = result.reason
        if result.tokens_per_second or summary.tokens_per_second is None:
            summary.tokens_per_second = round(result.tokens_per_second, 1)
        summary.seconds = round(result.seconds, 2)
        summary.epochs = limits.epochs(
            result.step, self.settings.trainer, self.task.batches_per_epoch
        )
        summary.tokens_per_step = self.task.items_per_batch * self.settings.trainer.grad_accum
        summary.tracking_share = self.callbacks.tracking_share.share
        if (scaler := self.trainer.scaler) is not None:
            summary.skipped_steps = scaler.skipped()
        summary.peak_memory_bytes = result.peak_memory_bytes
        summary.left = result.left
        summary.test = self.callbacks.final_test.test
        self.recorder.flush()  # the test's metrics, before the summary says that they are there
        self._write_summary()
        LOG.info("%s: %s", result.status.lower(), result.reason)
        with console.meanwhile(f"sending the rest to {self.settings.tracking.kind.name}"):
            self.recorder.finish(result.status)

    def _failed(self, error: BaseException, line: str | None) -> None:
        """Record how the run failed; `line` says it better than the error itself, if given."""
        gone = isinstance(error, BrokenPipeError)  # mambalab train | head: not the run's fault
        status = Status.FAILED if isinstance(error, Exception) and not gone else Status.KILLED
        reason = line or " ".join(str(error).split()) or type(error).__name__
        if gone:
            reason = "nobody reads the output any more (broken pipe)"
        elif line is None and isinstance(error, OSError):
            reason = describe(error, self.folder.path)
        expected = isinstance(error, UserError | OSError)
        summary = self.summary
        summary.status = status
        summary.ended_by = EndedBy.error
        summary.reason = reason
        # A full disk, perhaps: the first error is shown. And nothing is written at the old place
        # of a folder that is gone.
        if not isinstance(error, FolderGoneError):
            with contextlib.suppress(OSError):
                self._write_summary()
        LOG.error("%s: %s", status, reason, exc_info=not expected)
        self.recorder.finish(status)

    def _write_summary(self) -> None:
        summary, state = self.summary, self.trainer.state
        summary.wall_seconds = self._wall_seconds()
        summary.step, summary.best, summary.last = state.step, state.best, state.last
        summary.nulls.add("best")
        summary.sign()
        summary.write(self.folder.summary_file)

    def _wall_seconds(self) -> float | None:
        """Time of all sessions so far; None if one before did not record its own."""
        before = self.resolved.summary
        earlier = before.wall_seconds if before.started is not None else 0.0
        return None if earlier is None else round(earlier + time.monotonic() - self.begun, 2)

"""`mambalab train`: find or begin the run, train it, and leave everything worth looking at."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch

from mambalab import config
from mambalab.errors import UserError
from mambalab.generation.decoding import generate, obstacle
from mambalab.generation.sampling import Sampling
from mambalab.ops import backend as scan_backend
from mambalab.plots import curves, tables
from mambalab.records import run_folder
from mambalab.runs import build, final_report, fine_tune, resume, user_code
from mambalab.settings.train import Precision, Resume, TrackingKind
from mambalab.tracking import recorder
from mambalab.tracking.description import tags_of
from mambalab.train import checkpoint, runtime, session
from mambalab.train.eval_progress import StoppedError, watching
from mambalab.train.loop import Result, Trainer
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json, write_text

LOG = logging.getLogger("mambalab")
PICTURE_SECONDS = 30.0  # the loss picture is redrawn at most this often during training


def run(settings: config.TrainConfig) -> int:
    """Train, or report a run that is finished already.

    Returns:
        0 if the run reached its end, 130 or 143 if a signal stopped it.

    Raises:
        UserError: anything the user can mend; nothing half-written stays behind.
    """
    runtime.prepare_process()
    run_dir = config.run_dir(settings)
    with session.show_log():
        config.check_modules(settings.trust)
        if not (run_dir / run_folder.SUMMARY).exists():
            session.check_writable(run_dir)
        resume.check(settings, run_dir)
        fine_tune.check_unchanged(settings, run_dir)
        if how := resume.finished(settings, run_dir):
            LOG.info("this run is finished already: %s", how)
            final_report.show(settings, run_dir)
            return 0
        source = resume.source(settings, run_dir)
        device = runtime.choose_device(settings.device)
        precision = _precision(settings, run_dir, device)
        beginning = fine_tune.begin(settings, run_dir, source)
        settings = beginning.settings
        task = build.build_task(settings, vocabulary=beginning.tokenizer)
        user_code.prepare(task, device)
        runtime.seed_everything(settings.seed)
        model = build.build_model(settings, task.spec).to(device)
        beginning.fill(model)
        user_code.check_answer(model, task, device)
        facts = {**_facts(settings, model, device, precision), **beginning.facts}
        recorder.check(settings.tracking, output_dir=Path(settings.output_dir))
        if settings.resume is Resume.never and run_dir.exists():
            LOG.info("the earlier run was moved to %s", session.set_aside(run_dir))
        sitting = _Sitting(settings, run_dir, task, model, device, precision, facts)
        if source is not None:
            sitting.restore(source)
        sitting.train(source)
        ended_by = read_json(run_dir / run_folder.SUMMARY)["ended_by"]
        final_report.show(settings, run_dir)
        return {"SIGINT": 130, "SIGTERM": 143}.get(ended_by, 0)


def _precision(settings: config.TrainConfig, run_dir: Path, device: torch.device) -> Precision:
    """As chosen; a resumed run keeps the arithmetic it began with."""
    if settings.precision is Precision.auto and settings.resume is not Resume.never:
        recorded = read_json(run_dir / run_folder.SUMMARY).get("precision")
        if recorded:
            return Precision(recorded)
    return runtime.choose_precision(settings.precision, device)


def _facts(
    settings: config.TrainConfig, model: torch.nn.Module, device: torch.device, precision: Precision
) -> dict[str, Any]:
    """What the record says of the circumstances."""
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    facts: dict[str, Any] = {
        "task": settings.task.name,
        "model": settings.model.name,
        "dropout": settings.dropout.name,
        "seed": settings.seed,
        "parameters": build.count_parameters(model),
        "device": runtime.device_name(device),
        "precision": precision.value,
        "git_revision": runtime.git_revision(),
        "packages": runtime.package_versions(),
    }
    if build.is_ours(settings.model._target_) and "M" in settings.model.layers():
        choice = scan_backend.describe(settings.model.scan_backend.value, device, dtype)
        facts["backend"] = choice.backend
        facts["passed_over"] = choice.passed_over
    ours = build.is_ours(settings.model._target_) and device.type == "cpu"
    if ours and (why := scan_backend.obstacle("cpu", device, dtype)):
        facts.setdefault("passed_over", {})["cpu"] = why  # the norms of every model use them
    return facts


class _Sitting:
    """One sitting of a run, from taking hold of its folder to letting go."""

    def __init__(
        self,
        settings: config.TrainConfig,
        run_dir: Path,
        task: Any,
        model: torch.nn.Module,
        device: torch.device,
        precision: Precision,
        facts: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.recorded = config.recorded(settings)
        self.run_dir = run_dir
        self.task = task
        self.model = model
        self.device = device
        self.precision = precision
        self.facts = facts
        self.recorder = recorder.Recorder(
            run_dir, settings.tracking, output_dir=Path(settings.output_dir), announce=LOG.warning
        )
        self.drawn = self.began = time.monotonic()
        self.signals = session.StopSignals()
        self.trainer = Trainer(
            model,
            task,
            optim=settings.optim,
            settings=settings.trainer,
            run_dir=run_dir,
            recorder=self.recorder,
            device=device,
            precision=precision,
            evaluated=self._evaluated,
            stop_requested=self.signals.requested,
            look_first=settings.model.pretrained is not None,
        )

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint; raises UserError if it cannot be read or another holds it."""
        try:
            self.trainer.restore(source)
        except UserError:
            resume.check_free(self.run_dir)  # replaced by another process: that is the reason
            raise

    def train(self, source: checkpoint.Checkpoint | None) -> None:
        """Train to the end; the summary says how it ended.

        Args:
            source: the checkpoint that `trainer` was restored from, if any.
        """
        recording = self.settings.tracking.kind is not TrackingKind.none
        lacks_curve = recording and not (self.run_dir / run_folder.METRICS).exists()
        with contextlib.ExitStack() as stack:
            self._open(stack)
            if source != checkpoint.find(self.run_dir, "last"):
                raise UserError(f"{self.run_dir} was trained further meanwhile: start again")
            if source is not None:
                LOG.info("going on from step %s of %s", f"{source.step:,}", self.run_dir)
            if source is not None and source.step and lacks_curve:
                LOG.warning(
                    "there was no %s: the curve begins at step %s",
                    self.run_dir / run_folder.METRICS,
                    f"{source.step:,}",
                )
            stack.enter_context(self.signals)
            try:
                self._ended(self.trainer.run())
            except BaseException as error:
                line = user_code.told(error, task=type(self.task), model=type(self.model))
                self._failed(error, line)
                if line is None:
                    raise
                log = self.run_dir / run_folder.LOG
                raise UserError(f"{line}; its traceback is in {log}") from error

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Take hold of the folder, and write down what this run is."""
        summary = self.run_dir / run_folder.SUMMARY
        resumed = summary.exists()
        if self.settings.tracking.kind is TrackingKind.none:
            session.make_folder(self.run_dir)
            stack.enter_context(run_folder.hold(self.run_dir))
        stack.enter_context(self.recorder)
        self.recorder.start(
            params=config.to_plain(self.recorded), tags=self._tags(), resume=resumed
        )
        stack.enter_context(session.log_to(self.run_dir / run_folder.LOG))
        write_text(self.run_dir / run_folder.CONFIG, config.to_yaml(self.recorded))
        build.write_spec(self.run_dir, self.task.spec)
        for name, text in self.task.assets().items():
            write_text(self.run_dir / name, text)
        noted = read_json(summary)
        self.facts["metric"] = self.task.metric
        self.facts["maximize"] = self.task.maximize
        self.facts["data"] = self.task.fingerprint()
        self.facts["started"] = noted.get("started", round(time.time(), 3))
        if "test" in noted:  # stays, however this sitting ends, until other weights are tested
            self.facts["test"] = noted["test"]
        started = {**noted, **self.facts, "status": "RUNNING"}
        started.pop("reason", None)
        write_json(summary, {**started, **process.identity()})
        self.recorder.artifact(self.run_dir / run_folder.CONFIG)
        for line in self._headlines():
            LOG.info(line)

    def _tags(self) -> dict[str, str]:
        return tags_of(self.facts)

    def _headlines(self) -> list[str]:
        facts = self.facts
        lines = [build.counts_line(self.settings, self.task.spec, self.model)]
        scan = f", scan {facts['backend']}" if "backend" in facts else ""
        lines.append(f"device: {facts['device']}, {facts['precision']}{scan}")
        for name, why in facts.get("passed_over", {}).items():
            lines.append(f"slower than it could be: the {name} kernels are not used: {why}")
        lines.append(f"run: {self.run_dir}")
        return lines

    # -- milestones ---------------------------------------------------------------------------

    def _evaluated(self, step: int) -> None:
        """After each evaluation: a sample of text, and now and then the picture."""
        if step == 0:
            LOG.info("before training: %s", self.trainer.validation_text())
        length = self.settings.trainer.sample_chars
        if length and hasattr(self.task, "tokenizer") and obstacle(self.model) is None:
            path = self.run_dir / "samples" / f"step-{step:08d}.txt"
            self.recorder.artifact(write_text(path, self._sample(length)))
        if time.monotonic() - self.drawn > PICTURE_SECONDS:
            self._draw()

    def _sample(self, length: int) -> str:
        tokenizer = self.task.tokenizer
        prompt = torch.tensor([[tokenizer.start_token()]], device=self.device)
        self.model.eval()
        with runtime.autocast(self.device, self.precision):
            new = generate(
                self.model,  # pyright: ignore[reportArgumentType]
                list(prompt),
                max_new_tokens=length,
                rules=Sampling(temperature=0.8, allowed=tokenizer.vocab_size),
                seed=self.settings.seed,
            )
            text = tokenizer.decode([int(token) for token in new])
        self.model.train()
        return text + "\n"

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        metrics = self.run_dir / run_folder.METRICS
        if not metrics.exists() or not metrics.stat().st_size:  # tracking=none, or stopped at once
            return
        self.recorder.artifact(curves.loss_picture(self.run_dir, unit=self.task.loss_unit))

    # -- the end ------------------------------------------------------------------------------

    def _ended(self, result: Result) -> None:
        facts = {
            "status": result.status,
            "ended_by": result.ended_by,
            "reason": result.reason,
            "step": result.step,
            **_best_and_last(result),
            "tokens_per_second": round(result.tokens_per_second, 1),
            "seconds": round(result.seconds, 2),
            "tokens_per_step": self.task.items_per_batch * self.settings.trainer.grad_accum,
            # Of this sitting's time, spent by the training thread in recording.
            "tracking_share": round(self.recorder.seconds / (time.monotonic() - self.began), 6),
            "peak_memory_bytes": runtime.peak_memory_bytes(self.device),
        }
        if result.status == "FINISHED" and "test" in self.task.splits:
            try:
                facts["test"] = self._final_test()
            except StoppedError as stopped:
                reason = f"stopped by {stopped.signal} in the final test, training is complete"
                facts |= {"status": "KILLED", "ended_by": stopped.signal, "reason": reason}
                facts["left"] = "test"
        self._draw()
        self._write_summary(facts)
        LOG.info("%s: %s", facts["status"].lower(), facts["reason"])
        self.recorder.finish(facts["status"])

    def _final_test(self) -> dict[str, Any]:
        """The test split's metrics, measured once, with the weights that validation chose.

        A run that was finished, tested and then trained further is tested again only if other
        weights are the best now; `times` counts. A test that was stopped has given no numbers and
        counts for nothing.
        """
        noted = read_json(self.run_dir / run_folder.SUMMARY).get("test", {})
        # Somebody may have deleted a damaged best: then it is the last weights that are used.
        best = checkpoint.find(self.run_dir, "best") or checkpoint.find(self.run_dir, "last")
        assert best is not None, "a finished run was saved"
        if noted.get("step") == best.step:
            return noted
        weights, _, _ = checkpoint.load(best, self.device)
        checkpoint.restore_weights(self.model, weights, best.path)
        watched = watching(self.task, "testing", self.signals.requested)
        with runtime.autocast(self.device, self.precision), watched:
            metrics, found = self.task.evaluate_detailed(self.model, "test")
        self.recorder.metrics(best.step, metrics)
        for path in tables.keep(self.run_dir, "test", found):
            self.recorder.artifact(path)
        return {"step": best.step, "times": noted.get("times", 0) + 1, **metrics}

    def _failed(self, error: BaseException, line: str | None) -> None:
        """Record how the run failed; `line` says it better than the error itself, if given."""
        gone = isinstance(error, BrokenPipeError)  # mambalab train | head: not the run's fault
        status = "FAILED" if isinstance(error, Exception) and not gone else "KILLED"
        reason = line or " ".join(str(error).split()) or type(error).__name__
        if gone:
            reason = "nobody reads the output any more (broken pipe)"
        expected = gone or isinstance(error, UserError)
        LOG.error("%s: %s", status, reason, exc_info=not expected)
        facts = {"status": status, "ended_by": "error", "reason": reason, "step": self.trainer.step}
        with contextlib.suppress(OSError):  # a full disk, perhaps; the first error is shown
            self._write_summary({**facts, **_best_and_last(self.trainer)})
        self.recorder.finish(status)

    def _write_summary(self, facts: dict[str, Any]) -> None:
        write_json(self.run_dir / run_folder.SUMMARY, {**self.facts, **facts, **process.identity()})


def _best_and_last(source: Result | Trainer) -> dict[str, Any]:
    best = {"step": source.best.step, **source.best.metrics} if source.best else None
    return {"best": best, "last": source.last}

"""`mambalab train`: find or begin the run, train it, and leave everything worth looking at."""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch

from mambalab import config, process, run_folder
from mambalab.commands import assemble
from mambalab.errors import UserError
from mambalab.generate import generate
from mambalab.ops import backend as scan_backend
from mambalab.report import render, tables
from mambalab.train import checkpoint, runtime, session, tracking
from mambalab.train.loop import Result, Trainer
from mambalab.train.progress import duration
from mambalab.train.settings import Precision, Resume, TrackingKind

LOG = logging.getLogger("mambalab")
PICTURE = "plots/loss.png"
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
        if not (run_dir / run_folder.SUMMARY).exists():
            session.check_writable(run_dir)
        source = _earlier_run(settings, run_dir)
        if _is_finished(settings, run_dir):
            LOG.info("this run is finished already: trainer.max_steps=... or seed=... for more")
            _report(settings, run_dir)
            return 0
        device = runtime.choose_device(settings.device)
        precision = _precision(settings, run_dir, device)
        task = assemble.build_task(settings)
        task.prepare(device)
        runtime.seed_everything(settings.seed)
        model = assemble.build_model(settings, task.spec).to(device)
        facts = _facts(settings, model, device, precision)
        tracking.check(settings.tracking, output_dir=Path(settings.output_dir))
        if settings.resume is Resume.never and run_dir.exists():
            LOG.info("the earlier run was moved to %s", session.set_aside(run_dir))
        sitting = _Sitting(settings, run_dir, task, model, device, precision, facts)
        if source is not None:
            sitting.trainer.restore(source)
        sitting.train(source)
        ended_by = run_folder.read_json(run_dir / run_folder.SUMMARY)["ended_by"]
        _report(settings, run_dir)
        return {"SIGINT": 130, "SIGTERM": 143}.get(ended_by, 0)


def _earlier_run(settings: config.TrainConfig, run_dir: Path) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from, after checking that it belongs to this configuration."""
    started = (run_dir / run_folder.SUMMARY).exists()
    if settings.resume is Resume.never:
        return None
    if not started:
        if settings.resume is Resume.must:
            raise UserError(f"resume=must: there is no run in {run_dir}")
        if run_dir.is_dir() and any(run_dir.iterdir()):
            raise UserError(f"{run_dir} is not empty and holds no run: choose another run_dir")
        return None
    recorded = config.load_run_config(run_dir, [_module(settings), *settings.trust])
    if changed := config.differences(recorded, settings):
        raise UserError(
            f"the run in {run_dir} was made with other settings ({'; '.join(changed)}): "
            f"choose another run_dir, or resume=never to start again"
        )
    found = checkpoint.find(run_dir, "last")
    if found is None and settings.resume is Resume.must:
        raise UserError(f"resume=must: the run in {run_dir} has no checkpoint yet")
    return found


def _module(settings: config.TrainConfig) -> str:
    """The user's own module, named on the command line or in ./conf, is trusted by naming it."""
    names = (settings.task._target_, settings.model._target_)
    outside = [n.rpartition(".")[0] for n in names if "." in n and not n.startswith("mambalab.")]
    return outside[0] if outside else "mambalab"


def _is_finished(settings: config.TrainConfig, run_dir: Path) -> bool:
    if settings.resume is Resume.never:
        return False
    summary = run_folder.read_json(run_dir / run_folder.SUMMARY)
    if summary.get("status") != "FINISHED":
        return False
    limits = settings.trainer
    if summary["ended_by"] == "patience":
        return True
    steps_done = limits.max_steps is not None and summary["step"] >= limits.max_steps
    time_done = limits.max_minutes is not None and summary["seconds"] >= 60 * limits.max_minutes
    return steps_done or time_done


def _precision(settings: config.TrainConfig, run_dir: Path, device: torch.device) -> Precision:
    """As chosen; a resumed run keeps the arithmetic it began with."""
    if settings.precision is Precision.auto and settings.resume is not Resume.never:
        recorded = run_folder.read_json(run_dir / run_folder.SUMMARY).get("precision")
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
        "parameters": assemble.count_parameters(model),
        "device": runtime.device_name(device),
        "precision": precision.value,
        "git_revision": runtime.git_revision(),
        "packages": runtime.package_versions(),
    }
    if "M" in settings.model.layers():
        choice = scan_backend.describe(settings.model.scan_backend.value, device, dtype)
        facts["backend"] = choice.backend
        facts["passed_over"] = choice.passed_over
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
        self.run_dir = run_dir
        self.task = task
        self.model = model
        self.device = device
        self.precision = precision
        self.facts = facts
        self.recorder = tracking.Recorder(
            run_dir, settings.tracking, output_dir=Path(settings.output_dir), announce=LOG.warning
        )
        self.drawn = time.monotonic()
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
        )

    def train(self, source: checkpoint.Checkpoint | None) -> None:
        """Train to the end; the summary says how it ended.

        Args:
            source: the checkpoint that `trainer` was restored from, if any.
        """
        with contextlib.ExitStack() as stack:
            self._open(stack)
            if source != checkpoint.find(self.run_dir, "last"):
                raise UserError(f"{self.run_dir} was trained further meanwhile: start again")
            if source is not None:
                LOG.info("going on from step %s of %s", f"{source.step:,}", self.run_dir)
            stack.enter_context(self.signals)
            try:
                result = self.trainer.run()
            except BaseException as error:
                self._failed(error)
                raise
            self._ended(result)

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Take hold of the folder, and write down what this run is."""
        summary = self.run_dir / run_folder.SUMMARY
        resumed = summary.exists()
        if self.settings.tracking.kind is TrackingKind.none:
            session.make_folder(self.run_dir)
            stack.enter_context(run_folder.hold(self.run_dir))
        stack.enter_context(self.recorder)
        self.recorder.start(
            params=config.to_plain(self.settings), tags=self._tags(), resume=resumed
        )
        stack.enter_context(session.log_to(self.run_dir / "train.log"))
        session.write_text(self.run_dir / run_folder.CONFIG, config.to_yaml(self.settings))
        assemble.write_spec(self.run_dir, self.task.spec)
        for name, text in self.task.assets().items():
            session.write_text(self.run_dir / name, text)
        earlier = run_folder.read_json(summary)
        self.facts["metric"] = self.task.metric
        self.facts["maximize"] = self.task.maximize
        self.facts["data"] = self.task.fingerprint()
        self.facts["started"] = earlier.get("started", round(time.time(), 3))
        started = {**earlier, **self.facts, "status": "RUNNING"}
        started.pop("reason", None)
        run_folder.write_json(summary, {**started, **process.identity()})
        self.recorder.artifact(self.run_dir / run_folder.CONFIG)
        for line in self._headlines():
            LOG.info(line)

    def _tags(self) -> dict[str, str]:
        names = ("device", "precision", "backend", "git_revision", "task", "model", "dropout")
        return {name: str(self.facts[name]) for name in names if self.facts.get(name)}

    def _headlines(self) -> list[str]:
        facts = self.facts
        lines = [assemble.counts_line(self.settings, self.task.spec, self.model)]
        scan = f", scan {facts['backend']}" if "backend" in facts else ""
        lines.append(f"device: {facts['device']}, {facts['precision']}{scan}")
        for name, why in facts.get("passed_over", {}).items():
            lines.append(f"slower than it could be: the {name} scan is not used: {why}")
        lines.append(f"run: {self.run_dir}")
        return lines

    # -- milestones ---------------------------------------------------------------------------

    def _evaluated(self, step: int) -> None:
        """After each evaluation: a sample of text, and now and then the picture."""
        length = self.settings.trainer.sample_chars
        if length and hasattr(self.task, "vocabulary") and hasattr(self.model, "initial_state"):
            path = self.run_dir / "samples" / f"step-{step:08d}.txt"
            self.recorder.artifact(session.write_text(path, self._sample(length)))
        if time.monotonic() - self.drawn > PICTURE_SECONDS:
            self._draw()

    def _sample(self, length: int) -> str:
        vocabulary = self.task.vocabulary
        prompt = torch.tensor([[_neutral(vocabulary)]], device=self.device)
        self.model.eval()
        with runtime.autocast(self.device, self.precision):
            new = generate(
                self.model,  # pyright: ignore[reportArgumentType]
                prompt,
                max_new_tokens=length,
                temperature=0.8,
                seed=self.settings.seed,
            )
            text = vocabulary.decode([int(token) for token in new])
        self.model.train()
        return text + "\n"

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        metrics = self.run_dir / run_folder.METRICS
        if not metrics.exists() or not metrics.stat().st_size:  # tracking=none, or stopped at once
            return
        self.recorder.artifact(render.loss_picture(self.run_dir, unit=self.task.loss_unit))

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
            "peak_memory_bytes": runtime.peak_memory_bytes(self.device),
        }
        if result.status == "FINISHED" and "test" in self.task.splits:
            facts["test"] = self._final_test()
        self._draw()
        self._write_summary(facts)
        LOG.info("%s: %s", result.status.lower(), result.reason)
        self.recorder.finish(result.status)

    def _final_test(self) -> dict[str, Any]:
        """The test split's metrics, measured once, with the weights that validation chose.

        A run that was finished, tested and then trained further is tested again only if other
        weights are the best now; `times` counts.
        """
        earlier = run_folder.read_json(self.run_dir / run_folder.SUMMARY).get("test", {})
        best = checkpoint.find(self.run_dir, "best")
        assert best is not None, "a finished run was evaluated"
        if earlier.get("step") == best.step:
            return earlier
        weights, _, _ = checkpoint.load(best, self.device)
        checkpoint.restore_weights(self.model, weights, best.path)
        with runtime.autocast(self.device, self.precision):
            metrics, found = self.task.examine(self.model, "test")
        self.recorder.metrics(best.step, metrics)
        for path in tables.keep(self.run_dir, "test", found):
            self.recorder.artifact(path)
        return {"step": best.step, "times": earlier.get("times", 0) + 1, **metrics}

    def _failed(self, error: BaseException) -> None:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        reason = " ".join(str(error).split()) or type(error).__name__
        LOG.error("%s: %s", status, reason, exc_info=not isinstance(error, UserError))
        facts = {"status": status, "ended_by": "error", "reason": reason, "step": self.trainer.step}
        with contextlib.suppress(OSError):  # a full disk, perhaps; the first error is shown
            self._write_summary({**facts, **_best_and_last(self.trainer)})
        self.recorder.finish(status)

    def _write_summary(self, facts: dict[str, Any]) -> None:
        run_folder.write_json(
            self.run_dir / run_folder.SUMMARY, {**self.facts, **facts, **process.identity()}
        )


def _best_and_last(source: Result | Trainer) -> dict[str, Any]:
    best = {"step": source.best.step, **source.best.metrics} if source.best else None
    return {"best": best, "last": source.last}


def _neutral(vocabulary: Any) -> int:
    """A token to begin a sample with: a new line, if the text has any."""
    return int(vocabulary.encode("\n")[0]) if "\n" in vocabulary.symbols else 0


def _report(settings: config.TrainConfig, run_dir: Path) -> None:
    """What a person wants to see when a run is over, on standard output."""
    summary = run_folder.read_json(run_dir / run_folder.SUMMARY)
    rows = [("status", f"{summary['status']}: {summary['reason']}")]
    rows.append(("trained", f"{summary['step']:,} steps in {duration(summary['seconds'])}"))
    if summary["tokens_per_second"]:
        rows.append(("speed", f"{summary['tokens_per_second']:,.0f} tokens/s"))
    for name, values in (("best", summary["best"]), ("last", summary["last"])):
        if values:
            metrics = ", ".join(f"{k} {v:.4f}" for k, v in values.items() if k != "step")
            rows.append(
                (name, metrics + (f" at step {values['step']:,}" if name == "best" else ""))
            )
    if test := summary.get("test"):
        shown = ", ".join(f"{k} {v:.4f}" for k, v in test.items() if k.count("/") == 1)
        rows.append(("test", f"{shown}, weights of step {test['step']:,}"))
    if samples := sorted((run_dir / "samples").glob("*.txt")):
        text = samples[-1].read_text(encoding="utf-8").strip()
        rows.append(("sample", "\n" + "\n".join(f"    {line}" for line in text.splitlines())))
    rows.append(("folder", str(run_dir)))
    if (run_dir / PICTURE).exists():
        rows.append(("picture", str(run_dir / PICTURE)))
    rows += [("picture", str(path)) for path in sorted((run_dir / "plots").glob("test_*.png"))]
    if settings.tracking.kind is TrackingKind.mlflow:
        default = settings.output_dir == "outputs"
        place = "" if default else f" output_dir={settings.output_dir}"
        rows.append(("mlflow", f"mambalab ui{place}"))
    print("\n".join(f"{name:<8} {text}" for name, text in rows))

"""The training loop: drives any model on any task, exactly resumable.

Batch k is a pure function of data, seed and k, so the data position is one number; what else a
step depends on (weights, optimiser, random state, sums of the curve being drawn, time used) is in
the checkpoint. A run ended by `max_steps` therefore gives the same numbers whether or not it was
interrupted. With `max_minutes` the schedule follows the clock, and only the time used is exact.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.settings.train import OptimSettings, Precision, TrainerSettings
from mambalab.train import checkpoint, runtime
from mambalab.train.eval_progress import StoppedError, watching
from mambalab.train.nonfinite import FiniteGuard, NonFiniteError, first_bad_layer
from mambalab.train.optim import build_optimizer, learning_rate
from mambalab.train.progress import Progress
from mambalab.train.protocols import MetricRecorder, TrainableTask

WARM_UP_STEPS = 10  # left out of the reported speed: compilation, caches


@dataclass
class Best:
    """The best evaluation so far: its step and all of its metrics."""

    step: int
    metrics: dict[str, float]


@dataclass
class Result:
    """How a run ended.

    Attributes:
        status: FINISHED, or KILLED when asked to stop.
        ended_by: max_steps, max_minutes, patience, or the name of a signal.
        reason: one line for the person: what ended it.
        step: optimiser steps done.
        best, last: metrics of the best and of the latest evaluation.
        tokens_per_second: training speed after warm-up, evaluations left out.
        seconds: training time used in all, evaluations included.
    """

    status: str
    ended_by: str
    reason: str
    step: int
    best: Best | None
    last: dict[str, float]
    tokens_per_second: float
    seconds: float


@dataclass
class Clock:
    """Training time over all sittings, and the speed of this one."""

    used: float = 0.0
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    step_seconds: float = 0.0
    measured: int = 0

    def elapsed(self) -> float:
        """Seconds of training, earlier sittings included."""
        return self.used + time.monotonic() - self.started

    def step_took(self, seconds: float) -> None:
        """Count one training step."""
        self.steps += 1
        if self.steps > WARM_UP_STEPS:
            self.step_seconds += seconds
            self.measured += 1


class Trainer:
    """One run of one model on one task.

    Args:
        model: maps a batch's inputs to outputs the task understands; already on `device`.
        task: data, loss and metrics; already prepared.
        optim, settings: what the user chose.
        run_dir: checkpoints go below it.
        recorder: receives every metric.
        device, precision: where and how to compute (`precision` is not `auto` any more).
        evaluated: called with the step after each evaluation was recorded.
        stop_requested: returns the name of a signal once the person wants the run to stop.
        look_first: evaluate, and keep a checkpoint, before the first step: the model is not new.
    """

    def __init__(
        self,
        model: nn.Module,
        task: TrainableTask,
        *,
        optim: OptimSettings,
        settings: TrainerSettings,
        run_dir: Path,
        recorder: MetricRecorder,
        device: torch.device,
        precision: Precision,
        evaluated: Callable[[int], None],
        stop_requested: Callable[[], str | None],
        look_first: bool = False,
    ) -> None:
        self.model = model
        self.compute: nn.Module = model
        if settings.compile:
            self.compute = torch.compile(model)  # pyright: ignore[reportAttributeAccessIssue]
        self.task = task
        self.optim = optim
        self.settings = settings
        self.run_dir = run_dir
        self.recorder = recorder
        self.device = device
        self.precision = precision
        self.evaluated = evaluated
        self.stop_requested = stop_requested
        self.look_first = look_first
        self.optimizer = build_optimizer(model, optim)
        self.guard = FiniteGuard(device)
        self.clock = Clock()
        self.step = 0
        self.position = 0
        self.best: Best | None = None
        self.last: dict[str, float] = {}
        self.evaluations_since_best = 0
        self.loss_sum = torch.zeros((), device=device)
        self.loss_count = 0
        self.latest_loss = float("nan")
        self.saved_step = -1
        self.evaluated_step = -1

    # -- where the run stands ---------------------------------------------------------------

    def progress(self) -> float:
        """Share of the run done: by steps or by time, whichever is further."""
        shares = [0.0]
        if self.settings.max_steps is not None:
            shares.append(self.step / self.settings.max_steps)
        if self.settings.max_minutes is not None:
            shares.append(self.clock.elapsed() / (60 * self.settings.max_minutes))
        return max(shares)

    def _end(self) -> tuple[str, str] | None:
        """What ended the run and how to say it, or None."""
        limits = self.settings
        if limits.max_steps is not None and self.step >= limits.max_steps:
            return "max_steps", f"max_steps={limits.max_steps} reached"
        if limits.max_minutes is not None and self.clock.elapsed() >= 60 * limits.max_minutes:
            return "max_minutes", f"max_minutes={limits.max_minutes:g} reached"
        if limits.patience is not None and self.evaluations_since_best >= limits.patience:
            evaluations = f"{limits.patience} evaluations"
            return "patience", f"no improvement of {self.task.metric} in {evaluations}"
        return None

    # -- one step -----------------------------------------------------------------------------

    def _loss(self, position: int) -> Tensor:
        batch = self.task.batch(position)  # outside autocast: data are the same in any precision
        with runtime.autocast(self.device, self.precision):
            return self.task.loss(self.compute, batch)

    def _train_step(self) -> None:
        rate = learning_rate(self.optim, self.step, self.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self.settings.grad_accum
        total = torch.zeros((), device=self.device)
        for part in range(parts):
            loss = self._loss(self.position + part) / parts
            loss.backward()
            total += loss.detach()
        limit = self.optim.grad_clip if self.optim.grad_clip is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        bad = self.guard.watch(self.step, total, norm)
        if self.device.type == "cpu" and bool(bad):
            self._refuse_bad_step()
        self.optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_sum += total
        self.loss_count += 1
        self.step += 1
        self.position += parts
        if self.step % self.settings.log_every == 0:
            self._log(rate, norm)

    def _log(self, rate: float, norm: Tensor) -> None:
        self._refuse_bad_step()
        self.latest_loss = float(self.loss_sum) / self.loss_count
        self.loss_sum.zero_()
        self.loss_count = 0
        values = {"train/loss": self.latest_loss, "train/lr": rate, "train/grad_norm": float(norm)}
        values["time/seconds"] = self.clock.elapsed()
        if self.clock.measured:
            values["time/tokens_per_second"] = self.tokens_per_second()
        self.recorder.metrics(self.step, values)

    def _refuse_bad_step(self) -> None:
        """Raise if any step so far was not finite; nothing of it is in the weights."""
        step = self.guard.first_bad_step()
        if step is None:
            return
        self.model.train()
        position = step * self.settings.grad_accum
        where = first_bad_layer(self.model, lambda: self._loss(position))
        last = checkpoint.find(self.run_dir, "last")
        kept = f"the checkpoint of step {last.step} is kept; " if last else ""
        raise NonFiniteError(
            f"loss or gradients became NaN or infinite at step {step + 1}, {where}; {kept}"
            f"try a smaller optim.lr, optim.grad_clip=1 or precision=fp32"
        )

    def tokens_per_second(self) -> float:
        """Training speed of this sitting after warm-up, evaluations left out."""
        if not self.clock.measured:
            return 0.0
        items = self.task.items_per_batch * self.settings.grad_accum * self.clock.measured
        return items / self.clock.step_seconds

    # -- looking back -------------------------------------------------------------------------

    def _evaluate(self) -> None:
        watched = watching(self.task, "validating", self.stop_requested)
        with runtime.autocast(self.device, self.precision), watched:
            metrics = self.task.evaluate(self.compute, "val")
        self.model.train()
        self.last = metrics
        self.evaluated_step = self.step
        if self.best is None or self._merit(metrics) > self._merit(self.best.metrics):
            self.best = Best(self.step, metrics)
            self.evaluations_since_best = 0
            facts = {"metrics": metrics, "metric": self.task.metric}
            checkpoint.save(self.run_dir, "best", self.step, self.model.state_dict(), facts=facts)
        elif self.step > self.best.step:
            self.evaluations_since_best += 1
        self.recorder.metrics(self.step, metrics)
        self.evaluated(self.step)

    def _merit(self, metrics: dict[str, float]) -> tuple[float, float]:
        """More is better; of equal accuracies, which small splits often give, the lower loss."""
        value = metrics[self.task.metric]
        if math.isnan(value):
            return -math.inf, 0.0
        return value if self.task.maximize else -value, -metrics.get("val/loss", 0.0)

    def validation_text(self) -> str:
        """The latest validation metric, as the progress bar shows it."""
        if not self.last:
            return ""
        return f"{self.task.metric} {self.last[self.task.metric]:.4f}"

    # -- checkpoints --------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything needed to go on exactly from here."""
        if self.saved_step == self.step:
            return
        self._refuse_bad_step()
        best = {"step": self.best.step, "metrics": self.best.metrics} if self.best else None
        trainer: dict[str, Any] = {
            "position": self.position,
            "seconds": self.clock.elapsed(),
            "optimizer": self.optimizer.state_dict(),
            "random": runtime.random_state(self.device),
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "latest_loss": self.latest_loss,
            "best": best,
            "last": self.last,
            "evaluated_step": self.evaluated_step,
            "evaluations_since_best": self.evaluations_since_best,
        }
        facts = {"precision": self.precision.value, "fingerprint": self.task.fingerprint()}
        checkpoint.save(
            self.run_dir, "last", self.step, self.model.state_dict(), facts=facts, trainer=trainer
        )
        self.saved_step = self.step

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            UserError: if it is damaged, or was written on other data or by another model.
        """
        weights, facts, trainer = checkpoint.load(source, self.device)
        ours, theirs = self.task.fingerprint(), facts["fingerprint"]
        if ours.get("sha256") != theirs.get("sha256"):
            raise UserError(
                f"the data changed since {source.path} was written: bring the old data back, "
                f"give a new run_dir, or start again with resume=never"
            )
        checkpoint.restore_weights(self.model, weights, source.path)
        self.optimizer.load_state_dict(trainer["optimizer"])
        runtime.restore_random_state(trainer["random"], self.device)
        self.step = self.saved_step = source.step
        self.position = trainer["position"]
        self.clock = Clock(used=trainer["seconds"])
        self.loss_sum.fill_(trainer["loss_sum"])
        self.loss_count = trainer["loss_count"]
        self.latest_loss = trainer["latest_loss"]
        self.last = trainer["last"]
        self.evaluated_step = trainer["evaluated_step"]
        self.evaluations_since_best = trainer["evaluations_since_best"]
        self.best = Best(**trainer["best"]) if trainer["best"] else None
        self._adopt_newer_best()

    def _adopt_newer_best(self) -> None:
        """A best written after the checkpoint, before a kill, still stands if it is better."""
        found = checkpoint.find(self.run_dir, "best")
        if found is None or (self.best and found.step <= self.best.step):
            return
        _, facts, _ = checkpoint.load(found, torch.device("cpu"))
        self.best = Best(found.step, facts["metrics"])
        self.evaluations_since_best = 0  # those before it count no more when they come again

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train until a limit, a signal, or an error; leaves a checkpoint in the first two cases.

        Raises:
            NonFiniteError: the numbers broke; earlier checkpoints stay.
        """
        self.model.train()
        progress = Progress(self.progress())
        try:
            status, (ended_by, reason) = "FINISHED", self._run(progress)
        except StoppedError as stopped:
            self.model.train()
            self.save()
            status, ended_by = "KILLED", stopped.signal
            reason = f"stopped by {stopped.signal} after step {self.step}"
        finally:
            progress.close()
        return Result(
            status,
            ended_by,
            reason,
            self.step,
            self.best,
            self.last,
            self.tokens_per_second(),
            self.clock.elapsed(),
        )

    def _run(self, progress: Progress) -> tuple[str, str]:
        """What ended the run, and how to say it; raises StoppedError when a signal did."""
        limits = self.settings
        due = self.look_first if self.step == 0 else self.step % limits.eval_every == 0
        if due and self.evaluated_step != self.step:  # new, or stopped in the midst of it
            self._evaluate()
            self.save()
        while (end := self._end()) is None:
            if signal_name := self.stop_requested():
                raise StoppedError(signal_name)
            started = time.monotonic()
            self._train_step()
            self.clock.step_took(time.monotonic() - started)
            milestone = self.step % limits.eval_every == 0
            if milestone:
                self._evaluate()
            if self.step % limits.checkpoint_every == 0:
                self.save()
            if milestone or self.step % limits.log_every == 0:
                progress.update(
                    self.progress(),
                    self.step,
                    self.latest_loss,
                    self.validation_text(),
                    self.tokens_per_second(),
                    milestone=milestone,
                )
        if self.evaluated_step != self.step:
            self._refuse_bad_step()
            self._evaluate()
        self.save()
        return end

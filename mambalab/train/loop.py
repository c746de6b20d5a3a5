"""The training loop: drives any model on any task, exactly resumable.

Batch k is a pure function of data, seed and k, so the data position is one number; what else a
step depends on (weights, optimiser, random state, sums of the curve being drawn, time used) is in
the checkpoint. A run ended by `max_steps` therefore gives the same numbers whether or not it was
interrupted. With `max_minutes` the schedule follows the clock, and only the time used is exact.

The loop itself is `Trainer._run`. The learning rate is set in `_train_step`, by `learning_rate` of
train/optim.py. Metrics leave in `_log` and `_evaluate`: from there on they go through
tracking/recorder.py to metrics.jsonl, and by tracking/sink.py from that file to a tracker.
Tasks measure them in `evaluate` (tasks/base.py). More after an evaluation: train/callbacks.py.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.errors import UserError
from mambalab.records.summary import EndedBy, Evaluation, Status
from mambalab.settings.train import OptimSettings, Precision, TrainerSettings
from mambalab.train import checkpoint, limits, lines, runtime
from mambalab.train.callbacks import Callback, Result
from mambalab.train.checks import check_loss, check_metrics, describe_changes, ranking_key
from mambalab.train.listening import LONG_SECONDS, listening
from mambalab.train.nonfinite import FiniteGuard, NonFiniteError, first_bad_layer
from mambalab.train.optim import build_optimizer, learning_rate
from mambalab.train.progress import Progress, StoppedError, watching
from mambalab.train.protocols import MetricRecorder, TrainableTask
from mambalab.train.ranks import shared
from mambalab.train.state import BeforeStep, TrainState
from mambalab.train.together import Together
from mambalab.utils import console

LOG = logging.getLogger("mambalab")


class Trainer:
    """Trains one model on one task, resumable from its checkpoints.

    Args:
        model: maps a batch's inputs to outputs the task understands; already on `device`.
        task: data, loss and metrics; already prepared.
        optim, settings: what the user chose.
        run_dir: checkpoints go below it.
        recorder: receives every metric.
        device, precision: where and how to compute (`precision` is not `auto` any more).
        stop_requested: returns the name of a signal once the user asked the run to stop.
        callbacks: called after each evaluation and at the end, in this order.
        evaluate_first: evaluate, and keep a checkpoint, before the first step: for weights that
            come from a checkpoint.
        run: identities of this run by name; its checkpoints hold them, and one that holds others
            is refused.
        facts: more that its checkpoints say of the run, JSON-able.
        together: the processes that train it, all with the same arguments, and how; None = one.

    Attributes:
        state: all that a checkpoint holds besides the weights.
        restored: facts of the checkpoint that `restore` went back to; empty without one.
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
        stop_requested: Callable[[], str | None],
        callbacks: Sequence[Callback] = (),
        evaluate_first: bool = False,
        run: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        together: Together | None = None,
    ) -> None:
        self.model = model
        self.together = together or Together(model, settings)
        self.ranks = self.together.ranks
        self.task = task
        self.optim = optim
        self.settings = settings
        self.run_dir = run_dir
        self.recorder = recorder
        self.device = device
        self.precision = precision
        self.stop_requested = stop_requested
        self.callbacks = callbacks
        self.evaluate_first = evaluate_first
        self.run_identity = dict(run or {})
        self.facts = {"precision": precision.value, **(facts or {})}
        if run:
            self.facts["run"] = self.run_identity
        self.restored: dict[str, Any] = {}
        self.guard = FiniteGuard(device)
        self.state = TrainState(build_optimizer(model, optim), device)
        self.max_steps = limits.steps(settings, task.batches_per_epoch)
        self.saved_step = -1  # of the newest checkpoint
        self.last_step_seconds = 0.0
        self.seconds: float | None = None  # of training by rank 0's clock, if there are several

    # -- how far the run is -------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]: by steps or by time, whichever is further."""
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(self.state.step / self.max_steps)
        if self.settings.max_minutes is not None:
            shares.append(self.elapsed() / (60 * self.settings.max_minutes))
        return max(shares)

    def elapsed(self) -> float:
        """Seconds of training; of several processes rank 0 has the clock."""
        return self.state.clock.elapsed() if self.seconds is None else self.seconds

    def _agree(self) -> str | None:
        """The signal that asked to stop; several processes agree on it, and on the time."""
        signal_name = self.stop_requested()
        if self.ranks.size > 1:
            elapsed = self.state.clock.elapsed()
            signal_name, self.seconds = self.ranks.agree(signal_name, elapsed)
        return signal_name

    def _reached_limit(self) -> tuple[EndedBy, str] | None:
        """The limit that ends the run and how to say it, or None."""
        state, settings = self.state, self.settings
        if settings.max_steps is not None and state.step >= settings.max_steps:
            return EndedBy.max_steps, f"max_steps={settings.max_steps} reached"
        if self.max_steps is not None and state.step >= self.max_steps:
            return EndedBy.max_epochs, f"max_epochs={settings.max_epochs:g} reached"
        if settings.max_minutes is not None and self.elapsed() >= 60 * settings.max_minutes:
            return EndedBy.max_minutes, f"max_minutes={settings.max_minutes:g} reached"
        if settings.patience is not None and state.evaluations_since_best >= settings.patience:
            evaluations = f"{settings.patience} evaluations"
            return EndedBy.patience, f"no improvement of {self.task.metric} in {evaluations}"
        return None

    # -- one step -----------------------------------------------------------------------------

    def _loss(self, position: int) -> Tensor:
        """Compute the loss of batch number `position`, a float32 scalar."""
        batch = self.task.batch(position)  # outside autocast: data are the same in any precision
        if self.ranks.size > 1:
            batch = self.task.part(batch, self.ranks.rank, self.ranks.size)
        with runtime.autocast(self.device, self.precision):
            return self.task.loss(self.together.module, batch)

    def _whole_loss(self, position: int) -> Tensor:
        """Compute the loss of a whole batch with the plain model, in this process alone."""
        batch = self.task.batch(position)
        with runtime.autocast(self.device, self.precision):
            return self.task.loss(self.model, batch)

    def _train_step(self) -> None:
        """Do one optimiser step, over `grad_accum` batches; log every `log_every` steps.

        Raises:
            StoppedError: a signal asked for it between two batches, or in a long one; the step is
                undone.
        """
        state = self.state
        rate = learning_rate(self.optim, state.step, self.progress())
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1.0)
        self.together.seed_step(state.step)
        parts = self.settings.grad_accum
        listens = self._listens()
        before = BeforeStep(self.model, self.device) if listens or parts > 1 else None
        total = torch.zeros((), device=self.device)
        try:
            for part in range(parts):
                alone = self.ranks.size == 1
                if parts > 1 and alone and (signal_name := self.stop_requested()):
                    raise StoppedError(signal_name)
                averaging = self.together.averaging(last=part == parts - 1)
                heard = listening(self.model, self.stop_requested, listens)
                with averaging, heard as before_backward:
                    loss = self._loss(state.position + part)
                    check_loss(loss)
                    loss = loss / parts
                    before_backward(loss)
                    loss.backward()
                total += loss.detach()
        except StoppedError:
            assert before is not None, "nothing else is given up"
            before.restore()
            raise
        limit = self.optim.grad_clip if self.optim.grad_clip is not None else float("inf")
        norm = self.together.clip(limit)
        total = self.ranks.mean(total)
        bad = self.guard.watch(state.step, total, norm)
        if self.device.type == "cpu" and bool(bad):
            self._refuse_bad_step()
        state.optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.loss_sum += total
        state.loss_count += 1
        state.step += 1
        state.position += parts
        if state.step % self.settings.log_every == 0:
            self._log(rate, norm)

    def _listens(self) -> bool:
        """Whether a stop is heard within a batch: it may be long, as the step before it was."""
        first = self.state.clock.steps == 0
        able = not self.settings.compile and self.ranks.size == 1  # all end the same step
        return able and (first or self.last_step_seconds >= LONG_SECONDS)

    def _log(self, rate: float, norm: Tensor) -> None:
        """Record the mean training loss since the last point; waits for the device."""
        state = self.state
        self._refuse_bad_step()
        state.latest_loss = float(state.loss_sum) / state.loss_count
        state.loss_sum.zero_()
        state.loss_count = 0
        values = {"train/loss": state.latest_loss, "train/lr": rate, "train/grad_norm": float(norm)}
        values["time/seconds"] = state.clock.elapsed()
        if state.clock.timed_steps:
            values["time/tokens_per_second"] = self.tokens_per_second()
        self.recorder.metrics(state.step, values)

    def _refuse_bad_step(self) -> None:
        """Raise if any step so far was not finite; nothing of it is in the weights."""
        step = self.guard.first_bad_step()
        if step is None:
            return
        position = step * self.settings.grad_accum
        with self.together.whole():
            self.model.train()
            where = first_bad_layer(self.model, lambda: self._whole_loss(position))
        last = checkpoint.find(self.run_dir, "last")
        kept = f"the checkpoint of step {last.step} is kept; " if last else ""
        raise NonFiniteError(
            f"loss or gradients became NaN or infinite at step {step + 1}, {where}; {kept}"
            f"try a smaller optim.lr, optim.grad_clip=1 or precision=fp32"
        )

    def tokens_per_second(self) -> float:
        """Training speed of this session after warm-up, evaluations left out; 0 if unknown."""
        clock = self.state.clock
        if not clock.timed_steps:
            return 0.0
        items = self.task.items_per_batch * self.settings.grad_accum * clock.timed_steps
        return items / clock.step_seconds

    # -- looking back -------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Measure the validation split, keep the weights if they are the best, call callbacks."""
        with self.together.whole():
            self._evaluate_whole()

    def _evaluate_whole(self) -> None:
        """Evaluate, while the plain model has the weights."""
        state = self.state
        metrics = self._measure()
        check_metrics(metrics, self.task.metric)
        self.recorder.flush()  # the folder is still there: nothing is written beside it
        self.model.train()
        before = state.ranking()
        state.last = metrics
        state.evaluated_step = state.step
        if state.best is None or self._ranking_key(metrics) > self._ranking_key(state.best.metrics):
            state.best = Evaluation(state.step, metrics)
            state.evaluations_since_best = 0
            facts = {**self.facts, "metrics": metrics, "metric": self.task.metric}
            if self.ranks.is_first:
                weights = self.model.state_dict()
                checkpoint.save(self.run_dir, "best", state.step, weights, facts=facts)
        elif state.step > state.best.step:
            state.evaluations_since_best += 1
        self.recorder.metrics(state.step, metrics)
        if state.step:  # what weights are worth before it is said by whoever brings them
            told = (self.task, state, self.settings, self.tokens_per_second())
            console.say(lambda columns: lines.evaluation(*told, columns))
        try:
            with self.ranks.stopping_together():
                for callback in self.callbacks:
                    callback.on_evaluated(state.step, metrics)
        except StoppedError:  # what follows an evaluation is incomplete: it is done again
            state.restore_ranking(before)
            raise

    def _measure(self) -> dict[str, float]:
        """Measure the validation split, together with the other processes."""
        watched = watching(self.task, "validating", self.stop_requested)
        sharing, metrics = shared(self.task, self.ranks), {}
        arithmetic = runtime.autocast(self.device, self.precision)
        with self.ranks.stopping_together(), watched, sharing, arithmetic:
            metrics = self.task.evaluate(self.together.evaluated, "val")
        return self.ranks.tell(metrics)

    def _ranking_key(self, metrics: dict[str, float]) -> tuple[float, float]:
        return ranking_key(metrics, self.task.metric, self.task.maximize)

    def _show(self, display: Progress) -> None:
        """Show where the run is."""
        task, state = self.task, self.state
        speed = lines.speed(task, self.tokens_per_second())
        measured = lines.validation(task, state)
        display.update(self.progress(), state.step, state.latest_loss, measured, speed)

    # -- checkpoints --------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything needed to go on exactly from here.

        The curve reaches the disk first: after a power cut no checkpoint is ahead of it.
        """
        if self.saved_step == self.state.step:
            return
        self._refuse_bad_step()
        with self.together.whole():
            self._save_whole()
        self.saved_step = self.state.step

    def _save_whole(self) -> None:
        """Save, while the plain model has the weights."""
        optimizer = self.together.optimizer_state(self.state.optimizer)
        if not self.ranks.is_first:
            return
        facts = {**self.facts, "fingerprint": self.task.fingerprint()}
        if (history := self.recorder.flush()) is not None:
            facts["history"] = history
        checkpoint.save(
            self.run_dir,
            "last",
            self.state.step,
            self.model.state_dict(),
            facts=facts,
            trainer={**self.state.state_dict(), "optimizer": optimizer},
            keep=self.settings.keep_last or 1,
        )

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            DamagedError: it is damaged: the one before it may do.
            UserError: it cannot be read, belongs to another run, or was written on other data or
                by another model.
        """
        weights, facts, trainer = checkpoint.load(source, self.device)
        checkpoint.refuse_foreign(source, facts, self.run_identity)
        ours, theirs = self.task.fingerprint(), facts.get("fingerprint")
        if not isinstance(theirs, dict):
            raise checkpoint.lacks_state(source)
        if ours.get("sha256") != theirs.get("sha256"):
            raise UserError(
                f"the data changed since {source.path} was written"
                f"{describe_changes(theirs, ours)}: bring the old data back, "
                f"give a new run_dir, or start again with resume=never"
            )
        checkpoint.restore_weights(self.model, weights, source.path)
        try:
            self.state.load_state_dict(trainer, step=source.step)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise checkpoint.lacks_state(source) from error
        self.saved_step = source.step
        self.restored = facts
        self._adopt_newer_best()

    def _adopt_newer_best(self) -> None:
        """Adopt a best checkpoint that was written after the restored one, before a kill."""
        found = checkpoint.find(self.run_dir, "best")
        if found is None or (self.state.best and found.step <= self.state.best.step):
            return
        try:
            _, facts, _ = checkpoint.load(found, torch.device("cpu"))
        except checkpoint.DamagedError as error:
            LOG.warning("%s", error)  # the evaluation comes again, and so does the checkpoint
            return
        checkpoint.refuse_foreign(found, facts, self.run_identity)
        self.state.best = Evaluation(found.step, facts["metrics"])
        self.state.evaluations_since_best = 0  # those before it count no more when they come again

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train until a limit, a signal, or an error; leaves a checkpoint in the first two cases.

        Raises:
            NonFiniteError: the numbers broke; earlier checkpoints stay.
        """
        self.model.train()
        self._begin_together()
        display = Progress(self.progress())
        status = Status.FINISHED
        try:
            ended_by, reason = self._run(display)
        except StoppedError as stopped:
            self.model.train()
            self.save()
            self._show(display)
            status, ended_by = Status.KILLED, EndedBy(stopped.signal)
            reason = f"stopped by {stopped.signal} after step {self.state.step}"
        finally:
            display.close()
        result = Result(
            status,
            ended_by,
            reason,
            step=self.state.step,
            best=self.state.best,
            last=self.state.last,
            tokens_per_second=self.tokens_per_second(),
            seconds=self.state.clock.elapsed(),
            peak_memory_bytes=runtime.peak_memory_bytes(self.device),
        )
        with self.together.whole():
            for callback in self.callbacks:
                callback.on_end(result)
        return result

    def _begin_together(self) -> None:
        """Give the other processes what `restore` gave this one."""
        self.together.begin(self.state, lambda model: build_optimizer(model, self.optim))
        self.saved_step = self.ranks.tell(self.saved_step)

    def _run(self, display: Progress) -> tuple[EndedBy, str]:
        """What ended the run, and how to say it; raises StoppedError when a signal did."""
        state, settings = self.state, self.settings
        due = self.evaluate_first if state.step == 0 else state.step % settings.eval_every == 0
        if due and state.evaluated_step != state.step:  # new, or stopped in the midst of it
            self._evaluate()
            self.save()
        display.wait_for_step()
        while True:
            signal_name = self._agree()
            if (end := self._reached_limit()) is not None:
                break
            if signal_name is not None:
                raise StoppedError(signal_name)
            started = time.monotonic()
            self._train_step()
            self.last_step_seconds = time.monotonic() - started
            state.clock.step_took(self.last_step_seconds)
            if state.step % settings.eval_every == 0:
                self._evaluate()
            if state.step % settings.checkpoint_every == 0:
                self.save()
            if display.is_due():
                self._show(display)
        if state.evaluated_step != state.step:
            self._refuse_bad_step()
            self._evaluate()
        self.save()
        if display.live:  # a log has all of it
            self._show(display)
        return end

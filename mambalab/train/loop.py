"""The training loop: drives any model on any task, exactly resumable.

Batch k is a pure function of data, seed and k, so the data position is one number; what else a
step depends on (weights, optimiser, random state, sums of the curve being drawn, time used) is in
the checkpoint. A run ended by `max_steps` therefore gives the same numbers whether or not it was
interrupted. With `max_minutes` the schedule follows the clock, and only the time used is exact.

The loop itself is `Trainer._run`. The learning rate is set in `_train_step`, by `learning_rate` of
train/optim.py. Checkpoints are written and read by train/keeper.py. Metrics leave in `_log` and
`_evaluate`: from there on they go through tracking/recorder.py to metrics.jsonl, and by
tracking/sink.py from that file to a tracker. Tasks measure them in `evaluate`
(tasks/base.py). More after an evaluation: train/callbacks.py.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy, Evaluation, Status
from mambalab.settings.train import OptimSettings, Precision, TrainerSettings
from mambalab.train import checkpoint, lines, runtime
from mambalab.train.averaging import WeightAverage
from mambalab.train.callbacks import Callback, Result
from mambalab.train.checks import check_loss, check_metrics, ranking_key
from mambalab.train.keeper import Keeper
from mambalab.train.listening import LONG_SECONDS, listening
from mambalab.train.nonfinite import FiniteGuard, NonFiniteError, first_bad_layer
from mambalab.train.norms import StepNorms
from mambalab.train.optim import build_optimizer, learning_rate, step_unless
from mambalab.train.pace import Pace
from mambalab.train.profiling import StepProfiler
from mambalab.train.progress import Progress, StoppedError, watching
from mambalab.train.protocols import MetricRecorder, TrainableTask
from mambalab.train.ranks import shared
from mambalab.train.scaling import MAX_SKIPPED_IN_A_ROW, LossScaler
from mambalab.train.state import BeforeStep, TrainState
from mambalab.train.together import Together
from mambalab.utils import console


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
        state: what a checkpoint holds besides the weights, the average and the scaler.
        average: of the weights, with `trainer.ema`: what is evaluated, and kept as the best.
        scaler: of the loss, in fp16.
        keeper: writes and reads the checkpoints.
        pace: how far the run is.
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
        self.guard = FiniteGuard(device)
        self.state = TrainState(build_optimizer(model, optim), device)
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.scaler = LossScaler(device) if precision is Precision.fp16 else None
        self.keeper = Keeper(
            run_dir,
            model,
            task,
            self.state,
            settings,
            recorder,
            together=self.together,
            average=self.average,
            parts={"scaler": self.scaler},
            run=run,
            facts={"precision": precision.value, **(facts or {})},
        )
        traced = settings.profile if self.ranks.is_first else False
        self.profiler = StepProfiler(RunFolder(run_dir).profile, traced, device)
        self.pace = Pace(settings, self.state, self.ranks, task)
        self.last_step_seconds = 0.0

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
        rate = learning_rate(self.optim, state.step, self.pace.progress())
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
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                total += loss.detach()
        except StoppedError:
            assert before is not None, "nothing else is given up"
            before.restore()
            raise
        logs = (state.step + 1) % self.settings.log_every == 0
        if self.scaler is not None:
            self.scaler.unscale(state.optimizer)
        norms = StepNorms(self.model) if logs and self.settings.norms else None
        limit = self.optim.grad_clip if self.optim.grad_clip is not None else float("inf")
        norm = self.together.clip(limit)
        total = self.ranks.mean(total)
        self._step_optimizer(total, norm)
        state.loss_sum += total
        state.loss_count += 1
        state.step += 1
        state.position += parts
        if self.average is not None:
            self.average.update(state.step)
        if logs:
            self._log(rate, norm, norms.after_step() if norms is not None else {})

    def _step_optimizer(self, loss: Tensor, norm: Tensor) -> None:
        """Let the optimiser step, unless loss or gradient norm are not finite."""
        optimizer = self.state.optimizer
        if self.scaler is None:
            bad = self.guard.watch(self.state.step, loss, norm)
            if self.device.type == "cpu" and bool(bad):
                self._refuse_bad_step()
        else:  # of fp16 alone it is expected now and then
            bad = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
            self.scaler.update(bad)
        step_unless(bad, optimizer)
        optimizer.zero_grad(set_to_none=True)

    def _listens(self) -> bool:
        """Whether a stop is heard within a batch: it may be long, as the step before it was."""
        first = self.state.clock.steps == 0
        able = not self.settings.compile and self.ranks.size == 1  # all end the same step
        return able and (first or self.last_step_seconds >= LONG_SECONDS)

    def _log(self, rate: float, norm: Tensor, norms: dict[str, float]) -> None:
        """Record the mean training loss since the last point; waits for the device.

        Args:
            rate: learning rate of the step that was done.
            norm: of its gradient, before clipping.
            norms: of its layers, if they are asked for.
        """
        state = self.state
        self._refuse_bad_step()
        state.latest_loss = float(state.loss_sum) / state.loss_count
        state.loss_sum.zero_()
        state.loss_count = 0
        values = {"train/loss": state.latest_loss, "train/lr": rate, "train/grad_norm": float(norm)}
        values |= norms
        if self.scaler is not None:
            values |= self.scaler.values(state.step)
        values["time/seconds"] = state.clock.elapsed()
        if state.clock.timed_steps:
            values["time/tokens_per_second"] = self.pace.tokens_per_second()
        self.recorder.metrics(state.step, values)

    def _refuse_bad_step(self) -> None:
        """Raise if any step so far was not finite; nothing of it is in the weights."""
        step = self.guard.first_bad_step()
        what = "loss or gradients became NaN or infinite"
        if self.scaler is not None and self.scaler.is_lost():
            step = self.state.step - 1
            what = f"{MAX_SKIPPED_IN_A_ROW} steps in a row overflowed in fp16, at any loss scale,"
        if step is None:
            return
        position = step * self.settings.grad_accum
        with self.together.whole():
            self.model.train()
            where = first_bad_layer(self.model, lambda: self._whole_loss(position))
        last = checkpoint.find(self.run_dir, "last")
        kept = f"the checkpoint of step {last.step} is kept; " if last else ""
        raise NonFiniteError(
            f"{what} at step {step + 1}, {where}; {kept}"
            f"try a smaller optim.lr, optim.grad_clip=1 or precision=fp32"
        )

    # -- looking back -------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Measure the validation split, keep the weights if they are the best, call callbacks.

        All of it is done with the averaged weights, if there is an average.
        """
        with self.together.whole(), self.keeper.judged_weights():
            self._judge()

    def _judge(self) -> None:
        state = self.state
        metrics = check_metrics(self._measure(), self.task.metric)
        self.recorder.flush()  # the folder is still there: nothing is written beside it
        self.model.train()
        before = state.ranking()
        state.last = metrics
        state.evaluated_step = state.step
        if state.best is None or self._ranking_key(metrics) > self._ranking_key(state.best.metrics):
            state.best = Evaluation(state.step, metrics)
            state.evaluations_since_best = 0
            self.keeper.save_best(metrics)
        elif state.step > state.best.step:
            state.evaluations_since_best += 1
        self.recorder.metrics(state.step, metrics)
        if state.step:  # what weights are worth before it is said by whoever brings them
            told = (self.task, state, self.settings, self.pace.tokens_per_second())
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
        speed = lines.speed(task, self.pace.tokens_per_second())
        measured = lines.validation(task, state)
        display.update(self.pace.progress(), state.step, state.latest_loss, measured, speed)

    def save(self) -> None:
        """Write everything needed to go on exactly from here."""
        self._refuse_bad_step()
        self.keeper.save_last()

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was written, before `run`; raises as `Keeper.restore`."""
        self.keeper.restore(source)

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train until a limit, a signal, or an error; leaves a checkpoint in the first two cases.

        Raises:
            NonFiniteError: the numbers broke; earlier checkpoints stay.
        """
        self.model.train()
        self._begin_together()
        display = Progress(self.pace.progress())
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
            self.profiler.close()
            display.close()
        result = Result(
            status,
            ended_by,
            reason,
            step=self.state.step,
            best=self.state.best,
            last=self.state.last,
            tokens_per_second=self.pace.tokens_per_second(),
            seconds=self.state.clock.elapsed(),
            peak_memory_bytes=runtime.peak_memory_bytes(self.device),
        )
        with self.together.whole():
            for callback in self.callbacks:
                callback.on_end(result)
        return result

    def _begin_together(self) -> None:
        """Give the other processes what `restore` gave this one."""
        self.keeper.begin_together()
        self.together.begin(self.state, lambda model: build_optimizer(model, self.optim))

    def _run(self, display: Progress) -> tuple[EndedBy, str]:
        """What ended the run, and how to say it; raises StoppedError when a signal did."""
        state, settings = self.state, self.settings
        due = self.evaluate_first if state.step == 0 else state.step % settings.eval_every == 0
        if due and state.evaluated_step != state.step:  # new, or stopped in the midst of it
            self._evaluate()
            self.save()
        self.keeper.make_up()
        display.wait_for_step()
        while True:
            signal_name = self.pace.agree(self.stop_requested())
            if (end := self.pace.reached_limit()) is not None:
                break
            if signal_name is not None:
                raise StoppedError(signal_name)
            self.profiler.before_step()
            started = time.monotonic()
            self._train_step()
            self.last_step_seconds = time.monotonic() - started
            state.clock.step_took(self.last_step_seconds, timed=not self.profiler.active)
            self.profiler.after_step(state.step)
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

"""What a run says of itself before it trains: model, device, data, and what may surprise."""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from mambalab import config
from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs import build
from mambalab.settings.train import OptimSettings
from mambalab.tasks.base import Task
from mambalab.train import limits
from mambalab.train.loop import Trainer
from mambalab.train.optim import learning_rate


def first_lines(
    settings: config.TrainConfig, task: Task, model: nn.Module, summary: RunSummary, folder: Path
) -> Iterator[str]:
    """Describe the run.

    Args:
        settings: of the run.
        task: prepared.
        model: of the run.
        summary: says what it computes with.
        folder: of the run.
    """
    yield build.counts_line(settings, task.spec, model)
    budget = limits.describe(settings.trainer, task.batches_per_epoch)
    yield f"data: {task.describe_data()}; {budget}"
    yield device_line(summary)
    if summary.ema is not None:
        yield (
            f"weights: validation, test, samples and the best checkpoint are those of a moving "
            f"average (trainer.ema={summary.ema:g})"
        )
    for name, why in (summary.passed_over or {}).items():
        yield f"slower than it could be: the {name} kernels are not used: {why}"
    yield f"run: {folder}"


def device_line(summary: RunSummary) -> str:
    """Say on what a run computes: `device: 2 processes (ddp), each on AMD EPYC, 1 thread, bf16`."""
    scan = f", scan {summary.backend}" if summary.backend is not None else ""
    many = summary.processes and f"{summary.processes} processes ({summary.strategy}), each on "
    return f"device: {many or ''}{summary.device}, {summary.precision}{scan}"


def surprises(optim: OptimSettings, trainer: Trainer, earlier: RunSummary) -> Iterator[str]:
    """Describe what the learning rate does that nobody may expect.

    Args:
        optim: of the run.
        trainer: where it begins or goes on.
        earlier: as the last session left it.
    """
    last, step = trainer.pace.max_steps, trainer.state.step
    if last is not None and optim.warmup_steps >= last:
        yield (
            f"optim.warmup_steps={optim.warmup_steps}: the warm-up takes all {last:,} steps of "
            f"this run, the learning rate rises to its end; give more steps or a shorter warm-up"
        )
    if rises_again(optim, trainer, earlier):
        ended, now = _rates(optim, trainer)
        yield (
            f"the run was finished: its learning rate had come down to {ended:.2g} by step "
            f"{step:,}, and goes on at {now:.2g}, that of a longer run; the weights are not those "
            "of one that was so long from its beginning"
        )


def rises_again(optim: OptimSettings, trainer: Trainer, earlier: RunSummary) -> bool:
    """Whether the run was finished, and its learning rate rises for more steps.

    Args:
        optim, trainer, earlier: as of `surprises`.
    """
    if earlier.status is not Status.FINISHED or earlier.ended_by is EndedBy.patience:
        return False  # with more patience the rate goes on where it was
    ended, now = _rates(optim, trainer)
    return now > ended * 1.01


def _rates(optim: OptimSettings, trainer: Trainer) -> tuple[float, float]:
    """The learning rate of this step if it were the last one, and as it is."""
    step = trainer.state.step
    return learning_rate(optim, step, 1.0), learning_rate(optim, step, trainer.pace.progress())

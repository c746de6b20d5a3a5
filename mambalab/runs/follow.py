"""The side of the processes that help rank 0 to train: same task, same model, nothing written."""

import contextlib
import os
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.runs import build, user_code
from mambalab.runs.callbacks import test_together
from mambalab.runs.resolve import ResolvedRun
from mambalab.tasks.base import Task
from mambalab.train import runtime, signals
from mambalab.train.callbacks import Callback, Result
from mambalab.train.loop import Trainer
from mambalab.train.progress import StoppedError
from mambalab.train.ranks import Ranks, ending_together
from mambalab.train.together import together


class SilentRecorder:
    """Keeps no record: that is rank 0's."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record nothing."""

    def flush(self) -> None:
        """Have nothing to wait for."""


class HelpWithTest(Callback):
    """Measures this process's share of the final test, which rank 0 records.

    Args:
        model: holds the tested weights afterwards.
        task: measures.
        ranks: the processes.
        resolved: where and how to compute.
        stop_requested: returns the name of a signal once the user asked the run to stop.
    """

    def __init__(
        self, model: nn.Module, task: Any, ranks: Ranks, resolved: ResolvedRun, stop_requested: Any
    ) -> None:
        self.model = model
        self.task: Task = task
        self.ranks = ranks
        self.resolved = resolved
        self.stop_requested = stop_requested

    def on_end(self, result: Result) -> None:
        """Take the weights of rank 0, if it tests any, and measure."""
        if result.status is not Status.FINISHED or "test" not in self.task.splits:
            return
        weights = self.ranks.tell()
        if weights is None:
            return
        self.model.load_state_dict(weights)
        try:
            test_together(self.model, self.task, self.ranks, self.resolved, self.stop_requested)
        except StoppedError as stopped:
            result.status, result.ended_by = Status.KILLED, EndedBy(stopped.signal)


def run(resolved: ResolvedRun, ranks: Ranks, device: torch.device) -> RunSummary:
    """Train along with rank 0 until it ends.

    Args:
        resolved: as rank 0 resolved it.
        ranks: the processes.
        device: of this one.

    Returns:
        How it ended; nothing is written.
    """
    settings = resolved.settings
    resolved = replace(resolved, device=device)
    start = resolved.initial_weights
    task: Any = build.build_task(settings, vocabulary=start.tokenizer, ends=start.ends)
    user_code.prepare(task, device)
    runtime.seed_everything(settings.seed)
    model = build.build_model(settings, task.spec).to(device)
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(nowhere))  # rank 0 has the progress bar
        stop = stack.enter_context(signals.StopSignals())
        trainer = Trainer(
            model,
            task,
            optim=settings.optim,
            settings=settings.trainer,
            run_dir=resolved.folder.path,
            recorder=SilentRecorder(),
            device=device,
            precision=resolved.precision,
            stop_requested=stop.requested,
            callbacks=[HelpWithTest(model, task, ranks, resolved, stop.requested)],
            evaluate_first=settings.model.pretrained is not None,
            together=together(model, settings.trainer, ranks, settings.seed),
        )
        own = user_code.one_line_errors(task=type(task), model=type(model))
        with own, ending_together(ranks, stop.requested):
            result = trainer.run()
    return RunSummary(status=result.status, ended_by=result.ended_by, reason=result.reason)

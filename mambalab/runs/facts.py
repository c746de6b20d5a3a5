"""Collects what a run's summary says of code, machine and model, before it is trained."""

import uuid

import torch
from torch import nn

from mambalab.models.heads import count_parameters
from mambalab.ops import backend as scan_backend
from mambalab.records.summary import RunSummary
from mambalab.runs import build
from mambalab.runs.resolve import ResolvedRun
from mambalab.settings.train import Strategy
from mambalab.tasks.base import Task
from mambalab.train import runtime
from mambalab.train.ranks import ALONE, Ranks
from mambalab.utils import command


def of_data(task: Task) -> dict[str, str]:
    """Collect what identifies the data of a prepared task, and a line that describes them."""
    found = dict(task.fingerprint())
    if found:
        found.setdefault("description", task.describe_data())
    return found


def of_run(resolved: ResolvedRun, model: nn.Module, ranks: Ranks = ALONE) -> RunSummary:
    """Collect the facts of a session that is about to train `model`."""
    settings, device = resolved.settings, resolved.device
    dtype = runtime.DTYPES.get(resolved.precision, torch.float32)
    facts = RunSummary(
        task=settings.task.name,
        model=settings.model.name,
        dropout=settings.dropout.name,
        seed=settings.seed,
        parameters=count_parameters(model),
        device=runtime.device_name(device),
        threads=torch.get_num_threads(),
        processes=ranks.size if ranks.size > 1 else None,
        strategy=(settings.trainer.strategy or Strategy.ddp).value if ranks.size > 1 else None,
        load=runtime.load_average(),
        precision=resolved.precision.value,
        command=command.current(),
        git_revision=runtime.git_revision(),
        packages=runtime.package_versions(),
        checkpoint=resolved.initial_weights.checkpoint,
        ema=settings.trainer.ema,
        uid=resolved.summary.uid or uuid.uuid4().hex,
        other=dict(resolved.summary.other),
        nulls={"command", "git_revision"},
    )
    ours = build.is_ours(settings.model._target_)
    if ours and "M" in settings.model.layers():
        requested, d_state = settings.model.scan_backend.value, settings.model.d_state
        choice = scan_backend.choose(requested, device, dtype, d_state)
        facts.backend = choice.backend
        facts.passed_over = choice.passed_over
    if ours and device.type == "cpu" and (why := scan_backend.obstacle("cpu", device, dtype)):
        # The norms of every model use these kernels.
        facts.passed_over = {**(facts.passed_over or {}), "cpu": why}
    return facts

"""Finds the checkpoint that a person names, and reads the weights that its run was judged by."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambalab.errors import UserError
from mambalab.train import checkpoint
from mambalab.train.checkpoint import Checkpoint, DamagedError

BEST = "best"
KINDS = ("best", "step", "last")  # in the order in which they are taken, if several are of a step
ATTEMPTS = 5  # at a checkpoint that a run in training replaces
SHOWN_STEPS = 12  # of those that are there, in an error


def choose(run_dir: Path, wanted: str = BEST) -> Checkpoint:
    """Find a checkpoint of a run.

    Args:
        run_dir: the run folder.
        wanted: `best` (the last one, if none was evaluated), `last`, or `step_N`: any kind that
            was written after N optimiser steps. `step-N` and `N` mean the same.

    Raises:
        UserError: there is none; names those that are there.
    """
    if wanted in ("best", "last"):
        found = checkpoint.find(run_dir, wanted)
        if found is None and wanted == "best":
            found = checkpoint.find(run_dir, "last")
        if found is not None:
            return found
    there = [one for kind in KINDS for one in checkpoint.find_all(run_dir, kind)]
    if not there:
        raise UserError(f"{run_dir} holds no checkpoint yet: train it first")
    if wanted not in ("best", "last"):
        step = int(re.sub(r"\D", "", wanted))
        if (found := next((one for one in there if one.step == step), None)) is not None:
            return found
    raise UserError(
        f"checkpoint={wanted}: not among those of {run_dir}, {_listed(there)} "
        "(trainer.keep=all keeps one of every trainer.checkpoint_every steps)"
    )


def _listed(there: list[Checkpoint]) -> str:
    """The names under which checkpoints can be asked for."""
    steps = sorted({one.step for one in there})
    names = [f"{kind} (step {found.step})" for kind in ("best", "last")
             if (found := next((one for one in there if one.kind == kind), None))]  # fmt: skip
    shown = [f"step_{step}" for step in steps[-SHOWN_STEPS:]]
    if len(steps) > SHOWN_STEPS:
        shown.insert(0, f"{len(steps) - SHOWN_STEPS} earlier ones")
    return ", ".join([*names, *shown])


def read(
    run_dir: Path, wanted: str, device: torch.device
) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Any]]:
    """Find a checkpoint and read it, another one if the run that trains replaces it meanwhile.

    Raises:
        UserError: as `choose` and `load_judged`.
    """
    for _ in range(ATTEMPTS - 1):
        source = choose(run_dir, wanted)
        try:
            return source, *load_judged(source, device)
        except DamagedError:
            if source.path.exists():
                raise
    source = choose(run_dir, wanted)
    return source, *load_judged(source, device)


def load_judged(
    source: Checkpoint, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights that validation judged, and the facts of a checkpoint.

    With `trainer.ema` these are the averaged ones. Kinds other than `last`, from which training
    goes on, hold nothing else.

    Raises:
        UserError: as `checkpoint.load`.
    """
    weights, facts, trainer = checkpoint.load(source, device)
    for name, average in trainer.get("average", {}).items():
        weights[name] = average.to(device)
    return weights, facts

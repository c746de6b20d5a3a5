"""Decides what to do with the folder of a run: begin, go on from a checkpoint, or leave it alone.

Also checks, before anything is built, that the run belongs to this configuration and that no other
process works on it. No torch here: a sweep asks this of every job.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab import config
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy, RunSummary, Status
from mambalab.settings.train import Resume
from mambalab.utils import reading
from mambalab.utils.files import is_damaged_json, is_partial

if TYPE_CHECKING:
    from mambalab.train import checkpoint


def check(settings: config.TrainConfig, run_dir: Path, setting: str = "run_dir") -> None:
    """Raise UserError if the folder holds something that this configuration cannot go on with.

    Args:
        settings: the configuration.
        run_dir: the folder.
        setting: by which a person chooses another folder, for the message.
    """
    if settings.resume is Resume.never:
        return
    folder = RunFolder(run_dir)
    if not folder.is_begun():
        if settings.resume is Resume.must:
            raise UserError(f"resume=must: there is no run in {run_dir}")
        if not run_dir.is_dir() or not any(run_dir.iterdir()):
            return
        if not _died_before_training(folder):
            raise UserError(f"{run_dir} is not empty and holds no run: choose another {setting}")
        folder.check_free()
        if not folder.config.exists():
            return
    if changed := config.differences(read_recorded_config(settings, run_dir), settings):
        raise UserError(
            f"the run in {run_dir} was made with other settings ({'; '.join(changed)}): "
            f"choose another {setting}, or resume=never to start again"
        )


def _died_before_training(folder: RunFolder) -> bool:
    """Whether a run was killed here before it had trained anything: it may begin anew."""
    if folder.checkpoints.exists():
        return False
    if folder.metrics.exists() and folder.metrics.stat().st_size:
        return False
    names = {path.name for path in folder.path.iterdir()}
    if run_folder.CONFIG in names:
        return True
    early = {run_folder.LOCK, run_folder.METRICS, *run_folder.NOTES, run_folder.LOG}
    early |= {run_folder.WANDB_FILES, run_folder.EVENTS}
    begun = {*run_folder.NOTES, run_folder.CONFIG}
    names = {name for name in names if not any(is_partial(name, one) for one in begun)}
    return run_folder.LOCK in names and names <= early


def read_recorded_config(settings: config.TrainConfig, run_dir: Path) -> config.TrainConfig:
    """Read the configuration of the run in a folder; raises UserError if that fails."""
    trust = [*_user_modules(settings), *settings.trust]
    path = run_dir / run_folder.CONFIG
    lead_out = "or start again with resume=never (the run is set aside)"
    if not os.path.lexists(path):
        raise UserError(f"{run_dir} has no {run_folder.CONFIG}: bring the file back, {lead_out}")
    try:
        return config.typed(config.load_run_config(run_dir, trust))
    except reading.CannotReadError:
        raise
    except UserError as error:
        raise UserError(f"{error}, {lead_out}") from error


def _user_modules(settings: config.TrainConfig) -> list[str]:
    """Modules outside mambalab that the command line or ./conf names: naming them is trust."""
    names = (settings.task._target_, settings.model._target_)
    return [n.rpartition(".")[0] for n in names if "." in n and not n.startswith("mambalab.")]


def finished(settings: config.TrainConfig, run_dir: Path) -> str | None:
    """Describe what ended the finished run in a folder; None if it is not finished.

    None also under resume=never: the folder is not read then.
    """
    if settings.resume is Resume.never:
        return None
    folder = RunFolder(run_dir)
    if is_damaged_json(folder.summary_file):
        return None  # the run itself mends it
    return end_of(settings, folder.summary())


def end_of(settings: config.TrainConfig, summary: RunSummary) -> str | None:
    """Describe what ended a finished run and how it could go on; None if it is not finished."""
    if summary.status is not Status.FINISHED:
        return None
    limits = settings.trainer
    if summary.ended_by is EndedBy.patience:
        return (
            f"no improvement in trainer.patience={limits.patience} evaluations; another "
            f"trainer.patience=... or seed=... makes another run"
        )
    reached = []
    if limits.max_steps is not None and (summary.step or 0) >= limits.max_steps:
        reached.append(f"trainer.max_steps={limits.max_steps}")
    if limits.max_epochs is not None and (summary.epochs or 0.0) >= limits.max_epochs * (1 - 1e-9):
        reached.append(f"trainer.max_epochs={limits.max_epochs:g}")
    if limits.max_minutes is not None and (summary.seconds or 0.0) >= 60 * limits.max_minutes:
        reached.append(f"trainer.max_minutes={limits.max_minutes:g}")
    if not reached:
        return None
    return f"{' and '.join(reached)} reached; give more to go on, or seed=... for another run"


def resume_checkpoint(
    settings: config.TrainConfig, folder: RunFolder
) -> "checkpoint.Checkpoint | None":
    """Find the checkpoint to go on from, once it is sure that nobody else replaces it meanwhile.

    Raises:
        UserError: another process holds the folder, or resume=must finds no checkpoint.
    """
    from mambalab.train import checkpoint  # torch: a sweep asks `finished` without it

    if not folder.is_begun():
        return None
    folder.check_free()
    if settings.resume is Resume.never:
        return None
    found = checkpoint.find(folder.path, "last")
    if found is None and settings.resume is Resume.must:
        raise UserError(f"resume=must: the run in {folder} has no checkpoint yet")
    return found

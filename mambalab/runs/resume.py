"""What `mambalab train` finds in the folder of its run: nothing, a run to go on with, a whole one.

Also checks, before anything is built, that the run belongs to this configuration and that no other
process works on it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mambalab import config
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.settings.train import Resume
from mambalab.utils.files import read_json

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
    if not (run_dir / run_folder.SUMMARY).exists():
        if settings.resume is Resume.must:
            raise UserError(f"resume=must: there is no run in {run_dir}")
        if not run_dir.is_dir() or not any(run_dir.iterdir()):
            return
        if not _half_born(run_dir):
            raise UserError(f"{run_dir} is not empty and holds no run: choose another {setting}")
        check_free(run_dir)
        if not (run_dir / run_folder.CONFIG).exists():
            return
    if changed := config.differences(recorded(settings, run_dir), settings):
        raise UserError(
            f"the run in {run_dir} was made with other settings ({'; '.join(changed)}): "
            f"choose another {setting}, or resume=never to start again"
        )


def _half_born(run_dir: Path) -> bool:
    """Whether a run was killed here before it had trained anything: it may begin anew."""
    metrics = run_dir / run_folder.METRICS
    if (run_dir / "checkpoints").exists() or (metrics.exists() and metrics.stat().st_size):
        return False
    names = {path.name for path in run_dir.iterdir()}
    if run_folder.CONFIG in names:
        return True
    # Unfinished files have the finished one's name between a dot and a number.
    names = {n for n in names if not n.startswith(f".{run_folder.CONFIG}.")}
    early = {run_folder.LOCK, run_folder.METRICS, run_folder.MLFLOW, run_folder.LOG}
    return run_folder.LOCK in names and names <= early


def recorded(settings: config.TrainConfig, run_dir: Path) -> config.TrainConfig:
    """The configuration of the run in a folder; raises UserError if it cannot be read."""
    trust = [*_own_modules(settings), *settings.trust]
    return config.typed(config.load_run_config(run_dir, trust))


def _own_modules(settings: config.TrainConfig) -> list[str]:
    """The user's own modules, named on the command line or in ./conf, are trusted by naming."""
    names = (settings.task._target_, settings.model._target_)
    return [n.rpartition(".")[0] for n in names if "." in n and not n.startswith("mambalab.")]


def finished(settings: config.TrainConfig, run_dir: Path) -> str | None:
    """What ended a finished run and how it could go on, for people; None if it is not finished."""
    if settings.resume is Resume.never:
        return None
    summary = read_json(run_dir / run_folder.SUMMARY)
    if summary.get("status") != "FINISHED":
        return None
    limits = settings.trainer
    if summary["ended_by"] == "patience":
        return (
            f"no improvement in trainer.patience={limits.patience} evaluations; another "
            f"trainer.patience=... or seed=... makes another run"
        )
    reached = []
    if limits.max_steps is not None and summary["step"] >= limits.max_steps:
        reached.append(f"trainer.max_steps={limits.max_steps}")
    if limits.max_minutes is not None and summary["seconds"] >= 60 * limits.max_minutes:
        reached.append(f"trainer.max_minutes={limits.max_minutes:g}")
    if not reached:
        return None
    return f"{' and '.join(reached)} reached; give more to go on, or seed=... for another run"


def source(settings: config.TrainConfig, run_dir: Path) -> "checkpoint.Checkpoint | None":
    """The checkpoint to go on from, once it is sure that nobody else replaces it meanwhile.

    Raises:
        UserError: another process has hold of the folder, or resume=must finds no checkpoint.
    """
    from mambalab.train import checkpoint  # torch: a sweep asks `finished` without it

    if not (run_dir / run_folder.SUMMARY).exists():
        return None
    check_free(run_dir)
    if settings.resume is Resume.never:
        return None
    found = checkpoint.find(run_dir, "last")
    if found is None and settings.resume is Resume.must:
        raise UserError(f"resume=must: the run in {run_dir} has no checkpoint yet")
    return found


def check_free(run_dir: Path) -> None:
    """Raise UserError if another process records or sends the run."""
    with run_folder.hold(run_dir):
        pass

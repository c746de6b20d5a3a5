"""`mambalab remove RUN...`: remove runs or sweeps, folder and MLflow run, after a question."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import removal
from mambalab.records.reader import read_run, resolve_run
from mambalab.records.run_folder import SWEEP, WANDB
from mambalab.settings.rules import FOLDER, option
from mambalab.sweep.folder import SweepFolder
from mambalab.utils import console
from mambalab.utils.files import read_json
from mambalab.utils.text import number, printable


@dataclass
class RemoveSettings:
    """`mambalab remove RUN...`."""

    runs: list[str] = option("folders of runs or sweeps, or latest (the newest run)", path=True)
    output_dir: str = option("folder of runs; nothing outside it is removed", **FOLDER)
    mlflow: bool = option("also move their MLflow runs to MLflow's trash")
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    yes: bool = option("do not ask")

    def check_ready(self) -> None:
        """Raise UserError if no run is named."""
        if not self.runs:
            raise UserError("remove: which run? e.g. mambalab remove outputs/text/mamba/RUN")


def run(cfg: RemoveSettings) -> int:
    """Check all, ask, then remove one after the other; returns 1 if the answer was no.

    Raises:
        UserError: one of them is no run, is in use, or must stay; what comes after it stays, too.
    """
    output_dir = Path(cfg.output_dir)
    folders = list(dict.fromkeys(_located(name, output_dir) for name in cfg.runs))
    folders = [path for path in folders if not any(p in folders for p in path.parents)]
    for folder in folders:
        with removal.held(folder):  # in use: said before the question
            pass
    recorded = None
    if cfg.mlflow:
        from mambalab.tracking import mlflow_store
        from mambalab.tracking.removal import MlflowRuns

        if line := mlflow_store.origin(cfg.uri):
            print(line, file=sys.stderr)
        recorded = MlflowRuns([p for f in folders for p in _all(f)], cfg.uri, output_dir)
    if not cfg.yes and not _agreed(folders, len(recorded or ())):
        console.result("nothing was removed")
        return 1
    for folder in folders:
        elsewhere = _elsewhere(folder)
        with removal.held(folder):
            sent = recorded.remove(_all(folder)) if recorded is not None else 0
            removal.remove(folder)
            _tell_sweep(folder)
        trash = f", and {_runs(sent, 'MLflow run')} moved to MLflow's trash" if sent else ""
        console.result(f"removed {folder}{trash}")
        for place in elsewhere:
            console.result(f"  {place} stays: remove it there")
    return 0


def _elsewhere(folder: Path) -> list[str]:
    """Where wandb's server shows the runs of a folder."""
    found = []
    for run in removal.runs_of(folder):
        with suppress(UserError):
            found.append(read_json(run / WANDB, run).get("uri"))
    return [str(place) for place in found if place]


def _located(name: str, output_dir: Path) -> Path:
    """Find the folder that a word means, and make sure that it may go."""
    path = Path(name).expanduser()
    if name == "latest":
        path = resolve_run(name, output_dir, trained=False)
    elif not path.exists() and not path.is_absolute() and (output_dir / path).exists():
        path = output_dir / path
    if not path.exists() and not path.is_symlink():
        raise UserError(f"{name}: no such folder; `mambalab runs` lists what there is")
    return removal.checked(path, output_dir)


def _all(folder: Path) -> list[Path]:
    """The folder and, of a sweep, those of its runs."""
    return list(dict.fromkeys([folder, *removal.runs_of(folder)]))


def _agreed(folders: Sequence[Path], recorded: int) -> bool:
    """Show what goes, and ask."""
    from mambalab.data.progress import human_bytes

    if not sys.stdin.isatty():
        raise UserError("remove asks before it removes: without a terminal add yes=true")
    total = 0
    for folder in folders:
        total += (size := removal.size(folder))
        print(f"  {printable(str(folder))}  {_about(folder)}{human_bytes(size)}")
    mlflow = f", and {_runs(recorded, 'MLflow run')}" if recorded else ""
    runs = _runs(sum(len(removal.runs_of(folder)) for folder in folders), "run")
    print(f"remove {runs}, {human_bytes(total)}{mlflow}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _about(folder: Path) -> str:
    """What is lost with a folder, in a few words."""
    if (folder / SWEEP).is_file():
        return f"a sweep of {_runs(len(removal.runs_of(folder)), 'run')}, "
    with suppress(UserError, OSError):
        record = read_run(folder)
        if (best := record.best) is not None:
            return f"{record.status}, {best.metric} {number(best.value)} @ {best.step:,}, "
    return ""


def _runs(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _tell_sweep(folder: Path) -> None:
    """Take a run out of the list of its sweep, whose lock is held."""
    if not (folder.parent / SWEEP).is_file():
        return
    sweep = SweepFolder.read(folder.parent)
    if sweep.jobs.pop(folder.name, None) is not None:
        file = folder.parent / SWEEP
        before = file.stat()
        sweep.write()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # when the sweep ended

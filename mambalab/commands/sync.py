"""`mambalab sync RUN...`: send run folders to MLflow; what is there already is not sent again.

With `to=wandb` or `to=tensorboard` to these.

The folder of a sweep stands for the sweep's own MLflow run and the runs in it, which hang below
that, also those that were sent before.
"""

import shlex
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import find_runs, resolve_run
from mambalab.settings.rules import FOLDER, option
from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.sweep.mlflow_parent import send_sweep
from mambalab.tracking import mlflow_store
from mambalab.tracking.note import Note
from mambalab.tracking.recorder import check
from mambalab.tracking.store_failure import SilentStoreError
from mambalab.tracking.sync import send_run, send_to
from mambalab.utils import console
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import printable


class Target(Enum):
    """Tracker to which runs are sent."""

    mlflow = "mlflow"
    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass
class SyncSettings:
    """`mambalab sync RUN...`."""

    runs: list[str] = option("run folders, or latest (with its sweep)", path=True)
    output_dir: str = option("folder of the MLflow store; run=latest looks there", **FOLDER)
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    to: Target = option("tracker that gets them")

    def check_ready(self) -> None:
        """Raise UserError if no run is named."""
        if not self.runs:
            raise UserError("sync: which run? e.g. mambalab sync latest, or paths of run folders")


def run(cfg: SyncSettings) -> int:
    """Send each run; the others go on if one fails. Returns 1 if any failed, else 0."""
    output_dir = Path(cfg.output_dir)
    if cfg.to in (Target.wandb, Target.tensorboard):
        return _send_to(cfg, output_dir)
    uri = mlflow_store.store_uri(cfg.uri, output_dir)
    mlflow_store.check(uri)
    if line := mlflow_store.origin(cfg.uri):
        print(line, file=sys.stderr)
    shown = hide_password(uri)
    failed = 0
    names = [path for name in cfg.runs for path in _unfolded(name, output_dir)]
    for position, name in enumerate(names):
        try:
            path = name if isinstance(name, Path) else resolve_run(name, output_dir, trained=False)
            hint = _other_store(path, shown)
            sent = (send_sweep if _is_sweep(path) else send_run)(path, uri, output_dir)
        except SilentStoreError as error:
            print(printable(str(error)), file=sys.stderr)
            if others := len(names) - position - 1:
                print(f"{others} more not tried", file=sys.stderr)
            return 1
        except UserError as error:
            failed += 1
            print(printable(str(error)), file=sys.stderr)
            continue
        if sent.conflicts:
            print(
                f"{path}: the store holds other values than metrics.jsonl for "
                f"{sent.conflicts} points; MLflow cannot correct them",
                file=sys.stderr,
            )
        console.result(
            f"{path}: {sent.new:,} points sent, {sent.points:,} there now "
            f"(experiment {sent.experiment}, run {sent.run_id}){hint}"
        )
    if failed < len(names):
        print(f"MLflow store: {shown}")
    return 1 if failed else 0


def _send_to(cfg: SyncSettings, output_dir: Path) -> int:
    """Send each run to wandb, or write its event files; a sweep is a group of its runs there."""
    settings = TrackingSettings(TrackingKind[cfg.to.name], cfg.uri, None)
    check(settings, output_dir=output_dir)
    failed = 0
    for name in [path for given in cfg.runs for path in _unfolded(given, output_dir)]:
        try:
            path = name if isinstance(name, Path) else resolve_run(name, output_dir, trained=False)
            if not _is_sweep(path):
                console.result(f"{path}: {send_to(path, settings, output_dir)}")
        except UserError as error:
            failed += 1
            print(printable(str(error)), file=sys.stderr)
    return 1 if failed else 0


def _unfolded(name: str, output_dir: Path) -> list[Path] | list[str]:
    """Return a sweep's folder and those of its runs, the sweep first; or the name as it is.

    A newest run that is of a sweep stands for the whole sweep.
    """
    if name == "latest":
        above = resolve_run(name, output_dir, trained=False).parent
        return _unfolded(str(above.absolute()), output_dir) if _is_sweep(above) else [name]
    path = Path(name).expanduser()
    if path.name == run_folder.SWEEP:
        path = path.parent
    for folder in (path, output_dir / path):
        if _is_sweep(folder):
            return [folder, *find_runs(folder)]
    return [name]


def _is_sweep(folder: Path) -> bool:
    return (folder / run_folder.SWEEP).is_file()


def _other_store(run_dir: Path, uri: str) -> str:
    """Return a remark if the run was recorded for another store; nothing is sent there unasked."""
    meant = Note.read(run_dir).uri
    if meant is None or meant == uri:
        return ""
    return (
        f"; its record names another store, too: add {shlex.quote(f'uri={meant}')} to send it there"
    )

"""Names of the files in a run folder, its lock, and the format of metrics.jsonl.

`RunFolder` gives the paths; summary.json is described in `records.summary`.

`metrics.jsonl` holds one JSON object a line: `{"step": 10, "train/loss": 3.1, "val/loss": 3.2}`.
Several lines may share a step, but no (key, step) pair appears twice. A value is a finite number,
or null for one that was not finite (NaN, inf): JSON has no word for those, and a file that only
some parsers can read would be worth less than the difference between them. A line counts once
its newline is there; what follows the last newline is a line cut short and is ignored.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mambalab.errors import UserError
from mambalab.records.summary import RunSummary
from mambalab.utils.files import free_name, obstacle
from mambalab.utils.locks import LOCK, InUseError, itself_locked, locked
from mambalab.utils.reading import check_no_link, open_regular

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
MLFLOW = "mlflow_run.json"
WANDB = "wandb_run.json"
TENSORBOARD = "tensorboard_run.json"
NOTES = (MLFLOW, WANDB, TENSORBOARD)  # what the folder knows of its run in each kind of tracker
WANDB_FILES = "wandb"  # folder of what wandb keeps on this machine
EVENTS = "tensorboard"  # folder of TensorBoard's event files
SPEC = "spec.json"
LOG = "train.log"
SWEEP = "sweep.json"  # in the folder above those of a sweep's runs

Row = tuple[int, dict[str, float | None]]

_CHECKPOINT = re.compile(r"(last|best|step)-([0-9]{8,})")
MAX_METRICS_BYTES = 500_000_000  # some ten million values

_NAME = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*")
_encode = json.JSONEncoder(allow_nan=False).encode  # made once: it is most of the cost of a line


def name_problem(name: str) -> str | None:
    """What is wrong with a metric's name (MLflow takes it as a path, too), or None."""
    if name == "step":
        return "the name is taken by the step itself"
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        return "use letters, digits, '_', '-', '.', ':', blanks, and '/' between parts"
    if len(name) > 250:
        return "it is longer than 250 characters"
    return None


def checkpoint_name(kind: str, step: int) -> str:
    """Name of a checkpoint's folder: `last-00001200`."""
    return f"{kind}-{step:08d}"


def checkpoint_of(name: str) -> tuple[str, int] | None:
    """Kind and step that a checkpoint's folder is named by; None for what is a person's own."""
    found = _CHECKPOINT.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def finite(value: Any) -> float | None:
    """Convert a number to what metrics.jsonl holds: a float, or None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def encode(step: int, values: Mapping[str, float | None]) -> bytes:
    """Write one line of metrics.jsonl, newline included; `values` went through `finite`."""
    return _encode({"step": step, **values}).encode() + b"\n"


def decode(line: bytes) -> Row:
    """Read step and values of one line; raises ValueError if it is not what `encode` writes."""
    try:
        data = json.loads(line, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("not an object")
    step = data.pop("step", None)
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError("no whole number as step")
    values: dict[str, float | None] = {}
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise ValueError(f"{key} is not a number")
        try:
            values[key] = None if value is None else finite(value)
        except OverflowError as error:  # a whole number of hundreds of digits
            raise ValueError(f"{key} is too large") from error
    return step, values


def read_rows(path: Path, start: int = 0) -> tuple[list[Row], int]:
    """Read the complete lines of a metrics.jsonl from byte `start` on.

    Args:
        path: the file; one that does not exist is empty.
        start: a line's first byte, as returned by an earlier call.

    Returns:
        The rows in file order, and the byte after the last complete line.

    Raises:
        UserError: if a line is damaged.
    """
    try:
        with open_regular(path, path.parent) as file:
            file.seek(start)
            data = file.read(MAX_METRICS_BYTES + 1)
    except FileNotFoundError:
        return [], start
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_METRICS_BYTES:
        raise UserError(f"{path}: more than {MAX_METRICS_BYTES:,} bytes are too many")
    rows: list[Row] = []
    position = start
    for line in data.split(b"\n")[:-1]:
        try:
            rows.append(decode(line))
        except ValueError as error:
            raise UserError(
                f"{path} is damaged at byte {position} ({error}): "
                f"mend or delete that line, or start the run again with resume=never"
            ) from error
        position += len(line) + 1
    return rows, position


@dataclass(frozen=True)
class RunFolder:
    """Paths of what a run folder holds; it need not exist yet.

    Attributes:
        path: the folder itself.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """Path of config.yaml: the run's resolved settings."""
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        """Path of metrics.jsonl: the run's curves, one JSON object a line."""
        return self.path / METRICS

    @property
    def summary_file(self) -> Path:
        """Path of summary.json, which `summary` reads."""
        return self.path / SUMMARY

    @property
    def spec(self) -> Path:
        """Path of spec.json: shapes of the task, to build the model without its data."""
        return self.path / SPEC

    @property
    def log(self) -> Path:
        """Path of train.log: messages of training, with the time of day."""
        return self.path / LOG

    @property
    def mlflow(self) -> Path:
        """Path of mlflow_run.json: which run of an MLflow store mirrors this one."""
        return self.path / MLFLOW

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; see `train.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of the texts written after each evaluation, `step-<step>.txt`."""
        return self.path / "samples"

    @property
    def tables(self) -> Path:
        """Folder of results that are more than a number, `<split>_<kind>.json`."""
        return self.path / "tables"

    @property
    def plots(self) -> Path:
        """Folder of the pictures."""
        return self.path / "plots"

    @property
    def profile(self) -> Path:
        """Folder of what torch's profiler saw: `trace.json`, `operators.txt`."""
        return self.path / "profile"

    @property
    def loss_plot(self) -> Path:
        """Picture of the loss curves."""
        return self.plots / "loss.png"

    def summary(self) -> RunSummary:
        """Read summary.json; its fields are None if there is none, UserError if it is damaged."""
        return RunSummary.read(self.summary_file)

    def is_begun(self) -> bool:
        """Whether a run was begun here: it has a summary, or settings and a checkpoint."""
        return self.summary_file.exists() or (self.config.is_file() and self.has_checkpoint())

    def has_checkpoint(self) -> bool:
        """Whether the folder holds weights."""
        try:
            found = list(self.checkpoints.iterdir())
        except OSError:
            return False
        return any(checkpoint_of(path.name) and path.is_dir() for path in found)

    def hold(self) -> AbstractContextManager[None]:
        """Lock the folder, as the function `hold`."""
        return hold(self.path)

    def check_own(self) -> None:
        """Raise UserError if a link leads elsewhere where this run's files are to be written."""
        for path in (self.checkpoints, self.samples, self.tables, self.plots, self.profile):
            check_no_link(path)

    def check_free(self) -> None:
        """Raise UserError if another process records or sends the run."""
        with self.hold():
            pass

    def check_writable(self) -> None:
        """Raise UserError if the folder could not be made or written; makes nothing."""
        if why := obstacle(self.path):
            raise UserError(
                f"cannot make the run folder {self.path}: {why}; "
                f"choose another place with output_dir=FOLDER"
            )

    def make(self) -> None:
        """Make the folder with its parents; raises UserError if that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {self.path}: {error.strerror}") from error

    def set_aside(self) -> Self:
        """Rename the run out of the way; returns where it is now.

        Raises:
            UserError: another process still works in it.
        """
        aside = free_name(self.path)
        with self.hold():
            self.path.rename(aside)
        return type(self)(aside)


@contextmanager
def hold(run_dir: Path, doing: str = "recording or sending this run") -> Iterator[None]:
    """Be the only one who records or sends this run, until the context or the process ends.

    It holds on when somebody deletes the lock file. On a file system without locks the guard is
    absent, which is said once.

    Args:
        run_dir: the folder.
        doing: completes "another process is ...".

    Raises:
        UserError: if another living process holds the folder, or it cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(run_dir / LOCK, wait=False))
            held.enter_context(itself_locked(run_dir))
        except InUseError:
            raise UserError(
                f"{run_dir} is in use: another process is {doing}; wait until it ends, or stop it"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to the folder {run_dir}: {error.strerror}") from error
        yield

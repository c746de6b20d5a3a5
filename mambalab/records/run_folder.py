"""What a run folder is: the names of its files, who may write to it, the format of metrics.jsonl.

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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.utils.locks import LOCK, InUseError, locked

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
MLFLOW = "mlflow_run.json"
LOG = "train.log"
SWEEP = "sweep.json"  # in the folder above those of a sweep's runs

Row = tuple[int, dict[str, float | None]]

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


def finite(value: Any) -> float | None:
    """A number as it stands in metrics.jsonl: a float, or None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def encode(step: int, values: Mapping[str, float | None]) -> bytes:
    """One line of metrics.jsonl, newline included; `values` went through `finite`."""
    return _encode({"step": step, **values}).encode() + b"\n"


def decode(line: bytes) -> Row:
    """Step and values of one line; raises ValueError if it is not what `encode` writes."""
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
        values[key] = None if value is None else finite(value)
    return step, values


def read_rows(path: Path, start: int = 0) -> tuple[list[Row], int]:
    """The complete lines of a metrics.jsonl from byte `start` on.

    Args:
        path: the file; one that does not exist is empty.
        start: a line's first byte, as returned by an earlier call.

    Returns:
        The rows in file order, and the byte after the last complete line.

    Raises:
        UserError: if a line is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], start
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


@contextmanager
def hold(run_dir: Path, doing: str = "recording or sending this run") -> Iterator[None]:
    """Be the only one who records or sends this run, until the context or the process ends.

    On a file system without locks the guard is absent, which is said once.

    Args:
        run_dir: the folder.
        doing: completes "another process is ...".

    Raises:
        UserError: if another living process holds the folder, or it cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(run_dir / LOCK, wait=False))
        except InUseError:
            raise UserError(
                f"{run_dir} is in use: another process is {doing}; wait until it ends, or stop it"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to the folder {run_dir}: {error.strerror}") from error
        yield

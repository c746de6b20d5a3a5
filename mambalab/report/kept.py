"""What else a run folder keeps: texts that the model wrote, tables, the place of its MLflow run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mambalab.errors import UserError
from mambalab.records.reader import RunRecord
from mambalab.records.run_folder import MLFLOW, RunFolder
from mambalab.utils.files import read_json
from mambalab.utils.reading import read_bytes
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import harmless, printable

MAX_SAMPLE_CHARS = 1500  # of a text that is shown
MAX_SHEET_BYTES = 5_000_000  # of a sheet of pictures that is shown
_PNG = b"\x89PNG\r\n\x1a\n"
MAX_CLASSES = 1000  # of a confusion table
UI = "http://127.0.0.1:5000"  # where `mambalab ui` shows a store of this machine


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote after so many steps."""

    step: int
    text: str


def samples(record: RunRecord, most: int) -> tuple[list[Sample], int]:
    """Read texts that a run wrote while it trained, evenly spread, the first and the last included.

    Args:
        record: the run.
        most: texts to read.

    Returns:
        The texts, by step, and how many there are in all. One that cannot be read is left out.
    """
    found = {}
    for path in _files(RunFolder(record.path).samples, "*.txt"):
        if name := re.fullmatch(r"step-(\d{1,12})", path.stem):
            found[int(name[1])] = path
    steps = sorted(found)
    taken = []
    for step in _spread(steps, most):
        try:
            text = read_bytes(found[step], record.path).decode("utf-8", "replace")
        except (UserError, OSError):
            continue
        text = harmless(text).strip("\n")
        cut = "\n[...]" if len(text) > MAX_SAMPLE_CHARS else ""
        taken.append(Sample(step, text[:MAX_SAMPLE_CHARS] + cut))
    return taken, len(steps)


def sheet(record: RunRecord) -> tuple[int, bytes] | None:
    """Read the last sheet of pictures that a run wrote while it trained: its step, and PNG.

    None if there is none, or it is no picture of a moderate size.
    """
    found = {}
    for path in _files(RunFolder(record.path).samples, "step-*.png"):
        if name := re.fullmatch(r"step-(\d{1,12})", path.stem):
            found[int(name[1])] = path
    for step in sorted(found, reverse=True)[:1]:
        try:
            data = read_bytes(found[step], record.path)
        except (UserError, OSError):
            return None
        if data.startswith(_PNG) and len(data) <= MAX_SHEET_BYTES:
            return step, data
    return None


def _spread(steps: Sequence[int], most: int) -> list[int]:
    """Choose so many of the steps, evenly, from the first to the last; the last alone for one."""
    if len(steps) <= most:
        return list(steps)
    if most == 1:
        return [steps[-1]]
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def tables(record: RunRecord) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the tables of a run's test and of `mambalab eval`; returns also what is damaged."""
    found, problems = [], []
    for path in _files(RunFolder(record.path).tables, "*.json"):
        try:
            table = read_json(path, record.path)
        except UserError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"cannot read {path}: {error.strerror}")
            continue
        if _is_confusion(table) or _is_curve(table):
            found.append(table)
        else:
            problems.append(f"{path} is no table that a report can show")
    return found, problems


def _files(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _is_confusion(table: dict[str, Any]) -> bool:
    classes, counts = table.get("classes"), table.get("counts")
    if table.get("kind") != "confusion" or not isinstance(table.get("title"), str):
        return False
    if not _list_of(classes, str) or not 0 < len(classes) <= MAX_CLASSES:
        return False
    if not _list_of(counts, list) or len(counts) != len(classes):
        return False
    return all(
        _list_of(row, int) and len(row) == len(classes) and min(row) >= 0 and max(row) < 2**53
        for row in counts
    )


def _is_curve(table: dict[str, Any]) -> bool:
    x, y = table.get("x"), table.get("y")
    texts = ("title", "x_label", "y_label")
    if table.get("kind") != "curve" or not all(isinstance(table.get(k), str) for k in texts):
        return False
    if not _list_of(x, (int, float)) or not _list_of(y, (int, float)):
        return False
    if not 0 < len(x) == len(y) or not _list_of(marks := [table.get("marked")], (int, float)):
        return False
    return all(0 < value < 2**53 for value in (*x, *marks)) and all(abs(v) < 2**53 for v in y)


def _list_of(values: Any, kind: type | tuple[type, ...]) -> TypeGuard[list[Any]]:
    if not isinstance(values, list):
        return False
    return all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def mlflow_place(record: RunRecord) -> list[tuple[str, str]]:
    """Say where MLflow shows a run: name and value of each fact; none if it never heard of it."""
    try:
        note = read_json(record.path / MLFLOW, record.path)
    except (UserError, OSError):
        return []
    run, uri, experiment = (note.get(key) for key in ("run_id", "uri", "experiment"))
    if not isinstance(run, str) or not isinstance(uri, str):
        return []
    uri = hide_password(printable(uri))
    remote = uri.startswith(("http://", "https://"))
    page = f"{uri.rstrip('/') if remote else UI}/#/runs/{printable(run)}"
    facts = [("MLflow run", printable(run)), ("page", page if remote else f"{page} (mambalab ui)")]
    if isinstance(experiment, str):
        facts.insert(0, ("MLflow experiment", printable(experiment)))
    if note.get("state") not in ("complete", "sending"):
        facts.append(("of the record", "MLflow lacks some of it: mambalab sync sends it"))
    return facts

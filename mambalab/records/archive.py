"""Runs kept for the record: settings, results and curves of several runs in one small file.

A run folder is large and stays where it was made; what a table or picture is drawn from, and what
somebody needs to repeat it, fits into a few kilobytes that are committed with the code.
"""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records.reader import Curve, RunRecord, StoredRun
from mambalab.records.summary import RunSummary, Status
from mambalab.utils.files import read_json, write_text

ARCHIVE = "runs.json"
"""Name of the file in its folder."""

FORMAT = 1
_CHANGED = "+changes"  # what a git revision ends with if files differed from the commit
_NOT_KEPT = ("host", "pid", "born", "left", "other", "nulls", "tracking_share", "passed_over")
_PLACES = ("output_dir", "run_dir", "data_dir")  # settings that say where things were on a machine
_LAST_OF = ("time/seconds", "train/lr")  # kept at each evaluation, as the last value until then


def obstacle(record: RunRecord, *, allow_changes: bool = False) -> str | None:
    """Say why a run cannot be recorded, or None: it has not ended, or its code is not known.

    Args:
        record: the run.
        allow_changes: whether its code may differ from a commit, or its commit be unknown.
    """
    if record.status not in (Status.FINISHED.value, Status.FAILED.value):
        return f"is {record.status}, not finished"
    if allow_changes:
        return None
    revision = record.summary.git_revision
    if revision is None:
        return "does not say which commit it was made with (run it from a git checkout)"
    if revision.endswith(_CHANGED):
        return f"was made with uncommitted changes to {revision.removesuffix(_CHANGED)[:12]}"
    for earlier in record.summary.revisions():
        if earlier.endswith(_CHANGED):
            return f"was begun with uncommitted changes to {earlier.removesuffix(_CHANGED)[:12]}"
    return None


def missing(record: RunRecord) -> list[str]:
    """List what a reader of the record will not find out about a run, in a word or two each."""
    summary = record.summary
    facts = {
        "command": summary.command,
        "commit": summary.git_revision,
        "versions": summary.packages,
        "device": summary.device,
        "threads": summary.threads,
        "load of the machine": summary.load,
        "hash of the data": (summary.data or {}).get("sha256"),
        "seed": record.setting("seed"),
        "training time": summary.seconds,
        "wall time": summary.wall_seconds,
        "what ended it": summary.ended_by,
        "validation curve": any(name.startswith("val/") for name in record.curves) or None,
    }
    return [name for name, value in facts.items() if value is None]


def write(folder: Path, records: Sequence[RunRecord], *, allow_changes: bool = False) -> Path:
    """Write the runs into a folder, a line for each, sorted by their names; returns the file.

    Args:
        folder: is made if need be.
        records: the runs.
        allow_changes: see `obstacle`; the record says that it was allowed.

    Raises:
        UserError: a run cannot be recorded, a run or a name occurs twice, or a metrics.jsonl is
            damaged.
        OSError: the folder cannot be written.
    """
    for record in records:
        if why := obstacle(record, allow_changes=allow_changes):
            raise UserError(f"{record.path} {why}: not recorded")
    _check_distinct(records)
    names = _names(records)
    packed = [pack(record) | {"name": name} for record, name in zip(records, names, strict=True)]
    packed.sort(key=lambda run: run["name"])
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(run, allow_nan=False) for run in packed)
    allowed = '"allow_changes": true, ' if allow_changes else ""
    head = f'{{"format": {FORMAT}, {allowed}"runs": ['
    return write_text(folder / ARCHIVE, f"{head}\n{lines}\n]}}\n")


def _check_distinct(records: Sequence[RunRecord]) -> None:
    """Raise UserError if two folders hold the same run: one is a copy of the other."""
    seen: dict[str, Path] = {}
    for record in records:
        if (uid := record.summary.uid) is None:
            continue
        if uid in seen:
            raise UserError(
                f"{seen[uid]} and {record.path} are the same run (one is a copy): name one of them"
            )
        seen[uid] = record.path


def lost(kept: Sequence[RunRecord], records: Sequence[RunRecord]) -> list[RunRecord]:
    """List the runs of a record that are not among others, by their ids, else by their names."""
    uids = {record.summary.uid for record in records}
    names = {record.path.name for record in records}
    return [
        one
        for one in kept
        if (one.path.name not in names if one.summary.uid is None else one.summary.uid not in uids)
    ]


def _names(records: Sequence[RunRecord]) -> list[str]:
    """Name each run by its folder, and after its sweep where two sweeps have runs of that name.

    Raises:
        UserError: a name occurs twice all the same.
    """
    alone = [record.path.name for record in records]
    names = [
        name if alone.count(name) == 1 else f"{record.path.parent.name},{name}"
        for record, name in zip(records, alone, strict=True)
    ]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {twice[0]}: record them into different folders")
    return names


def read(folder: Path) -> list[RunRecord]:
    """Read the runs that `write` put into a folder.

    Raises:
        UserError: no such file, or it is damaged.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        raise UserError(f"{folder} holds no {ARCHIVE}: write one with mambalab record")
    data = read_json(path)
    runs = data.get("runs")
    if data.get("format") != FORMAT or not isinstance(runs, list):
        raise UserError(f"{path} is no record of runs that this version reads")
    try:
        return [unpack(run, path) for run in runs]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: mend it, or record the runs again") from error


def pack(record: RunRecord) -> dict[str, Any]:
    """Make the JSON object of a run: its name, settings, summary, and curves at its evaluations.

    Metrics of training are averaged since the evaluation before; time and learning rate are the
    last of it. Where runs and data lay on the machine is left out: in the settings, in the command,
    and of the data's paths all but their last parts.
    """
    summary = record.summary.to_json()
    kept = {key: value for key, value in summary.items() if key not in _NOT_KEPT}
    if command := kept.get("command"):
        kept["command"] = _without_places(command)
    data = kept.get("data") or {}
    if places := {key: Path(data[key]).name for key in ("path", "store") if data.get(key)}:
        kept["data"] = data | places
    known = set(RunSummary().to_json()) | set(vars(RunSummary()))
    found = {
        "name": record.path.name,
        "config": {key: value for key, value in record.config.items() if key not in _PLACES},
        "summary": {key: value for key, value in kept.items() if key in known},
        "curves": _at_evaluations(record.curves),
    }
    return _finite(found)


def _finite(value: Any) -> Any:
    """Leave out numbers that JSON does not have; in a list null takes their place."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items() if not _is_broken(v)}
    if isinstance(value, list | tuple):
        return type(value)(None if _is_broken(v) else _finite(v) for v in value)
    return value


def _is_broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _without_places(command: str) -> str:
    """Leave out the words of a command that say where runs and data are."""
    try:
        words = shlex.split(command)
    except ValueError:  # written by hand
        return command
    kept = [w for w in words if w.lstrip("+").partition("=")[0] not in _PLACES]
    return command if kept == words else shlex.join(kept)


def unpack(run: Mapping[str, Any], path: Path) -> RunRecord:
    """Read a run from what `pack` made; raises KeyError, TypeError or ValueError for other data."""
    curves: dict[str, Curve] = {
        str(name): [(int(step), None if v is None else float(v)) for step, v in points]
        for name, points in run["curves"].items()
    }
    config, summary = run["config"], run["summary"]
    if not isinstance(config, dict) or not isinstance(summary, dict):
        raise TypeError("no settings")
    name = Path(str(run["name"])).name  # never a path that leads elsewhere
    return StoredRun(path.parent / name, config, RunSummary.from_json(summary), curves)


def _at_evaluations(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    evaluated = [curve for name, curve in curves.items() if name.startswith("val/")]
    steps = sorted({step for curve in evaluated for step, _ in curve})
    found: dict[str, Curve] = {}
    for name, curve in curves.items():
        if not name.startswith(("train/", "time/")):
            found[name] = [(step, _short(value)) for step, value in curve]
            continue
        average = name.startswith("train/") and name not in _LAST_OF
        points = [_between(curve, a, b, average=average) for a, b in _spans(steps)]
        found[name] = [point for point in points if point is not None]
    return {name: curve for name, curve in found.items() if curve}


def _spans(steps: Sequence[int]) -> Iterable[tuple[int, int]]:
    return zip([-1, *steps[:-1]], steps, strict=True) if steps else ()


def _between(
    curve: Curve, start: int, end: int, *, average: bool
) -> tuple[int, float | None] | None:
    """Sum up the points after `start` up to `end` in one at `end`; None if there is none."""
    values = [value for step, value in curve if start < step <= end and value is not None]
    if not values:
        return None
    return end, _short(sum(values) / len(values) if average else values[-1])


def _short(value: float | None) -> float | None:
    """Round to seven digits: all that float32 holds."""
    return None if value is None else float(f"{value:.7g}")

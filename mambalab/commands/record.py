"""`mambalab record PATH... to=FOLDER`: keep runs for the record, in one small file."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, option
from mambalab.utils import console
from mambalab.utils.text import printable

if TYPE_CHECKING:
    from mambalab.records.reader import RunRecord

MAX_NAMES = 3  # of runs in a line


@dataclass
class RecordSettings:
    """`mambalab record PATH... to=FOLDER`."""

    paths: list[str] = option("run folders, folders of runs, or latest (the newest sweep)")
    to: str | None = option("folder for runs.json, comparison and pictures", **FOLDER)
    allow_changes: bool = option(
        "also record runs whose code is no commit: uncommitted changes, or outside a git checkout"
    )
    output_dir: str = option("folder of runs and sweeps, where latest looks", **FOLDER)

    def check_ready(self) -> None:
        """Raise UserError if runs or folder are missing."""
        if not self.paths:
            raise UserError("record: which runs? e.g. mambalab record latest to=records/night")
        if self.to is None:
            raise UserError("record: where to? give a folder, as in to=records/night")


def run(settings: RecordSettings) -> int:
    """Write the file and say what is in it; returns 0.

    Raises:
        UserError: no run there, one that cannot be recorded, a folder that cannot be written, or
            one whose record would lose runs.
    """
    from mambalab.compare import select
    from mambalab.records import archive
    from mambalab.records.summary import EndedBy, Status

    assert settings.to is not None, "checked before"
    folder = Path(settings.to).expanduser()
    folders = [select.locate(path, Path(settings.output_dir)) for path in settings.paths]
    records, unread = select.collect(folders)
    if broken := [run for run in unread if run.reason != select.ASIDE]:
        raise UserError(f"{broken[0].path} cannot be recorded: {broken[0].reason}")
    records, pruned = _without_pruned(records)
    if not records:
        why = "pruned by its search" if pruned else select.ASIDE
        first = pruned[0] if pruned else unread[0].path
        raise UserError(f"there is no run to record: {first} was {why}")
    _check_nothing_is_lost(folder, records)
    try:
        path = archive.write(folder, records, allow_changes=settings.allow_changes)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    failed = sum(record.status == Status.FAILED.value for record in records)
    clock = sum(record.summary.ended_by is EndedBy.max_minutes for record in records)
    lost = f", {failed} of them failed" if failed else ""
    console.result(f"{path}: {len(records)} run{'' if len(records) == 1 else 's'}{lost}")
    if clock:
        console.result(
            f"note: {clock} ended by the clock (trainer.max_minutes), which cannot be repeated "
            "exactly: for the record set trainer.max_steps"
        )
    left = {"pruned by their search": pruned, select.ASIDE: [run.path for run in unread]}
    for why, paths in left.items():
        if paths:
            console.result(f"note: {why}, and not recorded: {_some(paths)}")
    for line in _gaps(records):
        console.result(f"note: {printable(line)}")
    shown = shlex.quote(str(folder))
    console.result(f"compare  mambalab compare {shown}")
    return 0


def _without_pruned(
    records: Sequence["RunRecord"],
) -> tuple[list["RunRecord"], list[str]]:
    """Tell the runs to keep from those that a search ended early, which are named."""
    from mambalab.sweep.folder import PRUNED, SweepFolder

    sweeps = {record.path.parent for record in records}
    states = {folder: SweepFolder.read(folder).jobs for folder in sweeps}
    kept, pruned = [], []
    for record in records:
        entry = states[record.path.parent].get(record.path.name)
        if entry is not None and entry.status == PRUNED:
            pruned.append(str(record.path))
        else:
            kept.append(record)
    return kept, pruned


def _check_nothing_is_lost(folder: Path, records: Sequence["RunRecord"]) -> None:
    """Raise UserError if a record that is there holds other runs than those to be written."""
    from mambalab.records import archive

    if not (folder / archive.ARCHIVE).is_file():
        return
    if lost := archive.lost(archive.read(folder), records):
        count = f"{len(lost)} run{'' if len(lost) == 1 else 's'}"
        names = _some([one.path.name for one in lost])
        raise UserError(
            f"{folder} holds a record of {count} that are not among these ({names}): add {folder} "
            "to the paths to keep them, or choose another folder with to=..."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(map(printable, names[:MAX_NAMES]))}{more}"


def _gaps(records: Sequence["RunRecord"]) -> list[str]:
    """Say what each run does not tell; runs that lack the same share a line."""
    from mambalab.records import archive

    runs: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        runs.setdefault(tuple(archive.missing(record)), []).append(record.path.name)
    lines = []
    for lacking, names in runs.items():
        which = "every run" if len(names) == len(records) > 1 else ", ".join(names[:MAX_NAMES])
        more = len(names) - MAX_NAMES
        rest = f" and {more} more" if more > 0 and len(names) < len(records) else ""
        if lacking:
            lines.append(f"not known of {which}{rest}: {', '.join(lacking)}")
    return lines

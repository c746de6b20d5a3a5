"""What a report is about: runs as far as they can be read, and their comparison if there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.compare import select
from mambalab.compare.results import Comparison, LeftOut
from mambalab.compare.search import Searched
from mambalab.errors import UserError
from mambalab.records import reader
from mambalab.records.reader import RunRecord, StoredRun, is_run, read_run
from mambalab.records.run_folder import CONFIG, SWEEP, RunFolder
from mambalab.records.summary import RunSummary, Status
from mambalab.sweep.folder import SweepFolder
from mambalab.utils.reading import read_yaml


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        records: every run; what of it cannot be read is empty.
        comparison: of the finished ones; None if there is none.
        obstacle: why there is none, in a sentence.
        problems: what could not be read, a line each.
        sweep: the sweep that they are, if they are one.
    """

    records: list[RunRecord]
    comparison: Comparison | None
    obstacle: str
    problems: list[str]
    sweep: SweepFolder | None


def latest(output_dir: Path) -> Path:
    """Find what was trained last below a folder: the run, or the sweep that it belongs to.

    Raises:
        UserError: there is no run.
    """
    run = reader.latest(output_dir)
    return run.parent if (run.parent / SWEEP).is_file() else run


def of_folders(folders: Sequence[Path], **options: Any) -> Subject:
    """Read the runs in some folders and compare those that are finished.

    Args:
        folders: of runs, of sweeps, or of records that were kept.
        **options: of `select.compare_records`.

    Raises:
        UserError: a folder without any run, or with none but those that were set aside, or options
            that these runs cannot meet.
    """
    records, left_out = select.collect(folders)
    damaged, problems = [], []
    for run in left_out:
        path = Path(run.path)
        try:
            read_run(path)  # left out for another reason: it was set aside
        except (UserError, OSError):
            if is_run(path):
                record, wrong = _as_far_as_possible(path)
                damaged.append(record)
                problems += wrong
    if not records and not damaged:
        raise UserError(
            f"{left_out[0].path}: {left_out[0].reason}, and no other run is there; name this one "
            "itself for its report"
        )
    sweep = None
    if len(folders) == 1 and (folders[0] / SWEEP).is_file():
        try:
            sweep = SweepFolder.read(folders[0])
        except UserError as error:
            problems.append(str(error))
    searched = select.searched_in(folders)
    return of_records(records, left_out, damaged, problems, sweep, searched=searched, **options)


def of_records(
    records: Sequence[RunRecord],
    left_out: Sequence[LeftOut] = (),
    damaged: Sequence[RunRecord] = (),
    problems: Sequence[str] = (),
    sweep: SweepFolder | None = None,
    searched: Searched | None = None,
    **options: Any,
) -> Subject:
    """Compare the finished ones of some runs that were read already; see `of_folders`.

    Args:
        records: the runs.
        left_out: others that do not count, and why.
        damaged: of these, what could be read.
        problems: what could not.
        sweep: that they are the jobs of.
        searched: the search whose trials they are.
        **options: of `select.compare_records`.
    """
    found, obstacle = None, ""
    if any(record.status == Status.FINISHED for record in records):
        try:
            found = select.compare_records(records, left_out, searched=searched, **options)
        except UserError as error:
            if any(options.values()):  # it may be them that are wrong
                raise
            obstacle = f"the runs are not compared: {error}"
    else:
        obstacle = "no run has finished: nothing is averaged or compared"
    shown, wrong = [], list(problems)
    for record in records:
        try:
            _ = record.curves
        except UserError as error:
            wrong.append(str(error))
            record = _without_curves(record)
        shown.append(record)
    return Subject([*shown, *damaged], found, obstacle, wrong, sweep)


def _as_far_as_possible(path: Path) -> tuple[RunRecord, list[str]]:
    """Read a damaged run folder; returns what is there, and what is wrong."""
    problems: list[str] = []
    config, summary = {}, RunSummary()
    try:
        found = read_yaml(path / CONFIG, path)
        if not isinstance(found, dict):
            raise UserError(f"{path / CONFIG} is damaged (no settings in it): mend it")
        config = found
    except (UserError, OSError) as error:
        problems.append(str(error))
    try:
        summary = RunFolder(path).summary()
    except (UserError, OSError) as error:
        problems.append(str(error))
    record = RunRecord(path, config, summary)
    try:
        _ = record.curves
    except (UserError, OSError) as error:
        problems.append(str(error))
        record = _without_curves(record)
    return record, problems


def _without_curves(record: RunRecord) -> RunRecord:
    return StoredRun(record.path, record.config, record.summary, {})

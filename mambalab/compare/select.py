"""What to compare: the runs below some folders, and how they are put beside each other."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mambalab.compare import comparison, search
from mambalab.compare.results import Comparison, LeftOut
from mambalab.config.identity import may_change
from mambalab.errors import UserError
from mambalab.records import archive
from mambalab.records.reader import RunRecord, StoredRun, find_runs, is_run, read_run
from mambalab.records.run_folder import CONFIG, METRICS, SUMMARY, SWEEP

SWEEPS = "sweeps"  # folder of sweeps below output_dir
ASIDE = "set aside by resume=never"
_SET_ASIDE = re.compile(r".+\.old\d+")  # an earlier run that resume=never has renamed


def compare_folders(
    paths: Sequence[Path | str], output_dir: Path | str = "outputs", baseline: str | None = None
) -> Comparison:
    """Compare all runs in some folders.

    Args:
        paths: run folders, folders of runs, or `latest`.
        output_dir: where `latest` looks.
        baseline: label of the group to compare with, or a part of it.

    Raises:
        UserError: nothing to compare, or runs that cannot be compared or averaged.
    """
    folders = [locate(str(path), Path(output_dir)) for path in paths]
    return compare_records(*collect(folders), baseline=baseline, searched=searched_in(folders))


def searched_in(folders: Sequence[Path]) -> search.Searched | None:
    """Read the search of which these folders are; None for other sweeps, and for several."""
    return search.read(folders[0]) if len(folders) == 1 else None


def compare_records(
    records: Sequence[RunRecord],
    left_out: Sequence[LeftOut],
    *,
    metric: str | None = None,
    goal: float | None = None,
    baseline: str | None = None,
    bootstrap: bool = False,
    pairs: str | None = None,
    searched: search.Searched | None = None,
) -> Comparison:
    """Compare runs that were read already; see `comparison.compare`."""
    return comparison.compare(
        records,
        ignore=ignore,
        metric=metric,
        goal=goal,
        baseline=baseline,
        bootstrap=bootstrap,
        pairs=pairs,
        left_out=left_out,
        searched=searched,
    )


def ignore(key: str) -> bool:
    """Tell whether a setting makes no other group: the seed, and what does not make another run.

    How far runs were trained does matter here.
    """
    limits = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_minutes")
    return key == "seed" or (may_change(key) and key not in limits)


def locate(name: str, output_dir: Path) -> Path:
    """Find the folder that a word means: a path, from here or below `output_dir`, or `latest`.

    Raises:
        UserError: there is no such folder.
    """
    if name == "latest":
        return latest_sweep(output_dir)
    path = Path(name).expanduser()
    if not path.exists() and not path.is_absolute() and (output_dir / path).exists():
        path = output_dir / path
    if path.name in (CONFIG, METRICS, SUMMARY, SWEEP) and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{name}: no such folder; `mambalab runs` lists what there is")
    return path


def latest_sweep(output_dir: Path) -> Path:
    """Find the sweep below a folder that was written last.

    Raises:
        UserError: there is none.
    """
    found = list((output_dir / SWEEPS).rglob(SWEEP))
    if not found:
        raise UserError(
            f"latest: no sweep below {output_dir / SWEEPS}: start one with mambalab train -m, "
            "or name folders of runs"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def collect(folders: Sequence[Path]) -> tuple[list[RunRecord], list[LeftOut]]:
    """Read every run in some folders, once, and list those that cannot be read or were set aside.

    A run that is both in a folder and in a record counts as its folder has it now.

    Raises:
        UserError: a folder without any run.
    """
    records: list[RunRecord] = []
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for folder in folders:
        paths = find_runs(folder)
        kept = archive.read(folder) if (folder / archive.ARCHIVE).is_file() else []
        records += kept
        if not paths and not kept:
            raise UserError(f"{folder} holds no run; `mambalab runs` lists what there is")
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if path != folder and _SET_ASIDE.fullmatch(path.name):
                left_out.append(LeftOut(str(path), ASIDE))
                continue
            try:
                records.append(read_run(path))
            except (UserError, OSError) as error:
                left_out.append(LeftOut(str(path), str(error)))
    return _once(records), left_out


def _once(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Leave out what a record tells of a run that is there, or that another record told of."""
    folders = [record for record in records if not isinstance(record, StoredRun)]
    uids = {record.summary.uid for record in folders} - {None}
    paths = {record.path.resolve() for record in folders}
    found: list[RunRecord] = []
    for record in records:
        if isinstance(record, StoredRun):
            uid, path = record.summary.uid, record.path.resolve()
            if uid in uids or path in paths:
                continue
            uids |= {uid} - {None}
            paths.add(path)
        found.append(record)
    return found


def default_folder(folders: Sequence[Path], records: Sequence[RunRecord], output_dir: Path) -> Path:
    """Name the folder of the files: the record's or the sweep's, if that is all; else by a hash of
    the runs."""
    if len(folders) == 1 and (folders[0] / archive.ARCHIVE).is_file():
        return folders[0]
    if len(folders) == 1 and not is_run(folders[0]) and (folders[0] / SWEEP).is_file():
        return folders[0] / "comparison"
    names = sorted(os.path.realpath(record.path) for record in records)
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return output_dir / "comparisons" / digest

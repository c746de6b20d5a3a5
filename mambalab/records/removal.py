"""Removes the folder of a run, or of a sweep: never outside a folder, never through links."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import find_runs, is_run, read_run
from mambalab.records.run_folder import SWEEP
from mambalab.records.summary import Status


def checked(path: Path, output_dir: Path) -> Path:
    """Make sure that a folder may be removed; returns its absolute path.

    Raises:
        UserError: it is neither a run nor a sweep, lies outside `output_dir` or behind a link,
            holds other runs, or another machine says that it trains it.
    """
    absolute = Path(os.path.abspath(path))
    bases = [Path(os.path.abspath(output_dir)), Path(os.path.realpath(output_dir))]
    base = next((b for b in bases if b in absolute.parents), None)
    if base is None:
        raise UserError(
            f"{path} is not below output_dir={output_dir}: give the output_dir that it is in"
        )
    parts = absolute.relative_to(base).parts
    for i in range(len(parts)):
        if (link := base.joinpath(*parts[: i + 1])).is_symlink():
            raise UserError(f"{link} is a link: remove where it leads to, or the link itself")
    is_sweep = (absolute / SWEEP).is_file()
    if not is_sweep and not is_run(absolute):
        raise UserError(f"{path} is no run; `mambalab runs` lists what there is")
    if not is_sweep and (inner := _inside(absolute)):
        raise UserError(f"{path} holds another run, {inner}: remove that first")
    for run in runs_of(absolute):
        try:
            summary = read_run(run).summary
        except (UserError, OSError):  # damaged, which is no reason to keep it
            continue
        if summary.status is Status.RUNNING and summary.writer_alive() is None:
            raise UserError(
                f"{run} is being trained on {summary.host or 'another machine'}, as far as can "
                "be known here: stop it there, or remove the folder by hand"
            )
    return absolute


def runs_of(folder: Path) -> list[Path]:
    """Return the runs in a folder: itself, or those of a sweep."""
    return find_runs(folder)


def _inside(run_dir: Path) -> Path | None:
    """Find a run below the folder of a run."""
    below = (path for path in run_dir.iterdir() if path.is_dir() and not path.is_symlink())
    return next((run for path in below for run in find_runs(path)), None)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run or a sweep and all that belongs to it, so that nobody works on it meanwhile.

    Raises:
        UserError: somebody does.
    """
    with ExitStack() as stack:
        if (folder.parent / SWEEP).is_file():
            stack.enter_context(run_folder.hold(folder.parent, "running this sweep"))
        for path in dict.fromkeys([folder, *runs_of(folder)]):
            stack.enter_context(run_folder.hold(path))
        yield


def remove(folder: Path) -> None:
    """Remove a folder that `checked` returned and that is held.

    It gets a hidden name first, so that nobody takes a half-removed one for a run.

    Raises:
        UserError: the folder cannot be removed.
    """
    hidden = folder.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(hidden)
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror}") from error
    try:
        shutil.rmtree(hidden)
    except OSError as error:
        raise UserError(
            f"{folder} is no run any more, but {hidden} is left: {error.strerror}"
        ) from error


def size(folder: Path) -> int:
    """Count the bytes of all files in a folder; links count as nothing."""
    total = 0
    for name, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(Path(name, file)).st_size
    return total

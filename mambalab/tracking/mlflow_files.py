"""Files of a run folder that MLflow gets a copy of."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambalab.records import run_folder
from mambalab.utils.reading import inside
from mambalab.utils.secrets import hide_password


def attachments(run_dir: Path) -> list[Path]:
    """List the files of a run folder, or of a sweep's, that belong into MLflow: all but metrics,
    checkpoints and logs.

    Regular files only, and none that a link leads out of the folder: a stranger's run would else
    send what is elsewhere on this machine.
    """
    named = [run_dir / name for name in (run_folder.CONFIG, run_folder.SUMMARY, run_folder.SWEEP)]
    found = [path for path in named if is_own(path, run_dir)]
    for folder in ("plots", "samples", "tables", "comparison"):
        files = (p for p in (run_dir / folder).glob("*") if is_own(p, run_dir))
        found += sorted(p for p in files if not p.name.startswith("."))  # half-written ones
    return found


@contextmanager
def without_passwords(path: Path) -> Iterator[Path]:
    """Give the file itself, or a copy without the passwords that older versions wrote there."""
    if path.name not in (run_folder.CONFIG, run_folder.SWEEP):
        yield path
        return
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if (clean := hide_password(text)) == text:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mambalab-") as folder:
        copy = Path(folder, path.name)
        copy.write_text(clean, encoding="utf-8", errors="surrogateescape")
        yield copy


def is_own(path: Path, run_dir: Path) -> bool:
    """Whether a path is a regular file of the run folder, and no link that leads out of it."""
    return path.is_file() and inside(path, run_dir)

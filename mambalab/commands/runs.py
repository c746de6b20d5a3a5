"""`mambalab runs`: a table of the runs below a folder."""

import logging
from dataclasses import dataclass
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records.reader import RunRecord, find_runs, last_activity, read_run
from mambalab.settings.rules import FOLDER, option
from mambalab.utils import console
from mambalab.utils.text import table

LOG = logging.getLogger("mambalab")
TEST = "test/accuracy"
HEADER = ("status", "task", "model", "dropout", "seed", "steps", "best", TEST, "minutes", "path")
_RIGHT = {"seed", "steps", TEST, "minutes"}


@dataclass
class RunsSettings:
    """`mambalab runs`."""

    output_dir: str = option("folder whose runs are listed", **FOLDER)


def run(cfg: RunsSettings) -> int:
    """Print the table, the run trained last at the bottom; 1 if a run could not be read."""
    folder = Path(cfg.output_dir)
    paths = sorted(find_runs(folder), key=last_activity)
    if not paths:
        console.result(f"no runs below {folder} yet: start one with `mambalab train`")
        return 0
    rows, problems = [], []
    for path in paths:
        try:
            rows.append(row(read_run(path)))
        except (UserError, OSError) as error:
            problems.append(str(error))
    if rows:
        tested = any(row[HEADER.index(TEST)] != "-" for row in rows)
        kept = [i for i, name in enumerate(HEADER) if tested or name != TEST]
        header, *rows = [tuple(row[i] for i in kept) for row in (HEADER, *rows)]
        console.result(table(header, rows, _RIGHT))
    for problem in problems:
        LOG.warning("cannot read a run: %s", problem)
    return 1 if problems else 0


def row(record: RunRecord) -> tuple[str, ...]:
    """One run as text, in the order of HEADER; `-` for what it does not say."""
    best = record.best
    step, minutes = record.step, record.minutes
    test = record.summary.test
    accuracy = test.metrics.get(TEST) if test is not None else None
    names = [record.setting(k) for k in ("task.name", "model.name", "dropout.name", "seed")]
    return (
        record.status,
        *("-" if name is None else str(name) for name in names),
        "-" if step is None else f"{step:,}",
        "-" if best is None else f"{best.metric} {best.value:.4f} @ {best.step:,}",
        f"{accuracy:.4f}" if isinstance(accuracy, float) else "-",
        "-" if minutes is None else f"{minutes:.1f}",
        str(record.path),
    )

"""`mambalab runs [FOLDER ...]`: a table of the runs below a folder; of a sweep, live if asked."""

import json
import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import query
from mambalab.records.reader import RunRecord, find_runs, last_activity, read_run
from mambalab.settings.rules import FOLDER, option
from mambalab.utils import console
from mambalab.utils.csv_text import csv_text
from mambalab.utils.text import packed, short, table

LOG = logging.getLogger("mambalab")
TEST = "test/accuracy"
HEADER = ("status", "task", "model", "dropout", "seed", "steps", "best", TEST, "minutes", "date",
          "name", "differs", "path")  # fmt: skip
_RIGHT = {"seed", "steps", TEST, "minutes"}
_IF_ANY = {TEST, "name", "differs"}  # columns that are left out if no run has something there
_BELOW = ("date", "name", "differs", "path")  # in a line of their own if the terminal is narrow
MAX_NAME_CHARS = 30


class Format(Enum):
    """How runs are listed."""

    table = "table"
    csv = "csv"
    json = "json"


@dataclass
class RunsSettings:
    """`mambalab runs [FOLDER ...]`."""

    paths: list[str] = option(
        "folders whose runs are listed, or latest (the newest sweep); none = output_dir", path=True
    )
    output_dir: str = option("folder of runs and sweeps", **FOLDER)
    sort: str = option(
        "what to sort by: best, date, minutes, a setting, a metric; -KEY turns it round",
        match=r"\S+",
    )
    where: list[str] = option(
        "only runs that are so: model.name=mamba, 'val/loss<1.5', tags=draft; several: all of them"
    )
    format: Format = option("table for people, csv or json with everything for programs")
    follow: bool = option("show the jobs of a sweep until it ends; the newest sweep unless named")

    def check_ready(self) -> None:
        """Raise UserError for conditions that cannot be read, or folders that are not there."""
        from mambalab.compare.select import locate

        for condition in self.where:
            query.Condition.parse(condition)
        for path in self.paths:
            locate(path, Path(self.output_dir))


def run(cfg: RunsSettings) -> int:
    """Print the runs, the one trained last at the bottom; 1 if a run could not be read."""
    output_dir = Path(cfg.output_dir)
    folders = [output_dir]
    if cfg.paths or cfg.follow:
        from mambalab.compare.select import locate

        folders = [locate(path, output_dir) for path in cfg.paths or ["latest"]]
    if cfg.follow:
        return _follow(folders)
    found = {path.resolve(): path for folder in folders for path in find_runs(folder)}
    records, problems = _read(sorted(found.values(), key=last_activity))
    shown = query.select(records, [query.Condition.parse(text) for text in cfg.where])
    if cfg.sort != "date":
        shown = query.arranged(shown, cfg.sort)
    if cfg.format is not Format.table:
        _print_whole(shown, cfg.format)
    elif shown:
        console.result(text(shown))
    elif not problems:
        where = ", ".join(map(str, folders))
        console.result(
            f"no run below {where} is so: {' and '.join(cfg.where)}"
            if records
            else f"no runs below {where} yet: start one with `mambalab train`"
        )
    for problem in problems:
        LOG.warning("cannot read a run: %s", problem)
    return 1 if problems else 0


def _read(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Read runs with their metrics; returns them and what is wrong with the others."""
    records, problems = [], []
    for path in paths:
        try:
            record = read_run(path)
            _ = record.curves
        except (UserError, OSError) as error:
            problems.append(str(error))
        else:
            records.append(record)
    return records, problems


def text(records: Sequence[RunRecord]) -> str:
    """Lay out runs as a table, as wide as the terminal if there is one."""
    from mambalab.compare.differing import differences, in_short

    rows = [
        row(record, differing)
        for record, differing in zip(records, in_short(differences(records)), strict=True)
    ]
    kept = [
        i for i, name in enumerate(HEADER)
        if name not in _IF_ANY or any(cells[i] not in ("", "-") for cells in rows)
    ]  # fmt: skip
    header, *rows = [tuple(cells[i] for i in kept) for cells in (HEADER, *rows)]
    whole = table(header, rows, _RIGHT)
    if not sys.stdout.isatty():
        return whole
    width = shutil.get_terminal_size().columns
    if max(map(len, whole.splitlines())) <= width:
        return whole
    return _in_pairs(header, rows, width)


def _in_pairs(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out runs with a line each, and below it what finds no room there."""
    for moved in ((), ("minutes",), ("minutes", TEST, "best")):
        below = {*_BELOW, *moved}
        above = [i for i, name in enumerate(header) if name not in below]
        first = table([header[i] for i in above], [[r[i] for i in above] for r in rows], _RIGHT)
        head, *lines = first.splitlines()
        if max(map(len, (head, *lines))) <= width:
            break
    pairs = []
    for line, cells in zip(lines, rows, strict=True):
        named = [
            f"{cell} min" if name == "minutes" else cell
            for name, cell in zip(header, cells, strict=True)
            if name in below and cell != "-"
        ]
        room = width - 4 if moved and len(cells[-1]) <= width - 6 else None  # of the path
        pairs += [line, textwrap.indent(packed(named, room), " " * 4)]
    return "\n".join([head, *pairs])


def row(record: RunRecord, differing: str = "") -> tuple[str, ...]:
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
        _date(record),
        short(str(record.setting("name") or "-"), MAX_NAME_CHARS),
        differing or "-",
        str(record.path),
    )


def _date(record: RunRecord, form: str = "%Y-%m-%d %H:%M") -> str:
    """When a run was last written to, in local time."""
    return time.strftime(form, time.localtime(last_activity(record.path)))


def _print_whole(records: Sequence[RunRecord], form: Format) -> None:
    """Print everything that is known of each run, for programs."""
    from mambalab.compare.differing import differences

    rows = [
        {**_facts(record), "settings": differing}
        for record, differing in zip(records, differences(records), strict=True)
    ]
    if form is Format.json:
        console.result(json.dumps(rows, indent=2, ensure_ascii=False), exact=True)
        return
    settings = dict.fromkeys(key for one in rows for key in one["settings"])
    flat = []
    for one in rows:
        differing = one.pop("settings")
        cells = {k: " ".join(v) if isinstance(v, list) else v for k, v in one.items()}
        flat.append({**cells, **{f"setting {key}": differing.get(key) for key in settings}})
    if flat:
        console.result(csv_text(flat), end="", exact=True)


def _facts(record: RunRecord) -> dict[str, Any]:
    """What there is to know of a run, by name; the same names for every run."""
    best, summary = record.best, record.summary
    labels = {key: record.setting(key) for key in ("name", "tags", "note")}
    groups = {key: record.setting(f"{key}.name") for key in ("task", "model", "dropout")}
    return {
        "path": str(record.path),
        "status": record.status,
        "date": _date(record, "%Y-%m-%dT%H:%M:%S%z"),
        **labels,
        **groups,
        "seed": record.setting("seed"),
        "steps": record.step,
        "metric": record.metric,
        "best": best.value if best else None,
        "best_step": best.step if best else None,
        "test_accuracy": summary.test.metrics.get(TEST) if summary.test else None,
        "minutes": record.minutes,
        "tokens_per_second": summary.tokens_per_second or None,
        "parameters": summary.parameters,
        "device": summary.device,
        "command": summary.command,
    }


def _follow(folders: Sequence[Path]) -> int:
    """Show the jobs of a sweep until it ends, or Ctrl-C."""
    from mambalab.sweep import watch

    if len(folders) != 1:
        raise UserError("follow=true: name one sweep")
    return watch.follow(folders[0])

"""How runs were made, in tables: how to repeat them, on which machine, with which settings."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from mambalab.config.defaults import changed
from mambalab.config.identity import to_yaml
from mambalab.errors import UserError
from mambalab.records.reader import RunRecord
from mambalab.report.document import Block, Facts, Folded, Paragraph, Section, Table, Verbatim
from mambalab.report.remarks import CHANGES, draws_its_data
from mambalab.sweep.folder import SweepFolder
from mambalab.utils.command import as_line
from mambalab.utils.mapping import flatten
from mambalab.utils.text import printable, short

MAX_COMMANDS = 200  # of single runs that are listed
MAX_WHOLE = 8  # groups whose whole configuration is shown
MAX_VALUE_CHARS = 200
MISSING = "not recorded"


def spread(records: Sequence[RunRecord], fact: Callable[[RunRecord], Any]) -> str:
    """Write the values of a fact over some runs; with how many have each if they differ."""
    counts: dict[str, int] = {}
    for record in records:
        value = fact(record)
        text = MISSING if value in (None, "", {}) else short(str(value), MAX_VALUE_CHARS)
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({n} run{'s'[: n > 1]})" for text, n in counts.items())


def repeat(records: Sequence[RunRecord], sweep: SweepFolder | None) -> Section:
    """Say how to get the same runs again."""
    facts = [
        ("code", spread(records, lambda r: r.summary.git_revision)),
        ("versions", spread(records, _versions)),
        ("data", spread(records, _data)),
        ("seeds" if len(records) > 1 else "seed", _seeds(records)),
    ]
    if any(record.summary.checkpoint for record in records):
        facts.append(("begun with", spread(records, _checkpoint)))
    blocks: list[Block] = []
    commands = _commands(records, sweep)
    if commands:
        blocks.append(Verbatim("In a checkout of mambalab, with the versions below:", commands))
    else:
        blocks.append(Paragraph("The command was not recorded; the settings below make the run."))
    blocks.append(Facts(facts))
    if any(record.summary.resumed_from for record in records):
        blocks.append(
            Paragraph(
                "What was resumed recorded the command of its last session. The same command in a "
                "folder without the run trains it in one go, from the same batches."
            )
        )
    if len({record.summary.command for record in records}) > 1:
        lines = [record.summary.command or f"# {record.path}: {MISSING}" for record in records]
        more = [f"# and {len(lines) - MAX_COMMANDS} more"] if len(lines) > MAX_COMMANDS else []
        text = "\n".join(map(printable, [*lines[:MAX_COMMANDS], *more]))
        blocks.append(Folded("The command of each run", [Verbatim("", text)]))
    return Section("repeat", "How to repeat it", blocks)


def _commands(records: Sequence[RunRecord], sweep: SweepFolder | None) -> str:
    """The lines of a shell that make the runs again; empty if they are not known."""
    if sweep is not None and sweep.command:
        every = sweep.commands or [sweep.command]
        command = "\n".join(as_line(["train", "-m", *map(str, words)]) for words in every)
    else:
        known = {record.summary.command for record in records}
        command = known.pop() or "" if len(known) == 1 else ""
        if len(records) > 1 and not command:
            command = "# the command of each run stands below"
    revisions = {record.summary.git_revision for record in records}
    revision = revisions.pop() if len(revisions) == 1 else None
    checkout = []
    if command and revision and not revision.endswith(CHANGES):
        checkout = [f"git checkout {shlex.quote(revision)}"]
    return printable_lines([*checkout, *command.splitlines()]) if command else ""


def printable_lines(lines: Sequence[str]) -> str:
    """Join lines, each made harmless."""
    return "\n".join(map(printable, lines))


def _versions(record: RunRecord) -> str:
    packages = record.summary.packages or {}
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _data(record: RunRecord) -> str:
    """What the data were; where they lay on that machine says nothing to others."""
    data = record.summary.data or {}
    if not data and draws_its_data(record):
        return "none: the task draws its sequences, by the seed"
    return ", ".join(f"{key} {value}" for key, value in data.items() if key != "path")


def _checkpoint(record: RunRecord) -> str:
    noted = record.summary.checkpoint or {}
    return ", ".join(f"{key} {value}" for key, value in noted.items())


def _seeds(records: Sequence[RunRecord]) -> str:
    seeds = dict.fromkeys(str(record.setting("seed")) for record in records)
    return short(", ".join(seeds), MAX_VALUE_CHARS)


def machine(records: Sequence[RunRecord]) -> Section:
    """Say what the runs were computed on."""
    rows: list[tuple[str, Callable[[RunRecord], Any]]] = [
        ("device", lambda r: r.summary.device),
        ("CPU threads", lambda r: r.summary.threads),
        ("precision", lambda r: r.summary.precision),
    ]
    facts = [(name, text) for name, fact in rows if (text := spread(records, fact)) != MISSING]
    if scans := [record for record in records if record.summary.backend]:  # others have no scan
        facts.append(("kernels of the scan", spread(scans, lambda r: r.summary.backend)))
    loads = [f"{r.summary.load:.1f}" for r in records if r.summary.load is not None]
    sizes = [r.summary.peak_memory_bytes for r in records]
    memory = [f"{size / 1e6:,.0f}" for size in sizes if size is not None]
    facts += [("load at the start", _range(loads))] if loads else []
    facts += [("peak memory", f"{_range(memory)} MB")] if memory else []
    slower = dict.fromkeys(why for record in records if (why := _passed_over(record)))
    if slower:
        facts.append(("slower than it could be", short("; ".join(slower), 2 * MAX_VALUE_CHARS)))
    found: Block = Facts(facts) if facts else Paragraph(f"The machine was {MISSING}.")
    return Section("machine", "Machine", [found])


def _range(numbers: Sequence[str]) -> str:
    """Write the least and the largest of some numbers, as they are written."""
    ordered = sorted(numbers, key=lambda text: float(text.replace(",", "")))
    return " to ".join(dict.fromkeys([ordered[0], ordered[-1]]))


def _passed_over(record: RunRecord) -> str:
    reasons = (record.summary.passed_over or {}).items()
    return "; ".join(f"the {name} kernels are not used: {why}" for name, why in reasons)


def settings(records: Sequence[RunRecord], differing: Sequence[str] = ()) -> Section:
    """List the settings that are not the usual ones, then all of them, folded.

    Args:
        records: the runs, the first of each group.
        differing: settings in which they differ, which are shown elsewhere.
    """
    first = records[0]
    if not first.config:
        text = f"The settings were {MISSING}, or cannot be read."
        return Section("settings", "Settings", [Paragraph(text)])
    blocks: list[Block] = []
    try:
        found = changed(first.config)
    except UserError as error:
        blocks.append(Paragraph(f"What differs from the defaults cannot be told: {error}."))
    else:
        apart = {*differing, "seed"} if len(records) > 1 else set()
        rows = [[k, _value(a), _value(b)] for k, (a, b) in found.items() if k not in apart]
        common = ", common to all runs" if len(records) > 1 else ""
        if len(records) > 1:
            rows = [row for row in rows if _common(records, row[0])]
        if rows:
            caption = f"Settings that differ from those of the chosen options{common}:"
            blocks.append(Paragraph(caption))
            header = ["setting", "value", "default"]
            blocks.append(Table(caption, header, rows, frozenset(header), titled=True))
        else:
            blocks.append(Paragraph(f"Every setting{common} is that of the chosen options."))
    whole = [(str(record.path), to_yaml_text(record)) for record in records[:MAX_WHOLE]]
    if len(records) == 1:
        blocks.append(Folded("The whole configuration", [Verbatim("", whole[0][1])]))
    else:
        each: list[Block] = [Verbatim(printable(path), text) for path, text in whole]
        if len(records) > MAX_WHOLE:
            each.append(Paragraph(f"Those of {len(records) - MAX_WHOLE} more groups are left out."))
        blocks.append(Folded("The whole configuration, of one run of each group", each))
    return Section("settings", "Settings", blocks)


def _common(records: Sequence[RunRecord], key: str) -> bool:
    """Whether all runs have the same value of a setting."""
    values = [flatten(record.config).get(key) for record in records]
    return all(value == values[0] for value in values)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return short(text, MAX_VALUE_CHARS)


def to_yaml_text(record: RunRecord) -> str:
    """Write a run's configuration as YAML, harmless to look at."""
    return printable_lines(to_yaml(record.config).splitlines())

"""The report of several runs: a sweep, or any set of them."""

from collections.abc import Sequence

from mambalab.compare import sections
from mambalab.compare.results import Comparison
from mambalab.compare.sections import Grid
from mambalab.compare.text import headline, search_lines
from mambalab.records.reader import RunRecord
from mambalab.records.summary import Status
from mambalab.report import facts, figures, kept, remarks, results
from mambalab.report.document import (
    Block,
    Folded,
    Notes,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
    Verbatim,
)
from mambalab.report.one_run import labels, note
from mambalab.report.subject import Subject
from mambalab.utils.text import printable, short

MAX_SHOWN = 6  # groups of which tables and samples are shown
MAX_DAMAGED_LINES = 20
_WORDS = frozenset(["group", "verdict", "contrast", "in", "setting"])


def report(subject: Subject, title: str | None) -> Report:
    """Write the report of several runs: their comparison first, then each of them in a line.

    Args:
        subject: the runs.
        title: of the report; None = what they are.
    """
    found, records = subject.comparison, subject.records
    groups = _groups(subject)
    tables, samples, damaged = _of_groups(groups)
    settings = [] if found is None else list(found.groups[0].group.settings)
    first_of_each = [record for _, record in groups] or records[:1]
    shared = [
        Section("tables", "Details of the evaluation", tables),
        Section("samples", results.samples_title(samples), samples),
        Section("runs", "The runs", _runs(records, subject)),
        facts.repeat(records, subject.sweep),
        facts.machine(records),
        facts.settings(first_of_each, settings),
    ]
    if found is None:
        lines = [subject.obstacle, *subject.problems, *damaged]
        first = [Section("results", "Results", [Notes("Bear in mind", lines)])]
    else:
        first = _compared(found, [*subject.problems, *damaged, *_remarks(records)])
    meaning = [] if found is None else [Paragraph(sections.MEANING, marked=True)]
    return Report(
        title=printable(title or _title(subject)),
        about=_about(subject),
        tags=_common_tags(records),
        note=_common_note(records),
        sections=[*first, *shared, Section("meaning", "What the columns mean", meaning)],
    )


def _title(subject: Subject) -> str:
    tasks = dict.fromkeys(str(r.setting("task.name") or "-") for r in subject.records)
    what = "Sweep" if subject.sweep is not None else "Comparison"
    return f"{what}: {short(', '.join(tasks), 120)}"


def _about(subject: Subject) -> str:
    records = subject.records
    finished = sum(record.status == Status.FINISHED for record in records)
    parts = [f"{len(records)} runs, {finished} of them finished"]
    if subject.comparison is not None:
        n = len(subject.comparison.groups)
        parts.append(f"{n} group{'s'[: n != 1]}")
    if (sweep := subject.sweep) is not None:
        parts.append(f"sweep {printable(sweep.path.name)}")
        waiting = max(sweep.total or 0, len(sweep.jobs)) - len(records)
        parts += [f"{waiting} jobs have not begun"] if waiting > 0 else []
    return "; ".join(parts)


def _common_tags(records: Sequence[RunRecord]) -> list[str]:
    each = [labels(record.setting("tags")) for record in records]
    return [tag for tag in dict.fromkeys(each[0]) if all(tag in tags for tags in each)]


def _common_note(records: Sequence[RunRecord]) -> str:
    notes = {note(record) for record in records}
    return notes.pop() if len(notes) == 1 else ""


def _groups(subject: Subject) -> list[tuple[str, RunRecord]]:
    """The label of each group with its first run; without a comparison none."""
    if subject.comparison is None:
        return []
    return [(group.label, group.group.records[0]) for group in subject.comparison.groups]


def _of_groups(
    groups: Sequence[tuple[str, RunRecord]],
) -> tuple[list[Block], list[Block], list[str]]:
    """Tables and samples of one run of each group, and what is damaged."""
    tables: list[Block] = []
    samples: list[Block] = []
    damaged: list[str] = []
    for label, record in groups[:MAX_SHOWN]:
        of = f"{printable(label)}, seed {printable(str(record.setting('seed')))}"
        shown, problems = results.tables(record, f"{of}: ")
        tables += shown
        damaged += problems
        samples += results.samples(record, 1, f"{of}, ")
    if len(groups) > MAX_SHOWN:
        more = Paragraph(f"Of {len(groups)} groups the best {MAX_SHOWN} are shown.")
        tables += [more] if tables else []
        samples += [more] if samples else []
    return tables, samples, damaged[:MAX_DAMAGED_LINES]


def _remarks(records: Sequence[RunRecord]) -> list[str]:
    """What is to be borne in mind of single runs, each sentence once, with how many it is of."""
    counts: dict[str, int] = {}
    for record in records:
        for line in remarks.not_repeatable(record):
            counts[line] = counts.get(line, 0) + 1
    n = len(records)
    return [f"{line} ({'all' if c == n else c} of {n} runs)" for line, c in counts.items()]


def _compared(found: Comparison, lines: list[str]) -> list[Section]:
    """Results with verdicts, pictures, and the further tables of a comparison."""
    caption = "Best and last values, test, and the difference to the baseline, by group."
    blocks: list[Block] = [Paragraph(headline(found).replace("\n", " ") + ".")]
    if found.search is not None:
        blocks.append(Notes("What the search found", search_lines(found)))
        blocks.append(_table(sections.trials(found, found.search), "Every trial, the best first."))
    if not found.is_ranked:
        blocks.append(_table(sections.results(found), caption))
    if lines := [*found.dropout, *found.warnings, *lines]:
        blocks.append(Notes("Bear in mind", lines))
    pictures: list[Picture] = figures.of_comparison(found)
    parts = [Section("results", "Results", blocks), Section("curves", "Curves", pictures)]
    for number, section in enumerate(sections.sections(found), 1):
        content: list[Block] = []
        if section.grid is not None:
            content.append(_table(section.grid, section.heading, titled=True))
        if section.lines:
            content.append(Notes("Runs that do not count", section.lines))
        parts.append(Section(f"part{number}", section.heading, content))
    return parts


def _table(grid: Grid, caption: str, *, titled: bool = False) -> Table:
    words = _WORDS & set(grid.header)
    if grid.header[0] == "setting":  # its columns are values
        words = frozenset(grid.header)
    return Table(caption, grid.header, grid.rows, words, titled)


def _runs(records: Sequence[RunRecord], subject: Subject) -> list[Block]:
    """Every run in a line, and where it is kept."""
    rows, places = [], []
    for record in records:
        name = record.setting("name")
        names = [record.setting(f"{k}.name") for k in ("task", "model", "dropout")]
        rows.append([
            printable(record.path.name),
            *("-" if value is None else short(str(value), 40) for value in names),
            short(str(record.setting("seed")), 20),
            record.status,
            results.best(record),
            results.steps(record),
            short(str(name), 60) if isinstance(name, str) and name else "-",
            "-" if record.status == Status.FINISHED else short(record.summary.reason or "-", 200),
        ])  # fmt: skip
        places.append(str(record.path))
        places += [f"    {fact}: {value}" for fact, value in kept.mlflow_place(record)]
    header = ["run", "task", "model", "dropout", "seed", "status", "best", "trained", "name",
              "remark"]  # fmt: skip
    used = [i for i in range(len(header)) if any(row[i] != "-" for row in rows)]
    table = Table(
        "Every run, finished or not.",
        [header[i] for i in used],
        [[row[i] for i in used] for row in rows],
        frozenset(header) - {"seed"},
    )
    failed = [] if subject.sweep is None else _not_run(subject)
    return [
        table,
        *failed,
        Folded("Where they are kept", [Verbatim("", facts.printable_lines(places))]),
    ]


def _not_run(subject: Subject) -> list[Block]:
    """Jobs of a sweep that left no run, and combinations that made no sense."""
    assert subject.sweep is not None
    there = {record.path.name for record in subject.records}
    lines = [
        f"{printable(name)}: {entry.status.lower()}{f', {printable(why)}' if why else ''}"
        for name, entry in subject.sweep.jobs.items()
        if name not in there and (why := entry.reason, True)
    ]
    lines += [
        f"{printable(name)}: left out, {printable(str(why))}"
        for name, why in subject.sweep.not_applicable.items()
    ]
    return [Notes("Jobs without a run", lines)] if lines else []

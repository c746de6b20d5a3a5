"""The report of one run."""

import time
from collections.abc import Iterable

from mambalab.records.reader import Curve, RunRecord
from mambalab.report import facts, figures, kept, remarks, results
from mambalab.report.document import Block, Facts, Notes, Paragraph, Report, Section, Table
from mambalab.report.subject import Subject
from mambalab.utils.text import count, number, printable, short

MAX_SAMPLES = 4
MAX_METRICS = 40
MAX_NOTE_CHARS = 5000


def report(subject: Subject, title: str | None) -> Report:
    """Write the report of a run, as far as its folder can be read.

    Args:
        subject: one run.
        title: of the report; None = the run's name, or what it is.
    """
    (record,) = subject.records
    tables, damaged = results.tables(record)
    samples = results.samples(record, MAX_SAMPLES)
    sections = [
        Section("results", "Results", _results(subject, record, damaged, bool(tables))),
        Section("curves", "Curves", figures.of_run(record) or [_no_curves()]),
        Section("tables", "Details of the evaluation", tables),
        Section("samples", results.samples_title(samples), samples),
        facts.repeat([record], subject.sweep),
        facts.machine([record]),
        facts.settings([record]),
        Section("kept", "Where it is kept", [Facts(_kept(record))]),
    ]
    name, what = record.setting("name"), _what(record)
    named = title or (name if isinstance(name, str) and name else what)
    return Report(
        title=printable(named),
        about="" if named == what else what,
        tags=labels(record.setting("tags")),
        note=note(record),
        sections=sections,
    )


def _what(record: RunRecord) -> str:
    """Say what a run is; its folder, if its settings do not say."""
    names = [record.setting(f"{group}.name") for group in ("task", "model", "dropout")]
    if None in names:
        return printable(record.path.name)
    task, model, dropout = (short(str(name), 60) for name in names)
    return f"{task} · {model} · dropout {dropout} · seed {short(str(record.setting('seed')), 20)}"


def labels(tags: object) -> list[str]:
    """Return a run's tags as texts."""
    return [short(str(tag), 60) for tag in tags] if isinstance(tags, list) else []


def note(record: RunRecord) -> str:
    """Return a run's note; new lines stay."""
    text = record.setting("note")
    lines = text.splitlines() if isinstance(text, str) else []
    return facts.printable_lines(lines)[:MAX_NOTE_CHARS]


def _no_curves() -> Block:
    return Paragraph("The run recorded no loss, or what it recorded cannot be read.")


def _results(
    subject: Subject, record: RunRecord, damaged: list[str], with_tables: bool
) -> list[Block]:
    blocks: list[Block] = [Facts(_facts(record))]
    table = metrics(record, with_parts=not with_tables)
    if table.rows:
        blocks.append(table)
        wish = "more" if record.maximize else "less"
        blocks.append(
            Paragraph(
                f"The weights that are kept are those with the best {printable(record.metric)} "
                f"({wish} is better). Each figure is that of a single run: it has no interval."
            )
        )
    warnings = [] if subject.comparison is None else subject.comparison.warnings
    lines = [*subject.problems, *damaged, *remarks.of_run(record), *warnings]
    if lines:
        blocks.append(Notes("Bear in mind", list(dict.fromkeys(lines))))
    return blocks


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    summary = record.summary
    task = record.setting("task.name") or summary.task
    dropout = record.setting("dropout.name") or summary.dropout
    rows = [
        ("task", "-" if task is None else short(str(task), 80)),
        ("model", results.model(record)),
        ("dropout", "-" if dropout is None else _dropout(record, str(dropout))),
        ("seed", printable(str(record.setting("seed")))),
        ("status", _status(record)),
        ("trained", results.steps(record)),
    ]
    if summary.tokens_per_second:
        rows.append(("speed", f"{count(summary.tokens_per_second)} tokens/s"))
    if summary.started is not None and 0 < summary.started < 2**33:
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(summary.started))
        rows.append(("begun", date))
    return rows


def _status(record: RunRecord) -> str:
    reason = record.summary.reason
    return printable(f"{record.status} ({reason})" if reason else record.status)


def _dropout(record: RunRecord, name: str) -> str:
    p, ssm_p = record.setting("dropout.p"), record.setting("dropout.ssm_p")
    rates = [f"{key}={value}" for key, value in (("p", p), ("ssm_p", ssm_p)) if value]
    return short(f"{name} ({', '.join(rates)})" if rates else name, 80)


def metrics(record: RunRecord, *, with_parts: bool) -> Table:
    """Make the table of a run's metrics: with its best weights, at its end, and in its test.

    Args:
        record: the run.
        with_parts: whether parts of a metric, such as the accuracy of each class, have rows.
    """
    best = record.best
    curves = record.curves
    test = record.summary.test
    names = [name.removeprefix("val/") for name in curves if name.startswith("val/")]
    noted = record.summary.best.metrics if record.summary.best else {}
    names += [name.removeprefix("val/") for name in (*noted, *(record.summary.last or {}))]
    tested = {} if test is None else test.metrics
    names += [name.removeprefix("test/") for name in tested]
    chosen = record.metric.removeprefix("val/")
    kept_names = [n for n in dict.fromkeys([chosen, *names]) if with_parts or "/" not in n]
    rows = []
    for name in kept_names[:MAX_METRICS]:
        key = f"val/{name}"
        points = [] if best is None else [v for s, v in curves.get(key, []) if s == best.step]
        cells = [
            points[0] if points else noted.get(key),
            _last(curves.get(key, []), (record.summary.last or {}).get(key)),
            tested.get(f"test/{name}"),
        ]
        rows.append([short(name, 60), *map(_shown, cells)])
    at_best = "validation, best weights" + ("" if best is None else f" (step {best.step:,})")
    header = ["metric", at_best, "validation, at the end", "test, best weights"]
    return _without_empty(Table("Metrics of the run.", header, rows))


def _last(points: Curve, noted: object) -> object:
    return points[-1][1] if points else noted


def _shown(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "-" if value is None else short(str(value), 40)


def _without_empty(table: Table) -> Table:
    """Leave out columns and rows without any value."""
    rows = [row for row in table.rows if any(cell != "-" for cell in row[1:])]
    used = [i for i in range(len(table.header)) if i == 0 or any(row[i] != "-" for row in rows)]
    return Table(table.caption, _at(table.header, used), [_at(row, used) for row in rows])


def _at(cells: Iterable[str], used: list[int]) -> list[str]:
    return [cell for i, cell in enumerate(cells) if i in used]


def _kept(record: RunRecord) -> list[tuple[str, str]]:
    rows = [("folder", printable(str(record.path))), *kept.mlflow_place(record)]
    if not record.path.is_dir():
        rows[0] = ("name", printable(str(record.path)))
    return rows

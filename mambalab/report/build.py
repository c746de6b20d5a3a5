"""Chooses what kind of report fits."""

from mambalab.report import many_runs, one_run
from mambalab.report.document import Report
from mambalab.report.subject import Subject


def report(subject: Subject, title: str | None = None) -> Report:
    """Write a report: of a single run, or of several.

    Args:
        subject: the runs.
        title: of the report; None = what they are.
    """
    kind = one_run if len(subject.records) == 1 else many_runs
    return kind.report(subject, title)

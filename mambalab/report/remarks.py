"""What a reader must bear in mind of single runs, in a sentence each."""

from mambalab.compare.measures import LOSS, Measured, Metric, measure
from mambalab.compare.notes import MIN_RELATIVE_SLOPE
from mambalab.compare.overfitting import MIN_RELATIVE_RISE
from mambalab.compare.turning import turn
from mambalab.errors import UserError
from mambalab.records import archive
from mambalab.records.reader import RunRecord
from mambalab.records.summary import Status
from mambalab.utils.text import number, printable

CHANGES = "+changes"  # what a git revision ends with if files differed from the commit


def of_run(record: RunRecord) -> list[str]:
    """List what a run's curves and its summary leave in doubt."""
    return [*unfinished(record), *_of_curves(record), *not_repeatable(record)]


def unfinished(record: RunRecord) -> list[str]:
    """Say that a run has not come to its end, and why."""
    if record.status == Status.FINISHED:
        return []
    why = f" ({printable(record.summary.reason)})" if record.summary.reason else ""
    step = record.step
    far = "nothing is known of its steps" if step is None else f"it has done {step:,} steps"
    return [f"the run has not finished: it is {printable(record.status)}{why}; {far}"]


def _of_curves(record: RunRecord) -> list[str]:
    metric = Metric(record.metric, record.maximize)
    try:
        measured = measure(record, metric)
    except UserError as error:
        return [str(error)]
    if measured is None:
        return [f"it holds no finite {printable(metric.name)}: there is nothing to judge it by"]
    return [*_overfitting(record, measured), *_improving(measured, metric)]


def _overfitting(record: RunRecord, measured: Measured) -> list[str]:
    rise = turn([record.curves.get(LOSS, [])])
    if rise is None or measured.best_loss is None:
        return []
    if rise.mean <= MIN_RELATIVE_RISE * abs(measured.best_loss):
        return []
    return [
        f"over-fitting: {LOSS} ends {number(rise.mean)} above its lowest part (one run cannot tell "
        "how much of that is chance); the best weights are from before"
    ]


def _improving(measured: Measured, metric: Metric) -> list[str]:
    if measured.end_slope is None:
        return []
    gain = measured.end_slope if metric.maximize else -measured.end_slope
    if gain <= MIN_RELATIVE_SLOPE * abs(measured.best):
        return []
    return [
        f"still improving at its end: {printable(metric.name)} by {number(gain)} in the last tenth "
        "of its steps, by a straight line through the last quarter of its evaluations; more steps "
        "may give a better value"
    ]


def draws_its_data(record: RunRecord) -> bool:
    """Tell whether the task of a run needs no data: mambalab's own synthetic ones."""
    return str(record.setting("task._target_")).startswith("mambalab.tasks.synthetic.")


def not_repeatable(record: RunRecord) -> list[str]:
    """Say what is not known of how a run was made."""
    lines = []
    if (revision := record.summary.git_revision or "").endswith(CHANGES):
        lines.append(
            "the code had changes that were not committed: "
            f"{printable(revision.removesuffix(CHANGES)[:12])} alone does not repeat the run"
        )
    if earlier := record.summary.earlier_revisions:
        lines.append(f"earlier sessions ran other code: {printable(earlier)}")
    unknown = archive.missing(record)
    if draws_its_data(record):
        unknown = [name for name in unknown if name != "hash of the data"]
    if unknown:
        lines.append(f"not recorded: {', '.join(unknown)}")
    return lines

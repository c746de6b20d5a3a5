"""What to bear in mind of a comparison's groups, in a line each."""

from collections.abc import Sequence

from mambalab.compare.measures import Metric
from mambalab.compare.results import GroupResult
from mambalab.utils.text import number, printable, short

MIN_RELATIVE_SLOPE = 0.005
"""Share of the best value by which the metric must still improve in the last tenth of the run to be
told: less is no reason to train longer."""


def luck_of_the_best(results: Sequence[GroupResult]) -> list[str]:
    """Say what the rank of one seed each is worth."""
    return [
        f"one seed each: the best of {len(results)} would hardly be as good again; what is "
        "reported is trained anew, with several seeds"
    ]


def no_end(results: Sequence[GroupResult], metric: Metric) -> list[str]:
    """List the runs whose last value is not finite."""
    return [
        f"{r.label}, seed {short(str(run.seed), 20)}: the last {printable(metric.name)} is not "
        "finite and counts in no mean"
        for r in results
        for run in r.runs
        if run.last is None and run.evaluations
    ]


def lengthened(results: Sequence[GroupResult]) -> list[str]:
    """Name the runs that were finished and then given more steps."""
    return [
        f"{r.label}, seed {short(str(record.setting('seed')), 20)}: finished at step "
        f"{record.summary.lengthened_at:,} and given more steps, for which its learning rate rose "
        "again: not a run that was so long from its beginning"
        for r in results
        for record in r.group.records
        if record.summary.lengthened_at
    ]


def unequal_evaluations(results: Sequence[GroupResult]) -> list[str]:
    """Warn where groups were evaluated unequally often: the best of more looks is better."""
    known = [result for result in results if result.evaluations]  # else its curve is not there
    counts = {result.label: result.evaluations for result in known}
    if not counts:
        return []
    least, most = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
    if counts[least] == counts[most]:
        return []
    return [
        f"the groups were evaluated unequally often ({least}: {counts[least]:g} times, {most}: "
        f"{counts[most]:g} times): the best of more evaluations looks better by chance"
    ]


def still_improving(results: Sequence[GroupResult], metric: Metric) -> list[str]:
    """Name the groups whose metric was still improving when their runs ended."""
    lines = []
    for result in results:
        slope = result.end_slope
        if slope is None or slope.low is None or slope.high is None:
            continue
        gain = slope.mean if metric.maximize else -slope.mean
        sure = slope.low > 0 if metric.maximize else slope.high < 0
        if sure and gain > MIN_RELATIVE_SLOPE * abs(result.best.mean):
            lines.append(
                f"still improving at the end: {result.label} "
                f"({number(gain)} in the last tenth of its steps)"
            )
    return lines

"""What the differences between groups show, and what they do not."""

from collections.abc import Sequence
from dataclasses import replace

from mambalab.compare.measures import Metric
from mambalab.compare.results import (
    BASELINE,
    BETTER,
    NOT_SHOWN,
    TOO_FEW,
    WITHHELD,
    WORSE,
    GroupResult,
)
from mambalab.compare.statistics import Difference, holm, paired

MIN_SEEDS, GOOD_SEEDS = 3, 5  # from which there is a verdict, and that it deserves
ALPHA = 0.05  # level of significance, of p-values adjusted by Holm's method
MAX_NAMED_GROUPS, MAX_NAMED_SEEDS = 3, 5  # in a warning


def add(
    results: list[GroupResult], baseline: str, metric: Metric, withheld: frozenset[str]
) -> list[GroupResult]:
    """Add to the results their differences to the baseline and what these show."""
    base = next(r for r in results if r.label == baseline)
    theirs = {run.seed: run.best for run in base.runs}
    others = [r for r in results if r.label != baseline]
    pairs = [paired({run.seed: run.best for run in r.runs}, theirs) for r in others]
    adjusted = holm([pair and pair.p for pair in pairs])
    judged = {baseline: base}
    for result, pair, p in zip(others, pairs, adjusted, strict=True):
        pair = pair and replace(pair, p_holm=p)
        word = verdict(pair, metric, withheld=result.label in withheld)
        if why_withheld(word, result, base):
            word = WITHHELD
        judged[result.label] = replace(result, difference=pair, verdict=word)
    return [judged[result.label] for result in results]


def verdict(pair: Difference | None, metric: Metric, *, withheld: bool) -> str:
    """Say what a difference shows, whose p-value is adjusted already.

    Args:
        pair: None without a common seed.
        metric: tells whether more is better.
        withheld: nothing is to be said, whatever the difference.
    """
    if pair is None or len(pair.seeds) < MIN_SEEDS:
        return TOO_FEW
    if withheld:
        return WITHHELD
    low, high = pair.estimate.low, pair.estimate.high
    if pair.p_holm is None or low is None or high is None:
        return NOT_SHOWN
    if low <= 0 <= high or pair.p_holm >= ALPHA:
        return NOT_SHOWN
    return BETTER if (pair.estimate.mean > 0) == metric.maximize else WORSE


def why_withheld(word: str, ours: GroupResult, theirs: GroupResult) -> str | None:
    """Say why a verdict of better or worse is not to be given; None if it may be.

    A failed run counts as the worst: a group is not better by the seeds that survived, nor worse
    than survivors. And an upper bound of a likelihood that lies below an exact one proves a better
    model, but one above it proves nothing.
    """
    pair = {BETTER: (ours, theirs), WORSE: (theirs, ours)}.get(word)
    if pair is None:
        return None
    ahead, behind = pair
    if set(ahead.failed_seeds) - set(behind.failed_seeds):
        return "failed runs decide"
    if behind.is_bound and not ahead.is_bound:
        return "a bound above an exact value"
    return None


def failures(results: Sequence[GroupResult]) -> list[str]:
    """Warn of runs that failed, a line for each group."""
    lines = []
    for result in results:
        if lost := result.failed_seeds:
            seeds = ", ".join(map(str, lost[:MAX_NAMED_SEEDS]))
            more = f" and {len(lost) - MAX_NAMED_SEEDS} more" if len(lost) > MAX_NAMED_SEEDS else ""
            lines.append(
                f"{len(lost)} of {len(lost) + len(result.runs)} runs failed (seed {seeds}{more}): "
                f"{result.label}; the means are of those that did not, and no verdict rests on that"
            )
    return lines


def too_few(results: Sequence[GroupResult]) -> list[str]:
    """Warn, in a line, of groups with too few seeds, or too few in common with the baseline."""
    counts = {
        r.label: len(r.seeds)
        if r.verdict == BASELINE
        else len(r.difference.seeds if r.difference else ())
        for r in results
    }
    few = {label: n for label, n in counts.items() if n < MIN_SEEDS}
    if not few:
        return []
    least = min(few.values())
    seeds = f"only {least} seed{'' if least == 1 else 's'}"
    common = " in common with the baseline" if len(results) > 1 else ""
    where = (
        "every group" if len(few) == len(results) > 1 else "; ".join(list(few)[:MAX_NAMED_GROUPS])
    )
    if where != "every group" and len(few) > MAX_NAMED_GROUPS:
        where += f"; and {len(few) - MAX_NAMED_GROUPS} more groups"
    return [f"{seeds}{common} ({where}): a verdict needs at least {MIN_SEEDS}, better {GOOD_SEEDS}"]

"""What is said below a study's table, generated from its records."""

import math
from itertools import pairwise

from docs.results.one_study import Study, by_test
from mambalab.compare.comparability import is_bound, seed_of
from mambalab.compare.results import Comparison, GroupResult
from mambalab.compare.statistics import Estimate, estimate
from mambalab.compare.text import interval
from mambalab.records.reader import RunRecord

MIN_SHARE = 0.95  # tokens of the shortest group to those of the longest, below which it is told
EARLY = 0.7  # share of its steps after which a run's best is no early one
_PER_NAT = {"bits_per_dim": 1 / math.log(2), "bits_per_char": 1 / math.log(2)}  # else 1


def every(of: Study, found: Comparison) -> list[str]:
    """All that is to be said of a study, a line each."""
    said = [of.note, encoding(found), at_equal_tokens(found), rounds(found), best_early(found)]
    said += [minutes_by_seed(found), interrupted(found), hidden_error(found), in_nats(found)]
    return [
        *(line for line in said if line),
        *by_test_split(found),
        *found.dropout,
        *found.warnings,
        *(f"left out: {one.reason}" for one in found.left_out),
    ]


def _records(found: Comparison) -> list[RunRecord]:
    return [record for group in found.groups for record in group.group.records]


def _tokens(record: RunRecord, step: int | None = None) -> float | None:
    """Tokens that a run had seen at a step; at its end if that is None."""
    each = record.summary.tokens_per_step
    steps = record.step if step is None else step
    return float(each) * steps if each and steps else None


def budget(group: GroupResult) -> float | None:
    """Tokens that the runs of a group saw, on average."""
    seen = [tokens for r in group.group.records if (tokens := _tokens(r)) is not None]
    return sum(seen) / len(seen) if seen else None


def _best_by(record: RunRecord, found: Comparison, tokens: float) -> float | None:
    """The best value that a run had reached once it had seen so many tokens; the last one that
    counts lies between two evaluations, on a line."""
    points = [
        (seen, value)
        for step, value in record.curves.get(found.metric.name, [])
        if value is not None and (seen := _tokens(record, step)) is not None
    ]
    if not points or points[-1][0] < 0.99 * tokens:
        return None
    reached = [value for seen, value in points if seen <= tokens]
    for (t0, v0), (t1, v1) in pairwise(points):
        if t0 <= tokens <= t1:
            reached.append(v0 + (v1 - v0) * (tokens - t0) / (t1 - t0))
    return (max if found.metric.maximize else min)(reached, default=None)


def at_equal_tokens(found: Comparison) -> str | None:
    """The best that each group had reached when it had seen as many tokens as the shortest; None if
    all saw as many, or a run does not tell."""
    budgets = [seen for group in found.groups if (seen := budget(group)) is not None]
    if len(budgets) < len(found.groups) or min(budgets) > MIN_SHARE * max(budgets):
        return None
    told = []
    for group in found.groups:
        values = [_best_by(record, found, min(budgets)) for record in group.group.records]
        known = [value for value in values if value is not None]
        value: Estimate | None = estimate(known) if len(known) == len(values) else None
        told.append(f"{group.label} {interval(value)}")
    return (
        f"the best at equal tokens ({min(budgets) / 1e6:.2f} M, where the shortest ended; the "
        f"others' rates were still high there): {'; '.join(told)}"
    )


def by_test_split(found: Comparison) -> list[str]:
    """Say how the groups differ on the test split, where there is one."""
    told = [
        f"{group.label} {interval(pair.estimate, sign='+')}, {word}"
        for group, pair, word in by_test(found)
    ]
    return [f"by the test split, seed by seed: {'; '.join(told)}"] if told else []


def minutes_by_seed(found: Comparison) -> str | None:
    """Say how long each run took, and on how many threads; None if all had as many."""
    threads = {record.summary.threads for record in _records(found)}
    if len(threads) < 2 or None in threads:
        return None
    told = []
    for group in found.groups:
        each = [
            f"{_rounded(record.minutes)} (seed {seed_of(record)}, {_threads(record)})"
            for record in group.group.records
            if record.minutes is not None
        ]
        told.append(f"{group.label or 'all'} {', '.join(each)}")
    return f"minutes, by threads: {'; '.join(told)}"


def _rounded(minutes: float) -> str:
    return f"{minutes:.{0 if minutes >= 10 else 1}f}"


def _threads(record: RunRecord) -> str:
    count = record.summary.threads
    since = " at the end" if record.summary.resumed_from else ""
    return f"{count} thread{'' if count == 1 else 's'}{since}"


def interrupted(found: Comparison) -> str | None:
    """Say which runs were stopped and went on later; None if none was."""
    told = [
        f"{group.label or 'all'}, seed {seed_of(record)}"
        for group in found.groups
        for record in group.group.records
        if record.summary.resumed_from
    ]
    return f"stopped, and gone on with later: {'; '.join(told)}" if told else None


def encoding(found: Comparison) -> str | None:
    """Say how the images were stored, if a record does."""
    told = {(record.summary.data or {}).get("encoding") for record in _records(found)} - {None}
    return f"images: {', '.join(sorted(map(str, told)))}" if told else None


def rounds(found: Comparison) -> str | None:
    """Say how often each group went through its training data, if they differ."""
    told: dict[str, float] = {}
    for group in found.groups:
        epochs = [record.summary.epochs for record in group.group.records]
        known = [value for value in epochs if value is not None]
        if len(known) < len(epochs):
            return None
        told[group.label or "all"] = sum(known) / len(known)
    if min(told.values()) > MIN_SHARE * max(told.values()):
        return None
    return f"rounds through the data: {'; '.join(f'{k} {v:.1f}' for k, v in told.items())}"


def best_early(found: Comparison) -> str | None:
    """Say which groups were best long before their end: the budget was none to them."""
    told = []
    for group in found.groups:
        shares = [
            best.step / record.step
            for record in group.group.records
            if record.step and (best := record.best) is not None
        ]
        if shares and sum(shares) / len(shares) < EARLY:
            told.append(f"{group.label or 'all'} after {100 * sum(shares) / len(shares):.0f} %")
    if not told:
        return None
    return (
        f"best long before the end: {'; '.join(told)} of the steps. "
        "These are runs stopped in time, not what their budget can give"
    )


def hidden_error(found: Comparison) -> str | None:
    """Say how large the error of bounds is by the choice of what is hidden: on the test split, or
    where there is none at the last validation."""
    per_nat = _PER_NAT.get(found.metric.name.rpartition("/")[2], 1.0)
    for split, named in {"test": "test split", "val": "validation split"}.items():
        told = []
        for group in found.groups:
            errors = [
                error * per_nat
                for record in group.group.records
                if is_bound(record) and (error := _stderr(record, split)) is not None
            ]
            if errors:
                told.append(f"{group.label or 'all'} {sum(errors) / len(errors):.4f}")
        if told:
            return (
                f"by the choice of what is hidden, the same in all runs, bounds of the {named} "
                f"have a standard error that is not in ±: {'; '.join(told)}"
            )
    return None


def _stderr(record: RunRecord, split: str) -> float | None:
    """The error of a bound in nats, as the run measured it."""
    test = record.summary.test
    metrics = record.summary.last if split == "val" else test.metrics if test is not None else None
    error = (metrics or {}).get(f"{split}/loss_stderr")
    return error if isinstance(error, float) else None


def in_nats(found: Comparison) -> str | None:
    """Say what bits a character are in nats, as other studies of the same text have them."""
    if not found.metric.name.endswith("/bits_per_char"):
        return None
    told = [f"{group.label or 'all'} {group.best.mean * math.log(2):.3f}" for group in found.groups]
    return f"in nats a character: {'; '.join(told)}"

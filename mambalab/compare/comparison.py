"""Comparing groups of runs: what each achieves over its seeds."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from statistics import median
from typing import Any

from mambalab.compare import comparability, notes, overfitting, verdicts
from mambalab.compare.contrasts import contrast
from mambalab.compare.groups import Group, split
from mambalab.compare.measures import LOSS, Measured, Metric, measure, reached
from mambalab.compare.results import RANKED, Comparison, GroupResult, LeftOut
from mambalab.compare.search import Searched
from mambalab.compare.search import found as search_of
from mambalab.compare.statistics import MIN_BOOTSTRAP, Estimate, estimate
from mambalab.compare.turning import turn
from mambalab.errors import UserError
from mambalab.records.reader import RunRecord
from mambalab.records.summary import Status
from mambalab.utils.text import printable


def compare(
    records: Sequence[RunRecord],
    *,
    ignore: Callable[[str], bool],
    metric: str | None = None,
    goal: float | None = None,
    baseline: str | None = None,
    bootstrap: bool = False,
    pairs: str | None = None,
    left_out: Sequence[LeftOut] = (),
    searched: Searched | None = None,
) -> Comparison:
    """Group runs by what they differ in and compare the groups.

    Args:
        records: runs in any state, each once. Finished ones count; failed ones, and those without
            a finite value, count against their group.
        ignore: whether a setting, by its dotted name, makes no other group.
        metric: what to judge by; None = what the runs themselves are judged by.
        goal: value for time and tokens; None = what the groups reach on average.
        baseline: a label, or a part of one label only; None = the first group without dropout,
            else the first group.
        bootstrap: see `Comparison`.
        pairs: also compare the groups that differ in this setting only; `auto` = in any one.
        left_out: runs that were left out before.
        searched: the search whose trials the runs are; of one seed each they are ranked, and have
            no baseline unless one is named.

    Raises:
        UserError: nothing to compare, or runs that cannot be compared or averaged.
    """
    finished = [record for record in records if record.status == "FINISHED"]
    dropped = [
        *left_out,
        *(LeftOut(str(r.path), r.status) for r in records if r.status != "FINISHED"),
    ]
    judged = _metric(finished, metric)
    kept, found = [], []
    failed = [record for record in records if record.status == Status.FAILED.value]
    for record in finished:
        try:
            measured = measure(record, judged)
        except UserError as error:
            dropped.append(LeftOut(str(record.path), str(error)))
            continue
        if measured is None:
            dropped.append(LeftOut(str(record.path), f"no finite {judged.name}"))
            failed.append(record)
        else:
            kept.append(record)
            found.append(measured)
    if not kept:
        if metric is not None and (there := _measured(finished)) and metric not in there:
            names = ", ".join(printable(name) for name in there)
            raise UserError(f"metric={printable(metric)}: no run measured it; there are: {names}")
        reasons = "".join(f"; {d.path}: {d.reason}" for d in dropped[:3])
        raise UserError(f"no finished run to compare{reasons}")
    groups = split(kept, ignore, failed)
    comparability.check_groups(groups)
    search = search_of(searched, records, judged) if searched is not None else None
    single = all(len(group.records) == 1 for group in groups) and len(groups) > 1
    ranked = search is not None and single and baseline is None
    base, why = _baseline(groups, baseline)
    by_record = {id(record): run for record, run in zip(kept, found, strict=True)}
    runs = [[by_record[id(record)] for record in group.records] for group in groups]
    if bootstrap:
        _check_bootstrap(groups)
    if goal is None:
        goal = _reachable([[run.best for run in some] for some in runs], judged)
    results = [
        _result(group, some, judged, goal, bootstrap)
        for group, some in zip(groups, runs, strict=True)
    ]
    if ranked:
        judgement = overfitting.Judgement([], frozenset())
        results = [replace(r, verdict=RANKED) for r in results]
    else:
        judgement = overfitting.judge(
            {r.label: (r.group, r.turn, r.best_loss) for r in results}, base.label
        )
        results = verdicts.add(results, base.label, judged, judgement.withheld)
    contrasts = (
        contrast(results, [g.label for g in groups], pairs, judged, judgement.withheld)
        if pairs is not None
        else []
    )
    results.sort(key=lambda r: -r.best.mean if judged.maximize else r.best.mean)
    return Comparison(
        task=printable(_tasks(groups, base)),
        metric=judged,
        bootstrap=bootstrap,
        goal=goal,
        baseline="" if ranked else base.label,
        baseline_is="" if ranked else why,
        groups=results,
        contrasts=contrasts,
        dropout=judgement.lines,
        warnings=[
            *(notes.luck_of_the_best(results) if ranked else verdicts.too_few(results)),
            *verdicts.failures(results),
            *notes.no_end(results, judged),
            *notes.lengthened(results),
            *notes.unequal_evaluations(results),
            *notes.still_improving(results, judged),
            *comparability.warnings(groups),
        ],
        left_out=dropped,
        search=search,
    )


def _tasks(groups: Sequence[Group], base: Group) -> str:
    """Name the task; of two that measure the same, that of the baseline comes first."""
    every = dict.fromkeys(str(group.setting("task.name") or "-") for group in (base, *groups))
    return " and ".join(every)


def _measured(records: Sequence[RunRecord]) -> list[str]:
    """Return the metrics of these runs that say something of a model, sorted."""
    found = set()
    for record in records:
        with contextlib.suppress(UserError):  # damaged, which is the reason given then
            found |= {name for name in record.curves if not name.startswith("time/")}
    return sorted(found)


def _metric(records: Sequence[RunRecord], name: str | None) -> Metric:
    """Choose what to judge by; of a metric that no run is judged by, more is better if it is an
    accuracy."""
    own = {(record.metric, record.maximize) for record in records}
    if name is None and len(own) > 1:
        names = " and ".join(sorted(printable(n) for n, _ in own))
        raise UserError(f"the runs are judged by {names}: choose one, as in metric={LOSS}")
    for metric, maximize in sorted(own):
        if name in (None, metric):
            return Metric(metric, maximize)
    name = name or LOSS  # no run at all
    return Metric(name, maximize="accuracy" in name)


def _check_bootstrap(groups: Sequence[Group]) -> None:
    least = min(groups, key=lambda group: len(group.records))
    if (n := len(least.records)) < MIN_BOOTSTRAP:
        raise UserError(
            f"interval=bootstrap needs {MIN_BOOTSTRAP} seeds in every group, {least.label} has {n} "
            "(with fewer its intervals are far too narrow): leave interval=t"
        )


def _baseline(groups: Sequence[Group], wanted: str | None) -> tuple[Group, str]:
    """Choose the group to compare with, and say why; the reason is empty if somebody chose it."""
    if wanted is None:
        free = next((group for group in groups if overfitting.is_free(group)), None)
        return (free, "the first without dropout") if free else (groups[0], "the first group")
    exact = [group for group in groups if group.label == wanted]
    found = exact or [group for group in groups if wanted in group.label]
    if len(found) == 1:
        return found[0], ""
    why = "is part of several labels" if found else "is no group"
    labels = "; ".join(group.label for group in groups)
    raise UserError(f"baseline={printable(wanted)} {why}; the groups are: {labels}")


def _reachable(best: list[list[float]], metric: Metric) -> float:
    """Return the worst of the groups' means, rounded to three digits to the easier side."""
    means = [math.fsum(values) / len(values) for values in best]
    worst = Decimal(repr(min(means) if metric.maximize else max(means)))
    if not worst:
        return 0.0
    digit = Decimal((0, (1,), worst.adjusted() - 2))
    rounding = ROUND_FLOOR if metric.maximize else ROUND_CEILING
    return float((worst / digit).to_integral_value(rounding) * digit)


def _result(
    group: Group, runs: list[Measured], metric: Metric, goal: float, bootstrap: bool
) -> GroupResult:
    runs = [
        replace(run, **reached(record, metric, goal))
        for run, record in zip(runs, group.records, strict=True)
    ]

    def values(name: str) -> list[Any]:
        return [v for run in runs if (v := getattr(run, name)) is not None]

    def over_seeds(name: str) -> Estimate | None:
        return estimate(values(name), bootstrap=bootstrap)

    def mean(name: str) -> float | None:
        found = values(name)
        return math.fsum(found) / len(found) if found else None

    def middle(name: str) -> float | None:
        found = values(name)
        return float(median(found)) if found else None

    best = over_seeds("best")
    assert best is not None, "a run without a best value was left out"
    return GroupResult(
        group=group,
        runs=runs,
        best=best,
        last=over_seeds("last"),
        best_loss=over_seeds("best_loss"),
        last_loss=over_seeds("last_loss"),
        gap=over_seeds("gap"),
        rise=over_seeds("rise"),
        excess=over_seeds("excess"),
        end_slope=over_seeds("end_slope"),
        turn=turn([record.curves.get(LOSS, []) for record in group.records]),
        test=estimate(
            [run.test[metric.of_test] for run in runs if metric.of_test in run.test],
            bootstrap=bootstrap,
        ),
        evaluations=float(median(run.evaluations for run in runs)),
        parameters=mean("parameters"),
        steps=mean("steps"),
        minutes=mean("minutes"),
        tokens_per_second=mean("tokens_per_second"),
        reached=len(values("goal_step")),
        goal_step=middle("goal_step"),
        goal_seconds=middle("goal_seconds"),
        goal_tokens=middle("goal_tokens"),
    )

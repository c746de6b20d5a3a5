"""Contrasts: groups that differ in one setting only, beside each other, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from mambalab.compare.groups import ABSENT, Group
from mambalab.compare.measures import Metric
from mambalab.compare.results import BETTER, WITHHELD, WORSE, Contrast, GroupResult
from mambalab.compare.statistics import holm, paired
from mambalab.compare.verdicts import verdict, why_withheld
from mambalab.errors import UserError
from mambalab.utils.text import printable

AUTO = "auto"


@dataclass(frozen=True)
class Pair:
    """Two groups that differ in one setting only.

    Attributes:
        setting: its dotted name, or `model`, `task` ... for a whole group of settings.
        base, other: their labels; the base is the one whose value of the setting appears first.
        base_value, other_value: of the setting.
    """

    setting: str
    base: str
    other: str
    base_value: str
    other_value: str


def contrast(
    results: Sequence[GroupResult],
    order: Sequence[str],
    pairs: str,
    metric: Metric,
    withheld: frozenset[str],
) -> list[Contrast]:
    """Compare the groups that differ in one setting only.

    Args:
        results: what the groups achieved.
        order: their labels in the order of their appearance.
        pairs: `auto` for every setting, or the dotted name of one.
        metric: what is judged by.
        withheld: labels of groups on whose dropout there is no verdict.

    Returns:
        The differences, their p-values adjusted together; where the same two values of a setting
        meet in several pairs, their average over these follows, these adjusted among themselves.

    Raises:
        UserError: no two groups differ in that setting only.
    """
    by_label = {result.label: result for result in results}
    found = find([by_label[label].group for label in order], pairs)
    single = [_single(pair, by_label, metric, withheld) for pair in found]
    averages = _averages(found, single)
    return [*_adjusted(single, metric), *_adjusted(averages, metric)]


def find(groups: Sequence[Group], pairs: str) -> list[Pair]:
    """Find the pairs of groups that differ in one setting only.

    Args:
        groups: in the order of their appearance.
        pairs: `auto` for every setting, or the dotted name of one.

    Raises:
        UserError: there is none.
    """
    found: list[Pair] = []
    first_seen: dict[tuple[str, str], int] = {}  # of each value of a setting, over all groups
    for first, second in combinations(groups, 2):
        key = _only_difference(first.settings, second.settings)
        if key is None or pairs not in (AUTO, key):
            continue
        ranks = [
            first_seen.setdefault((key, _value(group, key)), len(first_seen))
            for group in (first, second)
        ]
        base, other = (first, second) if ranks[0] <= ranks[1] else (second, first)
        found.append(Pair(key, base.label, other.label, _value(base, key), _value(other, key)))
    if not found:
        differing = [key for key in groups[0].settings if not key.endswith(".name")]
        which = "one setting" if pairs == AUTO else printable(pairs)
        named = f"; they differ in {', '.join(map(printable, differing))}" if differing else ""
        raise UserError(f"pairs={printable(pairs)}: no two groups differ in {which} only{named}")
    return found


def _only_difference(first: Mapping[str, str], second: Mapping[str, str]) -> str | None:
    """Name the setting in which two groups differ; None if there are several.

    The name of an option (`dropout.name`) says no more than the one setting that differs with it.
    Two models that differ in their settings altogether differ in one thing, the model.
    """
    keys = [key for key in first if first[key] != second[key]]
    options = {key.partition(".")[0] for key in keys}
    if len(options) != 1:
        return None
    (option,) = options
    plain = [key for key in keys if key != f"{option}.name"]
    if len(plain) == 1 and ABSENT not in (first[plain[0]], second[plain[0]]):
        return plain[0]
    return option if len(plain) < len(keys) else None


def _value(group: Group, key: str) -> str:
    return group.settings.get(key, group.settings.get(f"{key}.name", "-"))


def _single(
    pair: Pair, results: Mapping[str, GroupResult], metric: Metric, withheld: frozenset[str]
) -> Contrast:
    base, other = results[pair.base], results[pair.other]
    difference = paired(_best(other), _best(base))
    hidden = pair.setting.startswith("dropout") and bool({pair.base, pair.other} & withheld)
    found = Contrast(
        setting=pair.setting,
        base_value=pair.base_value,
        other_value=pair.other_value,
        where=(pair.base, pair.other),
        difference=difference,
        verdict=WITHHELD if hidden else "",
    )
    gain = difference.estimate.mean if difference else 0.0
    word = BETTER if (gain > 0) == metric.maximize else WORSE  # if it comes out significant
    return replace(found, verdict=WITHHELD) if why_withheld(word, other, base) else found


def _averages(pairs: Sequence[Pair], found: Sequence[Contrast]) -> list[Contrast]:
    """Average over the pairs in which the same two values of a setting meet, seed by seed."""
    alike: dict[tuple[str, str, str], list[Contrast]] = {}
    for pair, one in zip(pairs, found, strict=True):
        alike.setdefault((pair.setting, pair.base_value, pair.other_value), []).append(one)
    averages = []
    for (setting, base, other), some in alike.items():
        if len(some) < 2:
            continue
        by_seed: dict[Any, list[float]] = {}
        for one in some:
            seeds = one.difference.by_seed if one.difference else {}
            for seed, value in seeds.items():
                by_seed.setdefault(seed, []).append(value)
        means = {s: sum(v) / len(v) for s, v in by_seed.items() if len(v) == len(some)}
        difference = paired(means, dict.fromkeys(means, 0.0))
        hidden = any(one.verdict == WITHHELD for one in some)
        where = tuple(label for one in some for label in one.where)
        word = WITHHELD if hidden else ""
        averages.append(Contrast(setting, base, other, where, difference, word, len(some)))
    return averages


def _adjusted(found: Sequence[Contrast], metric: Metric) -> list[Contrast]:
    adjusted = holm([one.difference and one.difference.p for one in found])
    judged = []
    for one, p in zip(found, adjusted, strict=True):
        difference = one.difference and replace(one.difference, p_holm=p)
        word = verdict(difference, metric, withheld=one.verdict == WITHHELD)
        judged.append(replace(one, difference=difference, verdict=word))
    return judged


def _best(result: GroupResult) -> dict[Any, float]:
    return {run.seed: run.best for run in result.runs}

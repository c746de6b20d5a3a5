"""Whether a comparison can say anything about dropout: only where the model over-fits without it.

A model that does not over-fit has nothing to gain from dropout, so a difference there says little
about it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mambalab.compare.groups import Group
from mambalab.compare.statistics import Estimate
from mambalab.utils.text import number

MIN_RELATIVE_RISE = 0.01  # of the best validation loss: less is no over-fitting to speak of
SSM_P = "dropout.ssm_p"
PREMISE = "dropout can only be judged where the model over-fits without it"


@dataclass(frozen=True)
class Judgement:
    """Which verdicts on dropout are withheld, and lines that say why or why not.

    Attributes:
        lines: statements; empty if the groups do not differ in dropout.
        withheld: labels of the groups on which there is no verdict.
    """

    lines: list[str]
    withheld: frozenset[str]


def is_free(group: Group) -> bool:
    """Tell whether the runs of a group are trained without dropout."""
    return all(not group.setting(key) for key in ("dropout.p", SSM_P))


def judge(
    measured: Mapping[str, tuple[Group, Estimate | None, Estimate | None]], baseline: str
) -> Judgement:
    """Judge whether validation loss turns up without dropout, for each group that differs in
    dropout from the baseline.

    Each is asked of the group without dropout that is like it otherwise; if there is none, of the
    baseline, if that is without dropout, or differs in SSM dropout alone and has none: whether
    that helps on top of ordinary dropout is asked where the model over-fits in spite of it. A
    group of another model than the baseline's that has no such twin is no question on dropout:
    each model has its own, and whole recipes are compared.

    Args:
        measured: by label, each group with how far its validation loss turns up
            (`turning.turn`) and its best.
        baseline: label of the group that the others are compared with.
    """
    groups = [group for group, _, _ in measured.values()]
    base = measured[baseline][0]
    differing = [g for g in groups if _dropout(g) != _dropout(base)]
    recipes = [g for g in differing if _model(g) != _model(base) and not _twins(g, groups)]
    concerned = [g for g in differing if g not in recipes]
    lines: list[str] = [PREMISE] if concerned else []
    if recipes:
        labels = "; ".join(group.label for group in recipes)
        lines.append(
            f"dropout is not that of the baseline, so whole recipes are compared: {labels}"
        )
    withheld, alone = set(), []
    asked: dict[str, bool] = {}
    for group in concerned:
        reference = _reference(group, groups, base)
        if reference is None:
            withheld.add(group.label)
            alone.append(group.label)
            continue
        if reference.label not in asked:
            _, turn, best = measured[reference.label]
            what = "dropout" if is_free(reference) else "SSM dropout"
            asked[reference.label], line = _turns_up(turn, best, what)
            lines.append(f"{line} [{reference.label}]")
        if not asked[reference.label]:
            withheld.add(group.label)
    if alone:
        lines.append(f"no verdict on dropout: no group without dropout beside {'; '.join(alone)}")
    return Judgement(lines, frozenset(withheld))


def _dropout(group: Group) -> dict[str, str]:
    """Return a group's dropout, among the settings in which groups differ."""
    return {
        key: value
        for key, value in group.settings.items()
        if key.startswith("dropout.") and key != "dropout.name"
    }


def _model(group: Group) -> Any:
    return group.setting("model.name")


def _twins(group: Group, groups: list[Group]) -> list[Group]:
    """Return the groups without dropout that are like a group otherwise."""

    def rest(other: Group) -> dict[str, str]:
        return {k: v for k, v in other.settings.items() if not k.startswith("dropout.")}

    return [other for other in groups if is_free(other) and rest(other) == rest(group)]


def _reference(group: Group, groups: list[Group], base: Group) -> Group | None:
    found = _twins(group, groups)
    if is_free(base) or (_without_ssm(group) == _without_ssm(base) and not base.setting(SSM_P)):
        found.append(base)
    return next(iter(found), None)


def _without_ssm(group: Group) -> dict[str, Any]:
    """Return what groups that differ in SSM dropout alone have in common."""
    rest = {k: v for k, v in group.settings.items() if not k.startswith("dropout.")}
    return {**rest, "dropout.p": group.setting("dropout.p")}


def _turns_up(
    turn: Estimate | None, best: Estimate | None, what: str = "dropout"
) -> tuple[bool, str]:
    """Tell whether validation loss turns up without `what`, and a line that says so."""
    if turn is None or best is None:
        return False, "no verdict on dropout: the runs without it hold no val/loss"
    if turn.low is None or turn.high is None:
        return False, (
            "no verdict on dropout: one seed without it cannot show whether validation loss turns "
            f"up (+{number(turn.mean)})"
        )
    sign = "" if turn.mean < 0 else "+"
    shown = f"{sign}{number(turn.mean)} ({number(turn.low)} to {number(turn.high)})"
    if turn.mean > MIN_RELATIVE_RISE * abs(best.mean) and turn.low > 0:
        return True, f"validation loss turns up without {what}: {shown}"
    return False, f"no verdict on dropout: validation loss does not turn up without it: {shown}"

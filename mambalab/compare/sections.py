"""A comparison as sections of a document, in plain words: what its forms for people share."""

from collections.abc import Iterable
from dataclasses import dataclass

from mambalab.compare.measures import LOSS
from mambalab.compare.results import Comparison, GroupResult
from mambalab.compare.search import Search
from mambalab.compare.statistics import Estimate
from mambalab.compare.text import (
    adjusted_p,
    contrast_name,
    contrast_place,
    duration,
    goal_name,
    interval,
    left_out,
    p_value,
    reached,
    trial_rows,
)
from mambalab.utils.text import count, short

MAX_SETTING_CHARS = 80

MEANING = """\
*best*, *last*: the best value of a run and that of its last evaluation, averaged over seeds.
*difference*: best value less the baseline's, seed by seed, with the 95 % interval of Student's t;
p: paired t-test, and the same adjusted by Holm's method for the number of groups (*equal*: every
seed differs by the same amount, there is no spread to test against). *better* and *worse* need
three common seeds, an interval without 0 and an adjusted p below 0.05.
*val - train*: last `val/loss` less the mean `train/loss` since the evaluation before it (dropout,
where there is any, acts on the latter only). *rise*: last `val/loss` less the best, which noise
alone makes positive. *turn*: how far it ends above its lowest part, each seed measured where the
others are lowest, with a 96 % interval: 0 on average for a flat curve. *area*: mean height above
the lowest value so far. A run that failed counts as the worst: no verdict rests on its absence.
*reached*: runs whose evaluations came to the goal; steps, time and tokens until then are medians
over these. Parameters, tokens/s, steps and minutes are means."""


@dataclass(frozen=True)
class Grid:
    """A table of plain texts.

    Attributes:
        header: names of the columns.
        rows: as many cells each; the first names what the row is about.
    """

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A part of a comparison.

    Attributes:
        heading: its title.
        grid: a table; None if it has only lines.
        lines: sentences, shown as a list.
    """

    heading: str
    grid: Grid | None = None
    lines: tuple[str, ...] = ()


def results(comparison: Comparison) -> Grid:
    """Make the table of what each group achieved, beside the baseline."""
    name = comparison.metric.name
    header = ["group", "seeds", f"best {name}", f"last {name}"]
    with_loss = name != LOSS and any(g.best_loss for g in comparison.groups)
    header += [f"best {LOSS}", f"last {LOSS}"] if with_loss else []
    tested = any(g.test for g in comparison.groups)
    header += [comparison.metric.of_test] if tested else []
    header += ["difference", "common seeds", "p", "p (Holm)", "verdict"]

    def row(group: GroupResult) -> list[str]:
        shown = [group.best, group.last]
        shown += [group.best_loss, group.last_loss] if with_loss else []
        shown += [group.test] if tested else []
        pair = group.difference
        return [
            group.label,
            ", ".join(short(str(seed), 20) for seed in group.seeds),
            *_cells(comparison, shown),
            interval(pair and pair.estimate, sign="+"),
            str(len(pair.seeds)) if pair else "-",
            p_value(pair and pair.p),
            adjusted_p(pair),
            group.verdict,
        ]

    return Grid(header, [row(group) for group in comparison.groups])


def trials(comparison: Comparison, search: Search) -> Grid:
    """Make the table of a search's trials, the best first."""
    head, rows = trial_rows(search)
    return Grid([*head, f"best {comparison.metric.name}", "state"], rows)


def sections(comparison: Comparison) -> list[Section]:
    """Make everything else: contrasts, over-fitting, cost, settings, and what was left out."""
    found = []
    if comparison.contrasts:
        found.append(Section("One setting at a time", _contrasts(comparison)))
    found += [
        Section("Over-fitting", _overfitting(comparison)),
        Section(f"Cost, and the way {goal_name(comparison)}", _costs(comparison)),
    ]
    if comparison.groups[0].group.settings:
        found.append(Section("What differs", _settings(comparison)))
    if comparison.left_out:
        found.append(Section("Left out", lines=tuple(left_out(comparison))))
    return found


def _contrasts(comparison: Comparison) -> Grid:
    rows = [
        [
            contrast_name(one),
            contrast_place(one),
            str(len(one.difference.seeds) if one.difference else 0),
            interval(one.difference and one.difference.estimate, sign="+"),
            p_value(one.difference and one.difference.p),
            adjusted_p(one.difference),
            one.verdict,
        ]
        for one in comparison.contrasts
    ]
    header = ["contrast", "in", "common seeds", "difference", "p", "p (Holm)", "verdict"]
    return Grid(header, rows)


def _overfitting(comparison: Comparison) -> Grid:
    rows = [
        [g.label, *_cells(comparison, [g.gap, g.rise, g.turn, g.excess])] for g in comparison.groups
    ]
    return Grid(["group", "val - train", "rise", "turn", "area"], rows)


def _costs(comparison: Comparison) -> Grid:
    header = ["group", f"reached {comparison.goal:g}", "steps", "time", "tokens", "parameters"]
    header += ["tokens/s", "steps in all", "minutes in all"]
    rows = [
        [
            g.label,
            reached(g),
            count(g.goal_step),
            duration(g.goal_seconds),
            count(g.goal_tokens),
            count(g.parameters),
            count(g.tokens_per_second),
            count(g.steps),
            "-" if g.minutes is None else f"{g.minutes:.1f}",
        ]
        for g in comparison.groups
    ]
    return Grid(header, rows)


def _settings(comparison: Comparison) -> Grid:
    keys = list(comparison.groups[0].group.settings)
    rows = [
        [key, *(short(g.group.settings[key], MAX_SETTING_CHARS) for g in comparison.groups)]
        for key in keys
    ]
    return Grid(["setting", *(g.label for g in comparison.groups)], rows)


def _cells(comparison: Comparison, estimates: Iterable[Estimate | None]) -> list[str]:
    return [interval(e, bootstrap=comparison.bootstrap) for e in estimates]

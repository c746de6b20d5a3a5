"""A comparison as Markdown: every figure, what each means, and what was left out."""

from collections.abc import Iterable, Sequence

from mambalab.compare.measures import LOSS
from mambalab.compare.results import Comparison, GroupResult
from mambalab.compare.statistics import Estimate
from mambalab.compare.text import (
    adjusted_p,
    contrast_name,
    contrast_place,
    duration,
    goal_name,
    headline,
    interval,
    left_out,
    p_value,
    reached,
    search_lines,
    trial_rows,
)
from mambalab.utils.text import count, printable, short

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


def markdown(comparison: Comparison, pictures: Sequence[str] = ()) -> str:
    """Write the comparison as Markdown.

    Args:
        comparison: what is written.
        pictures: names of pictures beside the file.
    """
    parts = [
        f"# Comparison: {escape(comparison.task)}",
        escape(headline(comparison).replace("\n", " ")) + ".",
    ]
    lines = [*comparison.dropout, *comparison.warnings]
    if lines:
        parts.append("\n".join(f"- {escape(line)}" for line in lines))
    if comparison.search is not None:
        parts += ["## The search", _search(comparison)]
    if not comparison.is_ranked:
        parts += ["## Results", _results(comparison)]
    parts += [f"{'' if name.endswith('.pdf') else '!'}[{name}]({name})" for name in pictures]
    if comparison.contrasts:
        parts += ["## One setting at a time", _contrasts(comparison)]
    parts += ["## Over-fitting", _overfitting(comparison)]
    parts += [f"## Cost, and the way {goal_name(comparison)}", _costs(comparison)]
    if comparison.groups[0].group.settings:
        parts += ["## What differs", _settings(comparison)]
    if comparison.left_out:
        parts += ["## Left out", "\n".join(f"- {escape(t)}" for t in left_out(comparison))]
    return "\n\n".join([*parts, "## Meaning", MEANING]) + "\n"


def escape(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, whoever wrote it."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]#!~$" else c for c in text)


def _results(comparison: Comparison) -> str:
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

    return _table(header, map(row, comparison.groups))


def _search(comparison: Comparison) -> str:
    search = comparison.search
    assert search is not None
    head, rows = trial_rows(search)
    *lines, train = search_lines(comparison)
    if search.train is None:
        lines, train = [*lines, train], ""
    told = "\n".join(f"- {escape(line)}" for line in lines)
    command = f"\n\nTrain it:\n\n```sh\n{search.train}\n```" if train else ""
    trials = _table([*head, f"best {comparison.metric.name}", "state"], rows)
    return f"{told}{command}\n\n{trials}"


def _contrasts(comparison: Comparison) -> str:
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
    return _table(header, rows)


def _overfitting(comparison: Comparison) -> str:
    rows = [
        [g.label, *_cells(comparison, [g.gap, g.rise, g.turn, g.excess])] for g in comparison.groups
    ]
    return _table(["group", "val - train", "rise", "turn", "area"], rows)


def _costs(comparison: Comparison) -> str:
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
    return _table(header, rows)


def _settings(comparison: Comparison) -> str:
    keys = list(comparison.groups[0].group.settings)
    header = ["setting", *(g.label for g in comparison.groups)]
    rows = [
        [key, *(short(g.group.settings[key], MAX_SETTING_CHARS) for g in comparison.groups)]
        for key in keys
    ]
    return _table(header, rows)


def _cells(comparison: Comparison, estimates: Iterable[Estimate | None]) -> list[str]:
    return [interval(e, bootstrap=comparison.bootstrap) for e in estimates]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [[escape(cell) for cell in line] for line in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))

"""A comparison on the terminal, and the words that its other forms share."""

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from mambalab.compare.measures import LOSS
from mambalab.compare.results import Comparison, Contrast, GroupResult
from mambalab.compare.search import Search
from mambalab.compare.statistics import Difference, Estimate
from mambalab.plots.words import brief_number
from mambalab.utils.text import count, printable, short, table, wrapped

LABEL_CHARS = 28  # of a label in a line
WORD_CHARS = 40  # of a setting that stays in one line
TRAIN_IT = "train it: "  # what the command begins with that trains the best of a search
MAX_LEFT_OUT_LINES = 10  # runs left out that are listed one by one

Column = tuple[str, Callable[[GroupResult], str | list[str]]]


def terminal(comparison: Comparison, columns: int | None = None) -> str:
    """Write tables of the groups, statements, warnings and what was left out.

    Args:
        comparison: of runs.
        columns: of the terminal; None = lines of up to 115 characters and more.
    """

    def lay(text: str) -> str:
        return "\n".join(
            line if line.startswith(TRAIN_IT) else wrapped(line, columns)  # a command is copied
            for line in text.splitlines()
        )

    if comparison.search is not None and comparison.is_ranked:
        lines = [f"note: {line}" for line in comparison.warnings]
        lines += [f"left out: {line}" for line in left_out(comparison, MAX_LEFT_OUT_LINES)]
        parts = [lay(headline(comparison)), _trials(comparison.search, comparison, columns)]
        parts += [lay("\n".join(map(printable, lines))), lay("\n".join(search_lines(comparison)))]
        return "\n\n".join(parts)
    parts = [lay(headline(comparison)), _table(comparison, _results(comparison), columns)]
    if comparison.metric.name != LOSS and any(g.best_loss for g in comparison.groups):
        parts.append(_table(comparison, _losses(comparison), columns))
    costs = _table(comparison, _costs(comparison), columns)
    parts.append(f"{costs}\n{lay(goal_meaning(comparison))}")
    if comparison.contrasts:
        parts.append(_contrasts(comparison, columns))
    if comparison.search is not None:
        parts.append(lay("\n".join(search_lines(comparison))))
    lines = [*comparison.dropout, *(f"note: {line}" for line in comparison.warnings)]
    lines += [f"left out: {line}" for line in left_out(comparison, MAX_LEFT_OUT_LINES)]
    return "\n\n".join([*parts, *([lay("\n".join(map(printable, lines)))] if lines else [])])


def headline(comparison: Comparison) -> str:
    """Say what is compared, and how."""
    method = "bootstrapped" if comparison.bootstrap else "Student's t"
    what = (
        f"{comparison.task}: {printable(comparison.metric.name)} "
        f"({'more' if comparison.metric.maximize else 'less'} is better)"
    )
    if comparison.is_ranked:
        return f"{what}, {len(comparison.groups)} trials of a search, the best first"
    text = f"{what}, means over seeds with 95 % intervals ({method})"
    if len(comparison.groups) == 1:
        return text
    why = comparison.baseline_is
    chosen = f" ({why}; baseline=LABEL takes another)" if why else ""
    return f"{text};\nbaseline: {comparison.baseline}{chosen}"


def left_out(comparison: Comparison, most: int | None = None) -> list[str]:
    """List the runs that do not count, a line each; those beyond `most` in one line."""
    listed = {t.name for t in comparison.search.trials} if comparison.search else set()
    missing = [run for run in comparison.left_out if Path(run.path).name not in listed]
    lines = [f"{run.path}: {run.reason}" for run in missing]
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"and {len(lines) - most} more runs"]


def interval(estimate: Estimate | None, *, bootstrap: bool = False, sign: str = "") -> str:
    """Write `1.4740 ± 0.0031`, or `1.4740 (1.4711 to 1.4775)`; without interval `1.4740`.

    Args:
        estimate: what is shown; None is `-`.
        bootstrap: whether the interval may be lopsided.
        sign: "+" shows the sign of positive means, too.
    """
    if estimate is None:
        return "-"
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if low is None or high is None:
        return _digits(abs(mean), sign).format(mean)
    shape = _digits(max(abs(mean), high - mean), sign)
    if bootstrap:
        return f"{shape.format(mean)} ({shape.format(low)} to {shape.format(high)})"
    return f"{shape.format(mean)} ± {_digits(max(abs(mean), high - mean)).format(high - mean)}"


def _digits(size: float, sign: str = "") -> str:
    return f"{{:{sign}.4f}}" if size == 0 or size >= 0.001 else f"{{:{sign}.1e}}"


def p_value(p: float | None) -> str:
    """Write a p-value as people do."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def adjusted_p(pair: Difference | None) -> str:
    """Write a difference's adjusted p-value, or that every seed differs by the same amount."""
    if pair is None:
        return "-"
    return "equal" if pair.constant else p_value(pair.p_holm)


def contrast_name(contrast: Contrast) -> str:
    """Name what a contrast sets side by side: `dropout.ssm_p 0.0 -> 0.1`."""
    return f"{contrast.setting} {contrast.base_value} -> {contrast.other_value}"


def contrast_place(contrast: Contrast) -> str:
    """Say in which groups a contrast is seen."""
    if contrast.pairs > 1:
        return f"mean of {contrast.pairs} pairs"
    return contrast.where[1]


def _contrasts(comparison: Comparison, columns: int | None) -> str:
    rows = [
        (
            wrap(contrast_name(one)),
            wrap(contrast_place(one)),
            str(len(one.difference.seeds) if one.difference else 0),
            interval(one.difference and one.difference.estimate, sign="+"),
            adjusted_p(one.difference),
            one.verdict,
        )
        for one in comparison.contrasts
    ]
    best = f"best {printable(comparison.metric.name)}"
    header = ("contrast", "in", "n", best, "p (Holm)", "verdict")
    return table(header, rows, {"n", best, "p (Holm)"}, columns)


def duration(seconds: float | None) -> str:
    """Write seconds as `42.0 s`, `3.1 min` or `2.50 h`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def goal_name(comparison: Comparison) -> str:
    """Name the column of the goal: `to 1.48`."""
    return f"to {comparison.goal:g}"


def reached(group: GroupResult) -> str:
    """Say how many runs reached the goal."""
    return f"{group.reached} of {len(group.runs)}"


def goal_meaning(comparison: Comparison) -> str:
    """Say in a line what the columns of the goal mean."""
    return (
        f"reached: runs that came to {printable(comparison.metric.name)} {comparison.goal:g} "
        "(to=VALUE takes another), and the time and tokens until then"
    )


def search_lines(comparison: Comparison) -> list[str]:
    """Write what a search found, a line each: importance, the best, the command that trains it."""
    search = comparison.search
    if search is None:
        return []
    lines = []
    if search.importance:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in search.importance.items())
        lines.append(f"importance (Optuna's PED-ANOVA, a rough guide): {shares}")
    best = search.best
    assert best.value is not None, "it has finished"
    values = " ".join(f"{key}={brief_number(str(value))}" for key, value in best.values.items())
    metric = comparison.metric.name
    lines.append(printable(f"best: {metric} {best.value:.4f} with {values} ({best.name})"))
    if search.train is not None:
        lines.append(f"{TRAIN_IT}{search.train}")
    return lines


def trial_rows(search: Search) -> tuple[list[str], list[list[str]]]:
    """Lay out the trials of a search, the best first: names of columns, and the cells."""
    keys = list(search.ranges)
    leaves = [key.rpartition(".")[2] for key in keys]
    names = [n if leaves.count(n) == 1 else k for k, n in zip(keys, leaves, strict=True)]
    rows = []
    for i, trial in enumerate(search.trials):
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        cells = [brief_number(str(trial.values[key])) for key in keys]
        rows.append([str(i + 1), *cells, value, trial.state])
    return ["rank", *map(printable, names)], rows


def _trials(search: Search, comparison: Comparison, columns: int | None) -> str:
    head, rows = trial_rows(search)
    header = (*head, f"best {printable(comparison.metric.name)}", "state", "minutes")
    lines = []
    for trial, row in zip(search.trials, rows, strict=True):
        spent = "-" if trial.minutes is None else f"{trial.minutes:.1f}"
        lines.append([*(short(cell, LABEL_CHARS) for cell in row), spent])
    return table(header, lines, set(header) - {"state"}, columns)


def _millions(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else count(value)


def _results(comparison: Comparison) -> list[Column]:
    name = printable(comparison.metric.name)
    cell = _cell(comparison)

    def difference(group: GroupResult) -> str:
        return interval(group.difference and group.difference.estimate, sign="+")

    test: list[Column] = []
    if any(group.test for group in comparison.groups):
        test = [(printable(comparison.metric.of_test), lambda g: cell(g.test))]
    return [
        ("n", lambda g: str(len(g.runs))),
        (f"best {name}", lambda g: cell(g.best)),
        (f"last {name}", lambda g: cell(g.last)),
        *test,
        ("vs baseline", difference),
        ("p (Holm)", lambda g: adjusted_p(g.difference)),
        ("verdict", lambda g: g.verdict),
    ]


def _losses(comparison: Comparison) -> list[Column]:
    cell = _cell(comparison)
    return [
        (f"best {LOSS}", lambda g: cell(g.best_loss)),
        (f"last {LOSS}", lambda g: cell(g.last_loss)),
    ]


def _costs(comparison: Comparison) -> list[Column]:
    cell = _cell(comparison)
    return [
        ("val - train", lambda g: cell(g.gap)),
        ("last - best", lambda g: cell(g.rise)),
        ("reached", reached),
        ("time", lambda g: duration(g.goal_seconds)),
        ("tokens", lambda g: _millions(g.goal_tokens)),
        ("tokens/s", lambda g: count(g.tokens_per_second)),
        ("params", lambda g: _millions(g.parameters)),
        ("min", lambda g: "-" if g.minutes is None else f"{g.minutes:.1f}"),
    ]


def _cell(comparison: Comparison) -> Callable[[Estimate | None], list[str]]:
    """Make a function that writes a mean; a long interval goes into a line of its own."""

    def show(estimate: Estimate | None) -> list[str]:
        mean, bracket, limits = interval(estimate, bootstrap=comparison.bootstrap).partition(" (")
        return [mean, f"({limits}"] if bracket else [mean]

    return show


def _table(comparison: Comparison, shown: Sequence[Column], columns: int | None) -> str:
    rows = [(wrap(group.label), *(show(group) for _, show in shown)) for group in comparison.groups]
    header = ("group", *(name for name, _ in shown))
    return table(header, rows, set(header) - {"group", "verdict"}, columns)


def wrap(label: str, width: int = LABEL_CHARS) -> list[str]:
    """Break a label into lines, between settings where that is possible."""
    longest = max(map(len, label.split()), default=0)
    # A number is never broken; a path, say, may be.
    breaks = longest > max(width, WORD_CHARS) and not re.search(r"=[-+.\de]{4,}(?=[ ,]|$)", label)
    return textwrap.wrap(label, width, break_on_hyphens=False, break_long_words=breaks) or [label]

"""Pictures of a comparison: curves with bands, best values, training beside validation.

A model, or else a variant of dropout, has its colour in every picture; line styles and markers say
what else differs. More groups than there are colours get a panel each, with all others in grey.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.compare import search_pictures
from mambalab.compare.bands import Band, band
from mambalab.compare.groups import Group
from mambalab.compare.measures import LOSS, TRAIN
from mambalab.compare.results import BASELINE, Comparison, GroupResult
from mambalab.compare.text import interval, wrap
from mambalab.plots.colours import (
    COLOURS,
    DROPOUT,
    MODEL,
    LineLook,
    colour_of,
    line_looks,
    sort_key,
)
from mambalab.plots.look import WIDTH_INCHES, drawn_as, points, save_all
from mambalab.plots.style import (
    BEST_COLOUR,
    STEPS,
    TRAIN_COLOUR,
    VAL_COLOUR,
    Quantity,
    drawable,
    finish,
    frame,
    legend,
    panels,
    plain,
    quantity,
    seed_counts,
    set_title,
    smooth,
)
from mambalab.plots.words import in_words, one_unit_of_loss
from mambalab.settings.figure import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#c4c4c4"
FORMATS = ("png", "svg")


def draw(comparison: Comparison, folder: Path, figure: FigureSettings | None = None) -> list[Path]:
    """Draw every picture that the runs allow into a folder; returns the paths.

    Args:
        comparison: what is drawn.
        folder: where.
        figure: how, in which formats; None = for a screen, as PNG and SVG.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    with drawn_as(figure):
        for name, drawn in _pictures(comparison):
            paths += save_all(drawn, folder / name, figure, FORMATS)
    return paths


def _pictures(comparison: Comparison) -> Iterator[tuple[str, "Figure"]]:
    if (search := comparison.search) is not None:
        task, unit = comparison.task, _unit(comparison)
        drawn = search_pictures.ranges(search, comparison.metric, task=task, unit=unit)
        yield "search", drawn
        if search.importance:
            yield "importance", search_pictures.importance(search, task=task)
    metrics = dict.fromkeys((LOSS, comparison.metric.name, "val/accuracy"))
    for metric in metrics:
        bands = [_band(group, metric) for group in comparison.groups]
        if any(b.steps for b in bands):
            yield _curves_name(metric), curves(comparison, metric)
    if comparison.is_ranked:  # a point for each trial is in the picture of the search
        return
    yield "best", best(comparison)
    if any(_band(group, LOSS).steps for group in comparison.groups):
        yield "overfitting", overfitting(comparison)


def _curves_name(metric: str) -> str:
    return "curves" if metric == LOSS else "curves_" + re.sub(r"\W+", "_", metric.split("/")[-1])


def _band(group: GroupResult, metric: str) -> Band:
    return band([record.curves.get(metric, []) for record in group.group.records])


def _quantity(comparison: Comparison, metric: str) -> Quantity:
    return quantity(metric, _unit(comparison))


def _unit(comparison: Comparison) -> str:
    return one_unit_of_loss(run for group in comparison.groups for run in group.group.records)


def looks(comparison: Comparison) -> list[LineLook]:
    """Choose how each group is drawn, in the order of the groups."""
    if len(comparison.groups) == 1:
        model = str(comparison.groups[0].group.setting("model.name"))
        return [LineLook(colour_of(model), "-", "o")]
    found = line_looks([group.group.told for group in comparison.groups])
    named = all({*one.group.told} & {MODEL, DROPOUT} for one in comparison.groups)
    if len(found) > len(COLOURS) and not named:  # each in a panel, or a row, of its own
        return [LineLook(COLOURS[0], "-", "o") for _ in found]
    return found


def _legend_order(comparison: Comparison) -> list[int] | None:
    """By the values of what differs where all are numbers; None = the best group first."""
    keys = [[sort_key(v) for v in group.group.told.values()] for group in comparison.groups]
    if any(is_text for key in keys for is_text, _, _ in key):
        return None
    return sorted(range(len(keys)), key=keys.__getitem__)


def _title(comparison: Comparison, what: str) -> str:
    return f"{comparison.task}: {what}, {seed_counts([len(g.runs) for g in comparison.groups])}"


def curves(comparison: Comparison, metric: str) -> "Figure":
    """Draw a metric over the steps: mean line and 95 % band of each group.

    Where runs of a group were not evaluated at common steps, each is drawn by itself. Where groups
    see unequally many tokens in a step, it is drawn over the tokens.
    """
    each = _tokens_of_a_step(comparison)
    bands = _bands(comparison, metric, each)
    shown = _quantity(comparison, metric)
    what = shown.text.partition(" (")[0]
    banded = ", mean and 95 % band" if any(b.half_width for b in bands) else ""
    title = _title(comparison, f"{what}{banded}")
    if len(bands) > len(COLOURS):
        return _curves_apart(comparison, metric, bands, title, each)
    figure, (axes,) = panels(1, width=WIDTH_INCHES, height=4.6)
    chosen = looks(comparison)
    for i, (group, one) in enumerate(zip(comparison.groups, bands, strict=True)):
        _draw_band(axes, one, chosen[i], i, name=_name(group, comparison))
        if len(one.steps) < 2:
            _draw_runs(axes, group, metric, chosen[i], each[i])
    frame(axes, _edges(bands), shown)
    legend(figure, axes, _legend_order(comparison))
    return finish(figure, [axes], shown, title, across=_across(each))


def _tokens_of_a_step(comparison: Comparison) -> list[int]:
    """By how much to multiply each group's steps: by its tokens in a step if groups differ in
    them, else by 1."""
    found = []
    for group in comparison.groups:
        tokens = {record.summary.tokens_per_step for record in group.group.records}
        if len(tokens) != 1 or not isinstance(one := tokens.pop(), int) or one < 1:
            return [1] * len(comparison.groups)
        found.append(one)
    return found if len(set(found)) > 1 else [1] * len(found)


def _across(each: Sequence[int]) -> str:
    return STEPS if set(each) == {1} else "tokens seen in training"


def _bands(comparison: Comparison, metric: str, each: Sequence[int]) -> list[Band]:
    found = [_band(group, metric) for group in comparison.groups]
    return [
        replace(one, steps=[step * factor for step in one.steps])
        for one, factor in zip(found, each, strict=True)
    ]


def _curves_apart(
    comparison: Comparison, metric: str, bands: Sequence[Band], title: str, each: Sequence[int]
) -> "Figure":
    figure, grid = panels(len(bands), width=2.7, height=2.0)
    shown, looks_of_all = _quantity(comparison, metric), looks(comparison)
    for i, (group, axes) in enumerate(zip(comparison.groups, grid, strict=True)):
        for other in bands:
            axes.plot(other.steps, other.mean, color=_GREY, linewidth=0.7, zorder=1)
        look = looks_of_all[i]
        _draw_band(axes, bands[i], look)
        if len(bands[i].steps) < 2:
            _draw_runs(axes, group, metric, look, each[i])
        _panel_title(figure, axes, _name(group, comparison))
        frame(axes, _edges(bands), shown)
    return finish(figure, grid, shown, f"{title}; grey: the other groups", across=_across(each))


def _name(group: GroupResult, comparison: Comparison) -> str:
    several_groups = len(comparison.groups) > 1
    baseline = " (baseline)" if group.verdict == BASELINE and several_groups else ""
    bound = " (upper bound)" if group.is_bound and several_groups else ""
    return drawable(reader_label(group.group)) + bound + baseline


def reader_label(group: Group) -> str:
    """Name a group as people speak: `Mamba, SSM dropout`."""
    told = group.told
    if not told:
        names = {key: group.setting(key) for key in ("model.name", "dropout.name")}
        told = {key: str(value) for key, value in names.items() if value is not None}
    label = ", ".join(in_words(key, value) for key, value in told.items())
    number = re.search(r" #\d+$", group.label)  # of those whose values were cut
    return (label or group.label) + (number[0] if number else "")


def _panel_title(figure: "Figure", axes: "Axes", name: str, *more: str) -> None:
    room = max(16, int(figure.get_size_inches()[0] / _columns(axes) * 15 / points(1)))
    lines = [line for text in (name, *more) for line in wrap(text, room)]
    axes.set_title("\n".join(lines), fontsize=points(7.5), parse_math=False)


def _columns(axes: "Axes") -> int:
    place = axes.get_subplotspec()
    return place.get_gridspec().ncols if place is not None else 1


def _edges(bands: Sequence[Band]) -> list[tuple[list[int], list[float]]]:
    """Return the means, and the edges of bands that are drawn: all is to be seen."""
    shown = [(b.steps, b.mean) for b in bands]
    return shown + [(b.steps, e) for b in bands if b.half_width for e in (b.low, b.high)]


def _draw_band(axes: "Axes", one: Band, look: LineLook, i: int = 0, name: str = "") -> None:
    """Draw a group's mean with its band; a marker now and then, of the i-th group a bit later."""
    every = max(1, len(one.steps) // 8)
    axes.plot(
        one.steps,
        one.mean,
        color=look.colour,
        linestyle=look.style,
        marker=look.marker,
        markevery=(i * every // len(COLOURS), every),
        markersize=4.5,
        linewidth=1.6,
        label=name,
        zorder=3,
    )
    if one.half_width:
        axes.fill_between(
            one.steps, one.low, one.high, color=look.colour, alpha=0.15, linewidth=0, zorder=2
        )


def _draw_runs(
    axes: "Axes", group: GroupResult, metric: str, look: LineLook, factor: int = 1
) -> None:
    for record in group.group.records:
        points = [(s * factor, v) for s, v in record.curves.get(metric, []) if v is not None]
        steps, values = [s for s, _ in points], [v for _, v in points]
        axes.plot(steps, values, color=look.colour, linestyle=look.style, linewidth=0.9, alpha=0.7)


def best(comparison: Comparison) -> "Figure":
    """Draw the best values, a point for each seed, with each group's mean and its interval."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

    groups, chosen = comparison.groups, looks(comparison)
    what, numbers = _quantity(comparison, comparison.metric.name), ScalarFormatter(useOffset=False)
    figure, (axes,) = panels(1, width=WIDTH_INCHES, height=1.4 + 0.42 * len(groups))
    for row, group in enumerate(groups):
        values = np.array([run.best for run in group.runs])
        colour = chosen[row].colour
        mean, low, high = group.best.mean, group.best.low, group.best.high
        if low is not None and high is not None:
            axes.barh(row, high - low, left=low, height=0.56, color=colour, alpha=0.2)
            axes.plot([mean, mean], [row - 0.28, row + 0.28], color=colour, linewidth=2.2)
        rows = np.full(len(values), float(row))
        axes.plot(values, rows, "o", color=colour, markersize=5.5, markeredgecolor="white",
                  markeredgewidth=0.6)  # fmt: skip
        if group.verdict == BASELINE and len(groups) > 1:
            axes.axvline(group.best.mean, color="#555555", linestyle=":", linewidth=1.2)
    names = [_name(group, comparison) for group in groups]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the best at the top
    axes.use_sticky_edges = False  # or an interval would end where the panel does
    axes.autoscale_view(scaley=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0) if what.percent else numbers)
    figure.supxlabel(f"best {what.text}", fontsize=points(9), parse_math=False)
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    several = any(len(group.runs) > 1 for group in groups)
    means = ", mean with 95 % interval" if several else ""
    set_title(figure, _title(comparison, f"best value of each seed{means}"))
    return figure


def overfitting(comparison: Comparison) -> "Figure":
    """Draw training and validation loss of each group, in a panel each, the best point marked."""
    groups = comparison.groups
    bands = [_band(group, LOSS) for group in groups]
    small = len(groups) > 4
    figure, grid = panels(len(groups), width=2.7 if small else 3.6, height=2.1 if small else 3.2)
    shown = _edges(bands)
    for group, validation, axes in zip(groups, bands, grid, strict=True):
        training = _band(group, TRAIN)
        smoothed = smooth(training.mean)
        shown.append((training.steps, smoothed))
        axes.plot(training.steps, smoothed, color=TRAIN_COLOUR, linewidth=1.3, label="training")
        axes.plot(
            validation.steps,
            validation.mean,
            color=VAL_COLOUR,
            linestyle="--",
            linewidth=1.5,
            label="validation, 95 % band" if validation.half_width else "validation",
        )
        if validation.half_width:
            axes.fill_between(
                validation.steps,
                validation.low,
                validation.high,
                color=VAL_COLOUR,
                alpha=0.2,
                linewidth=0,
            )
        if validation.mean:
            value, step = min(zip(validation.mean, validation.steps, strict=True))
            axes.plot([step], [value], "*", color=BEST_COLOUR, markersize=9, zorder=5, label="best")
        rise = f"last - best validation: {interval(group.rise, sign='+')}"
        _panel_title(figure, axes, _name(group, comparison), rise)
    loss = Quantity(f"loss ({_unit(comparison)})", percent=False)
    for axes in grid:
        frame(axes, shown, loss)
    legend(figure, grid[0])
    return finish(figure, grid, loss, _title(comparison, "training and validation loss"))

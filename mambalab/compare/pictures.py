"""Pictures of a comparison: curves with bands, best values, training beside validation.

Line styles and markers tell groups apart as well as colours do. More groups than there are colours
get a panel each, with all others in grey.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.compare.bands import Band, band
from mambalab.compare.measures import LOSS, TRAIN
from mambalab.compare.results import BASELINE, Comparison, GroupResult
from mambalab.compare.text import interval, wrap
from mambalab.plots.style import (
    BEST_COLOUR,
    COLOURS,
    MARKERS,
    MAX_TITLE_CHARS,
    STYLES,
    TRAIN_COLOUR,
    VAL_COLOUR,
    Quantity,
    drawable,
    finish,
    frame,
    legend,
    panels,
    quantity,
    save,
    seed_counts,
    smooth,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#c4c4c4"
WIDTH_INCHES = 7.2  # of a picture with one panel


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw every picture that the runs allow into a folder, as PNG and SVG; returns the paths.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    for name, figure in _pictures(comparison):
        paths += [save(figure, folder / f"{name}.{kind}") for kind in ("png", "svg")]
    return paths


def _pictures(comparison: Comparison) -> Iterator[tuple[str, "Figure"]]:
    metrics = dict.fromkeys((LOSS, comparison.metric.name, "val/accuracy"))
    for metric in metrics:
        bands = [_band(group, metric) for group in comparison.groups]
        if any(b.steps for b in bands):
            yield _curves_name(metric), curves(comparison, metric)
    yield "best", best(comparison)
    if any(_band(group, LOSS).steps for group in comparison.groups):
        yield "overfitting", overfitting(comparison)


def _curves_name(metric: str) -> str:
    return "curves" if metric == LOSS else "curves_" + re.sub(r"\W+", "_", metric.split("/")[-1])


def _band(group: GroupResult, metric: str) -> Band:
    return band([record.curves.get(metric, []) for record in group.group.records])


def _title(comparison: Comparison, what: str) -> str:
    return f"{comparison.task}: {what}, {seed_counts([len(g.runs) for g in comparison.groups])}"


def curves(comparison: Comparison, metric: str) -> "Figure":
    """Draw a metric over the steps: mean line and 95 % band of each group.

    Where runs of a group were not evaluated at common steps, each is drawn by itself.
    """
    bands = [_band(group, metric) for group in comparison.groups]
    what = quantity(metric).text.partition(" (")[0]
    banded = ", mean and 95 % band" if any(b.half_width for b in bands) else ""
    title = _title(comparison, f"{what}{banded}")
    if len(bands) > len(COLOURS):
        return _curves_apart(comparison, metric, bands, title)
    figure, (axes,) = panels(1, width=WIDTH_INCHES, height=4.6)
    for i, (group, one) in enumerate(zip(comparison.groups, bands, strict=True)):
        _draw_band(axes, one, i, name=_name(group, comparison))
        if len(one.steps) < 2:
            _draw_runs(axes, group, metric, i)
    frame(axes, _means(bands), quantity(metric))
    legend(figure, axes)
    return finish(figure, [axes], quantity(metric), title)


def _curves_apart(
    comparison: Comparison, metric: str, bands: Sequence[Band], title: str
) -> "Figure":
    figure, grid = panels(len(bands), width=2.7, height=2.0)
    for i, (group, axes) in enumerate(zip(comparison.groups, grid, strict=True)):
        for other in bands:
            axes.plot(other.steps, other.mean, color=_GREY, linewidth=0.7, zorder=1)
        _draw_band(axes, bands[i], 0)
        if len(bands[i].steps) < 2:
            _draw_runs(axes, group, metric, 0)
        _panel_title(axes, _name(group, comparison))
        frame(axes, _means(bands), quantity(metric))
    return finish(figure, grid, quantity(metric), f"{title}; grey: the other groups")


def _name(group: GroupResult, comparison: Comparison) -> str:
    several_groups = len(comparison.groups) > 1
    baseline = " (baseline)" if group.verdict == BASELINE and several_groups else ""
    return drawable(_without_prefix(group.label, comparison)) + baseline


def _without_prefix(label: str, comparison: Comparison) -> str:
    """Return a label without the group of settings that all keys of all labels begin with:
    `p=0.1 ssm_p=0.1` for `dropout.p=0.1 dropout.ssm_p=0.1`."""
    keys = [k for g in comparison.groups for k in re.findall(r"(?:^| )([\w.]+)=", g.label)]
    prefixes = {key.partition(".")[0] + "." for key in keys}
    if len(prefixes) != 1 or not all("." in key for key in keys):
        return label
    (prefix,) = prefixes
    return re.sub(rf"(^| ){re.escape(prefix)}", r"\1", label)


def _panel_title(axes: "Axes", name: str, *more: str) -> None:
    axes.set_title("\n".join([*wrap(name, 40), *more]), fontsize=7.5, parse_math=False)


def _means(bands: Sequence[Band]) -> list[tuple[list[int], list[float]]]:
    return [(b.steps, b.mean) for b in bands]


def _draw_band(axes: "Axes", one: Band, i: int, name: str = "") -> None:
    """Draw the i-th group's mean with its band; a marker now and then tells it apart, too."""
    colour = COLOURS[i % len(COLOURS)]
    every = max(1, len(one.steps) // 8)
    axes.plot(
        one.steps,
        one.mean,
        color=colour,
        linestyle=STYLES[i % len(STYLES)],
        marker=MARKERS[i % len(MARKERS)],
        markevery=(i * every // len(COLOURS), every),
        markersize=4.5,
        linewidth=1.6,
        label=name,
        zorder=3,
    )
    if one.half_width:
        axes.fill_between(
            one.steps, one.low, one.high, color=colour, alpha=0.15, linewidth=0, zorder=2
        )


def _draw_runs(axes: "Axes", group: GroupResult, metric: str, i: int) -> None:
    for record in group.group.records:
        points = [(s, v) for s, v in record.curves.get(metric, []) if v is not None]
        steps, values = [s for s, _ in points], [v for _, v in points]
        style = STYLES[i % len(STYLES)]
        axes.plot(steps, values, color=COLOURS[i], linestyle=style, linewidth=0.9, alpha=0.7)


def best(comparison: Comparison) -> "Figure":
    """Draw the best values, a point for each seed, with each group's mean and its interval."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter

    groups = comparison.groups
    what, plain = quantity(comparison.metric.name), ScalarFormatter(useOffset=False)
    figure, (axes,) = panels(1, width=WIDTH_INCHES, height=1.4 + 0.42 * len(groups))
    for row, group in enumerate(groups):
        values = np.array([run.best for run in group.runs])
        colour = COLOURS[row % len(COLOURS)] if len(groups) <= len(COLOURS) else COLOURS[0]
        mean, low, high = group.best.mean, group.best.low, group.best.high
        if low is not None and high is not None:
            axes.barh(row, high - low, left=low, height=0.56, color=colour, alpha=0.2)
            axes.plot([mean, mean], [row - 0.28, row + 0.28], color=colour, linewidth=2.2)
        rows = np.full(len(values), float(row))
        axes.plot(values, rows, "o", color=colour, markersize=4.5, markeredgecolor="white")
        if group.verdict == BASELINE and len(groups) > 1:
            axes.axvline(group.best.mean, color="#555555", linestyle=":", linewidth=1.2)
    names = [_name(group, comparison) for group in groups]
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the best at the top
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0) if what.percent else plain)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"best {what.text}", fontsize=9, parse_math=False)
    axes.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    several = any(len(group.runs) > 1 for group in groups)
    means = ", mean with 95 % interval" if several else ""
    title = _title(comparison, f"best value of each seed{means}")
    figure.suptitle(drawable(title, MAX_TITLE_CHARS), fontsize=10, parse_math=False)
    return figure


def overfitting(comparison: Comparison) -> "Figure":
    """Draw training and validation loss of each group, in a panel each, the best point marked."""
    groups = comparison.groups
    bands = [_band(group, LOSS) for group in groups]
    small = len(groups) > 4
    figure, grid = panels(len(groups), width=2.7 if small else 3.6, height=2.1 if small else 3.2)
    shown = _means(bands)
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
        _panel_title(axes, _name(group, comparison), rise)
    loss = Quantity("loss (nats)", percent=False)
    for axes in grid:
        frame(axes, shown, loss)
    legend(figure, grid[0])
    return finish(figure, grid, loss, _title(comparison, "training and validation loss"))

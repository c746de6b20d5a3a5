"""Pictures of a search: the metric against each searched setting, and how much each matters."""

from typing import TYPE_CHECKING

from mambalab.compare.measures import Metric
from mambalab.compare.search import FAILED, FINISHED, PRUNED, Range, Search, Trial
from mambalab.plots.colours import BLACK, BLUE, GREY, VERMILION, sort_key
from mambalab.plots.look import inches, new_figure, points
from mambalab.plots.style import (
    MIN_LOG_RATIO,
    MIN_PANEL_INCHES,
    drawable,
    legend,
    marked_log,
    plain,
    quantity,
    set_log_scale,
    set_title,
)
from mambalab.plots.words import brief_number, key_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 2.6
MAX_COLUMNS = 3
FAILED_PLACE = 0.97  # of the height of a panel, where a trial without a value stands
_LOOKS = {
    FINISHED: {"color": BLUE, "marker": "o", "markersize": 5, "alpha": 0.75},
    PRUNED: {"color": GREY, "marker": "v", "markersize": 5, "alpha": 0.9},
    FAILED: {"color": VERMILION, "marker": "x", "markersize": 6},
}


def ranges(search: Search, metric: Metric, *, task: str, unit: str) -> "Figure":
    """Draw the best value of each trial against each searched setting, a panel each; the best is
    marked, pruned trials are triangles, and those without a value stand at the top.

    Args:
        search: what was tried.
        metric: by which trials are judged.
        task, unit: for title and axis.
    """
    from matplotlib.ticker import PercentFormatter

    what, count = quantity(metric.name, unit), len(search.ranges)
    columns = min(count, MAX_COLUMNS)
    wide = inches(max(PANEL_INCHES * columns, 5.0))
    columns = max(1, min(columns, int(wide / MIN_PANEL_INCHES)))
    rows = -(-count // columns)
    figure = new_figure(wide, rows * min(2.9, 0.6 + 0.9 * wide / columns) + 0.5)
    grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    for axes, (key, one) in zip(grid, search.ranges.items(), strict=False):
        _panel(axes, search, key, one)
    values = [t.value for t in search.trials if t.value is not None]
    first = grid[0]
    if what.percent:
        first.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif min(values) > 0 and max(values) > MIN_LOG_RATIO * min(values):
        set_log_scale(first, values)
    name = marked_log(f"best {what.text}", first.get_yscale() == "log")
    figure.supylabel(name, fontsize=points(9), parse_math=False)
    legend(figure, first)
    counts = [(sum(t.state == s for t in search.trials), s) for s in _LOOKS]
    told = ", ".join(f"{n} {state}" for n, state in counts if n)
    set_title(figure, f"{task}: search of {len(search.trials)} trials ({told})")
    return figure


def _panel(axes: "Axes", search: Search, key: str, one: Range) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    listed = sorted({str(t.values[key]) for t in search.trials} | {*map(str, one.choices)},
                    key=sort_key)  # fmt: skip

    def place(trial: Trial) -> float:
        value = trial.values[key]
        return listed.index(str(value)) if one.choices else float(value)

    if one.log:
        axes.set_xscale("log")
    for state, look in _LOOKS.items():
        some = [t for t in search.trials if t.state == state]
        lost = [t for t in some if t.value is None]
        kept = [t for t in some if t.value is not None]
        label = state if some else "_"
        if kept:
            x, y = [place(t) for t in kept], [t.value or 0.0 for t in kept]
            axes.plot(x, y, linestyle="none", label=label, **look)
        if lost:
            x, y = [place(t) for t in lost], [FAILED_PLACE] * len(lost)
            across = axes.get_xaxis_transform()
            axes.plot(x, y, linestyle="none", label=label, transform=across, clip_on=False, **look)
    best = search.best
    top = best.value or 0.0
    axes.plot([place(best)], [top], "*", color=BLACK, markersize=12, zorder=5, label="best")
    if one.choices:
        names = [drawable(brief_number(text), 12) for text in listed]
        axes.set_xticks(range(len(listed)), names, parse_math=False)
        axes.set_xlim(-0.5, len(listed) - 0.5)
    elif one.log:
        low, high = axes.get_xlim()
        subs = (1,) if high / low > 200 else (1, 3) if high / low > 10 else (1, 2, 5)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: brief_number(f"{x:.3g}", 2)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    plain(axes)
    text = marked_log(key_in_words(key), one.log)
    axes.set_xlabel(drawable(text), fontsize=points(9), parse_math=False)


def importance(search: Search, *, task: str) -> "Figure":
    """Draw how much each searched setting matters, a bar each, the largest at the top."""
    keys = list(search.importance)
    figure = new_figure(6.0, 1.3 + 0.36 * len(keys))
    axes = figure.subplots()
    shares = [search.importance[key] for key in keys]
    axes.barh(range(len(keys)), shares, height=0.6, color=BLUE)
    names = [drawable(key_in_words(key)) for key in keys]
    axes.set_yticks(range(len(keys)), names, parse_math=False)
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.set_xlim(0, max(1.0, *shares))
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    finished = sum(trial.state == FINISHED for trial in search.trials)
    figure.supxlabel("importance (share, Optuna's PED-ANOVA)", fontsize=points(9))
    set_title(figure, f"{task}: what mattered in {finished} finished trials")
    return figure

"""How all pictures look and are saved: colours, axes, panels, legends that cover nothing."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mambalab.plots.colours import BLACK, BLUE, COLOURS, MARKERS, STYLES, VERMILION
from mambalab.plots.fonts import with_glyphs
from mambalab.plots.look import inches, new_figure, points, save
from mambalab.plots.words import in_words
from mambalab.records.reader import RunRecord
from mambalab.utils.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "STYLES", "save"]  # from where they were once
TRAIN_COLOUR, VAL_COLOUR, BEST_COLOUR = BLUE, VERMILION, BLACK
STEPS = "step (optimiser updates)"
MAX_LABEL_CHARS = 70
MAX_TITLE_CHARS = 160
MAX_TITLE_LINE_CHARS = 88  # of a picture with one panel
MIN_LOG_RATIO = 4  # of largest to smallest value, from which the axis of many groups is logarithmic
LEGEND_ROW_CHARS = 95  # in a picture with one panel
MIN_PANEL_INCHES = 1.6  # below which fewer panels stand beside each other
GRID = "#e4e4e4"
_TIED = "\u00a0=\u00a0"  # where no line ends


_OTHER_UNITS = {  # of losses, by the name of the metric
    "bits_per_dim": "bits per value",
    "bits_per_char": "bits per character",
    "nats_per_image": "nats per picture",
}


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: its text with unit, and whether 1 is 100 %."""

    text: str
    percent: bool


def quantity(metric: str, unit: str = "nats") -> Quantity:
    """Tell what an axis shows, by the name of the metric.

    Args:
        metric: as in metrics.jsonl.
        unit: of losses.
    """
    split, _, name = metric.rpartition("/")
    where = {"val": "validation ", "train": "training ", "test": "test "}.get(split)
    if where is not None and name in _OTHER_UNITS:
        return Quantity(f"{where}loss ({_OTHER_UNITS[name]})", percent=False)
    if where is None or name not in ("loss", "accuracy"):
        return Quantity(drawable(metric), percent=False)
    shown = unit if name == "loss" else "% right"
    return Quantity(f"{where}{name} ({shown})", percent=name == "accuracy")


def panels(count: int, *, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """Make a figure of `count` panels of this size in inches, on common axes.

    Where `figure.width` says how wide all is, panels are smaller, and fewer stand side by side.
    """
    columns = min(count, 3 if count <= 9 else 4)
    if count == 4:
        columns = 2
    natural = max(width * columns, 5.0)
    wide = inches(natural)
    columns = max(1, min(columns, int(wide / MIN_PANEL_INCHES)))
    rows = math.ceil(count / columns)
    high = height * min(1.0, max(wide / columns / width, 0.5))
    figure = new_figure(wide, high * rows + 0.7)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for column in range(columns):  # the lowest panel of a column has the numbers of its steps
        lowest = grid[:count][column::columns][-1]
        lowest.xaxis.set_tick_params(labelbottom=True)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def frame(axes: "Axes", curves: Sequence[tuple[list[int], list[float]]], what: Quantity) -> None:
    """Set limits and grid so that the curves' later nine tenths fill the panel: where they start
    says little and would press them together. Edges of bands are curves, too: none is cut."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

    end = max((steps[-1] for steps, _ in curves if steps), default=0)
    values = [
        value
        for steps, means in curves
        for step, value in zip(steps, means, strict=True)
        if (step >= end / 10 or step == steps[-1]) and math.isfinite(value)
    ]
    if what.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif values and min(values) > 0 and max(values) > MIN_LOG_RATIO * min(values):
        set_log_scale(axes, values)
    if values and axes.get_yscale() == "linear":
        room = 0.06 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
        axes.set_ylim(min(values) - room, max(values) + room)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    plain(axes)


def plain(axes: "Axes") -> None:
    """Give a panel its grid and small numbers, and no frame."""
    axes.tick_params(labelsize=points(8))
    axes.grid(visible=True, which="both", color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: "Figure", axes: "Axes", order: Sequence[int] | None = None) -> None:
    """Add one legend for all panels, below them.

    Args:
        figure: the picture.
        axes: the panel with all lines.
        order: places of the entries; None = as they were drawn.
    """
    handles, labels = axes.get_legend_handles_labels()
    if order is not None:
        handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    width, _ = figure.get_size_inches()
    room = int(LEGEND_ROW_CHARS * width / 7.2 / points(1))
    longest = max(map(len, labels), default=1)
    columns = max(1, min(len(labels), room // (longest + 8)))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=points(8),
    )
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows * points(1))
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)


def finish(
    figure: "Figure", axes: Sequence["Axes"], what: Quantity, title: str, across: str = STEPS
) -> "Figure":
    """Name the axes of all panels and the picture; returns it."""
    small = points(9)
    for panel in axes:
        if panel.xaxis.get_tick_params()["labelbottom"]:
            panel.set_xlabel(across, fontsize=small)
    text = marked_log(what.text, axes[0].get_yscale() == "log")
    if len(axes) == 1:
        axes[0].set_ylabel(text, fontsize=small, parse_math=False)
    else:
        figure.supylabel(text, fontsize=small, parse_math=False)
    set_title(figure, title)
    return figure


def marked_log(text: str, log: bool) -> str:
    """Add to the name of an axis that it is logarithmic: `loss (nats, log scale)`."""
    if not log:
        return text
    return f"{text[:-1]}, log scale)" if text.endswith(")") else f"{text} (log scale)"


def set_title(figure: "Figure", title: str) -> None:
    """Write the title above all panels of a picture."""
    figure.suptitle(title_lines(figure, title), fontsize=points(10), parse_math=False)


def title_lines(figure: "Figure", title: str) -> str:
    """Break a title into as many lines as the width of its picture asks for."""
    width, _ = figure.get_size_inches()
    room = max(20, int(MAX_TITLE_LINE_CHARS * width / 7.2 / points(1)))
    whole = drawable(title, MAX_TITLE_CHARS).replace(" = ", _TIED)
    return "\n".join(textwrap.wrap(whole, room)).replace(_TIED, " = ")


def seed_counts(counts: Sequence[int]) -> str:
    """Tell how many seeds there are: `n = 3 to 5 seeds`."""
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"n = {number} seed{'' if high == 1 else 's'}"


def drawable(text: str, length: int = MAX_LABEL_CHARS) -> str:
    """Return a text, cut, with `?` for what no font has; legends hide none of them."""
    text = with_glyphs(short(text, length))
    return f" {text}" if text.startswith("_") else text


def run_title(run: RunRecord) -> str:
    """Name a run, its task, model, dropout and seed, for the title of a picture."""
    names = [task] if isinstance(task := run.setting("task.name"), str) else []
    for key in ("model.name", "dropout.name"):
        if (value := run.setting(key)) is not None:
            names.append(in_words(key, str(value)))
    if isinstance(name := run.setting("name"), str) and name:
        names.insert(0, drawable(name))
    return " · ".join([*names, f"seed {run.setting('seed')}"])


def smooth(values: list[float], share: float = 0.02) -> list[float]:
    """Return the mean over a centred window of about `share` of the curve: it does not lag.

    At the start, where losses fall fast, the window shrinks on both sides; at the end only the
    side that is not there is missing. A value that is not a number stays a gap.
    """
    half = max(1, round(share * len(values) / 2))
    sums, counts = [0.0], [0]
    for value in values:
        gap = math.isnan(value)
        sums.append(sums[-1] + (0.0 if gap else value))
        counts.append(counts[-1] + (not gap))
    smoothed = []
    for i, value in enumerate(values):
        reach = min(half, i)
        low, high = i - reach, min(i + reach + 1, len(values))
        gap = math.isnan(value)
        mean = math.nan if gap else (sums[high] - sums[low]) / (counts[high] - counts[low])
        smoothed.append(mean)
    return smoothed


def set_log_scale(axes: "Axes", losses: list[float]) -> None:
    """Make the y axis logarithmic with plain numbers, where the values allow it."""
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    low, high = min(losses), max(losses)
    if low <= 0 or high / low < 1.5:
        return
    subs = [1, 2, 5] if high / low > 20 else [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]
    plain = ScalarFormatter()
    plain.set_scientific(False)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.06, high * 1.06)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(NullLocator())

"""How all pictures look and are saved: colours, axes, panels, legends that cover nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.plots.fonts import with_glyphs
from mambalab.records.reader import RunRecord
from mambalab.utils.files import replacing
from mambalab.utils.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision, strongest on white first; grey takes
# the place of their yellow, which is too pale for a line.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
)
STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv*PX"
TRAIN_COLOUR, VAL_COLOUR, BEST_COLOUR = "#0072B2", "#D55E00", "#000000"
MAX_LABEL_CHARS = 70
MAX_TITLE_CHARS = 160
MIN_LOG_RATIO = 4  # of largest to smallest value, from which the axis of many groups is logarithmic
LEGEND_ROW_CHARS = 95  # in a picture with one panel


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: its text with unit, and whether 1 is 100 %."""

    text: str
    percent: bool


def quantity(metric: str) -> Quantity:
    """Tell what an axis shows, by the name of the metric."""
    split, _, name = metric.rpartition("/")
    where = {"val": "validation ", "train": "training ", "test": "test "}.get(split)
    if where is None or name not in ("loss", "accuracy"):
        return Quantity(drawable(metric), percent=False)
    unit = "nats" if name == "loss" else "% right"
    return Quantity(f"{where}{name} ({unit})", percent=name == "accuracy")


def panels(count: int, *, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """Make a figure of `count` panels of this size in inches, on common axes."""
    from matplotlib.figure import Figure

    columns = min(count, 3 if count <= 9 else 4)
    if count == 4:
        columns = 2
    rows = math.ceil(count / columns)
    size = (max(width * columns, 5.0), height * rows + 0.7)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for column in range(columns):  # the lowest panel of a column has the numbers of its steps
        lowest = grid[:count][column::columns][-1]
        lowest.xaxis.set_tick_params(labelbottom=True)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def frame(axes: "Axes", curves: Sequence[tuple[list[int], list[float]]], what: Quantity) -> None:
    """Set limits and grid so that the curves' later nine tenths fill the panel: where they start
    says little and would press them together."""
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
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, which="both", color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: "Figure", axes: "Axes") -> None:
    """Add one legend for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    width, _ = figure.get_size_inches()
    room = int(LEGEND_ROW_CHARS * width / 7.2)
    longest = max(map(len, labels), default=1)
    columns = max(1, min(len(labels), room // (longest + 8)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)


def finish(figure: "Figure", axes: Sequence["Axes"], what: Quantity, title: str) -> "Figure":
    """Name the axes of all panels and the picture; returns it."""
    for panel in axes:
        if panel.xaxis.get_tick_params()["labelbottom"]:
            panel.set_xlabel("step (optimiser updates)", fontsize=9)
    if len(axes) == 1:
        axes[0].set_ylabel(what.text, fontsize=9, parse_math=False)
    else:
        figure.supylabel(what.text, fontsize=9, parse_math=False)
    figure.suptitle(drawable(title, MAX_TITLE_CHARS), fontsize=10, parse_math=False)
    return figure


def seed_counts(counts: Sequence[int]) -> str:
    """Tell how many seeds there are: `n = 3 to 5 seeds`."""
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"n = {number} seed{'' if high == 1 else 's'}"


def drawable(text: str, length: int = MAX_LABEL_CHARS) -> str:
    """Return a text, cut, with `?` for what no font has; legends hide none of them."""
    text = with_glyphs(short(text, length))
    return f" {text}" if text.startswith("_") else text


def save(figure: "Figure", target: Path) -> Path:
    """Write a picture, in the format that its name says, so that readers see the old or the new
    one; returns its path.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        target.parent.mkdir(exist_ok=True)
        with replacing(target) as partial:
            figure.savefig(partial)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return target


def run_title(run: RunRecord) -> str:
    """Name a run, its task, model, dropout and seed, for the title of a picture."""
    names = [run.setting(f"{group}.name") for group in ("task", "model")]
    names.append(f"dropout {run.setting('dropout.name')}")
    if isinstance(name := run.setting("name"), str) and name:
        names.insert(0, drawable(name))
    return " · ".join([str(n) for n in names if n is not None] + [f"seed {run.setting('seed')}"])


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

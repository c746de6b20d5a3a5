"""Results of a benchmark: as a table, as JSON, and as a picture on logarithmic axes."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.utils.text import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, with a marker each: told apart with any colour vision.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"))
_STYLES += (("#56B4E9", "P"),)
_LEAST_RANGE = 10.0  # of the values of a panel: less would draw noise as a shape


@dataclass
class Result:
    """What was measured.

    Attributes:
        what, device: kind of benchmark, and cpu or cuda.
        machine, versions, options: what the numbers depend on.
        columns: names of the table's columns.
        rows: one dictionary for each line of the table; raw numbers.
        curves: for each contender, (length, value) points of the picture.
        axis: what the values of the picture are.
        across: what its lengths are.
        second, second_axis: the same for a second picture beside the first, if there is one.
        missing: contenders that are not here, with the reason.
        wrong: contenders whose results were wrong, with the error; they were not timed.
        notes: facts worth a line below the table.
    """

    what: str
    device: str
    machine: str
    versions: dict[str, str]
    options: dict[str, Any]
    columns: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    axis: str = ""
    across: str = "sequence length L (steps)"
    second: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    second_axis: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_writable(folder: Path) -> None:
    """Raise UserError now if nothing can be written to `folder` later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"out={folder}: not writable")


def _cell(value: Any) -> str:
    """A value of the table: two decimals below a thousand, none above; `-` for None."""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def as_text(result: Result) -> str:
    """The result for the terminal: machine, table, notes, and who is missing or wrong."""
    rows = [[_cell(row.get(column)) for column in result.columns] for row in result.rows]
    lines = [f"{result.what} on {result.machine}"]
    lines += [table(result.columns, rows, right=result.columns[1:])]
    lines += result.notes
    lines += [f"not measured: {name}: {why}" for name, why in result.missing.items()]
    lines += [f"WRONG: {name}: {why}" for name, why in result.wrong.items()]
    return "\n".join(lines)


def write(result: Result, folder: Path) -> list[Path]:
    """Write `<what>-<device>.json`, and `.png` if there are curves; returns their paths."""
    stem = f"{result.what}-{'gpu' if result.device == 'cuda' else result.device}"
    paths = [folder / f"{stem}.json"]
    try:
        paths[0].write_text(json.dumps(asdict(result), indent=1) + "\n")
        if result.curves:
            paths.append(folder / f"{stem}.png")
            draw(result).savefig(paths[1])
    except OSError as error:
        raise UserError(f"cannot write {paths[-1]}: {error.strerror}") from error
    return paths


def draw(result: Result) -> "Figure":
    """Draw the picture of a result, with a second panel if it has one."""
    from matplotlib.figure import Figure

    panels = [(result.curves, result.axis)]
    if result.second:
        panels.append((result.second, result.second_axis))
    size = (7.2 if len(panels) == 1 else 12.0, 4.5)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    for number, (curves, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw(axes, curves, label, result.across)
    if len(panels) == 1:
        figure.axes[0].legend(frameon=False)
    else:
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{result.what} · {result.machine}", fontsize=11)
    return figure


def _draw(axes: Any, curves: dict[str, list[tuple[int, float]]], label: str, across: str) -> None:
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    for number, (name, points) in enumerate(curves.items()):
        colour, marker = _STYLES[number % len(_STYLES)]
        lengths, values = zip(*points, strict=True)
        axes.plot(lengths, values, color=colour, marker=marker, linewidth=1.5, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    heights = [value for points in curves.values() for _, value in points]
    low, high = min(heights), max(heights)
    if 1.2 * high < _LEAST_RANGE * low:  # markers have room at the ends
        middle = math.sqrt(low * high)
        axes.set_ylim(middle / math.sqrt(_LEAST_RANGE), middle * math.sqrt(_LEAST_RANGE))
    axes.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_marked_log(across))
    axes.set_ylabel(_marked_log(label))
    axes.grid(visible=True, which="both", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _marked_log(text: str) -> str:
    """The name of an axis, with the word that it is logarithmic."""
    return f"{text[:-1]}, log scale)" if text.endswith(")") else f"{text} (log scale)"

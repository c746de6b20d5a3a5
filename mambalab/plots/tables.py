"""Results that are more than a number, drawn and printed: confusion tables, curves over a size.

A table is plain JSON, as tasks make them and as it is in `tables/` of a run folder: `kind`,
`title` and what that kind holds (`mambalab.tasks.base.Table`).
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.plots.look import drawn_as, new_figure, points, save, save_all, with_defaults
from mambalab.plots.style import VAL_COLOUR, drawable, marked_log, plain, run_title, title_lines
from mambalab.records.reader import read_run
from mambalab.records.run_folder import RunFolder
from mambalab.settings.figure import FigureSettings
from mambalab.utils.files import write_json
from mambalab.utils.text import short
from mambalab.utils.text import table as text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NUMBERED_CLASSES = 12  # up to which the cells of a confusion picture have room for counts
MAX_NAMED_CLASSES = 40  # up to which its axes have room for names
MAX_PRINTED_CLASSES = 20  # up to which a confusion table fits a terminal
MAX_CLASS_CHARS = 24  # of a class's name


def picture(table: dict[str, Any], target: Path, above: str = "") -> Path:
    """Draw a table to a file, in the format that its name says; returns its path.

    Args:
        table: what to draw.
        target: the file.
        above: a first line of the title: of which run this is.

    Raises:
        UserError: the file cannot be written.
    """
    return save(_drawn(table, above), target)


def _drawn(table: dict[str, Any], above: str) -> "Figure":
    figure = new_figure(7.2, 6.4 if table["kind"] == "confusion" else 4.5)
    axes = figure.add_subplot()
    {"confusion": _confusion, "curve": _curve}[table["kind"]](axes, table)
    title = str(table["title"])
    for told in above.split(" · "):  # the task, once
        title = re.sub(rf"^{re.escape(told)}([,:] |$)", "", title) if told else title
    whole = title_lines(figure, " · ".join(filter(None, (above, title))))
    axes.set_title(whole, fontsize=points(10), parse_math=False)
    return figure


def write(
    run_dir: Path,
    split: str,
    tables: list[dict[str, Any]],
    figure: FigureSettings | None = None,
) -> list[Path]:
    """Write `tables/<split>_<kind>.json` and `plots/<split>_<kind>.png` for each table.

    Args:
        run_dir: the run folder.
        split: what was measured.
        tables: what to write.
        figure: how to draw, in which formats; what is None there is as the run has it.

    Returns:
        The paths of all files.

    Raises:
        UserError: the folder cannot be written.
    """
    if tables:
        RunFolder(run_dir).check_own()
    if not tables:
        return []
    run = read_run(run_dir)
    above, figure = run_title(run), with_defaults(figure, run)
    paths: list[Path] = []
    for table in tables:
        name = f"{split}_{table['kind']}"
        target = run_dir / "tables" / f"{name}.json"
        try:
            target.parent.mkdir(exist_ok=True)
            write_json(target, table)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror}") from error
        with drawn_as(figure):
            drawn = save_all(_drawn(table, above), run_dir / "plots" / name, figure)
        paths += [target, *drawn]
    return paths


def text(table: dict[str, Any]) -> str:
    """Lay out a table for the terminal; empty if it would not fit."""
    if table["kind"] == "curve":
        rows = [(f"{x:,}", f"{y:.4f}") for x, y in zip(table["x"], table["y"], strict=True)]
        return text_table((table["x_label"], table["y_label"]), rows, right={table["y_label"]})
    if len(table["classes"]) > MAX_PRINTED_CLASSES:
        return ""
    classes = [short(name, MAX_CLASS_CHARS) for name in table["classes"]]
    rows = [
        (name, *(str(n) for n in row), f"{row[i] / sum(row):.4f}" if any(row) else "-")
        for i, (name, row) in enumerate(zip(classes, table["counts"], strict=True))
    ]
    return text_table(("true, predicted", *classes, "right"), rows, right={*classes, "right"})


def _confusion(axes: "Axes", table: dict[str, Any]) -> None:
    """Draw the share of each true class (row) predicted as each class; counts if they fit."""
    classes, counts = [drawable(n, MAX_CLASS_CHARS) for n in table["classes"]], table["counts"]
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few = len(classes) <= MAX_NUMBERED_CLASSES
    for i, row in enumerate(counts if few else []):
        for j, n in enumerate(row):
            colour = "white" if shares[i][j] > 0.5 else "black"
            axes.text(j, i, f"{n:,}" if n else "", ha="center", va="center", color=colour,
                      size=points(8))  # fmt: skip
    if len(classes) <= MAX_NAMED_CLASSES:
        long = max(map(len, classes)) > 2
        turn = 45 if long else 0
        axes.set_xticks(range(len(classes)), classes, rotation=turn, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.tick_params(labelsize=points(8))
    axes.set_xlabel("predicted class", fontsize=points(9))
    axes.set_ylabel("true class", fontsize=points(9))
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", fontsize=points(9))
    bar.ax.tick_params(labelsize=points(8))


def _curve(axes: "Axes", table: dict[str, Any]) -> None:
    """Draw a value against a size that doubles, with a line where the model was trained."""
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    axes.plot(table["x"], table["y"], "o-", color=VAL_COLOUR, linewidth=1.6)
    axes.axvline(table["marked"], color="#555555", linestyle=":", label="trained here")
    axes.set_xscale("log", base=2)
    axes.set_xticks(table["x"])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.03, 1.03)
    x_label = marked_log(str(table["x_label"]), log=True)
    axes.set_xlabel(x_label, fontsize=points(9), parse_math=False)
    axes.set_ylabel(table["y_label"], fontsize=points(9), parse_math=False)
    plain(axes)
    axes.legend(frameon=False, fontsize=points(8))

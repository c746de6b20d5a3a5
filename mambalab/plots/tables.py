"""Results that are more than a number, drawn and printed: confusion tables, curves over a size.

A table is plain JSON, as tasks make them and as it is in `tables/` of a run folder: `kind`,
`title` and what that kind holds (`mambalab.tasks.base.Table`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.plots.style import VAL_COLOUR, drawable, run_title, save
from mambalab.records.reader import read_run
from mambalab.records.run_folder import RunFolder
from mambalab.utils.files import write_json
from mambalab.utils.text import short
from mambalab.utils.text import table as text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NUMBERED_CLASSES = 12  # up to which the cells of a confusion picture have room for counts
MAX_NAMED_CLASSES = 40  # up to which its axes have room for names
MAX_PRINTED_CLASSES = 20  # up to which a confusion table fits a terminal
MAX_CLASS_CHARS = 24  # of a class's name


def picture(table: dict[str, Any], target: Path, above: str = "") -> Path:
    """Draw a table to a PNG file; returns its path.

    Args:
        table: what to draw.
        target: the file.
        above: a first line of the title: of which run this is.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    side = 6.4 if table["kind"] == "confusion" else 4.5
    figure = Figure(figsize=(7.2, side), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    {"confusion": _confusion, "curve": _curve}[table["kind"]](axes, table)
    lines = filter(None, (above, table["title"]))
    axes.set_title("\n".join(lines), fontsize=11, parse_math=False)
    return save(figure, target)


def write(run_dir: Path, split: str, tables: list[dict[str, Any]]) -> list[Path]:
    """Write `tables/<split>_<kind>.json` and `plots/<split>_<kind>.png` for each table.

    Returns:
        The paths of all files.

    Raises:
        UserError: the folder cannot be written.
    """
    if tables:
        RunFolder(run_dir).check_own()
    above = run_title(read_run(run_dir)) if tables else ""
    paths: list[Path] = []
    for table in tables:
        name = f"{split}_{table['kind']}"
        target = run_dir / "tables" / f"{name}.json"
        try:
            target.parent.mkdir(exist_ok=True)
            write_json(target, table)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror}") from error
        paths += [target, picture(table, run_dir / "plots" / f"{name}.png", above)]
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
    return text_table(("true, taken for", *classes, "right"), rows, right={*classes, "right"})


def _confusion(axes: "Axes", table: dict[str, Any]) -> None:
    """Draw the share of each true class (row) taken for each class; counts in cells if they fit."""
    classes, counts = [drawable(n, MAX_CLASS_CHARS) for n in table["classes"]], table["counts"]
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few = len(classes) <= MAX_NUMBERED_CLASSES
    for i, row in enumerate(counts if few else []):
        for j, n in enumerate(row):
            colour = "white" if shares[i][j] > 0.5 else "black"
            axes.text(j, i, f"{n:,}" if n else "", ha="center", va="center", color=colour, size=8)
    if len(classes) <= MAX_NAMED_CLASSES:
        long = max(map(len, classes)) > 2
        turn = 45 if long else 0
        axes.set_xticks(range(len(classes)), classes, rotation=turn, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)


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
    axes.set_xlabel(table["x_label"])
    axes.set_ylabel(table["y_label"])
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)

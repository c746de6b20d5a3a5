"""Draws the norms of gradients, weights and updates that a run recorded by layer."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.plots.style import COLOURS, STEPS, STYLES, drawable, run_title, save
from mambalab.records.reader import Curve, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "grad": "norm of the gradient",
    "weight": "norm of the weights",
    "update_ratio": "update / weights",
}
FEW_LAYERS = len(COLOURS)  # up to which each has a colour of its own and a place in the legend
_NUMBER = re.compile(r"(\d+)")


class NoNormsError(UserError):
    """A run has recorded no norms that could be drawn."""


def norms_picture(run_dir: Path) -> Path:
    """Draw `plots/norms.png`: three panels on log axes, a line for each layer.

    Args:
        run_dir: a run folder with `norms/...` in its metrics.jsonl (`trainer.norms=true`).

    Returns:
        Path of the picture; an older one is replaced in one step.

    Raises:
        NoNormsError: the run holds no norms.
        UserError: the folder is no run, or cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    run = read_run(run_dir)
    names = {key.split("/", 2)[2] for key in run.curves if key.startswith("norms/")}
    if not names:
        raise NoNormsError(f"{run_dir} holds no norms to draw")
    layers = sorted(names, key=_by_number)
    figure = Figure(figsize=(7.2, 8.4), dpi=150, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    few, colours = len(layers) <= FEW_LAYERS, colormaps["viridis"]
    for axes, (kind, text) in zip(panels, PANELS.items(), strict=True):
        for place, layer in enumerate(layers):
            colour = COLOURS[place % FEW_LAYERS] if few else colours(place / (len(layers) - 1))
            style = STYLES[place % len(STYLES)]
            _draw(axes, run.curves.get(f"norms/{kind}/{layer}", []), layer, colour, style)
        axes.set_ylabel(text, fontsize=9)
        axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(STEPS, fontsize=9)
    panels[0].set_title(run_title(run), fontsize=11, parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, fontsize=7 if few else 6
    )
    return save(figure, run_dir / "plots" / "norms.png")


def _draw(axes: "Axes", points: Curve, layer: str, colour: object, style: str) -> None:
    """Draw one layer; values that are no positive number leave a gap."""
    steps = [step for step, _ in points]
    values = [math.nan if value is None or value <= 0 else value for _, value in points]
    mark = "." if len(values) < 3 else None
    look: Any = {"color": colour, "marker": mark, "linewidth": 1.1, "label": drawable(layer)}
    axes.plot(steps, values, style, **look)
    if any(map(math.isfinite, values)):
        axes.set_yscale("log")


def _by_number(name: str) -> list[str | int]:
    """Key by which layer 10 comes after layer 9."""
    return [int(part) if part.isdecimal() else part for part in _NUMBER.split(name)]

"""Pictures of a run, drawn from its files. Matplotlib is used without its global state."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.plots.style import (
    BEST_COLOUR,
    TRAIN_COLOUR,
    VAL_COLOUR,
    run_title,
    save,
    set_log_scale,
    smooth,
)
from mambalab.records.reader import Best, Curve, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_SMOOTHED_POINTS = 60  # from which a training curve is also drawn smoothed
MAX_LARGE_MARKERS = 60  # points up to which those of a curve are drawn large


class NoLossError(UserError):
    """A run has recorded no loss that could be drawn."""


def loss_picture(run_dir: Path, *, unit: str = "nats") -> Path:
    """Draw `plots/loss.png`: training curve, validation points, the best of them marked; and, if
    the run has a validation accuracy, that below.

    Args:
        run_dir: a run folder with `train/loss` or `val/loss` in its metrics.jsonl.
        unit: unit of the loss, for the axis.

    Returns:
        Path of the picture; an older one is replaced in one step.

    Raises:
        NoLossError: the run holds no finite loss.
        UserError: the folder is no run, or cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    run = read_run(run_dir)
    train, val = run.curves.get("train/loss", []), run.curves.get("val/loss", [])
    losses = [v for _, v in [*train, *val] if v is not None]
    if not losses:
        raise NoLossError(f"{run_dir} holds no loss to draw yet")
    accuracy = run.curves.get("val/accuracy", [])
    figure = Figure(figsize=(7.2, 6.6 if accuracy else 4.5), dpi=150, layout="constrained")
    axes, *below = figure.subplots(2 if accuracy else 1, sharex=True, squeeze=False)[:, 0]
    if train:
        _draw_train(axes, train)
    if val:
        best = run.best
        _draw_val(axes, val, best if best and best.metric == "val/loss" else None)
    for panel in below:
        _draw_accuracy(panel, accuracy, run.best)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    [axes, *below][-1].set_xlabel("step (optimiser updates)")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(run_title(run), fontsize=11, parse_math=False)
    set_log_scale(axes, losses)
    for panel in (axes, *below):
        panel.grid(visible=True, which="both", color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    return save(figure, run_dir / "plots" / "loss.png")


def _xy(points: Curve) -> tuple[list[int], list[float]]:
    """Return steps and values; one that was not finite is NaN and leaves a gap."""
    return [s for s, _ in points], [math.nan if v is None else v for _, v in points]


def _draw_train(axes: "Axes", points: Curve) -> None:
    steps, values = _xy(points)
    if len(values) < MIN_SMOOTHED_POINTS:
        axes.plot(
            steps, values, ".-", color=TRAIN_COLOUR, linewidth=1.4, markersize=4, label="train"
        )
        return
    axes.plot(steps, values, color=TRAIN_COLOUR, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values), color=TRAIN_COLOUR, linewidth=1.6, label="train (smoothed)")


def _draw_val(axes: "Axes", points: Curve, best: Best | None) -> None:
    steps, values = _xy(points)
    size = 5 if len(values) <= MAX_LARGE_MARKERS else 2.5
    axes.plot(
        steps, values, "o--", color=VAL_COLOUR, markersize=size, linewidth=1.2, label="validation"
    )
    if best is not None:
        _mark(axes, best, f"best validation: {best.value:.4f} at step {best.step:,}")


def _draw_accuracy(axes: "Axes", points: Curve, best: Best | None) -> None:
    from matplotlib.ticker import PercentFormatter

    steps, values = _xy(points)
    size = 5 if len(values) <= MAX_LARGE_MARKERS else 2.5
    axes.plot(
        steps, values, "o--", color=VAL_COLOUR, markersize=size, linewidth=1.2, label="validation"
    )
    if best is not None and best.metric == "val/accuracy":
        _mark(axes, best, f"best: {100 * best.value:.2f} % at step {best.step:,}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy")


def _mark(axes: "Axes", best: Best, label: str) -> None:
    axes.plot(
        [best.step], [best.value], "*", color=BEST_COLOUR, markersize=13, zorder=5, label=label
    )

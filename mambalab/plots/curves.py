"""Pictures of a run, drawn from its files. Matplotlib is used without its global state."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.plots.look import drawn_as, new_figure, points, save_all, with_defaults
from mambalab.plots.style import (
    BEST_COLOUR,
    STEPS,
    TRAIN_COLOUR,
    VAL_COLOUR,
    marked_log,
    plain,
    run_title,
    set_log_scale,
    smooth,
    title_lines,
)
from mambalab.plots.words import unit_of_loss
from mambalab.records.reader import Best, Curve, RunRecord, read_run
from mambalab.settings.figure import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_SMOOTHED_POINTS = 60  # from which a training curve is also drawn smoothed
MAX_LARGE_MARKERS = 60  # points up to which those of a curve are drawn large


class NoLossError(UserError):
    """A run has recorded no loss that could be drawn."""


def loss_picture(run_dir: Path, *, unit: str | None = None) -> Path:
    """Draw `plots/loss.png`; returns its path, or that of the first format that the run asks for.

    See `loss_pictures`.
    """
    return loss_pictures(run_dir, unit=unit)[0]


def loss_pictures(
    run_dir: Path, *, unit: str | None = None, figure: FigureSettings | None = None
) -> list[Path]:
    """Draw `plots/loss.png`: training curve, validation points, the best of them marked; and, if
    the run has a validation accuracy, that below.

    Args:
        run_dir: a run folder with `train/loss` or `val/loss` in its metrics.jsonl.
        unit: unit of the loss, for the axis; None = as the run's settings have it.
        figure: how to draw, in which formats; what is None there is as the run has it.

    Returns:
        Paths of the picture in each format; an older one is replaced in one step.

    Raises:
        NoLossError: the run holds no finite loss.
        UserError: the folder is no run, or cannot be written.
    """
    run = read_run(run_dir)
    figure = with_defaults(figure, run)
    with drawn_as(figure):
        drawn = _drawn(run, unit or unit_of_loss(run))
        return save_all(drawn, run_dir / "plots" / "loss", figure)


def _drawn(run: RunRecord, unit: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    train, val = run.curves.get("train/loss", []), run.curves.get("val/loss", [])
    losses = [v for _, v in [*train, *val] if v is not None]
    if not losses:
        raise NoLossError(f"{run.path} holds no loss to draw yet")
    accuracy = run.curves.get("val/accuracy", [])
    figure = new_figure(7.2, 6.6 if accuracy else 4.5)
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
    [axes, *below][-1].set_xlabel(STEPS, fontsize=points(9))
    set_log_scale(axes, losses)
    name = marked_log(f"loss ({unit})", axes.get_yscale() == "log")
    axes.set_ylabel(name, fontsize=points(9))
    title = title_lines(figure, run_title(run))
    axes.set_title(title, fontsize=points(10), parse_math=False)
    for panel in (axes, *below):
        plain(panel)
        panel.legend(frameon=False, fontsize=points(8))
    return figure


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


def _draw_accuracy(axes: "Axes", curve: Curve, best: Best | None) -> None:
    from matplotlib.ticker import PercentFormatter

    steps, values = _xy(curve)
    size = 5 if len(values) <= MAX_LARGE_MARKERS else 2.5
    axes.plot(
        steps, values, "o--", color=VAL_COLOUR, markersize=size, linewidth=1.2, label="validation"
    )
    if best is not None and best.metric == "val/accuracy":
        _mark(axes, best, f"best: {100 * best.value:.2f} % at step {best.step:,}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy (% right)", fontsize=points(9))


def _mark(axes: "Axes", best: Best, label: str) -> None:
    axes.plot(
        [best.step], [best.value], "*", color=BEST_COLOUR, markersize=13, zorder=5, label=label
    )

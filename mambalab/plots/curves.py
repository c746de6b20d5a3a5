"""Pictures of a run, drawn from its files. Matplotlib is used without its global state."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.records.reader import Best, Curve, RunRecord, read_run
from mambalab.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any colour vision; markers and line styles tell, too.
TRAIN, VAL, BEST = "#0072B2", "#D55E00", "#000000"
_SMOOTH_FROM = 60  # points from which a training curve is also drawn smoothed


def loss_picture(run_dir: Path, *, unit: str = "nats") -> Path:
    """Draw `plots/loss.png`: training curve, validation points, the best of them marked; and, if
    the run has a validation accuracy, that below.

    Args:
        run_dir: a run folder with `train/loss` or `val/loss` in its metrics.jsonl.
        unit: unit of the loss, for the axis.

    Returns:
        Path of the picture; an older one is replaced in one step.

    Raises:
        UserError: if the folder is no run, holds no finite loss, or cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    run = read_run(run_dir)
    train, val = run.curves.get("train/loss", []), run.curves.get("val/loss", [])
    losses = [v for _, v in [*train, *val] if v is not None]
    if not losses:
        raise UserError(f"{run_dir} holds no loss to draw yet")
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
    axes.set_title(title(run), fontsize=11)
    scale(axes, losses)
    for panel in (axes, *below):
        panel.grid(visible=True, which="both", color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    return save(figure, run_dir / "plots" / "loss.png")


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


def title(run: RunRecord) -> str:
    """Task, model, dropout and seed of a run, for the title of a picture."""
    names = [run.setting(f"{group}.name") for group in ("task", "model")]
    names.append(f"dropout {run.setting('dropout.name')}")
    return " · ".join([str(n) for n in names if n is not None] + [f"seed {run.setting('seed')}"])


def _xy(points: Curve) -> tuple[list[int], list[float]]:
    """Steps and values; a value that was not finite leaves a gap."""
    return [s for s, _ in points], [math.nan if v is None else v for _, v in points]


def _draw_train(axes: "Axes", points: Curve) -> None:
    steps, values = _xy(points)
    if len(values) < _SMOOTH_FROM:
        axes.plot(steps, values, ".-", color=TRAIN, linewidth=1.4, markersize=4, label="train")
        return
    axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values), color=TRAIN, linewidth=1.6, label="train (smoothed)")


def _draw_val(axes: "Axes", points: Curve, best: Best | None) -> None:
    steps, values = _xy(points)
    size = 5 if len(values) <= 60 else 2.5
    axes.plot(steps, values, "o--", color=VAL, markersize=size, linewidth=1.2, label="validation")
    if best is not None:
        _mark(axes, best, f"best validation: {best.value:.4f} at step {best.step:,}")


def _draw_accuracy(axes: "Axes", points: Curve, best: Best | None) -> None:
    from matplotlib.ticker import PercentFormatter

    steps, values = _xy(points)
    size = 5 if len(values) <= 60 else 2.5
    axes.plot(steps, values, "o--", color=VAL, markersize=size, linewidth=1.2, label="validation")
    if best is not None and best.metric == "val/accuracy":
        _mark(axes, best, f"best: {100 * best.value:.2f} % at step {best.step:,}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy")


def _mark(axes: "Axes", best: Best, label: str) -> None:
    axes.plot([best.step], [best.value], "*", color=BEST, markersize=13, zorder=5, label=label)


def smooth(values: list[float], share: float = 0.02) -> list[float]:
    """Mean over a window of about `share` of the curve, centred: it does not lag behind.

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


def scale(axes: "Axes", losses: list[float]) -> None:
    """A logarithmic axis with plain numbers, where the values allow it."""
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

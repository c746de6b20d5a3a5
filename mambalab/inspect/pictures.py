"""Pictures of a trace, as PNG. Matplotlib is used without its global state."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mambalab.inspect import measures
from mambalab.inspect.sequence import InspectedSequence, visible
from mambalab.inspect.trace import AttentionTrace, LayerTrace, ScanTrace
from mambalab.plots.look import drawn_as, save_all
from mambalab.plots.style import drawable
from mambalab.settings.figure import PlainFigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOUR_MAP = (
    "Blues"  # one hue, ordered by lightness: readable with any colour vision; dark is large
)
_STEPS_PER_LINE, _MAX_LINES = 100, 6  # steps in a line of a text, and lines that are drawn
_TITLES = {
    "delta": "step size delta of each layer",
    "memory": "how long channels remember",
    "a_log": "what training changed in A_log",
    "state_norm": "size of the state",
    "attention": "attention of each head",
    "delta_image": "step size delta of each pixel",
}
_LETTERS_AN_INCH = 14  # of a title, at most
_MAX_HEADS = 8  # heads of a layer that are drawn


def draw(
    sequence: InspectedSequence,
    layers: list[LayerTrace],
    folder: Path,
    figure: PlainFigureSettings | None = None,
) -> list[Path]:
    """Draw what there is into `folder`; returns the paths.

    Args:
        sequence, layers: what was read, and what each layer did with it.
        folder: where pictures go.
        figure: letters and formats; None = as PNG, in matplotlib's own font.

    Raises:
        UserError: if they cannot be written.
    """
    scans = [layer for layer in layers if isinstance(layer, ScanTrace)]
    attentions = [layer for layer in layers if isinstance(layer, AttentionTrace)]
    drawn: dict[str, Figure] = {}
    with drawn_as(figure):
        if scans:
            drawn["delta"] = _delta(sequence, scans)
            drawn["memory"] = _memory(scans)
            drawn["a_log"] = _A_log_shift(scans)
            drawn["state_norm"] = _norms(scans)
        if attentions:
            drawn["attention"] = _attention(attentions)
        if scans and sequence.image is not None and sequence.layout is not None:
            drawn["delta_image"] = _on_image(sequence.image, sequence.layout, scans)
        paths: list[Path] = []
        for name, one in drawn.items():
            title = drawable(f"{_TITLES[name]}: {sequence.title}", 100)
            lines = textwrap.fill(title, int(_LETTERS_AN_INCH * one.get_figwidth()))
            one.suptitle(lines, fontsize=10, parse_math=False)
            paths += save_all(one, folder / name, figure)
    return paths


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _short(trace: LayerTrace) -> str:
    if isinstance(trace, ScanTrace) and trace.backward:
        return f"{trace.layer} (from the end)"
    return str(trace.layer)


def _log_colours(values: np.ndarray) -> "tuple[float, float]":
    """Ends of the scale: nearly all values, and at least a factor of 1.5, so that those that hardly
    differ look alike."""
    low, high = (float(q) for q in np.quantile(values, [0.01, 0.99]))
    wider = max(1.0, (1.5 * low / max(high, low)) ** 0.5)
    return low / wider, max(high, low) * wider


def _delta(sequence: InspectedSequence, scans: list[ScanTrace]) -> "Figure":
    """Layers by steps, mean of the channels, relative to the layer's own mean: layers may differ
    more than steps do. Texts are written below, in lines; of a long one only the beginning."""
    from matplotlib.colors import LogNorm

    means = [float(scan.delta.mean()) for scan in scans]
    rows = np.stack([scan.delta.mean(1) / mean for scan, mean in zip(scans, means, strict=True)])
    steps, lettered = rows.shape[1], sequence.image is None
    line = _STEPS_PER_LINE if max(map(len, sequence.labels)) == 1 else _STEPS_PER_LINE // 2
    width = min(steps, line) if lettered else steps
    lines = min(-(-steps // width), _MAX_LINES)
    height = 1.3 + (0.75 + 0.17 * len(scans)) * lines
    figure = _figure(min(max(6.0, 2 + 12 * width / line), 14.0), height)
    grid = figure.subplots(lines, squeeze=False)[:, 0]
    low, high = _log_colours(rows)
    shown = None
    for number, axes in enumerate(grid):
        part = slice(number * width, min((number + 1) * width, steps))
        shown = axes.imshow(
            rows[:, part],
            aspect="auto",
            cmap=_COLOUR_MAP,
            norm=LogNorm(low, high),
            interpolation="none",
        )
        axes.set_xlim(-0.5, width - 0.5)
        axes.spines[["top", "right"]].set_visible(False)
        names = [
            f"{_short(scan)} (mean {mean:.2g})" for scan, mean in zip(scans, means, strict=True)
        ]
        axes.set_yticks(range(len(scans)), names, fontsize=7)
        if lettered:
            labels = [drawable(visible(label)).strip() or " " for label in sequence.labels[part]]
            axes.set_xticks(range(len(labels)), labels, fontsize=8, parse_math=False)
            axes.tick_params(axis="x", length=0)
    read = steps if not lettered else min(steps, lines * width)
    rest = "" if read == steps else f" (the first {read:,} of {steps:,} steps)"
    figure.supxlabel(f"what was read{rest}" if lettered else "step of the sequence", fontsize=9)
    figure.supylabel("layer (its mean delta)", fontsize=9)
    label = "delta, mean of channels,\nover the layer's mean (log scale)"
    _bar(figure, shown, grid.tolist(), label, low, high)
    return figure


def _bar(
    figure: "Figure", shown: "object", axes: "object", label: str, low: float, high: float
) -> None:
    """A colour bar with plain numbers on a logarithmic scale."""
    bar = figure.colorbar(shown, ax=axes, pad=0.01, aspect=30)  # pyright: ignore[reportArgumentType]
    ticks = np.geomspace(low, high, 4)
    bar.set_ticks(ticks.tolist(), labels=[f"{tick:.2g}" for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _shades(count: int) -> "list[tuple[float, ...]]":
    """Line colours from the first layer (light) to the last (dark)."""
    from matplotlib import colormaps

    return [colormaps["cividis_r"](0.25 + 0.75 * i / max(count - 1, 1)) for i in range(count)]


def _lines(axes: "Axes", scans: list[ScanTrace]) -> None:
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    columns = 1 if len(scans) <= 12 else 2
    axes.legend(title="layer", frameon=False, fontsize=8, ncols=columns, title_fontsize=8)


def _memory(scans: list[ScanTrace]) -> "Figure":
    """Share of channels that remember longer than a number of steps, against that number."""
    from matplotlib.ticker import PercentFormatter, StrMethodFormatter

    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for scan, shade in zip(scans, _shades(len(scans)), strict=True):
        lengths = np.sort(measures.longest_memory(scan))
        share = 1 - np.arange(len(lengths)) / len(lengths)
        style = "--" if scan.backward else "-"
        axes.step(lengths, share, style, color=shade, where="post", label=_short(scan))
    for mark in measures.LONG_MEMORY_STEPS:
        axes.axvline(mark, color="#999999", linestyle=":", linewidth=1)
        axes.annotate(str(mark), (mark, 1.0), (3, 2), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.08)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    name = "memory length of a channel's slowest state, -1 / (mean delta · A)  (steps, log scale)"
    axes.set_xlabel(name, fontsize=9)
    axes.set_ylabel("channels that remember longer (share of all)", fontsize=9)
    _lines(axes, scans)
    return figure


def _grid(count: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = _figure(max(width * columns, 4.5), height * rows + 0.5)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _A_log_shift(scans: list[ScanTrace]) -> "Figure":
    """Change of A_log for each state: median, half and 90 % of the channels."""
    from matplotlib.ticker import MaxNLocator

    figure, grid = _grid(len(scans), 2.5, 2.2)
    for scan, axes in zip(scans, grid, strict=True):
        low, below, middle, above, high = np.quantile(
            scan.A_log_shift, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0
        )
        states = np.arange(1, scan.A_log_shift.shape[1] + 1)
        axes.fill_between(states, low, high, color="#0072B2", alpha=0.18, linewidth=0)
        axes.fill_between(states, below, above, color="#0072B2", alpha=0.35, linewidth=0)
        axes.plot(states, middle, color="#0072B2")
        axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_title(f"layer {_short(scan)}", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "state n of a channel (lines: median; bands: 50 % and 90 % of channels)", fontsize=9
    )
    figure.supylabel("A_log - log(n)", fontsize=9)
    return figure


def _norms(scans: list[ScanTrace]) -> "Figure":
    """The state's norm, a panel a layer."""
    figure, grid = _grid(len(scans), 2.9, 1.9)
    for scan, axes in zip(scans, grid, strict=True):
        values = measures.norm_by_step(scan)
        axes.plot(np.arange(1, len(values) + 1), values, color="#0072B2", linewidth=0.8)
        axes.set_title(f"layer {_short(scan)}", fontsize=9)
        axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylim(bottom=0)  # shared, and known only now
    figure.supxlabel("step of the sequence", fontsize=9)
    figure.supylabel("Euclidean norm of the state", fontsize=9)
    return figure


def _attention(layers: list[AttentionTrace]) -> "Figure":
    """A map for each layer (row) and head (column)."""
    from matplotlib.colors import PowerNorm

    heads = min(max(len(layer.weights) for layer in layers), _MAX_HEADS)
    figure = _figure(max(2.3 * heads + 0.8, 4.8), 2.2 * len(layers) + 0.6)
    grid = figure.subplots(len(layers), heads, sharex=True, sharey=True, squeeze=False)
    most = max(float(layer.weights.max()) for layer in layers)
    shown = None
    for layer, row in zip(layers, grid, strict=True):
        for head, axes in enumerate(row):
            if head >= len(layer.weights):
                axes.remove()
                continue
            norm = PowerNorm(0.5, 0, most)
            shown = axes.imshow(
                layer.weights[head], cmap=_COLOUR_MAP, norm=norm, interpolation="antialiased"
            )
            axes.set_title(f"layer {layer.layer}, head {head + 1}", fontsize=8)
            axes.tick_params(labelsize=7)
    assert shown is not None
    bar = figure.colorbar(shown, ax=grid.ravel().tolist(), shrink=0.7)
    bar.set_label("attention weight (square-root scale)", fontsize=8)
    alone = grid.ravel()[0] if grid.size == 1 else None  # labels of the figure would stand far off
    (alone.set_xlabel if alone else figure.supxlabel)("step that is looked at", fontsize=9)
    (alone.set_ylabel if alone else figure.supylabel)("step that looks", fontsize=9)
    return figure


def _on_image(image: np.ndarray, layout: np.ndarray, scans: list[ScanTrace]) -> "Figure":
    """The image, and beside it the mean delta of the step that reads each pixel."""
    from matplotlib.colors import LogNorm

    figure, (first, *grid) = _grid(1 + len(scans), 2.3, 2.3)
    first.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    first.set_title("the image", fontsize=9)
    first.axis("off")
    for scan, axes in zip(scans, grid, strict=True):
        values = scan.delta.mean(1)
        low, high = _log_colours(values)
        shown = axes.imshow(
            values[layout], cmap=_COLOUR_MAP, norm=LogNorm(low, high), interpolation="nearest"
        )
        axes.set_title(f"layer {_short(scan)}", fontsize=9)
        axes.axis("off")
        _bar(figure, shown, axes, "delta (log scale)", low, high)
    return figure

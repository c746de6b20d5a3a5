"""Pictures of a report, drawn anew into a folder that is thrown away, and taken from there."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mambalab.compare import pictures
from mambalab.compare.comparability import is_bound
from mambalab.compare.results import Comparison
from mambalab.plots import curves, tables
from mambalab.plots.look import figure_of
from mambalab.records import run_folder
from mambalab.records.reader import RunRecord
from mambalab.records.run_folder import RunFolder
from mambalab.report.document import Picture
from mambalab.settings.figure import FigureFormat

MAX_SVG_BYTES = 1_000_000  # of a picture that is also there as PNG
_KINDS = {".svg": "svg+xml", ".png": "png"}
_CAPTIONS = {  # of the pictures of a comparison, by how their names begin
    "curves": "Mean over the seeds of each group at every evaluation, with its 95 % band.",
    "best": "Best value of each seed as a point, the mean of its group with its 95 % interval.",
    "search": "Metric of each trial against each setting that was searched; a star marks the best.",
    "importance": "How much each searched setting matters (Optuna's PED-ANOVA, a rough guide).",
    "overfitting": "Training and validation loss of each group; the star marks the best value.",
}
_DRAWN = ("train/loss", "val/loss", "val/accuracy")  # metrics in the picture of a run
_IN_NUMBERS = "The table of results has the values in numbers."


def of_run(record: RunRecord) -> list[Picture]:
    """Draw the curves of a run; nothing if it recorded no loss."""
    unit = _unit(record)

    def draw(folder: Path) -> None:
        _write_copy(record, folder)
        asked = figure_of(record)
        fit = [one for one in asked.format or () if f".{one.name}" in _KINDS]  # no PDF on a page
        figure = replace(asked, format=fit or [FigureFormat.png])
        curves.loss_pictures(folder, unit=unit, figure=figure)

    def caption(name: str) -> str:
        return "Training and validation curves by optimiser step; a star marks the best value."

    try:
        drawn = _drawn(draw, caption)
    except curves.NoLossError:
        return []
    best = record.best
    if best is None:
        return drawn
    told = f"The best {best.metric} is {best.value:.4f}, at step {best.step:,}."
    return [Picture(one.kind, one.data, one.caption, f"{one.caption} {told}") for one in drawn]


def of_comparison(comparison: Comparison) -> list[Picture]:
    """Draw everything that a comparison shows in pictures."""

    def caption(name: str) -> str:
        return next((text for part, text in _CAPTIONS.items() if name.startswith(part)), name)

    return _drawn(lambda folder: pictures.draw(comparison, folder), caption)


def of_table(table: dict[str, Any], caption: str) -> list[Picture]:
    """Draw a table of a run, as it is in `tables/`."""

    def draw(folder: Path) -> None:
        tables.picture(table, folder / "table.svg")

    return _drawn(draw, lambda name: caption)


def _drawn(draw: Callable[[Path], object], caption: Callable[[str], str]) -> list[Picture]:
    """Take every picture that a function draws below a folder: as SVG, unless that is large."""
    with tempfile.TemporaryDirectory(prefix="mambalab-") as name:
        draw(Path(name))
        found: dict[str, list[Path]] = {}
        for path in _in_order(Path(name)):
            found.setdefault(path.stem, []).append(path)
        taken = []
        for stem, files in found.items():
            path = min(files, key=_preference)
            text = caption(stem)
            taken.append(
                Picture(_KINDS[path.suffix], path.read_bytes(), text, f"{text} {_IN_NUMBERS}")
            )
    return taken


def _in_order(folder: Path) -> Iterable[Path]:
    """The pictures below a folder, in the order in which they were drawn."""
    files = [path for path in folder.rglob("*") if path.suffix in _KINDS]
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def _preference(path: Path) -> tuple[bool, bool]:
    return path.stat().st_size > MAX_SVG_BYTES, path.suffix != ".svg"


def _write_copy(record: RunRecord, folder: Path) -> None:
    """Write a run folder with what was read of a run, which may be no folder at all."""
    import yaml

    copy = RunFolder(folder)
    copy.config.write_text(yaml.safe_dump(record.config, allow_unicode=True), encoding="utf-8")
    record.summary.write(copy.summary_file)
    with copy.metrics.open("wb") as file:
        for name in {*_DRAWN, record.metric}:
            for step, value in record.curves.get(name, []):
                file.write(run_folder.encode(step, {name: value}))


def _unit(record: RunRecord) -> str:
    """Name the unit of a run's loss: mambalab's own tasks count in nats."""
    if not str(record.setting("task._target_")).startswith("mambalab."):
        return "unit of the task"
    bound = ", upper bound" if is_bound(record) else ""
    if "val/bits_per_dim" in record.curves:
        return f"nats per value{bound}"
    if "val/bits_per_char" not in record.curves:
        return "nats"
    unit = "token" if "tokenizer" in (record.summary.data or {}) else "character"
    return f"nats per {unit}{bound}"

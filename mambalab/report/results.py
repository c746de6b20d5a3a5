"""Parts that the report of one run and that of many share: tables, texts, where runs are kept."""

from typing import Any

from mambalab.compare.text import duration
from mambalab.plots.tables import MAX_PRINTED_CLASSES
from mambalab.records.reader import RunRecord
from mambalab.report import figures, kept
from mambalab.report.document import (
    Block,
    Confusion,
    Folded,
    Paragraph,
    Picture,
    Table,
    Verbatim,
)
from mambalab.utils.text import count, number, printable, short

MAX_POINTS = 40  # of a curve that is also printed in numbers
MAX_TITLE_CHARS = 200


def tables(record: RunRecord, of: str = "") -> tuple[list[Block], list[str]]:
    """Show the tables of a run: confusion as a table, a curve as a picture with its numbers.

    Args:
        record: the run.
        of: what the captions begin with, to say which run it is.

    Returns:
        The blocks, and what is damaged.
    """
    found, problems = kept.tables(record)
    blocks: list[Block] = []
    for table in found:
        title = of + short(table["title"], MAX_TITLE_CHARS)
        if table["kind"] == "curve":
            blocks += _curve(table, title)
            continue
        caption = f"{title}: true classes in rows, predicted ones in columns."
        if len(table["classes"]) <= MAX_PRINTED_CLASSES:
            classes = [short(name, 40) for name in table["classes"]]
            blocks.append(Confusion(caption, classes, table["counts"]))
        else:
            blocks += figures.of_table(table, caption)
    return blocks, problems


def _curve(table: dict[str, Any], title: str) -> list[Block]:
    x, y = short(table["x_label"], 80), short(table["y_label"], 80)
    pictures: list[Block] = [*figures.of_table(table, f"{title}: {y} by {x}.")]
    points = list(zip(table["x"], table["y"], strict=True))
    rows = [[f"{a:,}", number(b)] for a, b in points[:MAX_POINTS]]
    where = f"The model was trained at {table['marked']:,}."
    return [*pictures, Folded("The same in numbers", [Table(where, [x, y], rows)])]


def samples(record: RunRecord, most: int, of: str = "") -> list[Block]:
    """Show texts, or the last sheet of pictures, that a run wrote while it trained.

    Nothing for a run that wrote none.
    """
    if (last := kept.sheet(record)) is not None:
        step, data = last
        caption = (
            f"{of}after {step:,} steps: pictures that the model wrote; below, pictures of the "
            "validation split, and what it made of their lower halves"
        )
        return [Picture("png", data, f"{caption}.", f"{caption}.")]
    found, total = kept.samples(record, most)
    blocks: list[Block] = [
        Verbatim(f"{of}after {one.step:,} steps", one.text or "(an empty text)") for one in found
    ]
    if len(found) > 1 and total > len(found):
        blocks.append(Paragraph(f"{len(found)} of {total} samples are shown, the last included."))
    return blocks


def samples_title(blocks: list[Block]) -> str:
    """Say what `samples` gave."""
    pictures = any(isinstance(block, Picture) for block in blocks)
    return "Samples" if pictures else "Samples of text"


def steps(record: RunRecord) -> str:
    """Write how far a run came: `1,500 steps, 2.45 epochs, 9.2 min`."""
    parts = [] if record.step is None else [f"{record.step:,} steps"]
    if record.summary.epochs is not None:
        parts.append(f"{record.summary.epochs:.2f} epochs")
    if record.minutes is not None:
        parts.append(duration(60 * record.minutes))
    return ", ".join(parts) or "-"


def best(record: RunRecord) -> str:
    """Write a run's best value: `val/loss 1.4740 at step 1,400`."""
    found = record.best
    if found is None:
        return "-"
    return f"{printable(found.metric)} {number(found.value)} at step {found.step:,}"


def model(record: RunRecord) -> str:
    """Name a run's model: `mamba, 6 layers of width 128, 708,096 parameters`."""
    parts = [short(str(record.setting("model.name") or record.summary.model or "-"), 60)]
    layers, width = record.setting("model.n_layer"), record.setting("model.d_model")
    if isinstance(layers, int) and isinstance(width, int):
        parts.append(f"{layers} layer{'s'[: layers != 1]} of width {width}")
    if record.summary.parameters is not None:
        parts.append(f"{count(record.summary.parameters)} parameters")
    return ", ".join(parts)

"""Text for terminals: tables, numbers, and untrusted text made harmless."""

import textwrap
import unicodedata
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from unicodedata import normalize


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str | list[str]]],
    right: Collection[str] = (),
    columns: int | None = None,
) -> str:
    """Lay out columns as wide as their widest cell.

    A run folder may come from a stranger: characters that would steer the terminal become `?`.

    Args:
        header: names of the columns.
        rows: a cell that is a list has several lines.
        right: names of the columns that are set to the right.
        columns: of the terminal; what does not fit goes into further tables below, each beginning
            with the first column. None = without end.
    """
    lines = [tuple(header)]
    for row in rows:
        parts = [[cell] if isinstance(cell, str) else cell for cell in row]
        cells = [[printable(line) for line in part] for part in parts]
        height = max(map(len, cells))
        padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
        lines += zip(*padded, strict=True)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def laid_out(shown: Sequence[int]) -> str:
        padded = [
            [line[i].rjust(widths[i]) if header[i] in right else line[i].ljust(widths[i])
             for i in shown]
            for line in lines
        ]  # fmt: skip
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    return "\n\n".join(map(laid_out, _blocks(widths, columns)))


def _blocks(widths: Sequence[int], columns: int | None) -> list[list[int]]:
    """Share columns of a table out: the first one stands in each block, beside as many as fit."""
    blocks = [[0]]
    for i in range(1, len(widths)):
        room = sum(widths[j] + 2 for j in blocks[-1]) + widths[i]
        if columns is not None and room > columns and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks


def alike(name: str) -> str:
    """Write a name so that those which people take for the same are equal: capitals, blanks around
    it and the ways to write an accent are evened out."""
    return normalize("NFKC", name).casefold().strip()


def printable(text: str) -> str:
    """Return the text with `?` for every character that would steer a terminal or is no Unicode."""
    return "".join(c if c.isprintable() else "?" for c in text)


def harmless(text: str) -> str:
    """Return the text with `?` for control characters; new lines and tabs stay."""
    return "".join("?" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def short(text: str, length: int) -> str:
    """Return the printable text, cut to a length."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def fewer(fields: Sequence[str], columns: int | None, drop: Sequence[str]) -> list[str]:
    """Leave out fields of `drop`, one after the other, until the line fits; empty ones always.

    Args:
        fields: of a line, with two blanks between them.
        columns: for which there is room; None = without end.
        drop: the least important field first.
    """
    left = [field for field in fields if field]
    for gone in filter(None, drop):
        if columns is None or len("  ".join(left)) <= columns:
            break
        left.remove(gone)
    return left


def packed(fields: Sequence[str], columns: int | None) -> str:
    """Join fields by two blanks; what does not fit goes on in a next line, indented.

    Args:
        fields: none of them is broken.
        columns: for which there is room; None = without end.
    """
    lines: list[str] = []
    for field in fields:
        if lines and (columns is None or len(f"{lines[-1]}  {field}") <= columns):
            lines[-1] += f"  {field}"
        else:
            lines.append(f"  {field}" if lines else field)
    return "\n".join(lines)


def wrapped(text: str, columns: int | None, indent: int = 2) -> str:
    """Break a line between words where it does not fit; None = nowhere.

    Args:
        text: one line.
        columns: for which there is room; None = without end.
        indent: blanks before what follows.
    """
    if columns is None or len(text) <= columns:
        return text
    return textwrap.fill(
        text,
        columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def number(value: float | None) -> str:
    """Write a measured value: four decimals, or three digits if it is tiny; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"


def did_you_mean(word: str, known: list[str]) -> str:
    """The clause "; did you mean X?", or nothing if no known word is near."""
    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def count(value: float | None) -> str:
    """Write a large number, rounded, with commas; `-` for None."""
    return "-" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format seconds as `42s`, `3m 05s` or `2h 07m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole // 60 % 60:02d}m"

"""Text for terminals: tables, numbers, and untrusted text made harmless."""

import textwrap
import unicodedata
from collections.abc import Collection, Sequence
from unicodedata import normalize


def table(
    header: Sequence[str], rows: Sequence[Sequence[str | list[str]]], right: Collection[str] = ()
) -> str:
    """Lay out columns as wide as their widest cell; those named in `right` to the right.

    A cell that is a list has several lines. A run folder may come from a stranger: characters that
    would steer the terminal become `?`.
    """
    lines = [tuple(header)]
    for row in rows:
        parts = [[cell] if isinstance(cell, str) else cell for cell in row]
        cells = [[printable(line) for line in part] for part in parts]
        height = max(map(len, cells))
        padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
        lines += zip(*padded, strict=True)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


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


def wrapped(text: str, columns: int | None) -> str:
    """Break a line between words where it does not fit, and indent what follows; None = nowhere."""
    if columns is None or len(text) <= columns:
        return text
    return textwrap.fill(
        text, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def number(value: float | None) -> str:
    """Write a measured value: four decimals, or three digits if it is tiny; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"


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

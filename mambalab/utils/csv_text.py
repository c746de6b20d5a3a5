"""Rows as CSV that no spreadsheet takes for formulas."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mambalab.utils.text import printable


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows with equal keys as CSV; what is None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in rows[0]])
    for row in rows:
        writer.writerow([_cell(v) if isinstance(v, str) else v for v in row.values()])
    return text.getvalue()


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with `'` before it if it begins like one."""
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "'")) else text

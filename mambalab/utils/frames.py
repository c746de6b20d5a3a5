"""Tables for Python: of pandas, if it is installed."""

from collections.abc import Mapping, Sequence
from typing import Any


def frame(
    rows: Sequence[Mapping[str, Any]], index: str | None = None, columns: Sequence[str] = ()
) -> Any:
    """Make a table of rows; imports pandas, if it is installed.

    Args:
        rows: a mapping for each, from the name of a column to its value; names may differ.
        index: the column that numbers the rows.
        columns: those that come first, rows or not.

    Returns:
        A pandas DataFrame, with NaN or None where a row has no value; without pandas the rows as a
        list of dicts.
    """
    try:
        import pandas
    except ImportError:
        return [dict(row) for row in rows]
    first = [*([] if index is None else [index]), *columns]
    names = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    found = pandas.DataFrame([dict(row) for row in rows], columns=pandas.Index(names))
    return found if index is None else found.set_index(index)

"""Rows of a TSV file of labelled pairs of texts: what is one, and what is wrong with the others."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_LINE_BYTES = 1 << 26
"""Bytes of a line; a longer one is no row (all of it would have to be held in memory)."""

_CHUNK_BYTES = 1 << 20  # bytes read at a time where lines have no "\\n"
_UNSEEN = re.compile(r"^[\s\u200b-\u200d\u2060\ufeff]+|[\s\u200b-\u200d\u2060\ufeff]+$")


class BadRow(Exception):
    """What is wrong with a row, in words.

    Attributes:
        separator: what seems to separate its columns instead of tabs; "" if nothing does.
    """

    def __init__(self, reason: str, separator: str = "") -> None:
        super().__init__(reason)
        self.separator = separator


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        number: of its first line, or of the row where there are no lines, from 1.
        found: its label and its texts, uncut; or what is wrong with it.
        quoted: whether a field looks as if quotation marks were meant to be taken off.
    """

    number: int
    found: tuple[bytes, ...] | BadRow
    quoted: bool = False


class RowLayout(Protocol):
    """How the rows of a file are read: `Layout`, or `text_rows.TextLayout`."""

    @property
    def name(self) -> str:
        """Part of the converted store's name."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in order; None = whatever labels the file has, sorted."""
        ...

    @property
    def labels(self) -> Mapping[bytes, int]:
        """What the label column may hold, and which class it means; empty = anything."""
        ...

    @property
    def texts(self) -> int:
        """How many texts each row has."""
        ...

    @property
    def unit(self) -> str:
        """What `Row.number` counts, for messages."""
        ...

    @property
    def examples(self) -> str:
        """What rows are, in the plural, for messages."""
        ...

    @property
    def content(self) -> str:
        """What a file must hold, for messages."""
        ...

    @property
    def labels_elsewhere(self) -> str:
        """What to do if a column has too many different labels."""
        ...

    @property
    def empty(self) -> str:
        """What is said of a file without rows."""
        ...

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        """Yield the rows of a file that is open at its beginning."""
        ...


@dataclass(frozen=True)
class Layout:
    """The columns of a file. They are separated by tabs; quotes and backslashes mean nothing.

    The first column is the label, the last two are the texts, any between are passed over.

    Attributes:
        name: part of the converted store's name.
        columns: what the columns hold, for messages.
        classes: names of the classes in order; None = whatever labels the file has, sorted.
        labels: what the label column may hold, and which class it means; empty = anything.
        texts: how many of the last columns are texts.
        unit: what `Row.number` counts, for messages.
        examples: what rows are, in the plural, for messages.
        empty: what is said of a file without rows.
    """

    name: str
    columns: tuple[str, ...]
    classes: tuple[str, ...] | None
    labels: Mapping[bytes, int]
    texts: int = 2
    unit: str = "line"
    examples: str = "pairs"
    empty: str = "is empty"

    @property
    def content(self) -> str:
        """What a file must hold."""
        return f"the columns {', '.join(self.columns)}, separated by tabs, without a header"

    @property
    def labels_elsewhere(self) -> str:
        """What to do if a column has too many different labels."""
        return f"the columns must be {', '.join(self.columns)}, separated by tabs"

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        """Yield the rows of a file, one a line."""
        del path
        for number, line in enumerate(lines(file), 1):
            quoted = self.classes is None and is_quoted(line)
            try:
                yield Row(number, split(line, self), quoted)
            except BadRow as error:
                yield Row(number, error, quoted)


LRA = Layout(
    name="lra",
    columns=("label", "id1", "id2", "text1", "text2"),
    classes=("0", "1"),
    labels={b"0.0": 0, b"1.0": 1, b"0": 0, b"1": 1},
)
"""Document retrieval as Long Range Arena has it (arXiv 2011.04006)."""

PAIRS = Layout(name="pairs", columns=("label", "text", "text"), classes=None, labels={})
"""A file of the user's own."""


def lines(file: BinaryIO, longest: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Yield the lines of a file without their ends; None for one that is too long.

    An end is "\\n" or "\\r\\n"; "\\r" in a file whose first line would never end otherwise. A byte
    order mark before the first line is dropped. Little more than `longest` bytes are held at once.
    """
    first = True
    while line := file.readline(longest + 1):
        if first and b"\r" in line and not line.endswith(b"\n"):
            yield from _old_mac_lines(line, file, longest)
            return
        if len(line) > longest and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(longest)
            yield None
        else:
            if first and line.startswith(codecs.BOM_UTF8):
                line = line[len(codecs.BOM_UTF8) :]
            if line.endswith(b"\n"):
                line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
            yield line
        first = False


def _old_mac_lines(head: bytes, file: BinaryIO, longest: int) -> Iterator[bytes | None]:
    """Yield the lines of a file that begins with `head` and in which "\\r" ends a line."""
    rest, cut = head.removeprefix(codecs.BOM_UTF8), False
    while True:
        *whole, rest = rest.split(b"\r")
        for line in whole:
            yield None if cut or len(line) > longest else line
            cut = False
        if len(rest) > longest:
            rest, cut = b"", True
        chunk = file.read(_CHUNK_BYTES)
        if not chunk:
            break
        rest += chunk
    if rest or cut:
        yield None if cut else rest


def clean_label(text: str) -> str:
    """Take away what cannot be seen around a label: white space of any kind, marks of no width."""
    return _UNSEEN.sub("", text)


def is_quoted(line: bytes | None) -> bool:
    """Whether a field of a line begins with a quotation mark and ends with one, or never ends."""
    fields = (line or b"").split(b"\t") if b'"' in (line or b"") else []
    return any(f.startswith(b'"') and (f.endswith(b'"') or f.count(b'"') % 2) for f in fields)


def rewrite_command(path: Path, separator: str = "\\t") -> str:
    """Write the command that makes a file with quotes, or another separator, one of `lines`.

    Args:
        path: of the file.
        separator: of its columns, as Python writes it between quotation marks.
    """
    return (
        "python3 -c 'import csv, sys; csv.field_size_limit(1 << 30); "
        'sys.stdout.reconfigure(encoding="utf-8", newline="\\n"); '
        '[print(*(" ".join(f.split()) for f in r), sep="\\t") for r in csv.reader('
        f'open(sys.argv[1], encoding="utf-8-sig", newline=""), delimiter="{separator}")]\' '
        f"{shlex.quote(str(path))} > new.tsv"
    )


def split(line: bytes | None, layout: Layout) -> tuple[bytes, bytes, bytes]:
    """Split a line of `lines` into the label, without blanks around it, and both texts, uncut.

    Raises:
        BadRow: too long, another number of columns, a label that is none, a text without anything
            but white space, a NUL byte (0 is what sequences are padded with), or no UTF-8.
    """
    if line is None:
        raise BadRow(f"longer than {MAX_LINE_BYTES:,} bytes")
    if b"\0" in line:
        raise BadRow("NUL byte (if the file is UTF-16, convert it to UTF-8)")
    # Counted before it is split: a line of nothing but tabs would become millions of columns.
    columns = line.count(b"\t") + 1
    if columns != len(layout.columns):
        wanted = ", ".join(layout.columns)
        found = f"{columns} column{'s' if columns > 1 else ''}"
        other = max(",;|", key=lambda c: line.count(c.encode())) if columns == 1 else ""
        if line.count(other.encode()) + 1 < len(layout.columns):
            other = ""
        hint = f"; {other!r} separates no columns, a tab does" if other else ""
        raise BadRow(f"{found} instead of {len(layout.columns)} ({wanted}){hint}", other)
    if not line.isascii():
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow(
                f"broken UTF-8 (byte 0x{line[error.start]:02x}, the line's byte {error.start + 1:,}"
                f", column {line.count(9, 0, error.start) + 1})"
            ) from None
    label, *_, first, second = line.split(b"\t")
    label = clean_label(label.decode("utf-8")).encode()  # " same" and "same" are one class
    if layout.labels and label not in layout.labels:
        allowed = ", ".join(known.decode() for known in layout.labels)
        raise BadRow(f"label {_shown(label)} (allowed: {allowed})")
    if not label:
        raise BadRow("empty label")
    for text, column in ((first, columns - 1), (second, columns)):
        if not text or text.isspace():
            raise BadRow(f"empty text (column {column})")
    return label, first, second


def _shown(label: bytes) -> str:
    text = label.decode("utf-8")
    return repr(text if len(text) <= 40 else text[:40] + "...")

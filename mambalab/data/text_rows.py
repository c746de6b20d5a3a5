"""Rows of a file with a text and a label in each: CSV, TSV, JSON lines, parquet."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mambalab.data import encodings
from mambalab.data.pair_rows import BadRow, Row, clean_label, is_quoted, lines
from mambalab.errors import UserError, first_line
from mambalab.utils.text import short

CSV, TSV, JSONL, PARQUET = "csv", "tsv", "jsonl", "parquet"
KINDS = {
    ".csv": CSV,
    ".tsv": TSV,
    ".tab": TSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".json": JSONL,
    ".parquet": PARQUET,
    ".pq": PARQUET,
}
"""What a file is, by the end of its name."""

# Names of columns, the likeliest first; their case does not matter.
TEXT_NAMES = (
    *("text", "sentence", "review", "content", "message", "comment", "tweet", "document", "body"),
    *("question", "headline", "title"),
)
LABEL_NAMES = (
    *("label", "class", "target", "category", "sentiment", "labels", "polarity", "emotion"),
    *("topic", "intent", "stars", "rating", "score", "y"),
)
_SEPARATORS = (",", ";", "\t", "|")  # of a CSV file, as its header shows
_MAX_NAMED = 12  # columns that a message names
_MAX_NAME_CHARS = 40  # characters of a column's name in a message


@dataclass(frozen=True)
class TextLayout:
    """Where text and label are in a file.

    Attributes:
        kind: CSV, TSV, JSONL or PARQUET.
        text, label: names of the columns; numbers from 1, as text, if there is no header.
        separator: of the columns of CSV and TSV.
        header: whether the first row of CSV and TSV holds the names.
        classes, labels, texts, unit, examples: as in `pair_rows.Layout`.
    """

    kind: str
    text: str
    label: str
    separator: str = ","
    header: bool = True
    classes: None = None
    labels: Mapping[bytes, int] = field(default_factory=dict)
    texts: int = 1
    examples: str = "texts"

    @property
    def unit(self) -> str:
        """What `Row.number` counts, for messages."""
        return "row" if self.kind == PARQUET else "line"

    @property
    def empty(self) -> str:
        """What is said of a file without rows."""
        return "has no row below its header" if self.header else "is empty"

    @property
    def name(self) -> str:
        """Part of the converted store's name."""
        about = json.dumps([self.text, self.label, self.separator, self.header])
        return f"text-{self.kind}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"

    @property
    def content(self) -> str:
        """What a file must hold."""
        return f"a text in column {_shown(self.text)} and a label in column {_shown(self.label)}"

    @property
    def labels_elsewhere(self) -> str:
        """What to do if a column has too many different labels."""
        return f"{_shown(self.label)} is hardly their column: name it with task.label=COLUMN"

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        """Yield the rows of a file that is open at its beginning.

        Raises:
            UserError: it is no parquet file.
        """
        if self.kind == PARQUET:
            yield from self._parquet_rows(file, path)
        elif self.kind == JSONL:
            for number, line in enumerate(lines(file), 1):
                if line is None or line.strip():
                    yield Row(number, self._checked(_json_fields, line))
        else:
            yield from self._separated_rows(file)

    def _separated_rows(self, file: BinaryIO) -> Iterator[Row]:
        """Yield the rows of a CSV file, whose fields may be quoted, or of a TSV file."""
        width, places = 0, (int(self.text) - 1, int(self.label) - 1) if not self.header else (0, 0)
        for number, fields, raw in _separated(file, self.kind, self.separator):
            if self.header and not width:
                assert isinstance(fields, list)
                names = [clean_label(name) for name in fields]
                width, places = len(names), (names.index(self.text), names.index(self.label))
                continue
            if isinstance(fields, list):
                width = width or len(fields)
            quoted = self.kind == TSV and is_quoted(raw)
            yield Row(number, self._checked(_listed_fields, fields, width, places), quoted)

    def _parquet_rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        import pyarrow

        number = 0
        try:
            for batch in _parquet(file, path).iter_batches(columns=[self.text, self.label]):
                names = batch.schema.names
                columns = (batch.column(names.index(name)) for name in (self.text, self.label))
                for values in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, self._checked(_arrow_fields, *values))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from None

    def _checked(self, read: Any, *arguments: Any) -> tuple[bytes, ...] | BadRow:
        """The label and the text of a row, or what is wrong with it."""
        try:
            found = read(*arguments)
            if isinstance(found, dict):
                absent = [name for name in (self.text, self.label) if name not in found]
                if absent:
                    raise BadRow(f"no {_shown(absent[0])}")
                found = found[self.text], found[self.label]
            return _bytes(*found)
        except BadRow as error:
            return error


def find_layout(path: Path, text: str | None, label: str | None) -> TextLayout:
    """Find out how a file is written, and which of its columns are meant.

    Args:
        path: of the file.
        text: name of the column of texts, or its number from 1; None looks for `TEXT_NAMES`.
        label: of that of labels, likewise; None looks for `LABEL_NAMES`.

    Raises:
        UserError: the file cannot be read, is of another kind, or has no such columns.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{path} (task.path): its name ends in none of {', '.join(KINDS)}; rename it if it is "
            "such a file, or convert it"
        )
    numbers = [column is not None and column.isdecimal() for column in (text, label)]
    if any(numbers) and kind in (CSV, TSV):
        if not all(numbers) or "0" in (text, label):
            raise UserError(
                f"task.text={text} task.label={label}: for a file without a header give both as "
                "numbers of columns, from 1"
            )
        separator = _likely_separator(path, kind)
        return TextLayout(kind, str(text), str(label), separator, header=False)
    try:
        with open(path, "rb") as file:
            heads = list(_heads(file, path, kind))
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (task.path)") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    found = [
        (separator, _choose(names, text, TEXT_NAMES), _choose(names, label, LABEL_NAMES))
        for separator, names in heads
    ]
    for separator, of_text, of_label in found:
        if of_text is not None and of_label is not None and of_text != of_label:
            return TextLayout(kind, of_text, of_label, separator)
    if kind != PARQUET and (remedy := encodings.remedy(path)):
        raise UserError(f"{path} {remedy}")
    names = max((names for _, names in heads), key=len, default=[])
    raise UserError(_not_found(path, kind, names, text, label))


def _not_found(
    path: Path, kind: str, names: Sequence[str], text: str | None, label: str | None
) -> str:
    """Say that a file has no such columns, and what it has."""
    if not names:
        what = "no line with a JSON object" if kind == JSONL else "nothing"
        return f"{path}: {what} in it; a text and a label in each row are needed"
    shown = ", ".join(_shown(name) for name in names[:_MAX_NAMED])
    has = f"it has {shown}{', ...' if len(names) > _MAX_NAMED else ''}"
    for key, given in (("task.text", text), ("task.label", label)):
        if given is not None and given not in names:
            return f"{key}={given}: {path} has no such column; {has}"
    without = ", or by their numbers if there is no header" if kind in (CSV, TSV) else ""
    return (
        f"{path}: which columns are text and label? {has}; name them with task.text=COLUMN and "
        f"task.label=COLUMN{without}"
    )


def _choose(names: Sequence[str], given: str | None, likely: Iterable[str]) -> str | None:
    """The column that is meant; None if there is none."""
    if given is not None:
        return given if given in names else None
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[name] for name in likely if name in by_name), None)


def _heads(file: BinaryIO, path: Path, kind: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of a file's columns, for each separator that it may have."""
    if kind == PARQUET:
        yield "", list(_parquet(file, path).schema_arrow.names)
        return
    if kind == JSONL:
        for line in lines(file):
            try:
                yield "", list(_json_fields(line))
            except BadRow:
                continue
            return
        return
    for separator in _SEPARATORS if kind == CSV else "\t":
        file.seek(0)
        _, fields, _ = next(_separated(file, kind, separator), (0, [], None))
        if isinstance(fields, list):
            yield separator, [clean_label(name) for name in fields]


def _likely_separator(path: Path, kind: str) -> str:
    """The separator of which a file's first line has most."""
    if kind == TSV:
        return "\t"
    try:
        with open(path, "rb") as file:
            line = next(lines(file), None) or b""
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (task.path)") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return max(_SEPARATORS, key=lambda separator: line.count(separator.encode()))


def _separated(
    file: BinaryIO, kind: str, separator: str
) -> Iterator[tuple[int, list[str] | BadRow, bytes | None]]:
    """Yield number of the first line, fields and, of a TSV file, the line of each row.

    Broken UTF-8 is in the fields as surrogates. Blank lines are passed over.
    """
    if kind == TSV:
        for number, line in enumerate(lines(file), 1):
            if line is None:
                yield number, BadRow("too long a line"), None
            elif line.strip():
                yield number, _decoded(line).split("\t"), line
        return
    # A line that is too long becomes one with a NUL, which no text may have.
    texts = ("\0\n" if line is None else _decoded(line) + "\n" for line in lines(file))
    reader = csv.reader(texts, delimiter=separator, strict=True)
    limit = csv.field_size_limit(1 << 30)
    try:
        while True:
            begins = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                ends = reader.line_num
                until = f", up to line {ends:,}" if ends > begins else ""
                yield begins, BadRow(f"no CSV ({error}){until}"), None
                continue
            if fields:
                yield begins, fields, None
    finally:
        csv.field_size_limit(limit)


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _listed_fields(
    fields: list[str] | BadRow, width: int, places: tuple[int, int]
) -> tuple[str, str]:
    """The text and the label of a row of CSV or TSV."""
    if isinstance(fields, BadRow):
        raise fields
    if len(fields) != width or max(places) >= width:
        wanted = max(width, max(places) + 1)
        raise BadRow(f"{len(fields)} column{'s' if len(fields) > 1 else ''} instead of {wanted}")
    return fields[places[0]], fields[places[1]]


def _json_fields(line: bytes | None) -> dict[str, Any]:
    """The object of a line of JSON."""
    if line is None:
        raise BadRow("too long a line")
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        raise BadRow(f"broken UTF-8 (byte 0x{line[error.start]:02x})") from None
    except (ValueError, RecursionError) as error:
        raise BadRow(f"no JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadRow("no JSON object")
    return found


def _arrow_fields(text: Any, label: Any) -> tuple[Any, Any]:
    """The text and the label of a row of parquet."""
    try:
        return text.as_py(), label.as_py()
    except UnicodeDecodeError:  # nobody checks it when it is written
        raise BadRow("broken UTF-8") from None


def _parquet(file: BinaryIO, path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.ParquetFile(file)
        found.schema_arrow.names  # noqa: B018 - may be damaged, too
        return found
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no parquet file: {first_line(error)}") from None


def _bytes(text: Any, label: Any) -> tuple[bytes, bytes]:
    """A label, without blanks around it, and a text as UTF-8; raises BadRow for what is none."""
    if not isinstance(text, str):
        raise BadRow("no text" if text is None else f"no text but {type(text).__name__}")
    if label is None or label != label:  # NaN, as pandas writes what is missing
        raise BadRow("no label")
    if not isinstance(label, str | bool | int | float):
        raise BadRow(f"a label of type {type(label).__name__}")
    label = clean_label(label if isinstance(label, str) else json.dumps(label))
    if not label:
        raise BadRow("empty label")
    if not text.strip():
        raise BadRow("empty text")
    if "\0" in text or "\0" in label:
        raise BadRow("NUL byte, or too long a line")
    try:
        return label.encode(), text.encode()
    except UnicodeEncodeError:
        raise BadRow("broken UTF-8") from None


def _shown(name: str) -> str:
    return repr(short(name, _MAX_NAME_CHARS))


def expanded(path: str) -> Path:
    """The absolute path that a setting names."""
    return Path(os.path.expanduser(path)).absolute()

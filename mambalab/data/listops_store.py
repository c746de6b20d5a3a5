"""Where the expressions of `task=listops` are: made up once, or converted from published files.

Both end in a store (`pair_store`), a byte for each word, from which batches are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mambalab.data.listops_grammar import WORDS, Grammar, value_of
from mambalab.data.pair_convert import convert
from mambalab.data.pair_rows import MAX_LINE_BYTES, BadRow, Row, lines
from mambalab.data.pair_store import LOG, PairStore, open_or_write, open_store
from mambalab.errors import UserError

FOLDER = "listops"
"""Below data_dir: the generated expressions."""

FILES = {"train": "basic_train.tsv", "val": "basic_val.tsv", "test": "basic_test.tsv"}
"""Long Range Arena's file for each split."""

PUBLISHED = {"train": 96_000, "val": 2_000, "test": 2_000}
"""Expressions in each of them."""

_GENERATOR_VERSION = 1  # raise it when a seed gives other expressions
_COLUMNS = (b"Source", b"Target")
_TOKENS = {word.encode(): number for number, word in enumerate(WORDS) if word}
_PARENTHESES = bytes(_TOKENS[word] for word in (b"(", b")"))


@dataclass(frozen=True)
class _Expressions:
    """What both origins of expressions have in common: a `RowLayout`."""

    name: str = "listops"
    classes: tuple[str, ...] = tuple("0123456789")
    labels: Mapping[bytes, int] = field(
        default_factory=lambda: {str(digit).encode(): digit for digit in range(10)}
    )
    texts: int = 1
    unit: str = "line"
    examples: str = "expressions"
    content: str = "a line with Source and Target, and such columns, separated by a tab, below it"
    labels_elsewhere: str = "Target must be a digit"
    empty: str = "is empty"


@dataclass(frozen=True, kw_only=True)
class _Generated(_Expressions):
    """Expressions of a grammar, not of a file.

    Attributes:
        grammar, seed, count: as of `Grammar.expressions`.
    """

    grammar: Grammar
    seed: int
    count: int

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        """Make the expressions up; `file` and `path` are not read."""
        del file, path
        made = self.grammar.expressions(self.seed, self.count)
        for number, (value, tokens) in enumerate(made, 1):
            yield Row(number, (str(value).encode(), tokens))


@dataclass(frozen=True, kw_only=True)
class _Published(_Expressions):
    """Expressions of a file as Long Range Arena's generator writes it.

    Attributes:
        max_words: words of an expression must be less, parentheses not counted.
    """

    max_words: int

    def rows(self, file: BinaryIO, path: Path) -> Iterator[Row]:
        """Yield the rows below the first line, which names the columns.

        Raises:
            UserError: it does not.
        """
        read = enumerate(lines(file), 1)
        first = next(read, None)
        if first is None:
            return
        names = [name.strip() for name in (first[1] or b"").split(b"\t")]
        if not set(_COLUMNS) <= set(names):
            raise UserError(
                f"{path}: its first line must name the columns Source and Target, separated by a "
                "tab, as Long Range Arena's generator writes it"
            )
        columns = [names.index(name) for name in _COLUMNS]
        for number, line in read:
            try:
                yield Row(number, self._row(line, len(names), *columns))
            except BadRow as error:
                yield Row(number, error)

    def _row(self, line: bytes | None, width: int, source: int, target: int) -> tuple[bytes, bytes]:
        """The value and the tokens of an expression, without parentheses; may raise BadRow."""
        if line is None:
            raise BadRow(f"longer than {MAX_LINE_BYTES:,} bytes")
        found = line.split(b"\t", width)
        if len(found) != width:
            raise BadRow(f"{line.count(9) + 1} columns instead of {width}")
        label, words = found[target].strip(), found[source].split()
        if label not in self.labels:
            raise BadRow(f"Target {label[:40].decode(errors='replace')!r} is no digit")
        try:
            tokens = bytes(map(_TOKENS.__getitem__, words)).translate(None, _PARENTHESES)
        except KeyError as error:
            word = bytes(error.args[0])[:40].decode(errors="replace")
            raise BadRow(f"unknown word {word!r}") from None
        if len(tokens) >= self.max_words:
            raise BadRow(f"{len(tokens):,} words; task.max_words={self.max_words} allows less")
        value = value_of(tokens)
        if value is None:
            raise BadRow("Source is no whole expression")
        if value != self.labels[label]:
            raise BadRow(f"Source is {value}, but Target is {label.decode()}")
        return label, tokens


def open_generated(data_dir: Path, grammar: Grammar, seed: int, count: int) -> PairStore:
    """Open the first `count` expressions of a grammar and a seed; they are made if need be.

    The store is in `data_dir`/listops, or in the user's cache if that cannot be written.

    Raises:
        UserError: there are hardly so many, or there is no room.
    """
    lengths = f"{grammar.min_words}-{grammar.max_words}"
    sizes = f"depth{grammar.max_depth}-args{grammar.max_args}"
    name = f"v{_GENERATOR_VERSION}-{lengths}-{sizes}-seed{seed}-{count}"
    layout = _Generated(grammar=grammar, seed=seed, count=count)
    home = (data_dir / FOLDER).absolute()

    def write(folder: Path) -> None:
        LOG.info("listops: making %s expressions once, in %s", f"{count:,}", folder.parent)
        convert(io.BytesIO(), home / name, layout, grammar.max_words, folder)

    return open_or_write(name, home, home, write)[0]


def open_published(path: Path, max_words: int) -> PairStore:
    """Open the expressions of one of Long Range Arena's files, which is converted if need be.

    Expressions lose their parentheses. A row whose Target is not its expression's value is left
    out, and reported, as others are that are none.

    Args:
        path: of the file.
        max_words: words of an expression must be less.

    Raises:
        UserError: as `pair_store.open_store`.
    """
    return open_store(path, _Published(max_words=max_words), max_words)

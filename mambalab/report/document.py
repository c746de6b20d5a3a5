"""What a report is made of: sections of blocks, all in plain text; `page` makes HTML of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; `*word*` and `` `word` `` are marked in it if it is `marked`."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Notes:
    """Sentences that a reader must bear in mind, as a list below a heading."""

    heading: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and what it is."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        caption: what it shows.
        header: names of the columns.
        rows: as many cells each.
        words: columns that hold words: to the left, as the first one is.
        titled: whether the heading above says already what it shows.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[str] = frozenset()
    titled: bool = False


@dataclass(frozen=True)
class Confusion:
    """How often each class was predicted for each true one.

    Attributes:
        caption: what it shows.
        classes: their names.
        counts: rows are true classes, columns predictions.
    """

    caption: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        kind: `svg+xml` or `png`.
        data: the file.
        caption: what it shows.
        alt: the same for who cannot see it, and where the numbers are.
    """

    kind: str
    data: bytes = field(repr=False)
    caption: str
    alt: str


@dataclass(frozen=True)
class Verbatim:
    """A text that stays as it is: a command, a sample, a file."""

    caption: str
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when somebody asks for them, and printed."""

    title: str
    blocks: Sequence["Block"]


Block = Paragraph | Notes | Facts | Table | Confusion | Picture | Verbatim | Folded


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: of the place to which links lead.
        heading: its title.
        blocks: its content; a section without any is left out.
    """

    name: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: of the page.
        about: what is under the title, in short.
        tags: words that a run was given.
        note: a remark that it was given.
        sections: its parts.
    """

    title: str
    about: str
    tags: Sequence[str]
    note: str
    sections: Sequence[Section]

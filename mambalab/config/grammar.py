"""Hydra's grammar of `KEY=VALUE`: read it, quote for it, and cut a value at its commas.

The grammar knows ASCII words only and gives some characters a meaning; what a person writes is
quoted here wherever the grammar would refuse it.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from mambalab.errors import UserError, first_line

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# A value between commas: in quotes, or anything in which \, and the commas of ${...} do not count.
_PIECE = re.compile(rf"(\s*(?:{QUOTED.pattern})\s*|(?:\$\{{[^}}]*\}}|\\.|[^,])*),", re.DOTALL)
_FUNCTIONS = re.compile(
    r"\s*(?:int|str|bool|float|choice|range|interval|tag|sort|shuffle|glob)\(", re.DOTALL
)
_CHOICE = re.compile(r"\s*choice\((.*)\)\s*", re.DOTALL)
# Inside lists and mappings: what lies between their signs.
_WORD = re.compile(rf"{QUOTED.pattern}|\$\{{[^}}]*\}}|(?:\\.|[^\\,:'\"\[\]{{}}()])+", re.DOTALL)
_PLAIN = re.compile(r"(?:[A-Za-z0-9_/\-+.$%*@?| \t]|\\.|\$\{[^}]*\})*", re.DOTALL)
MAX_SHOWN_CHARS = 200  # of an override in a message


def parse(line: str) -> Any:
    """The override as Hydra's grammar reads it.

    Raises:
        hydra.errors.HydraException: it does not.
        UserError: a number with more digits than Python reads.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_override(line)
    except ValueError as error:
        raise UserError(f"{cut(line)}: a number has too many digits") from error


def readable(line: str, text: str | None = None) -> Any:
    """The parsed override; the error names `text`, what the person wrote, not what became of it.

    Raises:
        UserError: it cannot be read.
    """
    from hydra.errors import HydraException

    text = line if text is None else text
    try:
        return parse(line)
    except HydraException as error:
        if "" in (part.strip() for part in split(text.partition("=")[2])):
            raise UserError(
                f"{cut(text)}: no value beside a comma; leave that comma out, or write '' there "
                "for an empty text"
            ) from error
        raise UserError(
            f"{cut(text)}: cannot be read ({cut(first_line(error))}); a text with special "
            "characters needs quotes inside the shell's, as in 'key=\"a, b\"'"
        ) from error


def cut(text: str) -> str:
    """What was written, as much of it as a message has room for."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def quoted(text: str) -> str:
    """`text` in the quotes of Hydra's grammar, which make it a text whatever it holds."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def split(value: str) -> list[str]:
    """The pieces of a value between its commas; those in quotes, `\\,` and `${}` do not count."""
    return _PIECE.findall(f"{value},")


def listed_paths(value: str) -> str | None:
    """The list of paths that a value in brackets means, each of them quoted; None if it is none,
    as a file whose name is in brackets."""
    if not (value.startswith("[") and value.endswith("]")) or os.path.exists(value):
        return None
    inside = value[1:-1]
    if "[" in inside or "]" in inside:
        return None
    pieces = [piece.strip() for piece in split(inside)] if inside.strip() else []
    bare = [p[1:-1] if QUOTED.fullmatch(p) else p.replace("\\,", ",") for p in pieces]
    return f"[{','.join(quoted(os.path.expanduser(path)) for path in bare)}]"


def listed_texts(value: str, *, optional: bool) -> str:
    """The texts of a sweep, each as it is without `-m`: in quotes where the grammar needs them.

    What the grammar reads as that text already stays as it is written: the folder of a sweep is
    named after it. Functions such as `choice(a,b)` keep their meaning.

    Args:
        value: texts with commas between.
        optional: whether `null` is no text.
    """
    if inside := _CHOICE.fullmatch(value):  # which would take the quotes away
        return listed_texts(inside[1], optional=optional)
    pieces = split(value)
    if any(_FUNCTIONS.match(piece) for piece in pieces):
        return value
    if len(pieces) > 1 and not all(piece.strip() for piece in pieces):
        return value  # the error for it names the comma
    return ",".join(_as_text(piece, optional) for piece in pieces)


def as_value(text: str) -> str:
    """A single value as an override can hold it: as it is, or in quotes if it would not be read."""
    from hydra.errors import HydraException

    try:
        parse(f"key={text}")
    except HydraException:
        return quoted(text)
    return text


def _as_text(piece: str, optional: bool) -> str:
    from hydra.errors import HydraException

    bare = piece.strip()
    if QUOTED.fullmatch(bare) or (optional and bare == "null"):
        return piece
    try:
        found = parse(f"key={piece}").value()
    except (HydraException, UserError):
        return quoted(bare.replace("\\,", ","))
    return piece if isinstance(found, str) or str(found) == bare else quoted(bare)


def with_odd_words_quoted(value: str) -> str:
    """The value with quotes round every word that holds a character the grammar does not know."""

    def inside(match: re.Match[str]) -> str:
        word = match[0]
        if QUOTED.fullmatch(word) or _PLAIN.fullmatch(word):
            return word
        bare = word.strip()
        return word.replace(bare, quoted(bare))

    return _WORD.sub(inside, value)


def check_sweeps(text: str, override: Any) -> None:
    """Raise UserError for values to vary that stand where Hydra does not look for them.

    Args:
        text: the override as a person wrote it.
        override: as it was parsed.
    """
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep, Sweep

    value = override.value()
    if isinstance(value, ChoiceSweep):
        inner, where = value.list, "range() and choice() stand alone: list all values instead"
    else:
        inner, where = [value], "range() and choice() mean nothing inside: list the values"
        if isinstance(value, Sweep):
            inner = []
        elif text.startswith("sweep."):
            where = "list the values, as in [1,2], or give a range to search: {low: 1, high: 2}"
    if any(isinstance(found, Sweep) for part in inner for found in _inside(part)):
        raise UserError(f"{cut(text)}: {where}")
    if not isinstance(value, RangeSweep):
        return
    if value.step == 0:
        raise UserError(f"{cut(text)}: the step of range() must not be 0")
    if next(iter(value.range()), None) is None:
        raise UserError(f"{cut(text)}: no value lies in this range")


def _inside(value: Any) -> Iterator[Any]:
    yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _inside(part)

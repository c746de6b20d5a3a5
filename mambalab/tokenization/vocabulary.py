"""The characters of a text and their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mambalab.errors import UserError, shown
from mambalab.utils.reading import read_bytes


class NoTokenError(UserError):
    """A text has a character for which there is no token."""


_PIECE_CHARS = 1 << 20  # characters converted at a time: bounds the memory of encode
_FORMAT = "mambalab characters 1"


class Vocabulary:
    """A fixed set of characters; a character's id is its place in `symbols`."""

    def __init__(self, symbols: str, end: str | None = None) -> None:
        """Take the distinct characters of `symbols`, in the order given, and the one of them that
        ends a document, if one does."""
        assert symbols, "a vocabulary has at least one symbol"
        assert len(set(symbols)) == len(symbols), "symbols must be distinct"
        assert end is None or end in symbols, "what ends a document is a symbol"
        self.symbols, self.end = symbols, end
        codes = np.array([ord(symbol) for symbol in symbols])
        # One entry beyond the largest code point stands for everything larger.
        self._ids = np.full(codes.max() + 2, -1, dtype=np.int64)
        self._ids[codes] = np.arange(len(codes))

    @classmethod
    def from_text(cls, *texts: str, end: str | None = None) -> Vocabulary:
        """The distinct characters of texts, sorted by code point; `end` ends a document."""
        return cls.from_texts(texts, end)

    @classmethod
    def from_texts(cls, texts: Iterable[str], end: str | None = None) -> Vocabulary:
        """The same of many texts, of which one is held at a time."""
        symbols: set[str] = set()
        for text in texts:
            symbols.update(text)
        return cls("".join(sorted(symbols)), end)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str, dtype: type[np.generic] = np.int64) -> np.ndarray:
        """Ids of the characters of `text`: (len(text),) of `dtype`.

        Raises:
            NoTokenError: names the first character that is not in the vocabulary.
        """
        ids = np.empty(len(text), dtype=dtype)
        for start in range(0, len(text), _PIECE_CHARS):
            piece = text[start : start + _PIECE_CHARS]
            # Lone surrogates (undecodable bytes on a command line) must reach the message below.
            codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            found = self._ids[np.minimum(codes, len(self._ids) - 1)]
            unknown = np.flatnonzero(found < 0)
            if len(unknown):
                at = int(unknown[0])
                raise NoTokenError(
                    f"character {shown(piece[at])} (U+{ord(piece[at]):04X}, number {start + at + 1}"
                    f" of the text) is not among the {len(self)} characters this model knows: "
                    f"{shown(self.symbols)}"
                )
            ids[start : start + _PIECE_CHARS] = found
        return ids

    def decode(self, ids: object) -> str:
        """The text of `ids`: any sequence, array or CPU tensor of integers in [0, len(self))."""
        return "".join([self.symbols[index] for index in np.asarray(ids).reshape(-1).tolist()])

    def to_json(self) -> str:
        """The vocabulary as an ASCII JSON document."""
        end = {} if self.end is None else {"end": self.end}
        return json.dumps({"format": _FORMAT, "symbols": self.symbols, **end}, indent=1) + "\n"

    @classmethod
    def from_json(cls, document: str, source: str = "vocabulary") -> Vocabulary:
        """Read what `to_json` wrote; `source` names the document in messages.

        Raises:
            UserError: not such a document.
        """
        try:
            content = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source} is not a vocabulary: {error}") from None
        symbols = content.get("symbols") if isinstance(content, dict) else None
        if not isinstance(symbols, str) or not symbols or len(set(symbols)) != len(symbols):
            raise UserError(
                f"{source} is not a vocabulary: it needs a key symbols, a string of distinct "
                "characters"
            )
        end = content.get("end")
        if end is not None and (not isinstance(end, str) or len(end) != 1 or end not in symbols):
            raise UserError(f"{source} is not a vocabulary: end must be one of its symbols")
        return cls(symbols, end)

    def save(self, path: Path) -> None:
        """Write `to_json` to `path`."""
        path.write_text(self.to_json(), encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read the file that `save` wrote.

        Raises:
            UserError: absent, unreadable, or not a vocabulary.
        """
        try:
            document = read_bytes(path).decode("utf-8")
        except OSError as error:
            raise UserError(f"cannot read the vocabulary {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not a vocabulary: not UTF-8") from None
        return cls.from_json(document, str(path))

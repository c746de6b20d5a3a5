"""Converts tokens to text as they arrive: complete characters only, up to a stop string."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT_CHARACTER = "\ufffd"  # what decoders return for an incomplete character


class Decoder(Protocol):
    """Tokenizer that can decode."""

    eos_id: int | None

    def decode(self, ids: list[int]) -> str:
        """Decode tokens to text."""
        ...


class Writer:
    """Text of one sequence while it is generated.

    Args:
        decoder: decodes tokens.
        stop: strings that end the text; none of them is part of it.

    Attributes:
        text: what is certain so far.
        tokens: number of tokens taken, the one that ended the text included.
        stopped_by: `stop` or `eos` once the text has ended, else None.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str]) -> None:
        self.decoder = decoder
        self.stop = [s for s in stop if s]
        self.text = ""
        self.tokens = 0
        self.stopped_by: str | None = None
        self._ids: list[int] = []  # not yet written, after those that their text depends on
        self._before = 0  # of `_ids`, those written already
        self._held = ""  # complete characters that may begin a stop string

    def add(self, token: int) -> str:
        """Take one token; return the text that may be shown now."""
        if self.stopped_by is not None:
            return ""
        self.tokens += 1
        if token == self.decoder.eos_id:
            self.stopped_by = "eos"
            return self._show(self._held)
        # A token's text may depend on the one before it (blanks between words), and a character
        # may take several tokens: decode a few together, and show the difference.
        known = self.decoder.decode(self._ids[: self._before])
        self._ids.append(token)
        both = self.decoder.decode(self._ids)
        if both.endswith(REPLACEMENT_CHARACTER) and len(self._ids) - self._before < 8:
            return ""
        self._ids = self._ids[self._before :]
        self._before = len(self._ids)
        return self._take(both[len(known) :])

    def finish(self) -> str:
        """End the text because of its length; return what was held back."""
        if self.stopped_by is not None:
            return ""
        rest = ""
        if len(self._ids) > self._before:
            known = self.decoder.decode(self._ids[: self._before])
            rest = self.decoder.decode(self._ids)[len(known) :]
        return self._show(self._held + rest)

    def _take(self, new: str) -> str:
        """Take decoded text; return what is certain, up to a stop string if one is complete."""
        piece = self._held + new
        found = [at for s in self.stop if (at := piece.find(s)) >= 0]
        if found:
            self.stopped_by = "stop"
            return self._show(piece[: min(found)])
        keep = max((_overlap(piece, s) for s in self.stop), default=0)
        shown = self._show(piece[: len(piece) - keep])
        self._held = piece[len(piece) - keep :]
        return shown

    def _show(self, piece: str) -> str:
        """Append to the text and return it; nothing is held back any more."""
        self._held = ""
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)

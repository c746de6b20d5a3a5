"""Converts tokens to text as they arrive: complete characters only, up to a stop string."""

from collections.abc import Sequence
from typing import Protocol

_CONTEXT_TOKENS = 32  # of the prompt, that the text of the first new ones can depend on
_MAX_CHARACTER_TOKENS = 8  # after so many, what is incomplete stays so
REPLACEMENT_CHARACTER = "\ufffd"  # what decoders return for an incomplete character


class Decoder(Protocol):
    """Tokenizer that can decode; it may have more end tokens, as `eos_ids`."""

    eos_id: int | None

    def decode(self, ids: list[int]) -> str:
        """Decode tokens to text."""
        ...


class Writer:
    """Text of one sequence while it is generated.

    It is what decoding prompt and new tokens together has after what decoding the prompt gives: so
    the blank before a first word stays, whatever the tokenizer.

    Args:
        decoder: decodes tokens.
        stop: strings that end the text; none of them is part of it.
        prompt: the tokens that the text goes on from.

    Attributes:
        text: what is certain so far.
        tokens: number of tokens taken, the one that ended the text included.
        stopped_by: `stop` or `eos` once the text has ended, else None.
    """

    def __init__(
        self, decoder: Decoder, stop: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        self.decoder = decoder
        self._ends = {decoder.eos_id, *getattr(decoder, "eos_ids", ())}
        self.stop = [s for s in stop if s]
        self.text = ""
        self.tokens = 0
        self.stopped_by: str | None = None
        # Tokens not yet written, after those that their text depends on.
        self._ids = _context(decoder, list(prompt))
        self._before = len(self._ids)  # of `_ids`, those written already
        self._held = ""  # complete characters that may begin a stop string

    def add(self, token: int) -> str:
        """Take one token; return the text that may be shown now."""
        if self.stopped_by is not None:
            return ""
        self.tokens += 1
        if token in self._ends:
            self.stopped_by = "eos"
            return self._show(self._held)
        # A token's text may depend on the one before it (blanks between words), and a character
        # may take several tokens: decode a few together, and show the difference.
        self._ids.append(token)
        both = self.decoder.decode(self._ids)
        waiting = len(self._ids) - self._before
        if both.endswith(REPLACEMENT_CHARACTER) and waiting < _MAX_CHARACTER_TOKENS:
            return ""
        new = self._new()
        self._ids = self._ids[self._before :]
        self._before = len(self._ids)
        return self._take(new)

    def finish(self) -> str:
        """End the text because of its length; return what was held back."""
        if self.stopped_by is not None:
            return ""
        rest = self._new() if len(self._ids) > self._before else ""
        self._before = len(self._ids)
        return self._show(self._held + rest)

    def _new(self) -> str:
        return continuation(self.decoder, self._ids[: self._before], self._ids[self._before :])

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


def continuation(decoder: Decoder, before: Sequence[int], new: Sequence[int]) -> str:
    """Decode the tokens `new` as they stand after the tokens `before`: with the blank that a first
    word has there, and that many tokenizers leave out at the beginning of a text."""
    known = decoder.decode(list(before)) if len(before) else ""
    both = decoder.decode([*before, *new])
    if both.startswith(known):
        return both[len(known) :]
    whole = known.rstrip(REPLACEMENT_CHARACTER)  # `before` ends inside a character
    if whole != known and both.startswith(whole):
        return both[len(whole) :]
    # A byte that belongs to no character can spoil those before it, which are shown already.
    return decoder.decode(list(new))


def _context(decoder: Decoder, prompt: list[int]) -> list[int]:
    """The last tokens of a prompt, as many as its next characters depend on."""
    count = _CONTEXT_TOKENS
    # A cut inside a character would make every byte after it incomplete.
    while count < len(prompt) and REPLACEMENT_CHARACTER in decoder.decode(prompt[-count:]):
        count *= 2
    return prompt[-count:]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)

"""The command that this process carries out, as one line of a shell: runs record it."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from mambalab.utils.secrets import hide_password

_LINE: ContextVar[str | None] = ContextVar("command", default=None)


def as_line(words: Sequence[str]) -> str:
    """Return a command as a shell reads it, its words without what is secret in addresses."""
    return shlex.join(["mambalab", *map(hide_password, words)])


@contextlib.contextmanager
def carried_out(line: str | None) -> Iterator[None]:
    """Let `current` return this line inside the block."""
    token = _LINE.set(line)
    try:
        yield
    finally:
        _LINE.reset(token)


def current() -> str | None:
    """Return the command that is carried out; None if the program was called from Python."""
    return _LINE.get()

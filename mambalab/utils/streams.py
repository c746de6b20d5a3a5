"""Standard streams as people have them: closed, full, gone, or not UTF-8.

No verb dies of its terminal. A character that the terminal cannot show is written as another, a
message that cannot be written is dropped; only results that cannot be written are an error.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator

TYPE_CHECKING = False  # `--version` does without the module typing
if TYPE_CHECKING:
    from typing import TextIO

_ALIKE = {"±": "+-", "…": "...", "’": "'", "–": "-", "×": "x", "·": "*", "µ": "u"}


class BrokenOutputError(OSError):
    """Standard output takes nothing more; `errno` says why."""


class _Watched:
    """A stream that knows whether it failed, and may hide it.

    Args:
        stream: where to write.
        hide: whether what cannot be written is lost without an error.
    """

    def __init__(self, stream: "TextIO", *, hide: bool) -> None:
        self._stream, self._hide = stream, hide
        self.error: OSError | None = None  # the first

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; raises BrokenOutputError unless that is hidden."""
        with self._failing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; raises BrokenOutputError unless that is hidden."""
        with self._failing():
            self._stream.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            if not self._hide:
                raise BrokenOutputError(error.errno, error.strerror) from error


@contextlib.contextmanager
def lenient(*, results_matter: bool = True) -> Iterator[None]:
    """Let standard streams be what they are while the block runs.

    Args:
        results_matter: False drops what cannot be written to standard output, too.

    Raises:
        BrokenOutputError: standard output did not take all that was printed.
    """
    open_closed()
    codecs.register_error("mambalab", _alike)
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="mambalab")
    before = sys.stdout, sys.stderr
    results, messages = (
        _Watched(sys.stdout, hide=not results_matter),
        _Watched(sys.stderr, hide=True),
    )
    sys.stdout, sys.stderr = results, messages  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
        results.flush()
    finally:
        sys.stdout, sys.stderr = before
        for watched in (results, messages):
            if watched.error is not None:
                _drop(watched)
    if results_matter and results.error is not None:  # somebody did not mind
        raise BrokenOutputError(results.error.errno, results.error.strerror)


def open_closed() -> None:
    """Let the null device stand in for standard streams that are closed.

    Otherwise the next file that is opened would get their numbers, and their output. One that has
    been opened already, as libffi opens itself, keeps the number.
    """
    filled = [number for number in range(3) if _fill(number)]
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = number if number in filled else os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))


def _fill(number: int) -> bool:
    """Open the null device under a number that nothing has, for children too."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        return True
    return False


def _drop(stream: _Watched) -> None:
    """Throw away what is left to be written, or Python would try again when it ends."""
    with contextlib.suppress(OSError):  # no file behind it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream._stream.fileno())
        os.close(null)


def _alike(error: UnicodeError) -> tuple[str, int]:
    """Put what looks alike, or `?`, in the place of characters that the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    return "".join(_ALIKE.get(character, "?") for character in wrong), error.end

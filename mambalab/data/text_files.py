"""Reading a user's text file, with one clear line for each way in which it may be no text."""

from __future__ import annotations

import codecs
import hashlib
import logging
import os
import stat
from pathlib import Path

from mambalab.data import encodings
from mambalab.errors import UserError

LOG = logging.getLogger("mambalab")


def read_text(path: Path, key: str = "task.path") -> tuple[str, str]:
    """Read a UTF-8 file: its text, and the sha256 of the file as it is.

    A byte order mark is dropped and line ends become "\\n" (CRLF and CR alike), so that a text
    saved on another system has the same characters. Nothing else is changed.

    Args:
        path: of the file.
        key: the setting that names it, for messages.

    Raises:
        UserError: absent, unreadable, a folder, empty, binary, or not UTF-8.
    """
    shown = Path(os.path.expanduser(path)).absolute()
    try:
        mode = shown.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{shown} is a folder; {key} must name one UTF-8 text file")
        if not stat.S_ISREG(mode):
            raise UserError(f"{shown} is no regular file; {key} must name one UTF-8 text file")
        content = shown.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {shown} ({key})") from None
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror}") from None
    if not content:
        raise UserError(f"{shown} is empty; {key} must name a UTF-8 text file")
    text = _decode(content, shown, key)
    if not text:
        raise UserError(f"{shown} holds only a byte order mark; {key} must name a text file")
    return text, hashlib.sha256(content).hexdigest()


def _decode(content: bytes, shown: Path, key: str) -> str:
    wide = encodings.wide_encoding(content)
    if wide:
        raise UserError(f"{shown} is {wide}, not UTF-8; {encodings.convert(shown, wide)}")
    nul = content.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{shown} is a binary file (NUL byte at offset {nul:,}); {key} must name a UTF-8 "
            "text file"
        )
    # The codec counts from after a byte order mark.
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        text, used = codecs.utf_8_decode(memoryview(content)[mark:], "strict", False)
    except UnicodeDecodeError as error:
        where = _place(content, mark + error.start)
        raise UserError(f"{shown} {encodings.describe(content, where, shown)}") from None
    if mark + used < len(content):
        raise UserError(
            f"{shown} ends in the middle of a character ({_place(content, mark + used)}): it looks "
            "cut short; get the whole file"
        )
    if inside := text.count("\ufeff"):
        LOG.warning(
            "%s: %s byte order marks lie within the text and are characters of it; were files put "
            "together?",
            shown,
            f"{inside:,}",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(content: bytes, at: int) -> str:
    """Name a byte and where it is."""
    return f"byte 0x{content[at]:02x} at offset {at:,}, line {content.count(10, 0, at) + 1:,}"

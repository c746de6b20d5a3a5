"""Reading a user's text file, with one clear line for each way in which it may be no text."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from pathlib import Path

from mambalab.errors import UserError

# Longest marks first: UTF-32's begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAMPLE_BYTES = 4096  # bytes looked at to recognise UTF-16 without a mark


def read_text(path: Path) -> tuple[str, str]:
    """Read a UTF-8 file: its text, and the sha256 of the file as it is.

    A byte order mark is dropped and line ends become "\\n" (CRLF and CR alike), so that a text
    saved on another system has the same characters. Nothing else is changed.

    Raises:
        UserError: absent, unreadable, a folder, empty, binary, or not UTF-8.
    """
    shown = Path(os.path.expanduser(path)).absolute()
    try:
        mode = shown.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{shown} is a folder; task.path must name one UTF-8 text file")
        if not stat.S_ISREG(mode):
            raise UserError(f"{shown} is no regular file; task.path must name one UTF-8 text file")
        content = shown.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {shown} (task.path)") from None
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror}") from None
    if not content:
        raise UserError(f"{shown} is empty; task.path must name a UTF-8 text file")
    text = _decode(content, shown)
    if not text:
        raise UserError(f"{shown} holds only a byte order mark; task.path must name a text file")
    return text, hashlib.sha256(content).hexdigest()


def _decode(content: bytes, shown: Path) -> str:
    wide = _wide_encoding(content)
    if wide:
        raise UserError(f"{shown} is {wide}, not UTF-8; {_convert(shown, wide)}")
    nul = content.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{shown} is a binary file (NUL byte at offset {nul:,}); task.path must name a UTF-8 "
            "text file"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from after a byte order mark.
        mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
        at = mark + error.start
        where = f"byte 0x{content[at]:02x} at offset {at:,}, line {content.count(10, 0, at) + 1:,}"
        if error.reason == "unexpected end of data":
            raise UserError(
                f"{shown} ends in the middle of a character ({where}): it looks cut short; "
                "get the whole file"
            ) from None
        guess = _legacy_encoding(content)
        raise UserError(
            f"{shown} is not UTF-8 ({where}), probably {guess}; {_convert(shown, guess)}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _convert(shown: Path, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 '{shown}' > new.txt"


def _wide_encoding(content: bytes) -> str | None:
    """Name UTF-16 or UTF-32, known by its mark or, in Latin text, by NULs in every other byte."""
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return name
    head = content[:_SAMPLE_BYTES]
    if len(head) >= 4:
        for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
            zeros, others = head[first::2], head[1 - first :: 2]
            if zeros.count(0) > 0.9 * len(zeros) and others.count(0) == 0:
                return name
    return None


def _legacy_encoding(content: bytes) -> str:
    """Name the likeliest single-byte encoding of Western text: 0x80-0x9f are control codes in
    ISO-8859-1 and quotes and dashes in Windows-1252, so a text that uses them is the latter."""
    windows_only = any(content.find(byte) >= 0 for byte in range(0x80, 0xA0))
    return "WINDOWS-1252" if windows_only else "ISO-8859-1"

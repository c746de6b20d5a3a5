"""What is wrong with a text that is not UTF-8, and the command that mends it.

An encoding is named only where a guess is safe: what a wrong one makes of a text is garbage that
trains without complaint. A Western text has few bytes above 127, each of them a common letter or
quotation mark among ASCII; Cyrillic, Chinese or Japanese text has runs of them.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

# Longest marks first: UTF-32's begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAMPLE_BYTES = 1 << 20  # bytes looked at to guess an encoding
_MAX_BROKEN_SHARE = 0.1  # of the bytes above 127 in a text that is UTF-8 all the same
_MAX_HIGH_SHARE = 0.3  # of all bytes of a Western text
_MAX_ODD_SHARE = 0.02  # of the bytes above 127 in a Western text that are no common character
_MIN_ALONE_SHARE = 0.75  # runs of bytes above 127 in a Western text, by the number of such bytes
_WESTERN = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøœùúûüÿßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜ\u00a0¡¿«»‹›‘’‚“”„–—…•·°§©®™€£ªº"
)
_CANDIDATES = "GB18030, BIG5, SHIFT_JIS, EUC-KR, WINDOWS-1251, KOI8-R, ISO-8859-2, UTF-16LE"
_ESCAPED = re.compile("[\udc80-\udcff]+")  # what "surrogateescape" makes of broken bytes
# A character beyond U+FFFF as two surrogates of three bytes each, as Java and old MySQL write it.
_CESU_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")


def wide_encoding(content: bytes) -> str | None:
    """Name UTF-16 or UTF-32, known by its mark or, without one, by where its NULs are.

    In UTF-16 the blanks, digits and line ends of any language have a NUL in every other byte,
    always on the same side, and every two bytes are a character that exists.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return name
    head = content[: _SAMPLE_BYTES & ~1]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = head[first::2], head[1 - first :: 2]
        if not zeros.count(0) or others.count(0) or len(content) % 2 or len(content) < 4:
            continue
        if zeros.count(0) > 0.9 * len(zeros) or (not _is_ascii(head) and _is_text(head, name)):
            return name
    return None


def describe(content: bytes, where: str, path: Path) -> str:
    """Say what is wrong with a text that is not UTF-8, and what to do: the rest of a message.

    Args:
        content: of the file, without NULs.
        where: the first byte that is wrong, in words.
        path: of the file, for the command.
    """
    body = content.removeprefix(codecs.BOM_UTF8)
    broken = _broken(body)
    high = _count_high(body)
    pairs = len(_CESU_PAIR.findall(body))
    if pairs and not _broken(_CESU_PAIR.sub(b"", body)):
        command = (
            'python3 -c \'import sys; b = open(sys.argv[1], "rb").read(); '
            'sys.stdout.buffer.write(b.decode("utf-8", "surrogatepass").encode("utf-16", '
            f'"surrogatepass").decode("utf-16").encode())\' {_quoted(path)} > new.txt'
        )
        return (
            f"is CESU-8, as Java and old MySQL write it: UTF-8 with {_places(pairs)} of two "
            f"surrogates instead of a character ({where}); convert it: {command}"
        )
    if sum(broken) <= _MAX_BROKEN_SHARE * high:
        return (
            f"is UTF-8 with {_places(len(broken))} broken (the first: {where}); mend it, or leave "
            f"these bytes out: iconv -c -f UTF-8 -t UTF-8 {_quoted(path)} > new.txt"
        )
    if guess := _western_encoding(body):
        return f"is not UTF-8 ({where}), probably {guess}; {convert(path, guess)}"
    return (
        f"is not UTF-8 ({where}), and which encoding it is cannot be told; convert it from the one "
        f"you know it to be ({_CANDIDATES}, ...) and look at the result: iconv -f ENCODING -t "
        f"UTF-8 {_quoted(path)} > new.txt"
    )


def remedy(path: Path) -> str:
    """Say how the first megabyte of a file is not UTF-8, and what to do; "" if it is UTF-8."""
    with open(path, "rb") as file:
        content = file.read(_SAMPLE_BYTES)
    if wide := wide_encoding(content):
        return f"is {wide}, not UTF-8; {convert(path, wide)}"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        return describe(content, where, path)
    return ""


def convert(path: Path, encoding: str) -> str:
    """Write the command that makes a file UTF-8, as the end of a message."""
    return f"convert it: iconv -f {encoding} -t UTF-8 {_quoted(path)} > new.txt"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\"'\"'") + "'"


def _places(count: int) -> str:
    return f"{count:,} place{'s' if count != 1 else ''}"


def _count_high(data: bytes) -> int:
    return len(data) - len(data.translate(None, bytes(range(128, 256))))


def _broken(data: bytes) -> list[int]:
    """Lengths in bytes of the places that are not UTF-8; neighbouring bytes are one place."""
    return [len(run) for run in _ESCAPED.findall(data.decode("utf-8", "surrogateescape"))]


def _is_ascii(data: bytes) -> bool:
    """Whether bytes are nearly all ASCII, NULs and control codes not among it."""
    letters = bytes(range(32, 127)) + b"\n\r"
    return len(data.translate(None, letters + b"\0")) <= _MAX_BROKEN_SHARE * len(data)


def _is_text(data: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding: characters that exist, and no control codes."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return all(
        character in "\t\n\v\f\r" or unicodedata.category(character) not in ("Cc", "Cn", "Co", "Cs")
        for character in set(text)
    )


def _western_encoding(data: bytes) -> str | None:
    """Name the single-byte encoding of a text in a Western language; None if it may be another.

    0x80-0x9f are control codes in ISO-8859-1 and quotes and dashes in Windows-1252, so a text that
    uses them is the latter.
    """
    sample = data[:_SAMPLE_BYTES]
    name = "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", data) else "ISO-8859-1"
    try:
        data.decode(name)  # all of it: the command must not stop in the middle
    except UnicodeDecodeError:
        return None
    high = [c for c in sample.decode(name) if ord(c) > 127]
    odd = sum(c not in _WESTERN for c in high)
    rare = len(high) <= _MAX_HIGH_SHARE * len(sample)
    alone = len(re.findall(rb"[\x80-\xff]+", sample)) >= _MIN_ALONE_SHARE * len(high)
    return name if rare and alone and odd <= _MAX_ODD_SHARE * len(high) else None

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from mambalab.data.text_files import read_text
from mambalab.errors import UserError

FRENCH = "Le café est fermé l'été.\n" * 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain\ntext\n", "plain\ntext\n"),
        (FRENCH.encode(), FRENCH),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"dos\r\nmac\rend\r\n", "dos\nmac\nend\n"),
        (b"\r\n\r\n", "\n\n"),
    ],
)
def test_text_is_read(tmp_path, content, text):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read_text(path) == (text, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "only a byte order mark"),
        (b"some\0thing and more text", r"binary file \(NUL byte at offset 4\)"),
        (
            b"first line\n" + FRENCH.encode("latin-1"),
            r"not UTF-8 \(byte 0xe9 at offset 17, line 2\), probably ISO-8859-1; .*"
            r"iconv -f ISO-8859-1 -t UTF-8 '.*a\.txt' > new\.txt",
        ),
        ("it’s “quoted”".encode("cp1252"), r"\(byte 0x92 at offset 2, line 1\).*WINDOWS-1252"),
        (b"\xef\xbb\xbfcaf\xe9 noir", r"byte 0xe9 at offset 6, line 1"),
        (FRENCH.encode("utf-16"), "is UTF-16, not UTF-8; convert it: iconv -f UTF-16 "),
        (FRENCH.encode("utf-32"), "is UTF-32, not UTF-8"),
        (FRENCH.encode("utf-16-le"), "is UTF-16LE, not UTF-8"),
        (FRENCH.encode("utf-16-be"), "is UTF-16BE, not UTF-8"),
        ("in the middle: é".encode()[:-1], r"ends in the middle of a character \(byte 0xc3 at"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_text(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot read .*Not a directory"):
        read_text(tmp_path / "file" / "text.txt")
    with pytest.raises(UserError, match=r"there is no file .*~nobody-of-that-name"):
        read_text(Path("~nobody-of-that-name/text.txt"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no regular file"):
        read_text(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        read_text(path)


CHINESE, RUSSIAN = "今天天气很好,我们去公园玩吧。" * 30, "Съешь же ещё этих мягких булок. " * 30
GERMAN = "Füße über Straßen – schön und größer.\n" * 50
CONVERTED = {  # what the printed command makes of a file
    "one bad byte": (GERMAN[:60].encode() + b"\xff" + GERMAN[60:].encode(), GERMAN),
    "many bad bytes": (GERMAN.encode()[2:] + b"\xf0\x9f!\xc3", GERMAN[2:] + "!"),
    "CESU-8": (
        b"smile " + "\ud83d\ude00".encode("utf-8", "surrogatepass") + " é".encode(),
        "smile 😀 é",
    ),
    "French": (FRENCH.encode("latin-1"), FRENCH),
    "German": (GERMAN.encode("cp1252"), GERMAN),
    "UTF-16": (CHINESE.encode("utf-16"), CHINESE),
    "Chinese UTF-16": ((CHINESE + "\n").encode("utf-16-le"), CHINESE + "\n"),
    "Russian UTF-16": (RUSSIAN.encode("utf-16-be"), RUSSIAN),
}


def message(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_text(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", CONVERTED)
def test_the_command_that_is_printed_mends_the_file(tmp_path, kind):
    content, text = CONVERTED[kind]
    said = message(tmp_path / "it's mine.txt", content)
    start = max(said.find("iconv -"), said.find("python3 -c"))
    subprocess.run(said[start:], shell=True, cwd=tmp_path, check=kind == "CESU-8")
    assert read_text(tmp_path / "new.txt")[0] == text


@pytest.mark.parametrize(
    "content",
    [
        *(CHINESE.encode(name) for name in ("gbk", "gb18030")),
        *(CHINESE.replace(",", "").encode(name) for name in ("utf-16-le", "utf-16-be")),
        *(RUSSIAN.encode(name) for name in ("cp1251", "koi8-r", "iso8859-5", "cp866")),
        ("今天天氣很好" * 30).encode("big5"),
        *(("カタカナとひらがな" * 30).encode(name) for name in ("shift-jis", "euc-jp")),
        ("한국어 문장입니다. " * 30).encode("euc-kr"),
        ("Zażółć gęślą jaźń, książki są żółte. " * 30).encode("iso8859-2"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy. " * 30).encode("cp1250"),
        ("Ünlü şair ağaçların altında yağmuru dinledi. " * 30).encode("iso8859-9"),
        GERMAN.replace("–", "-").encode("mac-roman"),
        ("some English words, and " + "日本" * 2).encode("shift-jis") * 30,
        bytes(range(128, 256)) * 20,
    ],
)
def test_no_encoding_is_named_that_would_make_garbage(tmp_path, content):
    said = message(tmp_path / "a.txt", content)
    assert "which encoding it is cannot be told" in said
    assert "probably" not in said


def test_broken_places_are_counted_and_the_first_is_named(tmp_path):
    said = message(tmp_path / "a.txt", b"\n".join([GERMAN.encode()] * 2 + [b"\xff\xff.\xfe"]))
    at = 2 * len(GERMAN.encode()) + 2
    assert (
        f"is UTF-8 with 2 places broken (the first: byte 0xff at offset {at:,}, line 103)" in said
    )
    assert "line 1)" in message(tmp_path / "a.txt", b"\xef\xbb\xbf\xff" + GERMAN.encode())


def test_marks_within_a_text_are_told_and_stay(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\f\n\ufefftwo".encode())
    assert read_text(path)[0] == "one\f\n\ufefftwo"
    assert "1 byte order marks lie within the text" in caplog.text

import hashlib
import os
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

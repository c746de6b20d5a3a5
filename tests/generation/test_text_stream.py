"""Text as it comes, token by token."""

import pytest

from mambalab.generation.text_stream import Writer


class Bytes:
    """Each token is a byte of UTF-8; 0 ends a text."""

    eos_id = 0

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class Words:
    """Words with a blank between them: a token's text depends on what stands before it."""

    eos_id = None
    words = ("to", "be", "or", "not")

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


def write(text, *stop, decoder=None):
    writer = Writer(decoder or Bytes(), stop)
    pieces = [writer.add(token) for token in (text.encode() if isinstance(text, str) else text)]
    pieces.append(writer.finish())
    assert "".join(pieces) == writer.text
    return writer, pieces


def test_characters_come_whole():
    writer, pieces = write("aé☃🐍b")
    assert [p for p in pieces if p] == ["a", "é", "☃", "🐍", "b"]
    assert writer.text == "aé☃🐍b"
    assert writer.tokens == 11
    assert writer.stopped_by is None


def test_blanks_between_words_survive():
    assert write([0, 1, 2, 3, 0, 1], decoder=Words())[0].text == "to be or not to be"


def test_bytes_that_never_become_a_character_are_shown_as_such():
    assert write(b"a\xff" + b"\x80" * 20)[0].text.startswith("a\ufffd")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["xyz", "thr", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("line\n\nnext", ["\n\n"], "line"),
        ("nothing", ["zzz"], "nothing"),
        ("almost en", ["end"], "almost en"),
        ("stop", ["stop"], ""),
        ("é☃x", ["☃"], "é"),
    ],
)
def test_stop_strings(text, stop, expected):
    writer, pieces = write(text, *stop)
    assert writer.text == expected
    assert (writer.stopped_by == "stop") == (expected != text)
    for piece in pieces:
        assert not any(s in piece for s in stop)


def test_the_end_token_ends_it():
    writer, _ = write(b"ab\x00cd")
    assert (writer.text, writer.stopped_by, writer.tokens) == ("ab", "eos", 3)

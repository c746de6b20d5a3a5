"""Text as it comes, token by token."""

import random

import pytest

from mambalab.generation.text_stream import Writer, continuation
from tests.tokenization.kinds import KINDS


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


class Of:
    """A tokenizer of the library as a decoder."""

    eos_id = None

    def __init__(self, made):
        self.made = made

    def decode(self, ids):
        return self.made.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [[], [1], [1, 2], [1, 2, 3] * 30])
def test_a_text_is_what_decoding_adds_to_the_prompt(kind, prompt):
    decoder = Of(KINDS[kind]())
    for new in ([2, 3], [3], [2, 4, 1], [0, 2], [4, 4]):
        whole, known = decoder.decode([*prompt, *new]), decoder.decode(prompt)
        writer = Writer(decoder, (), prompt)
        pieces = [*(writer.add(token) for token in new), writer.finish()]
        assert known + "".join(pieces) == whole
        assert known + continuation(decoder, prompt, new) == whole
    if prompt:
        writer = Writer(decoder, [" king"], prompt)
        writer.add(2)
        assert (writer.stopped_by, writer.text) == ("stop", "")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_after_prompts_that_end_anywhere(seed):
    """Also inside a character, and after more characters than the context has tokens."""
    draw = random.Random(seed)
    data = ("é☃🐍a" * 20).encode()
    for _ in range(40):
        cut = draw.randrange(len(data))
        prompt, new = list(data[:cut]), list(data[cut:])
        writer = Writer(Bytes(), (), prompt)
        text = "".join([writer.add(token) for token in new] + [writer.finish()])
        whole = data[:cut].decode(errors="ignore")  # without the half character at its end
        assert whole + text == data.decode()


@pytest.mark.parametrize("kind", ["metaspace", "llama"])
def test_a_byte_that_belongs_to_no_character_leaves_the_text_before_it(kind):
    decoder = Of(KINDS[kind]())
    writer = Writer(decoder, (), [1])
    assert writer.add(2) + writer.add(3) == " king is"
    if kind == "llama":
        snowman = [decoder.made.token_to_id(f"<0x{b:02X}>") for b in "☃".encode()]
        assert [writer.add(token) for token in snowman] == ["", "", "☃"]
        assert writer.add(decoder.made.token_to_id("<0xFF>")) + writer.finish() == "\ufffd"

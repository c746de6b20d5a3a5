import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mambalab.errors import UserError, shown
from mambalab.tokenization import vocabulary as module
from mambalab.tokenization.vocabulary import Vocabulary


def test_symbols_are_sorted_and_distinct():
    assert Vocabulary.from_text("hello\n").symbols == "\nehlo"


@given(st.text(min_size=1))
def test_text_survives_encoding_and_json(text):
    vocabulary = Vocabulary.from_json(Vocabulary.from_text(text).to_json())
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert vocabulary.decode(ids) == text


def test_long_texts_are_encoded_piece_by_piece(monkeypatch):
    monkeypatch.setattr(module, "_PIECE_CHARS", 3)
    vocabulary = Vocabulary.from_text("abc")
    assert vocabulary.encode("abcabcab", np.uint8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="number 5 of the text"):
        vocabulary.encode("abcaxbc")


def test_decode_takes_tensors_and_lists():
    vocabulary = Vocabulary("abc")
    assert vocabulary.decode(torch.tensor([[0, 2], [1, 1]])) == "acbb"
    assert vocabulary.decode([2]) == "c"
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [("añb", r"'ñ' \(U\+00F1"), ("a\U0001f600", r"U\+1F600"), ("a\udce9", r"U\+DCE9")],
)
def test_an_unknown_character_is_named(text, name):
    with pytest.raises(UserError, match=name) as error:
        Vocabulary("\nab").encode(text)
    assert "\n" not in str(error.value)
    assert r"'\nab'" in str(error.value)


def test_save_and_load(tmp_path):
    path = tmp_path / "vocabulary.json"
    Vocabulary("\nbé\U0001f600").save(path)
    assert Vocabulary.load(path).symbols == "\nbé\U0001f600"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"symbols": 3}', b'{"symbols": "aa"}', b"\xff\xfe"]
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"vocabulary\.json is not a vocabulary") as error:
        Vocabulary.load(path)
    assert "\n" not in str(error.value)


def test_an_absent_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the vocabulary .*No such file"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("é", "'é'"),
        ("\\", "'\\'"),
        ("\n", "'\\n'"),
        ("'", '"\'"'),
        ("\ud800", "'\\ud800'"),
        ("☃", "'☃'"),
    ],
)
def test_a_text_in_a_message_is_shown_as_it_is(text, seen):
    assert shown(text) == seen

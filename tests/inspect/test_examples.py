"""What a model is given to read, and how people see it."""

import pytest
import torch

from mambalab.inspect import examples
from mambalab.tokenization.tokenizer import FileTokenizer
from tests.tokenization.kinds import KINDS


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "word-piece", "llama"])
def test_words_are_shown_with_the_blank_before_them(tmp_path, kind):
    KINDS[kind]().save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    given = examples.of_text("the king is", "as given", tokenizer, torch.device("cpu"))
    assert given.sequence.labels == ["the", " king", " is"]
    logits = torch.eye(tokenizer.vocab_size)[[2, 3, 1]][None]
    given.answer(logits, given.sequence)
    assert given.sequence.guesses == ["", " king", " is"]


def test_a_piece_is_as_long_as_the_model_knows_in_tokens(tmp_path):
    KINDS["byte-level"]().save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    text = "\u043c\u0438\u0440 the king " * 40  # letters of two bytes
    for most in (1, 7, 100):
        piece = examples._fitting(text, tokenizer, most)
        assert text.startswith(piece)
        assert len(tokenizer.encode(piece)) <= most
        assert len(tokenizer.encode(text[: 2 * len(piece) + 2])) > most / 2
    assert examples._fitting("the king", tokenizer, 100) == "the king"

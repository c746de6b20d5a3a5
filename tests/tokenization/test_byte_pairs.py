import json

import numpy as np
import pytest

from mambalab.errors import UserError
from mambalab.generation.text_stream import Writer
from mambalab.tokenization import byte_pairs
from mambalab.tokenization.tokenizer import FileTokenizer, load_from_run

TEXT = "".join(f"the quick brown fox, {n} times, thé lazy dög\n" for n in range(100))
ANY = "日本 🙂 \x00\r\n\u200b ñ"  # nothing of it learnt


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mambalab" / "tokenizers"


@pytest.mark.parametrize("name", ["bytes", "bpe:290", "bpe:257"])
@pytest.mark.parametrize("end", [None, "\x03"])
def test_every_text_has_tokens_and_comes_back(name, end):
    tokenizer = byte_pairs.make(name, [TEXT], end)
    assert tokenizer.vocab_size == byte_pairs.size(name) + (name == "bytes" and end is not None)
    for text in (TEXT, ANY, "", "\x03a"):
        ids = tokenizer.read(text, np.int64).tolist()
        assert tokenizer.decode(ids) == text
        assert sum(map(tokenizer.bytes_of, ids)) == len(text.encode())
    if end is not None:
        assert tokenizer.eos_ids == tuple(tokenizer.encode(end))
    else:
        assert tokenizer.eos_id is None


def test_a_byte_is_its_own_token():
    tokenizer = byte_pairs.make("bytes", [])
    assert tokenizer.encode(ANY) == list(ANY.encode())
    assert tokenizer.by_byte
    assert not byte_pairs.make("bpe:290", [TEXT]).by_byte


def test_pairs_make_texts_shorter_and_words_keep_apart():
    tokenizer = byte_pairs.make("bpe:290", [TEXT])
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT.encode())
    assert tokenizer.decode(tokenizer.encode(" quick")[:1]).startswith(" ")


def test_they_are_learnt_once_from_the_same_texts(cache, monkeypatch, caplog):
    caplog.set_level("INFO", "mambalab")
    first = byte_pairs.make("bpe:290", [TEXT])
    (kept,) = cache.glob("*.json")
    content = kept.read_bytes()
    kept.unlink()
    assert byte_pairs.make("bpe:290", [TEXT]).content == first.content
    assert kept.read_bytes() == content  # the same to the last bit
    monkeypatch.setattr(byte_pairs, "_learn", None)
    assert byte_pairs.make("bpe:290", [TEXT]).sha256() == first.sha256()
    assert "the tokens bpe:290 of this text are in" in caplog.text
    for name, texts in (("bpe:291", [TEXT]), ("bpe:290", [TEXT[1:]]), ("bpe:290", [TEXT, ""])):
        with pytest.raises(TypeError):  # others are learnt
            byte_pairs.make(name, texts)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_copy_is_made_again(cache, damage):
    first = byte_pairs.make("bpe:290", [TEXT])
    (kept,) = cache.glob("*.json")
    kept.write_bytes(damage)
    assert byte_pairs.make("bpe:290", [TEXT]).content == first.content
    assert json.loads(kept.read_text()) == first.content


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache, caplog):
    caplog.set_level("INFO", "mambalab")
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in its place")
    assert byte_pairs.make("bpe:290", [TEXT]).vocab_size == 290
    assert "the tokens are not kept there" in caplog.text


def test_a_short_text_has_fewer_tokens_which_is_said(caplog):
    assert byte_pairs.make("bpe:5000", ["abab abab"]).vocab_size < 300
    assert "has no more than" in caplog.text


@pytest.mark.parametrize("name", ["bpe:256", "bpe:", "bpe:x", "bpe:0300", "bpe:1e9", "bpe:-1"])
def test_what_is_no_size_is_refused(name):
    with pytest.raises(UserError, match=rf"task\.tokenizer={name}: write bpe:N .* above 256"):
        byte_pairs.make(name, [TEXT])


@pytest.mark.parametrize("end", [None, "\x03"])
def test_a_run_keeps_them(tmp_path, end):
    made = byte_pairs.make("bpe:290", [TEXT], end)
    for name, content in made.assets().items():
        (tmp_path / name).write_text(content)
    loaded = load_from_run(tmp_path)
    assert isinstance(loaded, FileTokenizer)
    assert loaded.sha256() == made.sha256()
    assert loaded.eos_ids == made.eos_ids
    assert loaded.encode(ANY) == made.encode(ANY)


def test_no_half_characters_are_shown():
    tokenizer = byte_pairs.make("bytes", [])
    writer = Writer(tokenizer)
    shown = [writer.add(token) for token in tokenizer.encode(ANY)]
    assert "".join(shown) == ANY
    assert all("\ufffd" not in piece for piece in shown)

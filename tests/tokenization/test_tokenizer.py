"""Tokenizers: found by name, read a text, kept with the run; a text task that uses one."""

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn

from mambalab.errors import UserError
from mambalab.pretrained.tokens import characters
from mambalab.tasks.text import TextTask
from mambalab.tokenization import tokenizer as tokenizers
from mambalab.tokenization.tokenizer import Characters, FileTokenizer, find, load_from_run, place
from mambalab.tokenization.vocabulary import Vocabulary
from mambalab.utils.renamed import current
from tests.pretrained.test_tokens import bpe
from tests.tokenization.kinds import KINDS

TEXT = "The quick brown fox jumps over the lazy dog.\nNa\u00efve \u2603 the fox.\n" * 20


class Uniform(nn.Module):
    """Every token equally likely: log(V) nats a token."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens):
        return torch.zeros(*tokens.shape, self.vocab_size)


@pytest.fixture
def make(settings, tmp_path):
    """A function from a tokenizer's name and a text to a prepared TextTask."""

    def build(name, text=TEXT, **changes) -> TextTask:
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        chosen = settings(path=str(path), tokenizer=name, **changes)
        task = TextTask(chosen, seed=0, data_dir=tmp_path, data_fraction=1.0)
        task.prepare()
        return task

    return build


@pytest.fixture
def pairs(tmp_path):
    """The path of a small tokenizer of byte pairs."""
    bpe(tmp_path / "pairs/tokenizer.json")
    return tmp_path / "pairs/tokenizer.json"


def words(path):
    """Writes a tokenizer of whole words."""
    made = Tokenizer(models.WordLevel({"the": 0, "fox": 1, "[UNK]": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    made.save(str(path))


def test_each_split_is_tokens_of_its_own_text(make, pairs):
    task = make(str(pairs))
    tokenizer = FileTokenizer(pairs)
    cut = len(TEXT) - int(0.25 * len(TEXT))
    assert task._data["val"].tolist() == tokenizer.encode(TEXT[cut:])
    assert task._data["train"].tolist() == tokenizer.encode(TEXT[:cut])
    assert task.spec.vocab_size == tokenizer.vocab_size
    inputs, targets = task.batch(3)
    assert inputs.shape == targets.shape == (4, 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert task.loss_unit == "nats per token"


@pytest.mark.parametrize("split", ["train", "val", "train_sample"])
def test_bits_per_character_count_the_characters_of_the_predicted_tokens(make, pairs, split):
    task = make(str(pairs))
    tokens = task._data[split].tolist()
    characters = len(task.tokenizer.decode(tokens[1:]))
    nats = math.log(task.spec.vocab_size)
    metrics = task.evaluate(Uniform(task.spec.vocab_size), split)
    assert metrics[f"{split}/loss"] == pytest.approx(nats, rel=1e-6)
    bits = nats * (len(tokens) - 1) / characters / math.log(2)
    assert metrics[f"{split}/bits_per_char"] == pytest.approx(bits, rel=1e-6)
    assert len(tokens) < characters


def test_single_characters_are_the_same_either_way(make, tmp_path):
    symbols = "".join(sorted(set(TEXT)))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(characters(symbols)))
    ours, theirs = make("char"), make(str(path))
    assert isinstance(ours.tokenizer, Characters)
    assert FileTokenizer(path).by_character
    for split in ours.splits:
        assert ours._data[split].tolist() == theirs._data[split].tolist()
    assert theirs.loss_unit == ours.loss_unit == "nats per character"
    assert theirs.fingerprint() == ours.fingerprint()
    model = Uniform(len(symbols))
    assert theirs.evaluate(model, "val") == ours.evaluate(model, "val")
    with pytest.raises(UserError, match=r"character '@' \(U\+0040, number 5 of the text\) is not"):
        make(str(path), text="The @" * 80)


def test_the_record_names_the_tokenizer(make, pairs):
    first = make(str(pairs)).fingerprint()
    assert first["tokenizer"] == FileTokenizer(pairs).sha256()
    laid_out = json.dumps(json.loads(pairs.read_text()), indent=3)
    pairs.write_text(laid_out)
    assert make(str(pairs)).fingerprint() == first
    bpe(pairs, rows=280)
    again = make(str(pairs)).fingerprint()
    assert again["tokenizer"] != first["tokenizer"]
    assert again["sha256"] == first["sha256"]  # of the text
    assert "tokenizer" not in make(None).fingerprint()


def test_unknown_parts_of_a_text_are_announced(make, tmp_path, pairs, caplog):
    path = tmp_path / "words.json"
    words(path)
    assert FileTokenizer(path).unknown() == 2
    assert not FileTokenizer(path).by_character
    with caplog.at_level(logging.WARNING, logger="mambalab"):
        make(str(path), text="the fox the fox " * 40)
        make(str(pairs))
        assert caplog.messages == []
        make(str(path), text="the fox the dog " * 40)
    (line,) = caplog.messages
    assert "words.json knows no token for parts of this text: 10 of the 40 tokens of val" in line


@pytest.mark.parametrize("lost", ["case", "letters", "breaks"])
def test_a_tokenizer_that_loses_text_is_announced(make, tmp_path, caplog, lost):
    path, text = tmp_path / "t.json", "The Fox sees\nthe fox\n" * 40
    bpe(path)
    made = Tokenizer.from_file(str(path))
    if lost == "case":
        made.normalizer = normalizers.Lowercase()
    elif lost == "breaks":
        made.normalizer = normalizers.Replace("\n", " ")
    else:
        made.normalizer = normalizers.Replace("x", "")
    made.save(str(path))
    with caplog.at_level(logging.WARNING, logger="mambalab"):
        make(str(path), text=text)
    (line,) = caplog.messages
    assert "t.json loses parts of this text: case, white space or letters of val" in line
    assert "val/bits_per_char does not compare" in line


def test_a_text_too_short_in_tokens(make, pairs):
    text = "the quick brown fox jumps over the lazy dog\n" * 8
    tokens = len(FileTokenizer(pairs).encode(text[len(text) * 3 // 4 :]))
    message = (
        f"the val split of task text has {tokens} tokens, but task.seq_len={tokens} needs one "
        f"more than that: give a longer text, or task.seq_len={tokens - 1} or less"
    )
    with pytest.raises(UserError) as error:
        make(str(pairs), text=text, seq_len=tokens)
    assert str(error.value) == message
    make(str(pairs), text=text, seq_len=tokens - 1)


def test_long_texts_are_read_in_pieces(pairs, monkeypatch):
    tokenizer = FileTokenizer(pairs)
    whole = tokenizer.read(TEXT, np.int16)
    assert whole.dtype == np.int16
    monkeypatch.setattr(tokenizers, "_PIECE_CHARS", 70)
    assert tokenizer.read(TEXT, np.int16).tolist() == whole.tolist()
    assert tokenizer.decode(tokenizer.read("x" * 500, np.int16).tolist()) == "x" * 500
    assert len(tokenizer.read("", np.int16)) == 0


def test_what_a_run_keeps_is_read_again(pairs, tmp_path):
    for made in (FileTokenizer(pairs, eos_id=5), Characters(Vocabulary("\n abc"))):
        folder = tmp_path / type(made).__name__
        folder.mkdir()
        for name, content in made.assets().items():
            (folder / name).write_text(content, encoding="utf-8")
        again = load_from_run(folder)
        assert type(again) is type(made)
        assert again.encode("abc\n") == made.encode("abc\n")
        assert (again.vocab_size, again.eos_id) == (made.vocab_size, made.eos_id)
        assert again.decode([again.start_token()]) == "\n"
    assert load_from_run(tmp_path) is None


def test_where_a_name_leads(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert place(str(pairs), tmp_path) == find(str(pairs), tmp_path) == pairs
    assert place(str(pairs.parent), tmp_path) == find(str(pairs.parent), tmp_path) == pairs
    kept = tmp_path / "tokenizers/owner/name/tokenizer.json"
    assert place("owner/name", tmp_path) == kept
    with pytest.raises(UserError, match=r"task.tokenizer=owner/name: .* HF_HUB_OFFLINE") as error:
        find("owner/name", tmp_path, "task.tokenizer")
    assert str(kept.parent) in str(error.value)
    bpe(kept)
    assert find("owner/name", tmp_path) == kept
    for name, message in (
        ("absent.json", "there is no such file or folder; name a tokenizer.json"),
        (str(tmp_path), "there is no tokenizer.json in"),
    ):
        with pytest.raises(UserError, match=message):
            find(name, tmp_path)


def test_old_names_work_and_name_the_new_ones(tmp_path):
    (tmp_path / tokenizers.VOCABULARY).write_text(Vocabulary("\nab").to_json())
    with pytest.warns(DeprecationWarning, match="of_run is called load_from_run now"):
        found = tokenizers.of_run(tmp_path)
    with pytest.warns(DeprecationWarning, match=r"Characters\.opening is called start_token now"):
        assert found.opening() == found.start_token() == 0
    bpe(tmp_path / "t.json")
    with pytest.warns(DeprecationWarning, match=r"FileTokenizer\.opening is called"):
        assert FileTokenizer(tmp_path / "t.json").opening() >= 0


class Plain:
    """A tokenizer written for the first version."""

    vocab_size = 3

    def opening(self):
        return 2


class Passing:
    """One that passes everything on to another."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def started(tokenizer) -> int:
    with pytest.warns(DeprecationWarning, match=r"opening is called start_token now"):
        return current(tokenizer, "start_token", "opening")()


def test_a_tokenizer_of_ones_own_with_the_old_name_is_asked_by_it(tmp_path, monkeypatch):
    assert started(Plain()) == started(Passing(Plain())) == 2
    assert started(SimpleNamespace(opening=lambda: 1)) == 1
    with pytest.raises(AttributeError, match="start_token"):
        current(object(), "start_token", "opening")
    bpe(tmp_path / "t.json")
    for base, argument in ((Characters, Vocabulary("\nab")), (FileTokenizer, tmp_path / "t.json")):
        with pytest.warns(DeprecationWarning, match=r"Own\.opening is called start_token now"):
            own = type("Own", (base,), {"opening": lambda self: 7})(argument)
        assert own.start_token() == current(own, "start_token", "opening")() == 7
        extra = type("Extra", (), {"opening": lambda self: 8})
        with pytest.warns(DeprecationWarning, match=r"Extra\.opening is called start_token now"):
            mixed = type("Mixed", (extra, base), {})(argument)
        assert mixed.start_token() == 8
        late = type("Late", (base,), {})(argument)
        given = late.start_token()
        assert current(late, "start_token", "opening")() == given
        type(late).opening = lambda self: 5
        assert started(late) == 5
        late.opening = lambda: 6
        assert started(late) == 6


def test_the_new_line_a_text_begins_with(tmp_path):
    """Also where the tokenizer puts a blank before it."""
    KINDS["llama"]().save(str(tmp_path / "tokenizer.json"))
    found = FileTokenizer(tmp_path / "tokenizer.json")
    assert found.decode([found.start_token()]) == "\n"


def around(path, template, tokens):
    """Let a tokenizer put tokens around every text."""
    made = Tokenizer.from_file(str(path))
    made.add_special_tokens(list(tokens))
    pairs = [(token, made.token_to_id(token)) for token in tokens]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    made.save(str(path))
    return made


@pytest.mark.parametrize("template", ["$A </s>", "<s> $A </s>", "<s> $A", "$A"])
def test_a_prompt_is_read_as_what_was_learnt(pairs, template):
    made = around(pairs, template, ["<s>", "</s>"])
    text = "the fox"
    learnt = FileTokenizer(pairs).read(text, np.int64).tolist()
    assert FileTokenizer(pairs).encode(text) == learnt
    opening = [made.token_to_id("<s>")] * template.startswith("<s>")
    opened = FileTokenizer(pairs, opened=True)  # as published checkpoints are prompted
    assert opened.encode(text) == [*opening, *learnt]
    assert opened.read(text, np.int64).tolist() == learnt

"""Tokenizers of checkpoints: which one is taken, what it reads, and the one that export writes."""

import json

import pytest

from mambalab.data import hub
from mambalab.errors import UserError
from mambalab.pretrained import tokens
from mambalab.pretrained.tokens import characters
from mambalab.tokenization import ends
from mambalab.tokenization.tokenizer import END, NEOX, Characters, FileTokenizer, load_from_run
from mambalab.tokenization.vocabulary import Vocabulary

SYMBOLS = "".join(sorted(set("\n\r\t '!.?abcdeXYZé☃😀一\u0301\u200b</s>[]{}")))
TEXT = "  a b\r\n\n\t 'ab' X ! . é☃😀e\u0301 \u200b [a] </s> {c}?\n "


def bpe(path, rows=300, end=END):
    """A small byte-level tokenizer such as gpt-neox-20b's, with its end token; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=rows, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.enable_truncation(4)
    made.save(str(path))
    return made.get_vocab_size()


@pytest.fixture
def written(tmp_path):
    content, beside = tokens.written(Characters(Vocabulary(SYMBOLS)))
    assert content == characters(SYMBOLS)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    return tmp_path


def test_characters_go_there_and_back(written):
    tokenizer = FileTokenizer(written / "tokenizer.json")
    ids = tokenizer.encode(TEXT)
    assert ids == [SYMBOLS.index(character) for character in TEXT]
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (len(SYMBOLS), None)
    for text, name in (("abq", "'q' (U+0071, number 3"), ("a\ud800", "(U+D800, number 2")):
        with pytest.raises(UserError, match="is not among the") as error:
            tokenizer.encode(text)
        assert name in str(error.value)


def test_transformers_reads_the_same_characters(written):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    (written / "config.json").write_text(json.dumps(config))
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == [SYMBOLS.index(character) for character in TEXT]
    assert tokenizer.decode(ids) == TEXT
    assert len(tokenizer) == len(SYMBOLS)
    with pytest.raises(Exception, match="UNK"):
        tokenizer("q")
    tokenizer.save_pretrained(written / "again")
    again = transformers.AutoTokenizer.from_pretrained(written / "again")
    assert again.decode(again(TEXT)["input_ids"]) == TEXT


def test_byte_pairs(tmp_path):
    path = tmp_path / "tokenizer.json"
    size = bpe(path)
    tokenizer = FileTokenizer(path)
    text = "the fox, naïve ☃ <|endoftext|>"
    assert len(tokenizer.encode(text)) > 4  # the file's truncation is not for prompts
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == size
    assert tokenizer.eos_id == 0
    assert FileTokenizer(path, eos_id=7).eos_id == 7
    assert FileTokenizer(path, eos_id=size).eos_id is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "the"}}))
    assert tokenizer.decode([FileTokenizer(path, eos_id=7).eos_id]) == "the"


def test_which_tokenizer_is_taken(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mambalab")
    folder, data = tmp_path / "model", tmp_path / "data"
    folder.mkdir()
    named = bpe(tmp_path / "named" / "tokenizer.json", rows=290)
    neox = bpe(data / "tokenizers/gpt-neox-20b/tokenizer.json", rows=280)
    monkeypatch.setattr(hub, "preflight", pytest.fail)

    def size(name=None, rows=50280):
        return tokens.choose(name, folder, data, rows=rows, eos_id=None).vocab_size

    assert size() == size(NEOX, 300) == neox
    assert f"{folder} has no tokenizer.json: taking that of {NEOX}, {data}" in caplog.text
    with pytest.raises(UserError, match=r"has no tokenizer\.json: name one with tokenizer=FILE"):
        size(rows=300)
    beside = bpe(folder / "tokenizer.json", rows=270)
    assert size() == size(rows=300) == beside
    assert size(str(tmp_path / "named")) == named
    assert size(str(tmp_path / "named" / "tokenizer.json")) == named
    assert len({named, neox, beside}) == 3
    with pytest.raises(UserError, match=f"has {beside} tokens, the model in .* has 100 rows"):
        size(rows=100)
    with pytest.raises(UserError, match=r"there is no tokenizer\.json in"):
        size(str(tmp_path))
    with pytest.raises(UserError, match="there is no such file or folder"):
        size("./absent")
    for absent in ("none.json", "made/none.json"):
        with pytest.raises(UserError, match=f"{absent}: there is no such file or folder"):
            size(absent)
    (tmp_path / "notes.txt").write_text("Remember the milk.")
    with pytest.raises(UserError, match=r"notes\.txt is no tokenizer\.json: "):
        size(str(tmp_path / "notes.txt"))


def test_a_regular_expression_that_takes_too_long(tmp_path):
    content = characters("a!")
    content["pre_tokenizer"]["pattern"]["Regex"] = "(a+)+$"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json cannot tokenize this: .*retry-limit"):
        FileTokenizer(tmp_path / "tokenizer.json").encode("a" * 5000 + "!")


@pytest.mark.parametrize("content", ["{}", '{"model": 3}', "[]", "{", ""])
def test_files_that_are_no_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is (no tokenizer|damaged): ") as error:
        FileTokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


def test_several_end_tokens_stay_with_what_is_written(tmp_path):
    bpe(tmp_path / "tokenizer.json")
    made = FileTokenizer(tmp_path / "tokenizer.json", ends=(5, 0, 9, 5, 999, -1))
    assert (made.eos_id, made.eos_ids) == (5, (5, 0, 9))
    (tmp_path / "run").mkdir()
    for name, text in made.assets().items():
        (tmp_path / "run" / name).write_text(text)
    assert load_from_run(tmp_path / "run").eos_ids == made.eos_ids


@pytest.mark.parametrize("named", ["</s>", [0, "</s>"], True, 0.5, {"id": 0}])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_end_tokens_that_are_no_numbers(tmp_path, named, file):
    with pytest.raises(UserError, match=rf"{file}: eos_token_id=.*: must be the number of a token"):
        ends.numbers(named, tmp_path / file)


def test_an_end_token_that_the_tokenizer_lacks_is_named(tmp_path, caplog):
    size = bpe(tmp_path / "tokenizer.json")
    options = {"rows": size, "eos_id": None, "ends": (size + 7,)}
    assert tokens.choose(None, tmp_path, tmp_path, **options).eos_ids == ()
    assert f"eos_token_id {size + 7} would end a text there, but" in caplog.text


@pytest.mark.parametrize(
    "file", ["tokenizer.model", "vocab.json", "vocab.txt", "spm.model", "qwen.tiktoken"]
)
def test_a_tokenizer_of_another_kind_is_named(tmp_path, monkeypatch, file):
    """Rather than another tokenizer taken in its place."""
    folder, data = tmp_path / "model", tmp_path / "data"
    folder.mkdir()
    neox = bpe(data / "tokenizers/gpt-neox-20b/tokenizer.json")
    monkeypatch.setattr(hub, "preflight", pytest.fail)
    (folder / file).touch()
    for rows in (300, 65_024):
        with pytest.raises(UserError, match=rf"has {file} and no tokenizer\.json.*tokenizer=FILE"):
            tokens.choose(None, folder, data, rows=rows, eos_id=None)
    assert tokens.choose(NEOX, folder, data, rows=300, eos_id=None).vocab_size == neox
    beside = bpe(folder / "tokenizer.json", rows=270)
    assert tokens.choose(None, folder, data, rows=300, eos_id=None).vocab_size == beside


def test_what_the_library_says_of_a_strangers_file_prints(tmp_path):
    content = characters("ab")
    content["decoder"] = {"type": "\x1b[2J"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no tokenizer") as error:
        FileTokenizer(tmp_path / "tokenizer.json")
    assert str(error.value).isprintable()

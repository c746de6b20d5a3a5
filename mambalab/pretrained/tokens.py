"""The tokenizer of a checkpoint: which one it is, and what export writes."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.pretrained.weights import absence
from mambalab.tokenization.ends import KEY, listed
from mambalab.tokenization.tokenizer import FILE, NEOX, Characters, FileTokenizer, Tokenizer, find

LOG = logging.getLogger("mambalab")
# SentencePiece; vocabularies of byte pairs (with merges.txt) and of WordPiece; tiktoken.
_FOREIGN = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
_FOREIGN_ENDINGS = ("spm.model", "spiece.model", "bpe.model", ".tiktoken", "tokenizer.vocab")
_NEOX_ROWS = 50277  # tokens of gpt-neox-20b: fewer rows are not meant for them


class NoTokenizerError(UserError):
    """A checkpoint comes without a tokenizer that is read, and nobody named one."""


def choose(
    named: str | None,
    folder: Path,
    data_dir: Path,
    *,
    rows: int,
    eos_id: int | None,
    ends: Sequence[int] = (),
    key: str = "tokenizer",
) -> FileTokenizer:
    """Choose and load the tokenizer of a checkpoint.

    Args:
        named: by the user: a file, a folder, owner/name on the hub; None to look in `folder`, and
            then for that of gpt-neox-20b if the model has as many rows.
        folder: of the checkpoint.
        data_dir: folder of the data sets.
        rows: of the model's embedding.
        eos_id: the token that ends a text if no file names one.
        ends: tokens that end a text, as its config says; those that generation_config.json beside
            it names take their place.
        key: the setting that `named` is the value of, for messages.

    Raises:
        NoTokenizerError: nobody named one, and the folder has none, or one of another kind.
        UserError: none is found, or one of a kind that is not read; it cannot be fetched, or has
            more tokens than the model.
    """
    if named is None and (folder / FILE).is_file():
        path = folder / FILE
    elif named is None and (folder / FILE).is_symlink():
        raise UserError(f"{absence(folder / FILE)}, or name one with {key}=FILE")
    elif named is not None:
        path = find(named, data_dir, key)
    elif there := foreign(path.name for path in folder.iterdir()):
        raise NoTokenizerError(
            f"{folder} has {there} and no {FILE}, the only kind that is read: let transformers "
            "make one of it (AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)), or "
            f"name one with {key}=FILE"
        )
    elif rows < _NEOX_ROWS:
        raise NoTokenizerError(
            f"{folder} has no {FILE}: name one with {key}=FILE (or owner/name on the hub)"
        )
    else:
        path = find(NEOX, data_dir, key)
        LOG.info("%s has no %s: taking that of %s, %s", folder, FILE, NEOX, path)
    ends = listed(folder) or ends
    found = FileTokenizer(path, eos_id, ends, opened=True)
    if found.vocab_size > rows:
        raise UserError(
            f"{path} has {found.vocab_size:,} tokens, the model in {folder} has {rows:,} rows for "
            "them: the tokenizer of another model"
        )
    if strange := [end for end in ends if end not in found.eos_ids]:
        LOG.warning(
            "%s: %s %s would end a text there, but %s has %s tokens: it never comes",
            folder,
            KEY,
            strange[0],
            path,
            f"{found.vocab_size:,}",
        )
    return found


def foreign(names: Iterable[str]) -> str | None:
    """The first file among `names` that holds a tokenizer of a kind that is not read, or None."""
    there = {name for name in names if "/" not in name}
    usual = (name for name in _FOREIGN if name in there)
    others = (name for name in sorted(there) if name.endswith(_FOREIGN_ENDINGS))
    return next(usual, None) or next(others, None)


def written(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a tokenizer as the contents of tokenizer.json and tokenizer_config.json."""
    if isinstance(tokenizer, Characters):
        end = tokenizer.vocabulary.end
        config = _CONFIG if end is None else {**_CONFIG, "eos_token": end}
        return characters(tokenizer.vocabulary.symbols), config
    assert isinstance(tokenizer, FileTokenizer), "there is no third kind"
    end = tokenizer.end()
    return tokenizer.content, _CONFIG if end is None else {**_CONFIG, "eos_token": end}


def characters(symbols: str) -> dict[str, Any]:
    """Make a tokenizer.json with one token for each of `symbols`, in their order.

    It has no token for anything else: the library then refuses the text.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: index for index, symbol in enumerate(symbols)},
            "unk_token": "<none>",  # longer than a character: never in the vocabulary
        },
    }


# What transformers' AutoTokenizer reads beside a tokenizer.json.
_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}

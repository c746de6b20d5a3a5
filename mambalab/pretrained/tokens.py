"""Tokenizers in the format of the library `tokenizers`: read, chosen, and written."""

import json
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.pretrained import fetch
from mambalab.pretrained.weights import read_json

END = "<|endoftext|>"
_NEOX_ROWS = 50277  # tokens of gpt-neox-20b: fewer rows are not meant for them


class FileTokenizer:
    """A tokenizer.json.

    Args:
        path: of the file.
        eos_id: the token that ends a text if the files beside it name none.

    Attributes:
        vocab_size: 1 + the largest id.
        eos_id: the token that ends a text, or None.

    Raises:
        UserError: no such file, or it is none of the library's.
    """

    def __init__(self, path: Path, eos_id: int | None = None) -> None:
        from tokenizers import Tokenizer

        content = read_json(path)
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path} is no tokenizer: {_line(error)}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.eos_id = self._named_end(path.with_name(fetch.TOKENIZER_CONFIG))
        if self.eos_id is None:
            self.eos_id = self._tokenizer.token_to_id(END) if eos_id is None else eos_id
        if self.eos_id is not None and self.eos_id >= self.vocab_size:
            self.eos_id = None

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer puts around every text.

        Raises:
            UserError: a character that it has no token for.
        """
        try:
            return self._tokenizer.encode(text).ids
        except Exception as error:  # as above
            raise UserError(self._unknown(text) or f"cannot tokenize: {_line(error)}") from None

    def decode(self, ids: list[int]) -> str:
        """The text of some tokens, special ones included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _named_end(self, path: Path) -> int | None:
        if not path.is_file():
            return None
        named: Any = read_json(path).get("eos_token")
        token = named.get("content") if isinstance(named, dict) else named
        return self._tokenizer.token_to_id(token) if isinstance(token, str) else None

    def _unknown(self, text: str) -> str | None:
        for at, character in enumerate(text):
            try:
                self._tokenizer.encode(character)
            except Exception:
                return (
                    f"character {character!a} (U+{ord(character):04X}, number {at + 1} of the "
                    f"text) is not among the {self.vocab_size} tokens of this model"
                )
        return None


def choose(
    named: str | None, folder: Path, data_dir: Path, *, rows: int, eos_id: int | None
) -> FileTokenizer:
    """The tokenizer of a checkpoint.

    Args:
        named: by the user: a file, a folder, owner/name on the hub; None to look in `folder`, and
            then for that of gpt-neox-20b if the model has as many rows.
        folder: of the checkpoint.
        data_dir: folder of the data sets.
        rows: of the model's embedding.
        eos_id: as its config says.

    Raises:
        UserError: none is found, it cannot be fetched, or it has more tokens than the model.
    """
    if named is None and (folder / fetch.TOKENIZER).is_file():
        path = folder / fetch.TOKENIZER
    elif named is None and rows < _NEOX_ROWS:
        raise UserError(
            f"{folder} has no {fetch.TOKENIZER}: name one with tokenizer=FILE (or owner/name on "
            "the hub)"
        )
    else:
        path = fetch.tokenizer(named or fetch.NEOX, data_dir)
    found = FileTokenizer(path, eos_id)
    if found.vocab_size > rows:
        raise UserError(
            f"{path} has {found.vocab_size:,} tokens, the model in {folder} has {rows:,} rows for "
            "them: the tokenizer of another model"
        )
    return found


def characters(symbols: str) -> dict[str, Any]:
    """A tokenizer.json with one token for each of `symbols`, in their order.

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


TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
}
"""The tokenizer_config.json beside `characters`: what transformers' AutoTokenizer reads."""


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "").rstrip(". ") or type(error).__name__

"""Byte-level tokenizers made here: `bytes`, and `bpe:N`, whose byte pairs are learnt from a text.

Every text has tokens, whatever its characters: what is not learnt is spelt in bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.tokenization.tokenizer import FileTokenizer, byte_symbols, pieces
from mambalab.utils import files
from mambalab.utils.locks import locked_folder
from mambalab.utils.private import cache_folder
from mambalab.utils.reading import read_bytes

LOG = logging.getLogger("mambalab")
BYTES = "bytes"
"""Value of task.tokenizer: every byte is a token."""

_NAMED = re.compile(r"bpe:([1-9][0-9]{0,8})")
_ALPHABET = 256  # bytes, each of them a token
_MIN_COUNT = 2  # times that a pair must occur to become a token
_VERSION = 1  # of what `learn` makes of a text; raise it when that changes


def is_made(name: str | None) -> bool:
    """Whether a value of task.tokenizer names a tokenizer that is made here: bytes or bpe:N."""
    return name == BYTES or (name is not None and name.startswith("bpe:"))


def size(name: str) -> int:
    """The tokens that a value of task.tokenizer asks for: 256 of `bytes`, N of `bpe:N`.

    Raises:
        UserError: N is no number, or too small for the bytes and a pair.
    """
    if name == BYTES:
        return _ALPHABET
    match = _NAMED.fullmatch(name)
    if match is None or int(match[1]) <= _ALPHABET:
        raise UserError(
            f"task.tokenizer={name}: write bpe:N with the number of tokens, above {_ALPHABET} "
            "(that many are the bytes), as in bpe:2048; or bytes"
        )
    return int(match[1])


def make(name: str, texts: Iterable[str], end: str | None = None) -> FileTokenizer:
    """Make the tokenizer that a value of task.tokenizer asks for.

    Byte pairs are learnt once from the same texts: the result is kept in the user's cache, below
    `mambalab/tokenizers`, and found there by the sha256 of the texts.

    Args:
        name: bytes, or bpe:N.
        texts: to learn byte pairs from; gone through twice. Those that train, no others.
        end: a character that ends a document: a token of its own, one of the N, and one more than
            the bytes.

    Raises:
        UserError: N is no number, or too small.
    """
    wanted = size(name)
    if wanted == _ALPHABET:
        return _tokenizer(_untrained(end), Path(BYTES), end)
    digest = hashlib.sha256(f"{_VERSION} {wanted} {end!r}\n".encode())
    for text in texts:
        for piece in pieces(text):
            digest.update(piece.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    file = f"bpe-{wanted}-{digest.hexdigest()[:32]}.json"
    home = cache_folder("tokenizers")
    try:
        with locked_folder(home, f"learning the tokens {name}"):
            if (kept := _read(home / file)) is not None:
                LOG.info("the tokens %s of this text are in %s", name, home / file)
                return _tokenizer(kept, home / file, end)
            content = _learn(name, wanted, texts, end)
            files.write_text(home / file, json.dumps(content) + "\n", durable=True)
    except OSError as error:
        LOG.info("%s cannot be written (%s): the tokens are not kept there", home, error.strerror)
        content = _learn(name, wanted, texts, end)
    return _tokenizer(content, home / file, end)


def _tokenizer(content: dict[str, Any], path: Path, end: str | None) -> FileTokenizer:
    return FileTokenizer(path, content=content, eos=end)


def _read(path: Path) -> dict[str, Any] | None:
    """A tokenizer that was kept; None if there is none, or a damaged one."""
    try:
        content = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("model") else None


def _learn(name: str, wanted: int, texts: Iterable[str], end: str | None) -> dict[str, Any]:
    """Learn byte pairs, the most frequent first, and say how many if the text has too few."""
    from tokenizers import trainers

    begun = time.monotonic()
    LOG.info("learning the tokens %s from the training text", name)
    tokenizer = _empty()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        min_frequency=_MIN_COUNT,
        initial_alphabet=sorted(byte_symbols()),
        show_progress=False,
        special_tokens=[] if end is None else [_end_token(end)],
    )
    tokenizer.train_from_iterator(_all_pieces(texts, end), trainer)
    content = json.loads(tokenizer.to_str())
    learnt = len(content["model"]["vocab"])
    LOG.info("learnt them in %.1f s", time.monotonic() - begun)
    if learnt < wanted:
        LOG.warning(
            "task.tokenizer=%s: the training text has no more than %s different bytes and pairs "
            "that occur twice; the vocabulary is as small",
            name,
            f"{learnt:,}",
        )
    return content


def _all_pieces(texts: Iterable[str], end: str | None) -> Iterator[str]:
    for text in texts:
        for document in text.split(end) if end is not None else [text]:
            yield from pieces(document)


def _untrained(end: str | None) -> dict[str, Any]:
    """A tokenizer without pairs: token n is byte n."""
    from tokenizers import models

    by_byte = {symbol: number for number, symbol in enumerate(byte_symbols())}
    tokenizer = _empty()
    tokenizer.model = models.BPE(vocab=by_byte, merges=[])
    if end is not None:
        tokenizer.add_special_tokens([_end_token(end)])
    return json.loads(tokenizer.to_str())


def _empty() -> Any:
    """A tokenizer of the library that knows no token yet: bytes, words apart as GPT-2 has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _end_token(end: str) -> Any:
    from tokenizers import AddedToken

    return AddedToken(end, special=True, normalized=False)

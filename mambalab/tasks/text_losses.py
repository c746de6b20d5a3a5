"""What a tokenizer loses of a text, by which a loss per character becomes too small."""

import logging
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from mambalab.data.text_sources import END
from mambalab.tokenization.tokenizer import FileTokenizer, Tokenizer

LOG = logging.getLogger("mambalab")
PIECE_CHARACTERS = 20_000  # of a split, that are looked at
REPORTED = ("val", "test")


def warn(tokenizer: Tokenizer, texts: Mapping[str, str], tokens: Mapping[str, Tensor]) -> None:
    """Say so if `bits_per_char` of a split does not compare with that of other tokenizers.

    Args:
        tokenizer: of the task.
        texts: of the splits.
        tokens: of the splits, (n,).
    """
    if not isinstance(tokenizer, FileTokenizer):
        return
    unknown = tokenizer.unknown()
    for split in REPORTED:
        if split not in tokens:
            continue
        count = 0 if unknown is None else int((tokens[split] == unknown).sum())
        if count:
            LOG.warning(
                "%s knows no token for parts of this text: %s of the %s tokens of %s stand for "
                "anything unknown, so %s/bits_per_char does not compare with other tokenizers",
                tokenizer.path,
                f"{count:,}",
                f"{len(tokens[split]):,}",
                split,
                split,
            )
        elif _loses(tokenizer, texts[split][:PIECE_CHARACTERS]):
            LOG.warning(
                "%s loses parts of this text: case, white space or letters of %s do not come back "
                "from its tokens, so %s/bits_per_char does not compare with other tokenizers",
                tokenizer.path,
                split,
                split,
            )


def _loses(tokenizer: FileTokenizer, text: str) -> bool:
    """Whether the tokens of a text spell another one; white space at its ends aside."""
    text = text.replace(END, tokenizer.end() or "")  # no character of the text's
    return tokenizer.decode(tokenizer.read(text, np.int64).tolist()).strip() != text.strip()

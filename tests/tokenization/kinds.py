"""Small tokenizers of every kind with the same words: </s>, the, king, is."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

WORDS = ["</s>", "the", "king", "is", "?"]
_BLANK = "\u2581"  # Metaspace's mark of a blank


def byte_level() -> Tokenizer:
    """Byte-level BPE, whose tokens have the blank before them."""
    words = ["</s>", "the", "Ġking", "Ġis", "?"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def metaspace() -> Tokenizer:
    """Unigram with Metaspace, which leaves out the blank at the beginning of a text."""
    words = [("</s>", 0.0), *((_BLANK + word, -1.0) for word in WORDS[1:4]), ("?", -9.0)]
    made = Tokenizer(models.Unigram(words, unk_id=4))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def word_piece() -> Tokenizer:
    """WordPiece, whose decoder puts a blank before every word but the first."""
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    return made


def word_level() -> Tokenizer:
    """Whole words without a decoder: joined with blanks."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def llama() -> Tokenizer:
    """BPE as LLaMA's: Metaspace by a normalizer, unknown characters as bytes."""
    words = ["</s>", *(_BLANK + word for word in WORDS[1:4]), "?"]
    pieces = {w: i for i, w in enumerate(words)}
    for text in [_BLANK, *sorted(set("theking is".replace(" ", ""))), "th", "ki", "kin", "king"]:
        pieces.setdefault(text, len(pieces))
    merges = [("t", "h"), ("th", "e"), (_BLANK, "the")]
    merges += [("k", "i"), ("ki", "n"), ("kin", "g"), (_BLANK, "king"), ("i", "s"), (_BLANK, "is")]
    for left, right in merges:
        pieces.setdefault(left + right, len(pieces))
    for byte in range(256):
        pieces[f"<0x{byte:02X}>"] = len(pieces)
    made = Tokenizer(models.BPE(pieces, merges, byte_fallback=True, unk_token="?"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(_BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


def word_ends() -> Tokenizer:
    """Words that carry their end, as the first BPE: the last one's text depends on what follows."""
    words = ["</s>", *(word + "</w>" for word in WORDS[1:4]), "?"]
    made = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="?"))
    made.decoder = decoders.BPEDecoder("</w>")
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "metaspace": metaspace,
    "word-piece": word_piece,
    "word-level": word_level,
    "llama": llama,
    "word-ends": word_ends,
}

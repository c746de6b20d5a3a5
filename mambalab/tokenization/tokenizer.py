"""What turns a text into tokens and back: single characters, or a tokenizer.json."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mambalab.data import hub
from mambalab.errors import UserError, first_line, shown
from mambalab.tokenization import ends as ends_of_text
from mambalab.tokenization.ends import CONFIG, GENERATION, SPECIAL_TOKENS
from mambalab.tokenization.vocabulary import NoTokenError, Vocabulary
from mambalab.utils.renamed import alias, keep_old_names

CHARACTERS = "char"  # task.tokenizer: every character is a token
VOCABULARY = "vocabulary.json"
FILE = "tokenizer.json"
NEOX = "EleutherAI/gpt-neox-20b"  # whose tokens the original Mamba models were trained on
END = "<|endoftext|>"
_PIECE_CHARS = 1 << 20  # characters tokenized at a time: bounds the memory of the library
_OLD_METHODS = {"opening": "start_token"}


class Tokenizer(Protocol):
    """Text to tokens and back.

    Attributes:
        vocab_size: tokens that stand for something; a model may have more outputs, as padding.
        eos_id: the first token that ends a text, or None.
        eos_ids: all of them.
    """

    vocab_size: int
    eos_id: int | None
    eos_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Tokenize a prompt; raises UserError for what it cannot express."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Join tokens to their text."""
        ...

    def read(self, text: str, dtype: type[np.generic]) -> np.ndarray:
        """Tokenize a text to learn from, (n,), nothing added; raises UserError as `encode`."""
        ...

    def bytes_of(self, token: int) -> int:
        """How many bytes of UTF-8 a token stands for, as the first of a text."""
        ...

    def start_token(self) -> int:
        """The token that a generated text begins with: a new line, if there is one."""
        ...

    def assets(self) -> dict[str, str]:
        """The files (name -> content) that `load_from_run` reads again."""
        ...


class Characters:
    """A `Tokenizer` with a token for each character of a vocabulary."""

    eos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_old_names(cls, Characters, _OLD_METHODS)

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        if vocabulary.end is not None:
            self.eos_id = vocabulary.symbols.index(vocabulary.end)
            self.eos_ids = (self.eos_id,)

    def bytes_of(self, token: int) -> int:
        """How many bytes of UTF-8 the character of a token has."""
        return len(self.decode([token]).encode("utf-8", "surrogatepass"))

    def encode(self, text: str) -> list[int]:
        """Tokenize a prompt, one token a character."""
        return self.vocabulary.encode(text).tolist()

    def decode(self, ids: list[int]) -> str:
        """Join tokens to their text, one character a token."""
        return self.vocabulary.decode(ids)

    def read(self, text: str, dtype: type[np.generic]) -> np.ndarray:
        """Tokenize a text to learn from, one token a character: (len(text),)."""
        return self.vocabulary.encode(text, dtype)

    def start_token(self) -> int:
        """The new line, if the text had any; else the first token."""
        return max(0, self.vocabulary.symbols.find("\n"))

    def assets(self) -> dict[str, str]:
        """The vocabulary (`Vocabulary.load` reads it)."""
        return {VOCABULARY: self.vocabulary.to_json()}


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Raise RuntimeError where the library panics, which is no Exception: for a wild regex, say."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as panic:
        raise RuntimeError(first_line(panic)) from panic


class FileTokenizer:
    """A tokenizer.json in the format of the library `tokenizers`.

    Args:
        path: of the file.
        eos_id: the token that ends a text if the files beside it and `ends` name none.
        ends: tokens that end a text, besides those that the files beside it name.
        content: of the file, if it is known; nothing is read then, nor beside it.
        eos: the token that ends a text, by its name, with `content`.
        opened: whether prompts begin with what the tokenizer puts before every text: as published
            checkpoints learnt them. Texts to learn from have nothing around them.

    Attributes:
        path: as given.
        content: of the file.
        vocab_size: 1 + the largest id.
        eos_id: the first token that ends a text, or None.
        eos_ids: all of them.
        by_character: whether its tokens are single characters, one for each of a text.
        by_byte: whether its tokens are single bytes of UTF-8.

    Raises:
        UserError: no such file, or it is none of the library's.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_old_names(cls, FileTokenizer, _OLD_METHODS)

    def __init__(
        self,
        path: Path,
        eos_id: int | None = None,
        ends: Sequence[int] = (),
        *,
        content: dict[str, Any] | None = None,
        eos: str | None = None,
        opened: bool = False,
    ) -> None:
        from tokenizers import Tokenizer

        self.path, self.opened = path, opened
        if content is None:
            self.content = hub.read_json(path, None if path.name == FILE else FILE)
        else:
            self.content = content
        try:
            with _panics_as_errors():
                self._tokenizer = Tokenizer.from_str(json.dumps(self.content))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path} is no tokenizer: {first_line(error)}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if not (tokens := self.tokens()):
            raise UserError(f"{path} is no tokenizer: it has no tokens")
        self.vocab_size = 1 + max(tokens.values())
        model = self.content.get("model") or {}
        words = model.get("type") == "WordLevel"
        self.by_character = words and all(len(token) == 1 for token in tokens)
        if content is None:
            self.eos_ids = self._ends([*ends_of_text.listed(path.parent), *ends], eos_id)
        else:
            self.eos_ids = () if eos is None else (tokens[eos],)
        self.eos_id = self.eos_ids[0] if self.eos_ids else None
        added = [one.get("content") for one in self.content.get("added_tokens") or ()]
        spaced = (self.content.get("pre_tokenizer") or {}).get("add_prefix_space") is not False
        bare = not (spaced or self.content.get("normalizer") or model.get("merges"))
        alone = added in ([], [self.end()]) and set(byte_symbols()) <= tokens.keys()
        self.by_byte = self._has_bytes() and bare and alone

    def tokens(self) -> dict[str, int]:
        """Every token as the file spells it, and its number."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def unknown(self) -> int | None:
        """The token that stands for whatever has none of its own; None if there is none."""
        model = self.content.get("model") or {}
        if model.get("type") == "Unigram":
            return model.get("unk_id")
        name = model.get("unk_token")
        return self._tokenizer.token_to_id(name) if isinstance(name, str) else None

    def sha256(self) -> str:
        """SHA-256 of the file's content, whatever its layout."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    def end(self) -> str | None:
        """The token that ends a text as the file spells it, or None."""
        return None if self.eos_id is None else self._tokenizer.id_to_token(self.eos_id)

    def bytes_of(self, token: int) -> int:
        """How many bytes of UTF-8 a token stands for, as the first of a text: a part of a character
        perhaps, if the vocabulary is one of bytes."""
        special = {added["id"] for added in self.content.get("added_tokens") or ()}
        if self._has_bytes() and token not in special:
            return len(self._tokenizer.id_to_token(token) or "")
        return len(self.decode([token]).encode("utf-8", "surrogatepass"))

    def encode(self, text: str) -> list[int]:
        """Tokenize a prompt, as a text to learn from, or with what opens it (`opened`).

        What a tokenizer puts behind every text is left out: the prompt is to go on.

        Raises:
            UserError: a character that it has no token for.
        """
        plain = self._encode(text, text, False)
        if not self.opened:
            return plain
        whole = self._encode(text, text, True)
        n = len(plain)
        at = next((i for i in range(len(whole) - n + 1) if whole[i : i + n] == plain), None)
        return plain if at is None else [*whole[:at], *plain]

    def decode(self, ids: list[int]) -> str:
        """Join tokens to their text, special ones included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def read(self, text: str, dtype: type[np.generic]) -> np.ndarray:
        """Tokenize a text to learn from, (n,), cut after the last line end of each piece of about a
        million characters; raises UserError as `encode`."""
        if self.by_byte:
            return self._read_bytes(text, dtype)
        parts = [np.array(self._encode(p, text, False), dtype=dtype) for p in pieces(text)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)

    def start_token(self) -> int:
        """The new line, else the token that ends a text, else the first token."""
        try:
            with _panics_as_errors():
                ids = self._tokenizer.encode("\n", add_special_tokens=False).ids
            return next((i for i in ids if self.decode([i]) == "\n"), ids[0])
        except Exception:  # also a tokenizer that drops blanks (IndexError)
            return self.eos_id or 0

    def assets(self) -> dict[str, str]:
        """The file, and beside it the token that ends a text, or all of several."""
        files = {FILE: json.dumps(self.content) + "\n"}
        if (end := self.end()) is not None:
            files[CONFIG] = json.dumps({"eos_token": end}) + "\n"
        if len(self.eos_ids) > 1:
            files[GENERATION] = json.dumps({ends_of_text.KEY: list(self.eos_ids)}) + "\n"
        return files

    def _read_bytes(self, text: str, dtype: type[np.generic]) -> np.ndarray:
        """Tokenize as `read`, a byte each, at the speed of a table; `end` is a token of its own."""
        known = self.tokens()
        table = np.array([known[symbol] for symbol in byte_symbols()], dtype=dtype)
        end = self.end()
        parts = []
        for number, document in enumerate(text.split(end) if end is not None else [text]):
            if number:
                parts.append(np.array(self.eos_ids[:1], dtype=dtype))
            content = document.encode("utf-8", "surrogatepass")
            parts.append(table[np.frombuffer(content, dtype=np.uint8)])
        return np.concatenate(parts)

    def _has_bytes(self) -> bool:
        """Whether tokens are spelt in bytes, a visible character for each (GPT-2's)."""
        return (self.content.get("decoder") or {}).get("type") == "ByteLevel"

    def _encode(self, piece: str, text: str, around: bool) -> list[int]:
        try:
            with _panics_as_errors():
                return self._tokenizer.encode(piece, add_special_tokens=around).ids
        except Exception as error:
            if unknown := self._unknown(text):
                raise NoTokenError(unknown) from None
            raise UserError(f"{self.path} cannot tokenize this: {first_line(error)}") from None

    def _ends(self, numbers: list[int], otherwise: int | None) -> tuple[int, ...]:
        """The tokens that end a text, the one with a name first; numbers of no token left out."""
        name = ends_of_text.named(self.path.parent)
        first = None if name is None else self._tokenizer.token_to_id(name)
        found = [*([] if first is None else [first]), *numbers]
        if not found:
            usual = self._tokenizer.token_to_id(END) if otherwise is None else otherwise
            found = [] if usual is None else [usual]
        return tuple(i for i in dict.fromkeys(found) if 0 <= i < self.vocab_size)

    def _unknown(self, text: str) -> str | None:
        """Describe the first character that has no token; None if all have one."""
        for character in dict.fromkeys(text):
            try:
                with _panics_as_errors():
                    self._tokenizer.encode(character)
            except Exception:
                return (
                    f"character {shown(character)} (U+{ord(character):04X}, number "
                    f"{text.index(character) + 1} of the text) is not among the "
                    f"{self.vocab_size} tokens of this model"
                )
        return None


def load_from_run(folder: Path) -> Tokenizer | None:
    """Load the tokenizer whose `assets` are in a run folder; None if there are none.

    Raises:
        UserError: they are damaged.
    """
    if (folder / VOCABULARY).exists():
        return Characters(Vocabulary.load(folder / VOCABULARY))
    return FileTokenizer(folder / FILE) if (folder / FILE).exists() else None


of_run = alias(load_from_run, "of_run", "load_from_run")
for _class in (Characters, FileTokenizer):
    keep_old_names(_class, _class, _OLD_METHODS)


def place(name: str, data_dir: Path) -> Path:
    """The path of the tokenizer.json that a name stands for, there or not; nothing is fetched.

    One below `data_dir` comes before the cache of Hugging Face's libraries, and is where a
    tokenizer goes that is in neither.
    """
    path = place_outside_cache(name, data_dir)
    if path.is_file() or Path(name).expanduser().is_dir() or not hub.is_repository(name):
        return path
    cached = (folder / FILE for folder in hub.snapshots(name))
    return next(filter(Path.is_file, cached), path)


def place_outside_cache(name: str, data_dir: Path) -> Path:
    """The path of the tokenizer.json that a name stands for, there or not: the user's own, or the
    one below `data_dir`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path / FILE
    if path.is_file() or not hub.is_repository(name):
        return path
    below = name.partition("/")[2] if name == NEOX else name
    return (data_dir / "tokenizers" / below).absolute() / FILE


def find(name: str, data_dir: Path, key: str = "tokenizer") -> Path:
    """Find or fetch the tokenizer.json that a name stands for; returns its path.

    Args:
        name: a file, a folder that has it, or owner/name on the hub, which is looked for in
            `data_dir`/tokenizers and in the hub's cache first, and else fetched to the former.
        data_dir: folder of the data sets.
        key: the setting that `name` is the value of, for messages.

    Raises:
        UserError: no such file or folder, or it cannot be fetched: with the reason and what to put
            where.
    """
    path = place(name, data_dir)
    if path.is_file():
        return path
    folder, named = path.parent, Path(name).expanduser()
    if not named.exists() and (named.suffix == ".json" or not hub.is_repository(name)):
        raise UserError(
            f"{key}={name}: there is no such file or folder; name a {FILE}, a folder that has it, "
            "or owner/name on the hub"
        )
    if not named.is_dir():
        with hub.explain_failure(key, name, FILE, folder):
            listing = hub.list_files(name)
            for beside in (CONFIG, SPECIAL_TOKENS):
                if beside in listing.files and FILE in listing.files:
                    listing.fetch(beside, folder / beside)
            listing.fetch(FILE, path)
    if not path.is_file():
        raise UserError(f"{key}={name}: there is no {FILE} in {folder}")
    return path


def pieces(text: str) -> Iterator[str]:
    """Cut a text after the last line end of each piece of about a million characters."""
    start = 0
    while start < len(text):
        stop = start + _PIECE_CHARS
        if stop < len(text):
            stop = text.rfind("\n", start, stop) + 1 or stop
        yield text[start:stop]
        start = stop


def byte_symbols() -> list[str]:
    """The visible character that stands for each byte in a byte-level vocabulary (GPT-2's)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in visible)
    symbols = {byte: chr(byte) for byte in visible}
    symbols |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]

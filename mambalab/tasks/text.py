"""Language modelling of a text: `task=text` (any text) and `task=shakespeare`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.data import text_hub
from mambalab.data.catalog import CATALOG
from mambalab.data.text_files import read_text
from mambalab.data.text_sources import END
from mambalab.errors import UserError
from mambalab.settings.task import TextSettings, Windows
from mambalab.spec import ModelSpec
from mambalab.tasks import text_losses, text_places
from mambalab.tasks.base import Task, evaluating
from mambalab.tasks.sampling import draw, shuffled
from mambalab.tasks.text_cut import MIN_WINDOW_TOKENS, TextCut
from mambalab.tokenization import byte_pairs
from mambalab.tokenization.tokenizer import (
    CHARACTERS,
    Characters,
    FileTokenizer,
    Tokenizer,
    find,
    pieces,
)
from mambalab.tokenization.vocabulary import NoTokenError, Vocabulary
from mambalab.utils.renamed import current

LOG = logging.getLogger("mambalab")
TextBatch = tuple[Tensor, Tensor]


class TextTask(Task):
    """Predict each token of a text, a character unless `tokenizer` says otherwise, from those
    before it.

    *Vocabulary*: the characters of the whole text (both splits), sorted by code point; or the
    tokens of `tokenizer`.

    *Splits*: the first floor(n * (1 - val_fraction)) of n characters train, the rest validates.
    `data_fraction` keeps the first floor(share) of the training part; the validation split and the
    vocabulary stay as they are. `train` is that training part, all of it; `train_sample` its first
    characters, as many as the validation split has, to set beside `val` at the same cost. There is
    no test split. Each split becomes tokens on its own, so that whatever the tokenizer, the same
    text is held out. With `task.tune=true` the validation split is never looked at but for its
    characters' place in the vocabulary: the last tenth of the training part is `val`, and
    `data_fraction` keeps a share of the other nine.

    *Training batch k*: `batch_size` windows of `seq_len` + 1 tokens at offsets drawn uniformly
    and independently (with replacement) by `sampling.draw(seed, k)`. With `task.windows=fixed` they
    begin at multiples of `seq_len` and are gone through in a new order each epoch
    (`sampling.shuffled`); what is left at the end of the text, less than a window, is not seen.

    *Evaluation* cuts a split of n tokens into non-overlapping windows: window i reads tokens
    i * seq_len .. (i+1) * seq_len - 1 and predicts their successors; the last one is as
    long as what remains. So the first token that a window reads was predicted, with a full
    window before it, as the last target of the window before; each of the tokens 1 .. n-1 is
    predicted exactly once, and only token 0, which has nothing before it, is not. Bits per
    character are those of all predicted tokens together, over the characters that these stand for:
    they compare runs with different tokenizers.

    Subclass and override `read` to bring a text from elsewhere.

    Attributes:
        end_tokens: of `tokenizer`, that end a text, besides those that the files beside it name.
    """

    settings: TextSettings
    end_tokens: tuple[int, ...] = ()
    splits = ("train", "val", "train_sample")
    shares = True
    loss_unit = "nats per character"

    def __init__(
        self, settings: TextSettings, *, seed: int, data_dir: Path, data_fraction: float
    ) -> None:
        """Keep the options; reads no file.

        Raises:
            UserError: an option out of range.
        """
        if text_places.may_have_test(settings) and "test" not in self.splits:
            self.splits = (*self.splits[:2], "test", *self.splits[2:])
        super().__init__(settings, seed=seed, data_dir=data_dir, data_fraction=data_fraction)

    def read(self) -> tuple[str, dict[str, str]]:
        """Read the text and its fingerprint; override it for a text of your own.

        Raises:
            UserError: the text cannot be had.
        """
        return text_places.read(self.settings)

    def read_splits(self) -> tuple[dict[str, str], dict[str, str]]:
        """Read the texts of the splits, and their fingerprint.

        Returns:
            `train`, of which the end validates unless there is a text for `val`; perhaps `val` and
            `test`.

        Raises:
            UserError: a text cannot be had.
        """
        if text_hub.is_hub(self.settings.path):
            return text_places.read_hub(self.settings, self.data_dir)
        return text_places.add_own_splits(self.settings, *self.read())

    def has_ends(self) -> bool:
        """Whether the character `END` stands after each document of the texts."""
        return text_places.has_ends(self.settings)

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the text, split it and put it on `device`, one to four bytes a token.

        Raises:
            UserError: the text or its tokenizer cannot be had, or the text is too short for
                windows of seq_len, or has a character for which there is no token.
        """
        texts, self._fingerprint = self.read_splits()
        parts = self._cut(texts)
        self.tunes = True
        self.tokenizer = made = self._make_tokenizer(texts)
        if isinstance(made, FileTokenizer) and not made.by_character:
            self.loss_unit = f"nats per {_unit(made)}"
            self._fingerprint["tokenizer"] = made.sha256()
        self._data: dict[str, Tensor] = {}
        self._characters: dict[str, int] = {}  # that the predicted tokens of a split stand for
        self._bytes: dict[str, int] = {}  # the same in UTF-8; empty if all of them are ASCII
        wide = not all(map(str.isascii, texts.values()))
        dtype = _smallest_dtype(self.tokenizer.vocab_size)
        for split, part in parts.items():
            ids = torch.from_numpy(self._tokens(part, texts.get(split, texts["train"]), dtype))
            self._check_tokens(split, len(ids))
            self._characters[split] = len(part) - len(self.tokenizer.decode(ids[:1].tolist()))
            if wide:
                self._bytes[split] = _utf8_bytes(part) - self.tokenizer.bytes_of(int(ids[0]))
            self._data[split] = ids.to(device)
        text_losses.warn(self.tokenizer, parts, self._data)
        self.spec = ModelSpec(vocab_size=self.tokenizer.vocab_size, seq_len=self.settings.seq_len)

    def _cut(self, texts: dict[str, str]) -> dict[str, str]:
        """The text of each split."""
        text, tuning = texts["train"], self.tuning
        share = 0.0 if "val" in texts else self.settings.val_fraction
        cut = TextCut(self.name, share, self.data_fraction, tuning)
        if self.settings.tokenizer in (None, CHARACTERS) and (tuning or "val" not in texts):
            cut.check_length(len(text), self.settings.seq_len)
        begins, ends = cut.validation_part(len(text))
        self._learnt_from = begins
        train = text[: cut.training_characters(len(text))]
        val = texts["val"] if "val" in texts and not tuning else text[begins:ends]
        parts = {"train": train, "val": val, "train_sample": train[: len(val)]}
        if "test" in self.splits and "test" in texts:
            parts["test"] = texts["test"]
        self.splits = tuple(split for split in self.splits if split in parts)
        return parts

    def _make_tokenizer(self, texts: dict[str, str]) -> Tokenizer:
        """The tokenizer that the settings name; byte pairs are learnt from what trains."""
        name, end = self.settings.tokenizer, END if self.has_ends() else None
        if name in (None, CHARACTERS):
            return Characters(Vocabulary.from_text(*texts.values(), end=end))
        if byte_pairs.is_made(name):
            return byte_pairs.make(name, [texts["train"][: self._learnt_from]], end)
        return FileTokenizer(find(name, self.data_dir, "task.tokenizer"), ends=self.end_tokens)

    @property
    def items_per_batch(self) -> int:
        """Tokens predicted in a training batch."""
        return self.settings.batch_size * self.settings.seq_len

    def describe_data(self) -> str:
        """Describe the data in a line: vocabulary, tokens of each split."""
        splits = [split for split in ("train", "val", "test") if split in self._data]
        sizes = ", ".join(f"{len(self._data[split]):,} {split}" for split in splits)
        tokenizer = self.tokenizer
        return f"{self.name}, vocabulary of {tokenizer.vocab_size:,}; {_unit(tokenizer)}s: {sizes}"

    @property
    def batches_per_epoch(self) -> float:
        """Batches that predict as many tokens as the training split has."""
        return len(self._data["train"]) / self.items_per_batch

    def fingerprint(self) -> dict[str, str]:
        """sha256 of the text file (of the assembled text if there is none) and its origin;
        `tokenizer`, the sha256 of its content, unless a token is a character."""
        return dict(self._fingerprint)

    def assets(self) -> dict[str, str]:
        """The vocabulary or the tokenizer (`tokenizer.load_from_run` reads it)."""
        return self.tokenizer.assets()

    def batch(self, position: int) -> TextBatch:
        """Draw inputs and targets (b, l) int64 of batch `position`; targets are one token ahead."""
        every = self._data["train"].unfold(0, self.settings.seq_len + 1, 1)  # a view, no copy
        count, length = self.settings.batch_size, self.settings.seq_len
        if self.settings.windows is Windows.fixed:
            total = -(-len(every) // length)
            starts = length * shuffled(self.seed, position, count=count, total=total)
        else:
            starts = draw(self.seed, position, count=count, bound=len(every))
        windows = every[torch.from_numpy(starts).to(every.device)].long()
        return windows[:, :-1], windows[:, 1:]

    def split_tokens(self, split: str) -> Tensor:
        """The tokens of a split of the prepared text: (n,) of the smallest integer type."""
        return self._data[split]

    def loss(self, model: nn.Module, batch: TextBatch) -> Tensor:
        """Compute the mean cross-entropy in nats per token: a float32 scalar."""
        inputs, targets = batch
        return _cross_entropy(model(inputs), targets, "mean")

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure `<split>/loss`, mean nats per predicted token, `<split>/bits_per_char`, and, of a
        text that is not all ASCII, `<split>/bits_per_byte`."""
        data = self._data[split]
        total = 0.0
        for inputs, targets in self._windows(data):
            total += float(_cross_entropy(model(inputs), targets, "sum"))
        total = self.summed({"loss": total})["loss"]
        bits = total / math.log(2)
        found = {
            f"{split}/loss": total / (len(data) - 1),
            f"{split}/bits_per_char": bits / self._characters[split],
        }
        if self._bytes:
            found[f"{split}/bits_per_byte"] = bits / self._bytes[split]
        return found

    def evaluate(self, model: nn.Module, split: str, *, stateful: bool = False) -> dict[str, float]:
        """Measure a split; `stateful` adds `<split>/loss_stateful`.

        That is the same mean over the same tokens, but each predicted from all before it: one
        pass over the whole split, the model's state carried across pieces of
        eval_batch_size * seq_len tokens (as many as an evaluation batch has; the length of the
        pieces changes nothing but memory).

        Raises:
            UserError: no such split, or `stateful` asked of a model without `initial_state`.
        """
        results = super().evaluate(model, split)
        if stateful:
            with evaluating(model):
                results[f"{split}/loss_stateful"] = self._stateful_loss(model, split)
        return results

    def _stateful_loss(self, model: nn.Module, split: str) -> float:
        if not hasattr(model, "initial_state"):
            raise UserError(
                f"{split}/loss_stateful needs a model that carries a state (initial_state); "
                f"{type(model).__name__} has none"
            )
        data = self._data[split]
        predicted = len(data) - 1
        state = model.initial_state(1, predicted)  # pyright: ignore[reportCallIssue]
        piece = self.settings.eval_batch_size * self.settings.seq_len
        total = 0.0
        for start in current(self, "eval_batches", "each")(range(0, predicted, piece)):
            window = data[start : start + piece + 1].long()[None]
            logits = model(window[:, :-1], state=state)
            total += float(_cross_entropy(logits, window[:, 1:], "sum"))
        return total / predicted

    def _windows(self, data: Tensor) -> Iterator[TextBatch]:
        """The evaluation windows of a split, eval_batch_size at a time, the ragged last one alone
        (in a row with the others it would need padding)."""
        length = self.settings.seq_len
        full = (len(data) - 1) // length
        inputs = data[: full * length].view(full, length)
        targets = data[1 : full * length + 1].view(full, length)
        for rows in current(self, "eval_batches", "each")(
            range(0, full, self.settings.eval_batch_size)
        ):
            chosen = slice(rows, rows + self.settings.eval_batch_size)
            yield inputs[chosen].long(), targets[chosen].long()
        rest = data[full * length :].long()[None]
        mine = self.shared is None or self.shared.is_first
        if rest.shape[1] > 1 and mine:
            yield rest[:, :-1], rest[:, 1:]

    def _tokens(self, part: str, text: str, dtype: type[np.generic]) -> np.ndarray:
        """The tokens of a part of the text.

        Raises:
            NoTokenError: a character has none; says where in the whole text.
        """
        if self.has_ends() and isinstance(self.tokenizer, FileTokenizer):
            part = part.replace(END, self.tokenizer.end() or END)  # that of the tokenizer's own
        try:
            return self.tokenizer.read(part, dtype)
        except UserError:
            where = self._fingerprint.get("path") or f"the text of task {self.name}"
            try:  # the place in the whole text, for the message
                self.tokenizer.read(text, dtype)
                raise
            except UserError as error:
                raise NoTokenError(
                    f"{where}: {error}; replace it there, or name a tokenizer that has it with "
                    "task.tokenizer=FILE"
                ) from None

    def _check_tokens(self, split: str, tokens: int) -> None:
        """Raise UserError unless a split that has become tokens holds a window and one more."""
        if tokens > self.settings.seq_len or split == "train_sample":
            return
        remedy = "give a longer text"
        if tokens - 1 > MIN_WINDOW_TOKENS:
            remedy += f", or task.seq_len={tokens - 1} or less"
        raise UserError(
            f"the {split} split of task {self.name} has {tokens:,} tokens, but task.seq_len="
            f"{self.settings.seq_len} needs one more than that: {remedy}"
        )


class ShakespeareTask(TextTask):
    """Tiny Shakespeare: 1,115,394 characters, 65 of them distinct.

    With val_fraction=0.1 the splits are nanoGPT's: 1,003,854 characters train and 111,540
    validate. The file is looked for in `data_dir` (see `mambalab data list`) and fetched if it is
    not there; `task.path` names a copy elsewhere. Either must be the published file, byte by byte.
    """

    def read(self) -> tuple[str, dict[str, str]]:
        """The text and its fingerprint.

        Raises:
            UserError: neither here nor to be fetched, or not the published file.
        """
        dataset = CATALOG["shakespeare"]
        if self.settings.path is None:
            (path,) = dataset.require(self.data_dir)
        elif not isinstance(self.settings.path, str):
            raise UserError(
                "task=shakespeare: task.path must name one file; task=text takes several"
            )
        else:
            path = Path(os.path.expanduser(self.settings.path))
        text, sha256 = read_text(path)
        if sha256 != dataset.files[0].sha256:
            raise UserError(
                f"{path} is not tiny Shakespeare (its sha256 is {sha256}, not "
                f"{dataset.files[0].sha256}); for a text of your own use task=text task.path={path}"
            )
        return text, {"sha256": sha256, "path": str(path.absolute())}


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Cross-entropy of logits (b, l, v) and targets (b, l), in float32 whatever autocast did."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


def _smallest_dtype(symbols: int) -> type[np.generic]:
    """The smallest integer type that torch has and that holds ids below `symbols`."""
    if symbols <= 1 << 8:
        return np.uint8
    return np.int16 if symbols <= 1 << 15 else np.int32


def _utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8; what is no character counts as bytes, too."""
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces(text))


def _unit(tokenizer: Tokenizer) -> str:
    """What a token is, in the singular."""
    if not isinstance(tokenizer, FileTokenizer) or tokenizer.by_character:
        return "character"
    return "byte" if tokenizer.by_byte else "token"

"""Language modelling of a text: `task=text` (any text) and `task=shakespeare`."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.data.catalog import CATALOG
from mambalab.data.help_topics import help_topics
from mambalab.data.text_files import read_text
from mambalab.errors import UserError
from mambalab.settings.task import TextSettings, Windows
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Task, evaluating
from mambalab.tasks.sampling import draw, shuffled, tuning_size
from mambalab.tokenization.tokenizer import Characters, FileTokenizer, Tokenizer, find
from mambalab.tokenization.vocabulary import NoTokenError, Vocabulary
from mambalab.utils.renamed import current

LOG = logging.getLogger("mambalab")
TextBatch = tuple[Tensor, Tensor]

_MIN_WINDOW_TOKENS = 8  # tokens in a window that is worth training on
CHARACTERS = "char"  # task.tokenizer: every character is a token


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
    """

    settings: TextSettings
    splits = ("train", "val", "train_sample")
    shares = True
    loss_unit = "nats per character"

    def read(self) -> tuple[str, dict[str, str]]:
        """Read the text and its fingerprint; override it for a text of your own.

        Raises:
            UserError: the text cannot be had.
        """
        if self.settings.path is not None:
            path = Path(os.path.expanduser(self.settings.path))
            text, sha256 = read_text(path)
            return text, {"sha256": sha256, "path": str(path.absolute())}
        text, source = help_topics()
        return text, {"sha256": hashlib.sha256(text.encode()).hexdigest(), "source": source}

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the text, split it and put it on `device`, one to four bytes a token.

        Raises:
            UserError: the text or its tokenizer cannot be had, or the text is too short for
                windows of seq_len, or has a character for which there is no token.
        """
        text, self._fingerprint = self.read()
        begins, ends = self._validation_part(len(text))
        train, val = text[: self._training_characters(len(text))], text[begins:ends]
        self.tunes = True
        self.tokenizer: Tokenizer
        if self.settings.tokenizer in (None, CHARACTERS):
            self._check_length(len(text))
            self.tokenizer = Characters(Vocabulary.from_text(text))
        else:
            path = find(self.settings.tokenizer, self.data_dir, "task.tokenizer")
            self.tokenizer = FileTokenizer(path)
            if not self.tokenizer.by_character:
                self.loss_unit = "nats per token"
                self._fingerprint["tokenizer"] = self.tokenizer.sha256()
        self._data: dict[str, Tensor] = {}
        self._characters: dict[str, int] = {}  # that the predicted tokens of a split stand for
        dtype = _smallest_dtype(self.tokenizer.vocab_size)
        parts = {"train": train, "val": val, "train_sample": train[: len(val)]}
        for split, part in parts.items():
            ids = torch.from_numpy(self._tokens(part, text, dtype))
            self._check_tokens(split, len(ids))
            self._characters[split] = len(part) - len(self.tokenizer.decode(ids[:1].tolist()))
            self._data[split] = ids.to(device)
        self._warn_of_unknown()
        self.spec = ModelSpec(vocab_size=self.tokenizer.vocab_size, seq_len=self.settings.seq_len)

    @property
    def items_per_batch(self) -> int:
        """Tokens predicted in a training batch."""
        return self.settings.batch_size * self.settings.seq_len

    def describe_data(self) -> str:
        """Describe the data in a line: vocabulary, tokens of each split."""
        tokenizer = self.tokenizer
        by_character = not isinstance(tokenizer, FileTokenizer) or tokenizer.by_character
        unit = "characters" if by_character else "tokens"
        sizes = ", ".join(f"{len(self._data[split]):,} {split}" for split in ("train", "val"))
        return f"{self.name}, vocabulary of {tokenizer.vocab_size:,}; {unit}: {sizes}"

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

    def loss(self, model: nn.Module, batch: TextBatch) -> Tensor:
        """Compute the mean cross-entropy in nats per token: a float32 scalar."""
        inputs, targets = batch
        return _cross_entropy(model(inputs), targets, "mean")

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure `<split>/loss`, mean nats per predicted token, and `<split>/bits_per_char`."""
        data = self._data[split]
        total = 0.0
        for inputs, targets in self._windows(data):
            total += float(_cross_entropy(model(inputs), targets, "sum"))
        total = self.summed({"loss": total})["loss"]
        bits = total / self._characters[split] / math.log(2)
        return {f"{split}/loss": total / (len(data) - 1), f"{split}/bits_per_char": bits}

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

    def _validation_part(self, characters: int) -> tuple[int, int]:
        """Where the validation split begins and ends in a text of so many characters."""
        begins = int(characters * (1 - self.settings.val_fraction))
        return (begins - tuning_size(begins), begins) if self.tuning else (begins, characters)

    def _validation_characters(self, characters: int) -> int:
        begins, ends = self._validation_part(characters)
        return ends - begins

    def _training_characters(self, characters: int) -> int:
        return int(self._validation_part(characters)[0] * self.data_fraction)

    def _check_length(self, characters: int) -> None:
        """Raise UserError unless both splits hold a window and the character after it."""
        window = self.settings.seq_len + 1

        def fits(total: int) -> bool:
            return (
                min(self._training_characters(total), self._validation_characters(total)) >= window
            )

        if fits(characters):
            return
        rest = 10**15  # characters of a text in which both splits surely have a window
        share = min(self._training_characters(rest), self._validation_characters(rest)) / rest
        likely = min(math.ceil(window / share), 10**15) if share else 10**15
        needed = bisect_left(range(2 * likely), True, key=fits)
        longest = min(
            self._training_characters(characters), self._validation_characters(characters)
        )
        remedy = self._remedy(characters, window)
        if longest > _MIN_WINDOW_TOKENS:
            remedy += f", or task.seq_len={longest - 1} or less"
        raise UserError(
            f"the text of task {self.name} has {characters:,} characters, but task.seq_len="
            f"{self.settings.seq_len} needs at least {needed:,} for a window in each of training "
            f"and validation (val_fraction={self.settings.val_fraction}, "
            f"data_fraction={self.data_fraction}): {remedy}"
        )

    def _check_tokens(self, split: str, tokens: int) -> None:
        """Raise UserError unless a split that has become tokens holds a window and one more."""
        if tokens > self.settings.seq_len or split == "train_sample":
            return
        remedy = "give a longer text"
        if tokens - 1 > _MIN_WINDOW_TOKENS:
            remedy += f", or task.seq_len={tokens - 1} or less"
        raise UserError(
            f"the {split} split of task {self.name} has {tokens:,} tokens, but task.seq_len="
            f"{self.settings.seq_len} needs one more than that: {remedy}"
        )

    def _warn_of_unknown(self) -> None:
        """Say so if tokens of the validation split stand for what the tokenizer does not know."""
        if not isinstance(self.tokenizer, FileTokenizer):
            return
        if (unknown := self.tokenizer.unknown()) is None:
            return
        count = int((self._data["val"] == unknown).sum())
        if count:
            LOG.warning(
                "%s knows no token for parts of this text: %s of the %s validation tokens stand "
                "for anything unknown, so val/bits_per_char does not compare with other tokenizers",
                self.tokenizer.path,
                f"{count:,}",
                f"{len(self._data['val']):,}",
            )

    def _remedy(self, characters: int, window: int) -> str:
        """What helps most: more of the text if the whole of it would do, else another one."""
        validation = self._validation_characters(characters)
        training = self._validation_part(characters)[0]
        if min(validation, training) < window:
            return "give a longer text"
        share = (1000 * window // training + 1) / 1000
        return f"use data_fraction={min(share, 1.0):g} or more, or a longer text"


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

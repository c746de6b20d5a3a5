"""The two probes of the Mamba paper (arXiv 2312.00752, section 4.1), generated: no data needed."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.spec import ModelSpec
from mambalab.tasks.base import Table, Task
from mambalab.tasks.sampling import draw, uniform
from mambalab.tasks.settings import InductionHeadsSettings, SelectiveCopyingSettings

Sequences = tuple[Tensor, Tensor]
"""Tokens (B, L) int64 and the answers (B, answers) expected at the last steps."""

EVAL_SEED = 7  # evaluations ask every run the same questions
_EVAL_TOKENS = 1 << 17  # in one evaluation batch at most: long sequences come a few at a time


class AnswerTask(Task):
    """Sequences made up on the fly; the model has to answer at their last steps, and only there.

    *Training batch k* is drawn by (seed, k); no sequence comes twice. `val` and `test` are
    sequences of other streams, the same for all seeds. `data_fraction` has no meaning here.

    *Metrics*: `<split>/loss` in nats an answer and `<split>/accuracy` of answers, 0 to 1.

    A subclass writes `sequences` and sets `spec` in `prepare`.
    """

    settings: SelectiveCopyingSettings | InductionHeadsSettings
    splits = ("val", "test")
    metric = "val/accuracy"
    maximize = True

    @abstractmethod
    def sequences(
        self, seed: int, position: int, count: int, length: int, stream: str
    ) -> Sequences:
        """`count` sequences of `length` steps, and their answers."""

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Nothing is read."""
        self.device = torch.device(device)
        length = self.sequences(0, 0, 1, self.settings.seq_len, "shape")[0].shape[1]
        self.spec = ModelSpec(vocab_size=self.settings.vocab_size, seq_len=length)

    def batch(self, position: int) -> Sequences:
        """Batch `position`, on the device."""
        count, length = self.settings.batch_size, self.settings.seq_len
        tokens, answers = self.sequences(self.seed, position, count, length, "batch")
        return tokens.to(self.device), answers.to(self.device)

    def loss(self, model: nn.Module, batch: Sequences) -> Tensor:
        """Mean nats an answer, a float32 scalar."""
        tokens, answers = batch
        return F.cross_entropy(_answering(model, tokens, answers), answers.flatten())

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Loss and accuracy at the training length."""
        loss, accuracy = self.score(model, split, self.settings.seq_len)
        return {f"{split}/loss": loss, f"{split}/accuracy": accuracy}

    def score(self, model: nn.Module, split: str, length: int) -> tuple[float, float]:
        """Mean loss and accuracy over `eval_sequences` sequences of a length."""
        total, right, seen = 0.0, 0, 0
        most = max(1, min(self.settings.eval_batch_size, _EVAL_TOKENS // length))
        for start in range(0, self.settings.eval_sequences, most):
            numbers = range(start, min(start + most, self.settings.eval_sequences))
            # One at a time: the questions do not depend on how many are asked at once.
            pairs = [self.sequences(EVAL_SEED, n, 1, length, f"{split} {length}") for n in numbers]
            tokens, answers = (torch.cat(x).to(self.device) for x in zip(*pairs, strict=True))
            logits, expected = _answering(model, tokens, answers), answers.flatten()
            total += float(F.cross_entropy(logits, expected, reduction="sum"))
            right += int((logits.argmax(-1) == expected).sum())
            seen += len(expected)
        return total / seen, right / seen


class SelectiveCopyingTask(AnswerTask):
    """Copy `copies` tokens, hidden at random among noise, in their order (section 4.1.1).

    Token 0 is noise and the last one the sign to answer; the others are data. The model reads
    `seq_len` steps of noise and data, then `copies` signs, and answers one data token at each.
    """

    settings: SelectiveCopyingSettings

    def sequences(
        self, seed: int, position: int, count: int, length: int, stream: str
    ) -> Sequences:
        """Tokens (count, length + copies) and answers (count, copies)."""
        copies, kinds = self.settings.copies, self.settings.vocab_size
        keys = uniform(seed, position, count=count * length, stream=f"places {stream}")
        places = np.sort(np.argsort(keys.reshape(count, length))[:, :copies])
        total = count * copies
        data = 1 + draw(seed, position, count=total, bound=kinds - 2, stream=f"data {stream}")
        answers = data.reshape(count, copies)
        tokens = np.zeros((count, length + copies), dtype=np.int64)
        np.put_along_axis(tokens, places, answers, axis=1)
        tokens[:, length:] = kinds - 1
        return torch.from_numpy(tokens), torch.from_numpy(answers)


class InductionHeadsTask(AnswerTask):
    """Recall what followed the special token when it comes again (section 4.1.2).

    Token 0 is special: it stands once at a random place of a random sequence, and once more at the
    end; the answer there is the token that followed it the first time.

    The `test` split asks for more than was trained: sequences 2, 4, ... up to `longest` times as
    long as `seq_len`. Its `test/accuracy` is the lowest of all lengths; each length has its own
    `test/accuracy_at/<length>`, and a table shows them.
    """

    settings: InductionHeadsSettings

    def sequences(
        self, seed: int, position: int, count: int, length: int, stream: str
    ) -> Sequences:
        """Tokens (count, length) and answers (count, 1)."""
        kinds = self.settings.vocab_size - 1
        total = count * length
        tokens = 1 + draw(seed, position, count=total, bound=kinds, stream=f"tokens {stream}")
        tokens = tokens.reshape(count, length)
        place = draw(seed, position, count=count, bound=length - 2, stream=f"place {stream}")
        row = np.arange(count)
        tokens[row, place] = 0
        tokens[:, -1] = 0
        answers = tokens[row, place + 1]
        return torch.from_numpy(tokens), torch.from_numpy(answers)[:, None]

    def lengths(self) -> list[int]:
        """Lengths of the test: the training length doubled, and doubled again, up to `longest`."""
        found, times = [], 2
        while times <= self.settings.longest:
            found.append(times * self.settings.seq_len)
            times *= 2
        return found

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """At the training length, or (`test`) at all longer ones."""
        if split != "test":
            return super().measure(model, split)
        scores = {length: self.score(model, split, length) for length in self.lengths()}
        metrics = {f"test/accuracy_at/{length}": right for length, (_, right) in scores.items()}
        metrics["test/loss"] = sum(loss for loss, _ in scores.values()) / len(scores)
        metrics["test/accuracy"] = min(right for _, right in scores.values())
        return metrics

    def measure_in_detail(
        self, model: nn.Module, split: str
    ) -> tuple[dict[str, float], list[Table]]:
        """And, for `test`, accuracy against length."""
        metrics = self.measure(model, split)
        if split != "test":
            return metrics, []
        lengths = [self.settings.seq_len, *self.lengths()]
        first = self.score(model, "val", self.settings.seq_len)[1]
        accuracy = [first] + [metrics[f"test/accuracy_at/{length}"] for length in lengths[1:]]
        table = {"kind": "curve", "title": f"{self.name}: trained at {lengths[0]:,} steps"}
        table |= {"x": lengths, "y": accuracy, "marked": lengths[0]}
        return metrics, [table | {"x_label": "sequence length L (steps)", "y_label": "accuracy"}]


def _answering(model: nn.Module, tokens: Tensor, answers: Tensor) -> Tensor:
    """Logits (B * answers, V) float32 at the steps where answers are expected: the last ones."""
    return model(tokens)[:, -answers.shape[1] :].float().flatten(0, 1)

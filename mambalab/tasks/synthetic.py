"""The two probes of the Mamba paper (arXiv 2312.00752, section 4.1), generated: no data needed."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.settings.task import InductionHeadsSettings, SelectiveCopyingSettings
from mambalab.spec import ModelSpec
from mambalab.tasks.base import Table, Task
from mambalab.tasks.sampling import draw, uniform
from mambalab.utils.renamed import current

Sequences = tuple[Tensor, Tensor]
"""Tokens (b, l) int64 and the answers (b, answers) expected at the last steps."""

EVAL_SEED = 7  # evaluations ask every run the same questions
_MAX_EVAL_BATCH_TOKENS = (
    1 << 15
)  # in one evaluation batch at most: a run can be stopped between two


class AnswerTask(Task):
    """Sequences made up on the fly; the model has to answer at their last steps, and only there.

    *Training batch k* is drawn by (seed, k); no sequence comes twice. `val` and `test` are
    sequences of other streams, the same for all seeds. `data_fraction` has no meaning here. With
    `task.tune=true` `val` is of a stream of its own, and there is no `test`.

    *Metrics*: `<split>/loss` in nats an answer and `<split>/accuracy` of answers, 0 to 1.

    A subclass writes `sequences` and sets `spec` in `prepare`.
    """

    settings: SelectiveCopyingSettings | InductionHeadsSettings
    splits = ("val", "test")
    tunes = True
    shares = True
    metric = "val/accuracy"
    maximize = True

    def describe_data(self) -> str:
        """Describe the data in a line: vocabulary, length, how many sequences are asked."""
        spec, asked = self.spec, f"{self.settings.eval_sequences:,} val"
        kinds = f"vocabulary of {spec.vocab_size:,}, {spec.seq_len:,} steps"
        return f"{self.name}, {kinds}; sequences: new ones in every batch, {asked}"

    @abstractmethod
    def sequences(
        self, seed: int, position: int, count: int, length: int, stream: str
    ) -> Sequences:
        """`count` sequences of `length` steps, and their answers."""

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Set `spec`; no data are read."""
        self.device = torch.device(device)
        length = self.sequences(0, 0, 1, self.settings.seq_len, "shape")[0].shape[1]
        self.spec = ModelSpec(vocab_size=self.settings.vocab_size, seq_len=length)

    def batch(self, position: int) -> Sequences:
        """Generate training batch `position` on the device."""
        count, length = self.settings.batch_size, self.settings.seq_len
        tokens, answers = self.sequences(self.seed, position, count, length, "batch")
        return tokens.to(self.device), answers.to(self.device)

    def loss(self, model: nn.Module, batch: Sequences) -> Tensor:
        """Compute the mean cross-entropy of the answers in nats: a float32 scalar."""
        tokens, answers = batch
        return F.cross_entropy(_answering(model, tokens, answers), answers.flatten())

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure loss and accuracy at the training length."""
        ((loss, accuracy),) = self.score(model, [(split, self.settings.seq_len)])
        return {f"{split}/loss": loss, f"{split}/accuracy": accuracy}

    def score(self, model: nn.Module, asked: list[tuple[str, int]]) -> list[tuple[float, float]]:
        """For each (split, length): mean loss and accuracy over `eval_sequences` sequences."""
        totals = [[0.0, 0, 0] for _ in asked]  # loss, right answers, answers
        for number, numbers in current(self, "eval_batches", "each")(self._batches(asked)):
            split, length = asked[number]
            # One at a time: the questions do not depend on how many are asked at once.
            stream = f"{'tune' if self.tuning else split} {length}"
            pairs = [self.sequences(EVAL_SEED, n, 1, length, stream) for n in numbers]
            tokens, answers = (torch.cat(x).to(self.device) for x in zip(*pairs, strict=True))
            logits, expected = _answering(model, tokens, answers), answers.flatten()
            totals[number][0] += float(F.cross_entropy(logits, expected, reduction="sum"))
            totals[number][1] += int((logits.argmax(-1) == expected).sum())
            totals[number][2] += len(expected)
        found = self.summed({"": np.array(totals, dtype=np.float64)})[""].tolist()
        return [(loss / seen, right / seen) for loss, right, seen in found]

    def _batches(self, asked: list[tuple[str, int]]) -> list[tuple[int, range]]:
        """Index into `asked` and numbers of the sequences of every evaluation batch."""
        found, total = [], self.settings.eval_sequences
        for number, (_, length) in enumerate(asked):
            most = max(1, min(self.settings.eval_batch_size, _MAX_EVAL_BATCH_TOKENS // length))
            starts = range(0, total, most)
            found += [(number, range(start, min(start + most, total))) for start in starts]
        return found


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

    Token 0 is special: it occurs once at a random place of a random sequence, and once more at the
    end; the answer there is the token that followed it the first time.

    The `test` split asks for more than was trained: sequences 2, 4, ... up to `longest` times as
    long as `seq_len`. Its `test/accuracy` is the lowest of all lengths; each length has its own
    `test/accuracy_at/<length>`, and a table shows them.
    """

    settings: InductionHeadsSettings
    shares = True

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
        """Measure at the training length, or (`test`) at all longer ones."""
        if split != "test":
            return super().measure(model, split)
        lengths = self.lengths()
        return _over_lengths(lengths, self.score(model, [("test", length) for length in lengths]))

    def measure_detailed(
        self, model: nn.Module, split: str
    ) -> tuple[dict[str, float], list[Table]]:
        """Measure as `measure` does; for `test` also draw accuracy against length."""
        if split != "test":
            return self.measure(model, split), []
        lengths = [self.settings.seq_len, *self.lengths()]
        asked = [("val", lengths[0]), *(("test", length) for length in lengths[1:])]
        scores = self.score(model, asked)
        metrics = _over_lengths(lengths[1:], scores[1:])
        accuracy = [right for _, right in scores]
        table = {"kind": "curve", "title": f"{self.name}: trained at {lengths[0]:,} steps"}
        table |= {"x": lengths, "y": accuracy, "marked": lengths[0]}
        return metrics, [table | {"x_label": "sequence length L (steps)", "y_label": "accuracy"}]


def _over_lengths(lengths: list[int], scores: list[tuple[float, float]]) -> dict[str, float]:
    """Metrics of a test at several lengths: the least accuracy and the mean loss."""
    accuracies = [right for _, right in scores]
    metrics = {
        f"test/accuracy_at/{length}": right
        for length, right in zip(lengths, accuracies, strict=True)
    }
    metrics["test/loss"] = sum(loss for loss, _ in scores) / len(scores)
    return metrics | {"test/accuracy": min(accuracies)}


def _answering(model: nn.Module, tokens: Tensor, answers: Tensor) -> Tensor:
    """Logits (b * answers, vocab_size) float32 at the last steps, where answers are expected."""
    return model(tokens)[:, -answers.shape[1] :].float().flatten(0, 1)

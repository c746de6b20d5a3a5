"""Base of the tasks that classify sequences: batches, loss and metrics."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.settings.task import ClassificationSettings
from mambalab.tasks.base import Table, Task
from mambalab.tasks.sampling import shuffled
from mambalab.utils.renamed import current
from mambalab.utils.text import printable

LOG = logging.getLogger("mambalab")
CLASSES = "classes.json"  # file of a run folder: {"classes": [names in order]}
_MAX_ABSENT_NAMED = 10  # classes that a warning names
_MAX_NAME_CHARS = 80  # characters of a class's name in a metric's

Inputs = tuple[Tensor, Tensor | None]
"""What a classifier is called with: the sequences, and where each ends (None = none is padded)."""


class ClassificationTask(Task):
    """One class for each example; accuracy chooses the checkpoints.

    *Training batch k*: `batch_size` examples of the training split, which is gone through in a
    new order each round (`sampling.shuffled`).

    *Metrics*: `<split>/loss` (mean cross-entropy in nats, without label smoothing) and
    `<split>/accuracy` (share of all examples, 0 to 1), over the whole split. In detail, also
    `<split>/accuracy_of/<class>` and a confusion table.

    A subclass sets `spec`, `classes` and `labels` in `prepare` and writes `inputs`.

    Attributes:
        classes: their names; an example's label is an index into them.
        labels: for each split its labels, (n,) int64 on the device.
        words: what each token is to people, if that is neither a byte of text nor a number.
    """

    settings: ClassificationSettings
    splits = ("train", "val", "test", "train_sample")
    metric = "val/accuracy"
    maximize = True
    shares = True
    classes: Sequence[str]
    labels: dict[str, Tensor]
    words: Sequence[str] | None = None
    unit = "examples"

    @abstractmethod
    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """Sequences of some rows of a split.

        Args:
            split: one of `splits`.
            rows: which examples, int64.
            position: number of the training batch, which addresses the random numbers of
                augmentation; None in an evaluation: nothing random happens.
        """

    @property
    def units_per_batch(self) -> int:
        """Examples in a training batch."""
        return self.settings.batch_size

    def describe_data(self) -> str:
        """Describe the data in a line: classes, examples of each split."""
        splits = [split for split in self.splits if split != "train_sample"]
        sizes = ", ".join(f"{len(self.labels[split]):,} {split}" for split in splits)
        return f"{self.name}, {len(self.classes):,} classes; {self.unit}: {sizes}"

    @property
    def batches_per_epoch(self) -> float:
        """Batches that hold as many examples as the training split."""
        return len(self.labels["train"]) / self.settings.batch_size

    def assets(self) -> dict[str, str]:
        """The names of the classes, so that the model can say them without the data."""
        if not hasattr(self, "classes"):  # a task of one's own that measures by itself
            return {}
        return {CLASSES: json.dumps({"classes": list(map(str, self.classes))}, indent=1) + "\n"}

    def rows(self, position: int) -> np.ndarray:
        """Rows of the training split in batch `position`."""
        total = len(self.labels["train"])
        return shuffled(self.seed, position, count=self.settings.batch_size, total=total)

    def batch(self, position: int) -> tuple[Inputs, Tensor]:
        """Build batch `position`: inputs, and labels (b,) int64."""
        rows = self.rows(position)
        labels = self.labels["train"]
        return self.inputs("train", rows, position), labels[_index(rows, labels)]

    def loss(self, model: nn.Module, batch: tuple[Inputs, Tensor]) -> Tensor:
        """Compute the mean cross-entropy in nats, with label smoothing: a float32 scalar."""
        (sequences, lengths), labels = batch
        logits = model(sequences, lengths).float()
        smoothing = getattr(
            self.settings, "label_smoothing", 0.0
        )  # a task of one's own may lack it
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def warn_of_absent_classes(self, split: str, what: str) -> None:
        """Warn of classes without any example in a split.

        Args:
            split: one of `splits`.
            what: an example is, in the singular.
        """
        counts = torch.bincount(self.labels[split], minlength=len(self.classes)).tolist()
        absent = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if not absent:
            return
        shown = ", ".join(map(printable, absent[:_MAX_ABSENT_NAMED]))
        if len(absent) > _MAX_ABSENT_NAMED:
            shown += f" and {len(absent) - _MAX_ABSENT_NAMED:,} more"
        means = "cannot be learnt" if split == "train" else "are not measured there"
        LOG.warning("task %s: no %s of %s in %s: they %s", self.name, what, shown, split, means)

    def batch_metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float | Tensor]:
        """Compute further metrics of one batch of a split; a subclass overrides this.

        Args:
            logits: (b, classes) float32.
            labels: (b,) int64.

        Returns:
            Means over the b examples by name, e.g. `accuracy_top3`; over the split they are
            recorded as `val/accuracy_top3` and `test/accuracy_top3`.
        """
        return {}

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure loss, accuracy and what `batch_metrics` adds over a split."""
        return self._measure(model, split)[0]

    def measure_detailed(
        self, model: nn.Module, split: str
    ) -> tuple[dict[str, float], list[Table]]:
        """Measure loss, accuracy and accuracy of each class, and make the confusion table."""
        metrics, counts = self._measure(model, split)
        names = metric_names(self.classes)
        for name, row, right in zip(names, counts, counts.diagonal(), strict=True):
            if row.sum():
                metrics[f"{split}/accuracy_of/{name}"] = float(right / row.sum())
        table = {"kind": "confusion", "title": f"{self.name}, {split} split"}
        return metrics, [table | {"classes": list(self.classes), "counts": counts.tolist()}]

    def _measure(self, model: nn.Module, split: str) -> tuple[dict[str, float], np.ndarray]:
        """Measure loss, accuracy, and counts (classes, classes) of true by predicted class."""
        labels = self.labels[split]
        total, n = 0.0, len(self.classes)
        sums: dict[str, float] = {}
        counts = torch.zeros(n * n, dtype=torch.int64, device=labels.device)
        for start in current(self, "eval_batches", "each")(
            range(0, len(labels), self.settings.eval_batch_size)
        ):
            rows = np.arange(start, min(start + self.settings.eval_batch_size, len(labels)))
            true = labels[start : start + len(rows)]
            logits = model(*self.inputs(split, rows, None)).float()
            total += float(F.cross_entropy(logits, true, reduction="sum"))
            counts += torch.bincount(true * n + logits.argmax(-1), minlength=n * n)
            for name, mean in self.batch_metrics(logits, true).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(rows)
        sums = self.summed({"": total, **sums})
        total = sums.pop("")
        table = self.summed({"": counts.cpu().numpy()})[""].reshape(n, n)
        right = float(table.diagonal().sum() / len(labels))
        more = {f"{split}/{name}": value / len(labels) for name, value in sums.items()}
        return {f"{split}/loss": total / len(labels), f"{split}/accuracy": right, **more}, table


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(like.device)


def metric_names(classes: Sequence[str]) -> list[str]:
    """Make classes' names parts of metrics' names: what is no letter, digit, `_`, `-` or `.`
    becomes `_`, what is long is cut; where that makes two the same, all get their number."""
    names = ["".join(c if c.isalnum() or c in "_-." else "_" for c in text) for text in classes]
    names = [name[:_MAX_NAME_CHARS] if name.strip(".") else "_" for name in names]
    if len(set(names)) == len(names):
        return names
    return [f"{number}_{name}" for number, name in enumerate(names)]

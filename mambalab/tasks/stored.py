"""What tasks share whose texts are in a store: `task=pairs`, `retrieval`, `classify`, `listops`."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from mambalab.data.pair_rows import rewrite_command
from mambalab.data.pair_store import PairStore
from mambalab.errors import UserError
from mambalab.settings.task import ClassificationSettings, ClassifySettings, PairSettings
from mambalab.spec import ModelSpec
from mambalab.tasks.classification import ClassificationTask, Inputs
from mambalab.tasks.sampling import tuning_size
from mambalab.utils.text import alike, short

LOG = logging.getLogger("mambalab")
_MAX_QUOTED_SHARE = 0.05  # rows with fields in quotation marks, of all; more are no accident
_MAX_CLASSES_NAMED = 10  # classes that are named at the start
_MAX_LABEL_CHARS = 40  # characters of a label in a message
_MAX_SINGLE_LABELS = 10  # labels that occur once; more of them are hardly labels


class StoredTextTask(ClassificationTask):
    """Classify texts, or pairs of them, that a store holds (`pair_store`).

    A text is read as bytes (UTF-8), cut after `task.max_bytes`; byte 0 is padding. A subclass
    writes `read`, which sets `_fingerprint`, too; one whose bytes are no UTF-8 overrides `shape`.

    Attributes:
        example: what a row is, in the singular.
        label_place: where labels are, as the end of a message.
        labels_elsewhere: what to do if the column of labels holds none.
    """

    settings: ClassificationSettings
    example = "text"
    label_place = ""
    labels_elsewhere = "name the column of labels with task.label=COLUMN"
    _fingerprint: dict[str, str]

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Convert the file if need be, split its rows, and put the labels on `device`.

        Raises:
            UserError: the data cannot be had, or do not fit the settings.
        """
        parts = self.read()
        train, rows = parts["train"]
        parts["train_sample"] = train, rows[: len(parts["val"][1])]
        self._parts = parts
        self.labels = {
            name: torch.from_numpy(self.labels_of(store)[rows].astype(np.int64)).to(device)
            for name, (store, rows) in parts.items()
        }
        self.classes = train.classes
        self._tell_classes(train.source)
        self.spec = self.shape(train)

    def shape(self, store: PairStore) -> ModelSpec:
        """Say what the task asks of a model: a vocabulary of bytes, `max_bytes` steps."""
        assert isinstance(self.settings, PairSettings | ClassifySettings)
        steps = self.settings.max_bytes
        return ModelSpec(256, steps, classes=len(store.classes), pair=store.texts == 2)

    @abstractmethod
    def read(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        """For `train`, `val` and `test`: a store, and which of its rows, (n,) int64.

        Raises:
            UserError: the file cannot be had, or is too small for the splits.
        """

    def _tuning_part(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What of the training pairs `task.tune=true` holds out (else nothing), and the others."""
        self.tunes = True
        held_out = tuning_size(len(rows)) if self.tuning else 0
        return rows[:held_out], rows[held_out:]

    def fingerprint(self) -> dict[str, str]:
        """sha256 of texts (as cut), labels and classes; origin, rows, and rows left out."""
        return dict(self._fingerprint)

    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """The texts of some rows.

        Returns:
            (b, l) int64 bytes on the device, (b, 2, l) of pairs, l the longest of these texts, 0
            after the ends of the others; lengths (b,) or (b, 2) int64, or None if all are equal.
        """
        store, chosen = self._parts[split]
        texts, lengths = store.documents(chosen[rows])
        if store.texts == 1:
            texts, lengths = texts[:, 0], lengths[:, 0]
        device = self.labels[split].device
        tokens = torch.from_numpy(texts).to(device).long()  # a byte each on the way to the device
        if lengths.min() == texts.shape[-1]:
            return tokens, None
        return tokens, torch.from_numpy(lengths).to(device)

    @property
    def items_per_batch(self) -> int:
        """Bytes in a training batch, both texts of a pair, if none is shorter than `max_bytes`."""
        each = self._parts["train"][0].texts
        return self.settings.batch_size * each * self.spec.seq_len

    def _tell_classes(self, source: Path) -> None:
        """Log the classes with how often each occurs, and warn of what is odd about them."""
        splits = [split for split in ("train", "val", "test") if split in self.splits]
        counts = sum(
            torch.bincount(self.labels[split], minlength=len(self.classes)) for split in splits
        )
        assert isinstance(counts, torch.Tensor)
        shown = [
            f"{short(name, _MAX_LABEL_CHARS)}: {count:,}"
            for name, count in zip(self.classes, counts.tolist(), strict=True)
        ]
        if len(shown) > _MAX_CLASSES_NAMED:
            shown[_MAX_CLASSES_NAMED:] = ["..."]
        LOG.info(
            "%s: %s classes (%s); %ss: %s",
            source,
            f"{len(self.classes):,}",
            ", ".join(shown),
            self.example,
            ", ".join(f"{len(self.labels[split]):,} {split}" for split in splits),
        )
        times = Counter(map(_meaning, self.classes))
        if twins := [repr(name) for name in self.classes if times[_meaning(name)] > 1]:
            LOG.warning(
                "%s: labels with nearly the same name are classes of their own: %s",
                source,
                ", ".join(twins[:_MAX_CLASSES_NAMED]),
            )
        for split in splits:
            self.warn_of_absent_classes(split, self.example)

    def _warn_of_quotes(self, store: PairStore) -> None:
        if store.quoted > _MAX_QUOTED_SHARE * store.lines:
            LOG.warning(
                "%s: %s of %s rows have fields in quotation marks, which are taken as part of "
                "labels and texts; if they were meant to be taken off: %s",
                store.source,
                f"{store.quoted:,}",
                f"{store.lines:,}",
                rewrite_command(store.source),
            )

    def labels_of(self, store: PairStore) -> np.ndarray:
        """Numbers (n,) of the classes of a store's rows, by the classes that train."""
        return store.labels

    def _check_classes(self, store: PairStore) -> None:
        """Refuse a single class; warn of classes that a single row has, probably by a slip."""
        counts = np.bincount(store.labels, minlength=len(store.classes))
        if len(counts) < 2:
            raise UserError(
                f"{store.source}: every row has the label {store.classes[0]!r}; at least two "
                f"different labels are needed{self.label_place}"
            )
        single = [n for n, count in zip(store.classes, counts.tolist(), strict=True) if count == 1]
        if len(single) > _MAX_SINGLE_LABELS and 2 * len(single) > len(store):
            raise UserError(
                f"{store.source}: {len(single):,} of {len(store):,} labels occur once only; "
                f"{self.labels_elsewhere}"
            )
        if single:
            more = f" and {len(single) - 3:,} more" if len(single) > 3 else ""
            LOG.warning(
                "%s: only one row has the label %s%s; a header, or a slip? It counts as a class",
                store.source,
                ", ".join(map(repr, single[:3])),
                more,
            )


def _meaning(label: str) -> str | float:
    """What a label means to a person: `1` and `1.0`, `Yes` and `yes` are the same."""
    try:
        return float(label)
    except ValueError:
        return alike(label)

"""One text and its class, in a file of the user's: `task=classify`."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mambalab.data import duplicates, text_hub
from mambalab.data.pair_store import PairStore, file_stat, open_store
from mambalab.data.text_rows import expanded, find_layout
from mambalab.errors import UserError
from mambalab.settings.task import ClassifySettings
from mambalab.tasks import splits
from mambalab.tasks.classification import Inputs
from mambalab.tasks.sampling import permutation, tuning_size
from mambalab.tasks.stored import StoredTextTask
from mambalab.tokenization import byte_pairs
from mambalab.tokenization.tokenizer import CHARACTERS, Characters, FileTokenizer, Tokenizer, find
from mambalab.tokenization.vocabulary import Vocabulary

LOG = logging.getLogger("mambalab")
_MAX_STRANGE = 3  # labels that a message names
_TEXTS_AT_A_TIME = 1024


class ClassifyTask(StoredTextTask):
    """Any CSV, TSV, JSONL or parquet file with a text and a label in each row.

    The columns are `task.text` and `task.label`, or found by their names. CSV has quotes as usual,
    TSV has none. Whatever strings or numbers the label column holds, without blanks around them,
    are the classes, in sorted order.
    The file is converted once (`pair_store`); rows that are none are left out and reported.

    `task.path=hf:OWNER/NAME` is a data set of the hub, one parquet file a split; splits that it has
    are kept, classes and columns are found likewise.

    *Splits*: `test` is `test_size` of all texts, as large a share of each class, and `val`
    `val_size` of all, likewise, chosen once for all seeds; `data_fraction` keeps a share of the
    rest; `train_sample` is as many of the training texts as `val` has, to set beside it. With
    `task.tune=true` `val` is a tenth of what trains otherwise, and there is no `test`.

    *Tokens* are bytes. With `task.tokenizer` they are the characters of all texts, or those that a
    tokenizer makes of a text; `bpe:N` is learnt from the texts that train, before `data_fraction`.
    A text is cut after `max_bytes` first, so that every tokenizer reads the same of it.

    Attributes:
        reader: the tokenizer; None if tokens are bytes.
    """

    settings: ClassifySettings
    unit = "texts"
    reader: Tokenizer | None = None

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Convert the file if need be, split its rows, and put the labels on `device`.

        Raises:
            UserError: the data or the tokenizer cannot be had, or do not fit the settings.
        """
        super().prepare(device)
        if (name := self.settings.tokenizer) is None:
            return
        store = self._parts["train"][0]
        if name == CHARACTERS:
            self.reader = Characters(Vocabulary.from_texts(_Texts(store, np.arange(len(store)))))
        elif byte_pairs.is_made(name):
            self.reader = byte_pairs.make(name, _Texts(store, np.sort(self._learnt_from)))
        else:
            self.reader = FileTokenizer(find(name, self.data_dir, "task.tokenizer"))
        if isinstance(self.reader, FileTokenizer):
            self._fingerprint["tokens"] = self.reader.sha256()
        self.spec = dataclasses.replace(self.spec, vocab_size=self.reader.vocab_size)

    def assets(self) -> dict[str, str]:
        """The names of the classes, and the tokenizer if tokens are not bytes."""
        return super().assets() | (self.reader.assets() if self.reader is not None else {})

    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """The tokens of some texts: (b, l) int64, 0 after the ends of the others, and lengths (b,),
        or None if all are equal."""
        if self.reader is None:
            return super().inputs(split, rows, position)
        store, chosen = self._parts[split]
        texts = [self.reader.read(text, np.int64) for text in _Texts(store, chosen[rows])]
        lengths = np.array([max(len(ids), 1) for ids in texts])  # one cut within its first
        tokens = np.zeros((len(texts), lengths.max()), dtype=np.int64)
        for row, ids in zip(tokens, texts, strict=True):
            row[: len(ids)] = ids
        device = self.labels[split].device
        ends = None if lengths.min() == lengths.max() else torch.from_numpy(lengths).to(device)
        return torch.from_numpy(tokens).to(device), ends

    def read(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        """For `train`, `val` and `test`: a store, and which of its texts, (n,) int64.

        Raises:
            UserError: the file cannot be had, or is too small for the splits.
        """
        if self.settings.path is None:
            raise UserError(
                "task=classify: name the file (CSV, TSV, JSONL or parquet, with a text and a label "
                "in each row) with task.path=FILE"
            )
        files = self._files(self.settings.path)
        stores, layouts = {}, {}
        for split, path in files.items():
            file_stat(path)
            layout = layouts[split] = find_layout(path, self.settings.text, self.settings.label)
            LOG.info("%s: texts in column %r, labels in column %r", path, layout.text, layout.label)
            stores[split] = open_store(path, layout, self.settings.max_bytes)
            self._warn_of_quotes(stores[split])
        store = stores["train"]
        self._check_classes(store)
        for split, other in list(stores.items()):
            if strange := sorted(set(other.classes) - set(store.classes)):
                LOG.warning(
                    "%s: left out as %s, for it has labels that do not train (%s): kept back, "
                    "perhaps; others are held out of train",
                    other.source,
                    split,
                    ", ".join(map(repr, strange[:_MAX_STRANGE])),
                )
                del stores[split]
            elif absent := sorted(set(store.classes) - set(other.classes)):
                shown = ", ".join(map(repr, absent[:_MAX_STRANGE]))
                LOG.warning("%s: no row of %s has the label %s", other.source, split, shown)
        self._numbers = {name: number for number, name in enumerate(store.classes)}
        rows = self._split(store, published=frozenset(stores) - {"train"})
        parts = {name: (store, part) for name, part in rows.items()}
        for split in sorted(stores.keys() - {"train"} & {*self.splits, "val"}):
            if not self.tuning:
                parts[split] = stores[split], np.arange(len(stores[split]))
        shas = [stores[split].sha256 for split in sorted(stores, reverse=True)]
        whole = hashlib.sha256(" ".join(shas).encode()).hexdigest() if shas[1:] else shas[0]
        self._fingerprint = {
            "sha256": whole,
            "path": ", ".join(str(one.source) for one in stores.values()),
            "columns": f"{layouts['train'].text}, {layouts['train'].label}",
            "rows": str(sum(map(len, stores.values()))),
            "rejected": str(sum(one.rejected for one in stores.values())),
        }
        digests = {name: one.digests()[part] for name, (one, part) in parts.items()}
        duplicates.warn(store.source, "texts", digests)
        return parts

    def labels_of(self, store: PairStore) -> np.ndarray:
        """As the base has it; a file of its own may lack some of the classes."""
        return np.array([self._numbers[name] for name in store.classes])[store.labels]

    def _files(self, place: str) -> dict[str, Path]:
        """The file of each split that has one of its own; of a user's file only `train`."""
        if not text_hub.is_hub(place):
            return {"train": expanded(place)}
        found = text_hub.find(place, self.data_dir, None, chooser=None)
        for split, paths in found.items():
            if len(paths) > 1:
                raise UserError(
                    f"task.path={place}: {len(paths)} files of it are {split}, from {paths[0]} on; "
                    "put them together in one, and name that with task.path=FILE"
                )
        return {split: paths[0] for split, paths in found.items()}

    def _split(
        self, store: PairStore, published: frozenset[str] = frozenset()
    ) -> dict[str, np.ndarray]:
        """Which rows of the training file each split has, those `published` apart left out.

        Raises:
            UserError: one would have none.
        """
        total, labels = len(store), store.labels
        test_size, val_size = self.settings.test_size, self.settings.val_size
        sizes = [
            0 if split in published else splits.count(size, total)
            for split, size in (("test", test_size), ("val", val_size))
        ]
        left = int((total - sum(sizes)) * self.data_fraction)
        if left < (2 if self.tuning else 1):
            raise UserError(
                f"{store.source}: of {total:,} texts, task.test_size={test_size:g} and "
                f"task.val_size={val_size:g} take {sum(sizes):,}, and data_fraction="
                f"{self.data_fraction:g} leaves {max(left, 0):,} of the others to train; hold out "
                "fewer"
            )
        order = permutation(0, 0, total, "split")
        test, rest = splits.stratified(order, labels, sizes[0])
        val, rest = splits.stratified(rest, labels, sizes[1])
        self.tunes = True
        if self.tuning:
            val, rest = splits.stratified(rest, labels, tuning_size(len(rest)))
        self._learnt_from = rest
        rows = {"train": rest[: int(len(rest) * self.data_fraction)], "val": val}
        return rows if self.tuning else rows | {"test": test}  # empty where it is published


class _Texts:
    """Some texts of a store, read as they are asked for, as often as need be.

    A character that was cut in two by `max_bytes` is left out.
    """

    def __init__(self, store: PairStore, rows: np.ndarray) -> None:
        self.store, self.rows = store, rows

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.rows), _TEXTS_AT_A_TIME):
            texts, lengths = self.store.documents(self.rows[start : start + _TEXTS_AT_A_TIME])
            for text, length in zip(texts[:, 0], lengths[:, 0].tolist(), strict=True):
                yield text[:length].tobytes().decode("utf-8", "ignore")

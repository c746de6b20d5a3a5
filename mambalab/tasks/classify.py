"""One text and its class, in a file of the user's: `task=classify`."""

from __future__ import annotations

import logging

import numpy as np

from mambalab.data import duplicates
from mambalab.data.pair_store import PairStore, file_stat, open_store
from mambalab.data.text_rows import expanded, find_layout
from mambalab.errors import UserError
from mambalab.settings.task import ClassifySettings
from mambalab.tasks import splits
from mambalab.tasks.sampling import permutation, tuning_size
from mambalab.tasks.stored import StoredTextTask

LOG = logging.getLogger("mambalab")


class ClassifyTask(StoredTextTask):
    """Any CSV, TSV, JSONL or parquet file with a text and a label in each row.

    The columns are `task.text` and `task.label`, or found by their names. CSV has quotes as usual,
    TSV has none. Whatever strings or numbers the label column holds, without blanks around them,
    are the classes, in sorted order.
    The file is converted once (`pair_store`); rows that are none are left out and reported.

    *Splits*: `test` is `test_size` of all texts, as large a share of each class, and `val`
    `val_size` of all, likewise, chosen once for all seeds; `data_fraction` keeps a share of the
    rest; `train_sample` is as many of the training texts as `val` has, to set beside it. With
    `task.tune=true` `val` is a tenth of what trains otherwise, and there is no `test`.
    """

    settings: ClassifySettings
    unit = "texts"

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
        path = expanded(self.settings.path)
        file_stat(path)
        layout = find_layout(path, self.settings.text, self.settings.label)
        LOG.info("%s: texts in column %r, labels in column %r", path, layout.text, layout.label)
        store = open_store(path, layout, self.settings.max_bytes)
        self._warn_of_quotes(store)
        self._check_classes(store)
        rows = self._split(store)
        self._fingerprint = {
            "sha256": store.sha256,
            "path": str(store.source),
            "columns": f"{layout.text}, {layout.label}",
            "rows": str(len(store)),
            "rejected": str(store.rejected),
        }
        digests = store.digests()
        duplicates.warn(store.source, "texts", {name: digests[part] for name, part in rows.items()})
        return {name: (store, part) for name, part in rows.items()}

    def _split(self, store: PairStore) -> dict[str, np.ndarray]:
        """Which rows each split has; raises UserError if one would have none."""
        total, labels = len(store), store.labels
        test_size, val_size = self.settings.test_size, self.settings.val_size
        sizes = [splits.count(size, total) for size in (test_size, val_size)]
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
        rows = {"train": rest[: int(len(rest) * self.data_fraction)], "val": val}
        return rows if self.tuning else rows | {"test": test}

"""Two texts and how they belong together: `task=pairs` (your TSV file) and `task=retrieval`."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from mambalab.data import duplicates
from mambalab.data.catalog import CATALOG
from mambalab.data.lra_archive import FOLDER, PUBLISHED, file_name
from mambalab.data.pair_rows import LRA, PAIRS
from mambalab.data.pair_store import PairStore, open_store
from mambalab.errors import UserError
from mambalab.settings.task import PairSettings
from mambalab.tasks.sampling import permutation
from mambalab.tasks.stored import StoredTextTask

LOG = logging.getLogger("mambalab")
_SPLIT_SEED = 0  # seed of what is the same in every run: splits and shares


class PairTask(StoredTextTask):
    """Any TSV file with the columns label, text, text: which label does a pair have?

    The file has no header and no quoting (one that seems to have it is told of); whatever strings
    the label column holds, without blanks around them, are the classes, in sorted order. A text is
    read as bytes (UTF-8), cut after `task.max_bytes`; byte 0 is padding.
    The file is converted once (`pair_store`); rows that are none are left out and reported.

    *Splits*: `val` and `test` are `val_fraction` and `test_fraction` of all pairs, chosen once for
    all seeds; `data_fraction` keeps a share of the rest, likewise chosen; `train_sample` is as many
    of the training pairs as `val` has, to set beside it. With `task.tune=true` `val` is a tenth of
    what trains otherwise, by the same choice, and there is no `test`.
    """

    settings: PairSettings
    unit = "pairs"
    example = "pair"
    label_place = " in the first column"
    labels_elsewhere = "the columns must be label, text, text, in this order"

    def read(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        """For `train`, `val` and `test`: a store, and which of its pairs, (n,) int64.

        Raises:
            UserError: the file cannot be had, or is too small for the splits.
        """
        if self.settings.path is None:
            raise UserError("task=pairs: name the TSV file (label, text, text) with task.path=FILE")
        store = open_store(Path(self.settings.path), PAIRS, self.settings.max_bytes)
        self._warn_of_quotes(store)
        self._check_classes(store)
        total = len(store)
        order = permutation(_SPLIT_SEED, 0, total, "split")
        val, test = (
            int(total * share)
            for share in (self.settings.val_fraction, self.settings.test_fraction)
        )
        held_out, chosen = self._tuning_part(order[val + test :])
        used = int(len(chosen) * self.data_fraction)
        if min(val, test, used) < 1:
            raise UserError(
                f"{store.source}: of {total:,} pairs, task.val_fraction="
                f"{self.settings.val_fraction:g}, task.test_fraction="
                f"{self.settings.test_fraction:g} and data_fraction={self.data_fraction:g} leave "
                f"{max(used, 0):,} to train, {val:,} for validation and {test:,} for the test; "
                "each needs one"
            )
        self._fingerprint = {
            "sha256": store.sha256,
            "path": str(store.source),
            "rows": str(total),
            "rejected": str(store.rejected),
        }
        rows = {"train": chosen[:used]}
        if self.tuning:
            rows["val"] = held_out
        else:
            rows |= {"val": order[:val], "test": order[val : val + test]}
        digests = store.digests()
        duplicates.warn(store.source, "pairs", {name: digests[part] for name, part in rows.items()})
        return {name: (store, part) for name, part in rows.items()}


class RetrievalTask(PairTask):
    """Document retrieval of Long Range Arena (arXiv 2011.04006, section 2.2.3): does one paper of
    the ACL Anthology Network cite the other?

    The files new_aan_pairs.{train,eval,test}.tsv are looked for in `task.path`, a folder, else in
    `data_dir`/lra_retrieval, and fetched if they are not there. They are the splits `train`, `val`
    and `test`; `data_fraction` keeps a share of the training pairs, chosen once for all seeds.
    Files with other numbers of rows than the published ones are used, with a warning, and the
    record of the run says so.
    """

    def read(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        """The three files' stores, and which pairs of them, (n,) int64.

        Raises:
            UserError: a file is absent and cannot be fetched, or is no such file.
        """
        folder = self._folder()
        stores = {
            split: open_store(folder / file_name(part), LRA, self.settings.max_bytes)
            for part, split in (("train", "train"), ("eval", "val"), ("test", "test"))
        }
        total = len(stores["train"])
        order = permutation(_SPLIT_SEED, 0, total, "split")
        held_out, chosen = self._tuning_part(order)
        used = chosen[: int(len(chosen) * self.data_fraction)]
        if not len(used):
            raise UserError(f"data_fraction={self.data_fraction}: no training pair is left")
        self._fingerprint = self._describe(folder, stores)
        if self.tuning:
            return {"train": (stores["train"], used), "val": (stores["train"], held_out)}
        parts = {split: (store, np.arange(len(store))) for split, store in stores.items()}
        return parts | {"train": (stores["train"], used)}

    def _folder(self) -> Path:
        if self.settings.path is None:
            CATALOG["retrieval"].fetch(self.data_dir)
            return self.data_dir / FOLDER
        folder = Path(os.path.expanduser(self.settings.path)).absolute()
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder} (task.path): task=retrieval reads "
                f"{file_name('train')}, {file_name('eval')} and {file_name('test')} from it; "
                "for one file of your own use task=pairs task.path=FILE"
            )
        names = [file_name(part) for part in ("train", "eval", "test")]
        if missing := [name for name in names if not (folder / name).exists()]:
            raise UserError(
                f"{folder} (task.path) lacks {' and '.join(missing)}: task=retrieval reads "
                f"{', '.join(names)} from it"
            )
        return folder

    def _describe(self, folder: Path, stores: dict[str, PairStore]) -> dict[str, str]:
        """The fingerprint; warns if there are not as many rows as were published."""
        rows = " / ".join(f"{store.lines:,}" for store in stores.values())
        published = " / ".join(f"{count:,}" for count in PUBLISHED.values())
        if rows != published:
            LOG.warning(
                "%s is not the published data set: %s rows to train, validate and test instead of "
                "%s; results do not compare with published ones",
                folder.absolute(),
                rows,
                published,
            )
        digests = "".join(store.sha256 for store in stores.values())
        return {
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "path": str(folder.absolute()),
            "rows": rows,
            "rows_published": published,
            "rejected": str(sum(store.rejected for store in stores.values())),
        }

"""ListOps of Long Range Arena: `task=listops`."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch

from mambalab.data import duplicates, listops_store
from mambalab.data.listops_grammar import PLAIN_VOCABULARY, WORDS, Grammar, with_parentheses
from mambalab.data.listops_store import FILES, PUBLISHED
from mambalab.data.pair_store import PairStore
from mambalab.errors import UserError
from mambalab.settings.task import ListOpsSettings
from mambalab.spec import ModelSpec
from mambalab.tasks.classification import Inputs
from mambalab.tasks.sampling import permutation
from mambalab.tasks.stored import StoredTextTask

LOG = logging.getLogger("mambalab")
_SPLIT_SEED = 0  # seed of what is the same in every run: shares of the training part


class ListOpsTask(StoredTextTask):
    """Which digit is the value of nested operations on lists (arXiv 2011.04006, section 2.2.1)?

    `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9; `[MED ...]` is the median, `[SM ...]` the sum modulo 10. Each
    word is a token, 0 is padding.

    *Data*: made up by the grammar of Long Range Arena (`listops_grammar`) from `data_seed`, once,
    into `data_dir`/listops. The first `test_size` expressions are the split `test`, the next
    `val_size` are `val`, then come those to train with: more of them change no other split. No
    expression occurs twice. With `path` the three files of Long Range Arena are read instead,
    which are the splits. `data_fraction` keeps a share of the training part, chosen once for all
    seeds; with `task.tune=true` `val` is a tenth of it, and there is no `test`.
    """

    settings: ListOpsSettings
    unit = "expressions"
    example = "expression"
    words = WORDS

    def read(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        """For `train`, `val` and `test`: a store, and which of its expressions, (n,) int64.

        Raises:
            UserError: a file is absent or no such file, or expressions cannot be made up.
        """
        parts = self._generated() if self.settings.path is None else self._published()
        store, rows = parts["train"]
        order = permutation(_SPLIT_SEED, 0, len(rows), "split")
        held_out, chosen = self._tuning_part(rows[order])
        used = chosen[: int(len(chosen) * self.data_fraction)]
        if not len(used):
            raise UserError(f"data_fraction={self.data_fraction}: no training expression is left")
        if self.tuning:
            return {"train": (store, used), "val": (store, held_out)}
        return parts | {"train": (store, used)}

    def shape(self, store: PairStore) -> ModelSpec:
        """Say what the task asks of a model: words, as many as the longest expression may have."""
        steps = self.settings.max_words - 1
        if not self.settings.round_brackets:
            return ModelSpec(PLAIN_VOCABULARY, steps, classes=len(store.classes))
        return ModelSpec(len(WORDS), 3 * steps - 2, classes=len(store.classes))

    def inputs(self, split: str, rows: np.ndarray, position: int | None) -> Inputs:
        """The expressions of some rows.

        Returns:
            (b, l) int64 tokens on the device, l the longest of these, 0 after the ends of the
            others; lengths (b,) int64, or None if all are equal.
        """
        if not self.settings.round_brackets:
            return super().inputs(split, rows, position)
        store, chosen = self._parts[split]
        plain, ends = store.documents(chosen[rows])
        tokens, lengths = with_parentheses(plain[:, 0], ends[:, 0])
        device = self.labels[split].device
        found = torch.from_numpy(tokens).to(device).long()
        return found, torch.from_numpy(lengths).to(device)

    @property
    def items_per_batch(self) -> int:
        """Words in a training batch on average, padding not counted."""
        store, rows = self._parts["train"]
        words = float(store.lengths(rows).mean())
        if self.settings.round_brackets:
            words = 3 * words - 2
        return round(self.settings.batch_size * words)

    def _generated(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        wanted = self.settings
        grammar = Grammar(wanted.min_words, wanted.max_words, wanted.max_depth, wanted.max_args)
        sizes = (wanted.test_size, wanted.val_size, wanted.train_size)
        store = listops_store.open_generated(self.data_dir, grammar, wanted.data_seed, sum(sizes))
        self._fingerprint = {
            "sha256": store.sha256,
            "store": str(store.folder),
            "data_seed": str(wanted.data_seed),
        }
        test, val, train = np.split(np.arange(len(store)), np.cumsum(sizes)[:2])
        return {"train": (store, train), "val": (store, val), "test": (store, test)}

    def _published(self) -> dict[str, tuple[PairStore, np.ndarray]]:
        folder = Path(os.path.expanduser(self.settings.path or "")).absolute()
        names = list(FILES.values())
        if folder.is_file():
            raise UserError(
                f"task.path={self.settings.path} is a file: name the folder with {', '.join(names)}"
            )
        if missing := [name for name in names if not (folder / name).exists()]:
            raise UserError(
                f"task.path={self.settings.path}: there is no {folder / missing[0]}; task=listops "
                f"reads {', '.join(names)} of Long Range Arena from a folder, or makes expressions "
                "up, with task.path=null"
            )
        stores = {
            split: listops_store.open_published(folder / name, self.settings.max_words)
            for split, name in FILES.items()
        }
        rows = {split: len(store) for split, store in stores.items()}
        if rows != PUBLISHED:
            LOG.warning(
                "%s: %s expressions instead of the published %s; results do not compare with "
                "published ones",
                folder,
                " / ".join(f"{count:,}" for count in rows.values()),
                " / ".join(f"{count:,}" for count in PUBLISHED.values()),
            )
        duplicates.warn(
            folder, "expressions", {split: store.digests() for split, store in stores.items()}
        )
        digests = "".join(store.sha256 for store in stores.values())
        self._fingerprint = {
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "path": str(folder),
            "rejected": str(sum(store.rejected for store in stores.values())),
        }
        return {split: (store, np.arange(len(store))) for split, store in stores.items()}

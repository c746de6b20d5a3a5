"""The same example in two splits: a result on it says nothing, so the user is told."""

from __future__ import annotations

import hashlib
import logging
from itertools import combinations

import numpy as np

LOG = logging.getLogger("mambalab")


def digest(*parts: bytes | np.ndarray) -> int:
    """Digest an example to 64 bits: equal ones have equal digests, others hardly ever."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else part
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return int.from_bytes(found.digest(), "little")


def warn(source: object, what: str, splits: dict[str, np.ndarray]) -> None:
    """Warn of examples that occur in more than one split.

    Args:
        source: the file or folder they come from.
        what: they are, in the plural.
        splits: digests of each split's examples, (n,) uint64.
    """
    for first, second in combinations(splits, 2):
        shared = np.intersect1d(splits[first], splits[second])
        # By sorting: its table of integers has no room for 64 bits without sign in NumPy 2.0.
        count = int(np.isin(splits[second], shared, kind="sort").sum())
        if count:
            LOG.warning(
                "%s: %s of %s %s in %s are copies of one in %s; results there say less",
                source,
                f"{count:,}",
                f"{len(splits[second]):,}",
                what,
                second,
                first,
            )

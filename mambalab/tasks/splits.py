"""Examples held out at random, the same in every run: so many, or a share of each class."""

from __future__ import annotations

import numpy as np

from mambalab.tasks.sampling import permutation

_SPLIT_SEED = 0  # of what is the same in every run


def count(size: int | float, total: int) -> int:
    """How many of `total` examples a setting means: a whole number, or a share, rounded.

    A share means at least one.
    """
    return size if isinstance(size, int) else max(1, int(size * total + 0.5))


def held_out(labels: np.ndarray, size: int | float, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose examples to hold out.

    Args:
        labels: (n,) of all examples.
        size: how many, from all at random; or a share of each class.
        stream: name of the purpose, for other random numbers.

    Returns:
        The rows held out and the other ones, both in random order, int64.
    """
    order = permutation(_SPLIT_SEED, 0, len(labels), stream)
    if isinstance(size, int):
        return order[:size], order[size:]
    return stratified(order, labels, count(size, len(labels)))


def stratified(order: np.ndarray, labels: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose as large a share of each class, give or take one example.

    Args:
        order: (m,) rows to choose from, in random order.
        labels: (n,) of all examples.
        wanted: how many to choose, at most m.

    Returns:
        The rows chosen and the other ones, both in the order of `order`.
    """
    total = len(order)
    by_class = np.argsort(labels[order], kind="stable")  # places in `order`, class after class
    steps = np.arange(total + 1) * wanted // max(total, 1)
    chosen = np.zeros(total, dtype=bool)
    chosen[by_class[np.diff(steps) > 0]] = True
    return order[chosen], order[~chosen]

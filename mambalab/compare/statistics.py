"""Means over seeds with their uncertainty, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95  # share of intervals that hold the true mean
RESAMPLES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval.

    Attributes:
        n: how many values there are.
        mean: their mean.
        low, high: the interval; None if there is one value only.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """Paired differences of one group to another, by seed.

    Attributes:
        seeds: the common seeds.
        estimate: mean of the differences and its interval by Student's t.
        p: of the paired t-test, two-sided. None without two seeds, and where every seed differs by
            the same amount: then there is no spread to test against.
        p_holm: the same, adjusted for the number of groups that are compared.
    """

    seeds: tuple[Any, ...]
    estimate: Estimate
    p: float | None
    p_holm: float | None = None


def estimate(values: Sequence[float], *, bootstrap: bool = False) -> Estimate | None:
    """Compute mean and 95 % interval; None if there are no values.

    Args:
        values: finite numbers, one for each seed.
        bootstrap: the interval holds the middle 95 % of the means of 10,000 resamples (always the
            same ones) instead of coming from Student's t.
    """
    import numpy as np

    n = len(values)
    if n == 0:
        return None
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if n == 1:
        return Estimate(n, mean)
    if bootstrap:
        chosen = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile(array[chosen].mean(axis=1), [tail, 100 - tail])
        return Estimate(n, mean, float(low), float(high))
    half = t_quantile(n) * float(array.std(ddof=1)) / math.sqrt(n)
    return Estimate(n, mean, mean - half, mean + half)


def t_quantile(n: int) -> float:
    """Return how many standard errors the 95 % interval of a mean of `n` values has each side."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))


def paired(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> Difference | None:
    """Compute `ours - theirs` over the seeds that both have; None if they have none in common.

    Args:
        ours, theirs: value by seed.
    """
    import numpy as np
    from scipy.special import stdtr

    seeds = tuple(seed for seed in ours if seed in theirs)
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    mean = estimate(differences.tolist())
    if mean is None:
        return None
    n = len(seeds)
    deviation = float(differences.std(ddof=1)) if n > 1 else 0.0
    # Equal up to rounding: a difference of two values is exact to some 1e-16 of them.
    size = max(abs(value) for seed in seeds for value in (ours[seed], theirs[seed]))
    if n == 1 or deviation <= 1e-14 * size:
        return Difference(seeds, mean, None)
    t = mean.mean / (deviation / math.sqrt(n))
    return Difference(seeds, mean, 2 * float(stdtr(n - 1, -abs(t))))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's method, in the same order; None stays and does not count."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = highest
    return adjusted

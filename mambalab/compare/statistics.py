"""Means over seeds with their uncertainty, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95  # share of intervals that hold the true mean
RESAMPLES = 10_000  # of the bootstrap
MIN_BOOTSTRAP = 8  # values from which a bootstrapped 95 % interval covers about as much as it says


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
        p: of the paired t-test, two-sided. None without two seeds, and where no seed differs at
            all; 0 where every seed differs by the same amount.
        p_holm: the same, adjusted for the number of groups that are compared.
        values: the difference of each seed, in the order of `seeds`.
    """

    seeds: tuple[Any, ...]
    estimate: Estimate
    p: float | None
    p_holm: float | None = None
    values: tuple[float, ...] = ()

    @property
    def by_seed(self) -> dict[Any, float]:
        """The difference of each seed."""
        return dict(zip(self.seeds, self.values, strict=True))

    @property
    def constant(self) -> bool:
        """Whether several seeds differ, all by the same amount up to rounding."""
        return self.p == 0.0 and self.estimate.low == self.estimate.high


def estimate(
    values: Sequence[float], *, bootstrap: bool = False, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Compute mean and interval; None if there are no values.

    Args:
        values: finite numbers, one for each seed.
        bootstrap: the interval holds the middle of the means of 10,000 resamples (always the same
            ones) instead of coming from Student's t. Below 8 values it covers too little.
        confidence: share of intervals that hold the true mean.
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
        tail = 50 * (1 - confidence)
        low, high = np.percentile(array[chosen].mean(axis=1), [tail, 100 - tail])
        return Estimate(n, mean, float(low), float(high))
    half = t_quantile(n, confidence) * float(array.std(ddof=1)) / math.sqrt(n)
    return Estimate(n, mean, mean - half, mean + half)


def t_quantile(n: int, confidence: float = CONFIDENCE) -> float:
    """Return how many standard errors the interval of a mean of `n` values has each side."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + confidence) / 2))


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
    n, values = len(seeds), tuple(differences.tolist())
    deviation = float(differences.std(ddof=1)) if n > 1 else 0.0
    # Equal up to rounding: a difference of two values is exact to some 1e-16 of them.
    size = max(abs(value) for seed in seeds for value in (ours[seed], theirs[seed]))
    if n == 1:
        return Difference(seeds, mean, None, values=values)
    if deviation <= 1e-14 * size:
        p = None if abs(mean.mean) <= 1e-14 * size else 0.0
        same = Estimate(n, mean.mean, mean.mean, mean.mean)
        return Difference(seeds, same, p, values=values)
    t = mean.mean / (deviation / math.sqrt(n))
    return Difference(seeds, mean, 2 * float(stdtr(n - 1, -abs(t))), values=values)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's method, in the same order; None stays and does not count."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = highest
    return adjusted

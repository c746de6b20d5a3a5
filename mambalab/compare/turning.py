"""Whether a loss curve turns up: how far it lies at its end above its lowest part.

The last value less the best is never negative, so it says nothing on a noisy curve. Here each run
is measured at the place where the *other* seeds are lowest: its own noise has no part in the
choice, and a flat curve rises by 0 on average.
"""

from collections.abc import Sequence
from itertools import pairwise

from mambalab.compare.statistics import Estimate, estimate
from mambalab.records.reader import Curve

CONFIDENCE = 0.96
"""Level of the interval of a rise. The seeds choose each other's place, so their rises are not
quite independent; with 95 % flat noisy curves would turn up in slightly more than 5 % of cases."""
MAX_BINS = 16  # parts into which a longer curve is averaged: more to choose from, more false alarms
MIN_SMOOTHED = 10  # values from which the lowest part is three of them, not one


def turn(curves: Sequence[Curve]) -> Estimate | None:
    """Estimate how far loss curves of several seeds end above their lowest part.

    Args:
        curves: `val/loss` of a run each, sorted by step; values that are not finite do not count.

    Returns:
        Mean and 96 % interval over the seeds, in units of the loss; without interval for a single
        curve, whose own lowest value has to serve. None if no curve holds a value.
    """
    kept = [found for curve in curves if (found := _binned(curve))]
    if len(kept) == 1:
        (values,) = kept
        return estimate([values[-1] - min(values)])
    rises = [_rise(values, kept[:i] + kept[i + 1 :]) for i, values in enumerate(kept)]
    return estimate(rises, confidence=CONFIDENCE)


def _binned(curve: Curve) -> list[float]:
    """Average the finite values of a curve in at most MAX_BINS parts of equal length."""
    values = [value for _, value in curve if value is not None]
    bins = min(len(values), MAX_BINS)
    edges = [round(i * len(values) / bins) for i in range(bins + 1)] if bins else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def _rise(values: list[float], others: list[list[float]]) -> float:
    """Return how far a curve ends above its value where the others are lowest on average."""
    n = len(values)
    half = 1 if n >= MIN_SMOOTHED else 0
    level = []  # of the others; runs that ended earlier have no say in what came later
    for i in range(n):
        there = [other[i] for other in others if i < len(other)]
        level.append(sum(there) / len(there) if there else float("inf"))
    windows = [range(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    lowest = min(windows, key=lambda window: sum(level[i] for i in window) / len(window))
    if n - 1 in lowest:  # still at its lowest
        return 0.0
    return values[-1] - sum(values[i] for i in lowest) / len(lowest)

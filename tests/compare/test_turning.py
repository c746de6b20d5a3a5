"""Simulated curves: how often a flat one is called rising, and a rising one is."""

import numpy as np
import pytest

from mambalab.compare.turning import turn

# Evaluations, level and noise of a validation loss, as the tasks have them.
KINDS = {
    "text": (20, 1.5, 0.004),
    "mnist": (20, 0.03, 0.004),
    "digits": (15, 0.05, 0.01),
    "cifar": (12, 0.8, 0.02),
    "long": (150, 0.03, 0.004),
    "short": (5, 0.05, 0.01),
}
TRIALS = 600


def curves(rng, kind, seeds, *, rise=0.0, memory=0.0):
    """Validation curves that fall to a level and stay there, or `rise` after 40 % of the run."""
    n, level, noise = KINDS[kind]
    white = rng.normal(size=(seeds, n))
    for i in range(1, n):  # neighbouring evaluations are alike
        white[:, i] = memory * white[:, i - 1] + np.sqrt(1 - memory**2) * white[:, i]
    at = np.linspace(0, 1, n)
    mean = level * (1 + 3 * np.exp(-30 * at)) + rise * np.maximum(at - 0.4, 0) / 0.6
    offset = rng.normal(size=(seeds, 1))
    values = mean + noise * (white + offset)
    return [[(10 * i, float(v)) for i, v in enumerate(row)] for row in values]


def turned_up(found):
    rise, best = turn(found), min(v for curve in found for _, v in curve)
    return rise is not None and rise.low > 0 and rise.mean > 0.01 * best


@pytest.mark.parametrize("memory", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [3, 8])
def test_flat_noisy_curves_rarely_turn_up(kind, seeds, memory):
    rng = np.random.default_rng(0)
    share = np.mean([turned_up(curves(rng, kind, seeds, memory=memory)) for _ in range(TRIALS)])
    assert share <= 0.05


@pytest.mark.parametrize("kind", ["text", "mnist", "digits", "cifar", "long"])
def test_rising_curves_turn_up(kind):
    rng = np.random.default_rng(1)
    _, level, noise = KINDS[kind]
    rise = max(0.1 * level, 10 * noise)
    share = np.mean([turned_up(curves(rng, kind, 3, rise=rise, memory=0.5)) for _ in range(200)])
    assert share >= 0.95


def test_a_falling_curve_rises_by_nothing():
    falling = [[(i, 3.0 - i / 10 + s / 100) for i in range(12)] for s in range(3)]
    found = turn(falling)
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_curves_of_unequal_lengths_and_without_values():
    curve = [(10, 3.0), (20, 2.0), (30, 1.0), (40, 1.5)]
    assert turn([]) is None
    assert turn([[], [(1, None)]]) is None
    alone = turn([curve, []])
    assert alone is not None
    assert (alone.mean, alone.low) == (0.5, None)
    stopped = turn([curve, curve[:3], [*curve, (50, 2.0)]])
    assert stopped is not None
    assert stopped.mean == pytest.approx((0.5 + 0.0 + 1.0) / 3)

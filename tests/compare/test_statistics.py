import math
import statistics

import numpy as np
import pytest
import scipy.stats

from mambalab.compare.statistics import Difference, Estimate, estimate, holm, paired


def test_the_interval_is_students():
    found = estimate([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305 * statistics.stdev([1, 2, 3, 4]) / 2  # t(0.975, 3) from a printed table
    assert found is not None
    assert (found.n, found.mean) == (4, 2.5)
    assert found.low == pytest.approx(2.5 - half, rel=1e-9)
    assert found.high == pytest.approx(2.5 + half, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_intervals_and_p_values_agree_with_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(1.5, 0.1, n), rng.normal(1.45, 0.1, n)
    found = estimate(a.tolist())
    expected = scipy.stats.t.interval(0.95, n - 1, a.mean(), scipy.stats.sem(a))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    pair = paired(dict(enumerate(a)), dict(enumerate(b)))
    test = scipy.stats.ttest_rel(a, b)
    assert pair is not None
    assert pair.p == pytest.approx(test.pvalue, rel=1e-9)
    limits = test.confidence_interval(0.95)
    assert (pair.estimate.low, pair.estimate.high) == pytest.approx(
        (limits.low, limits.high), rel=1e-9
    )


def test_no_interval_from_one_value():
    assert estimate([]) is None
    assert estimate([2.0]) == Estimate(1, 2.0, None, None)
    assert paired({1: 2.0}, {1: 1.5}) == Difference((1,), Estimate(1, 0.5), None, values=(0.5,))


def test_the_bootstrap_resamples_means_and_repeats_itself():
    values = np.random.default_rng(0).gamma(2.0, size=40)
    found = estimate(values.tolist(), bootstrap=True)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert estimate(values.tolist(), bootstrap=True) == found
    assert estimate([1.0, 1.0], bootstrap=True) == Estimate(2, 1.0, 1.0, 1.0)


def test_pairs_are_the_common_seeds():
    pair = paired({3: 1.0, 1: 2.0, 9: 0.0}, {1: 1.0, 2: 5.0, 3: 0.5})
    assert pair is not None
    assert pair.seeds == (3, 1)
    assert pair.estimate.mean == 0.75
    assert paired({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.1])
def test_equal_differences_are_a_difference(shift):
    theirs = {seed: 1.0 + seed / 7 for seed in range(5)}
    pair = paired({seed: value + shift for seed, value in theirs.items()}, theirs)
    assert pair is not None
    assert pair.p == (0.0 if shift else None)
    assert pair.constant == bool(shift)
    assert pair.estimate.mean == pytest.approx(shift, abs=1e-15)
    assert pair.estimate.low == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_intervals_cover_as_often_as_they_say(n):
    values = np.random.default_rng(n).normal(size=(4000, n))
    found = [estimate(row.tolist()) for row in values]
    covered = np.mean([e is not None and e.low <= 0 <= e.high for e in found])
    assert 0.93 <= covered <= 0.97


def test_holms_method():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.04, None, 0.03]) == [None, 0.06, None, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_tiny_p_values_keep_their_digits():
    pair = paired({i: 1 + 1e-6 * i for i in range(10)}, dict.fromkeys(range(10), 0.0))
    expected = scipy.stats.t.sf((1 + 4.5e-6) / (1e-6 * statistics.stdev(range(10))) * 10**0.5, 9)
    assert pair is not None
    assert pair.p == pytest.approx(2 * expected, rel=1e-6)
    assert pair.p is not None
    assert 0 < pair.p < math.ulp(1.0)

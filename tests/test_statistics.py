"""The promises of `nnexp.statistics`, a sentence each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tables import exactly

from nnexp import statistics


def test_intervals_are_students():
    """Mean and 95 % interval are those of scipy, for every number of seeds; one seed has none."""
    for n in (2, 3, 10):
        x = exactly(0.87, 0.003, n)
        expected = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
        mean, low, high = statistics.mean_interval(np.append(x, np.nan))
        assert (mean, low, high) == pytest.approx((x.mean(), *expected), abs=1e-12)
    assert np.isnan(statistics.mean_interval(np.array([0.87]))[1])


def test_paired_tests_are_scipys():
    """t and p are those of scipy's paired t-test; seeds that only one of the two has do not count."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 6))
    expected = stats.ttest_rel(a, b, alternative="greater")
    tests = statistics.paired_t(np.append(a - b, np.nan))
    assert (tests.n, tests.t, tests.p) == pytest.approx((6, expected.statistic, expected.pvalue))


def test_what_is_chosen_widens_the_error():
    """Against a chosen best, the squared standard error is 1/n + 1/(n - 1) instead of 1/n times the variance."""
    d = exactly(0.01, 0.004, 5)
    plain, chosen = statistics.paired_t(d), statistics.paired_t(d, chosen=True)
    assert chosen.t == pytest.approx(0.01 / (0.004 * np.sqrt(1 / 5 + 1 / 4)))
    assert chosen.t < plain.t == pytest.approx(0.01 / (0.004 * np.sqrt(1 / 5)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_step_down_bonferroni(p):
    """Claiming corrected p <= 0.05 is Holm's procedure: the i-th smallest against 0.05 / (m - i), until one fails."""
    corrected = statistics.holm(np.array([*p, np.nan]))[:-1]
    passing = True
    for i, index in enumerate(np.argsort(p, kind="stable")):
        threshold = 0.05 / (len(p) - i)
        passing = passing and p[index] <= threshold
        if abs(p[index] - threshold) > 1e-9:
            assert (corrected[index] <= 0.05) == passing
    assert corrected.max() <= 1


def test_seeds_needed_are_those_of_the_tables():
    """For 0.2, 0.5, 0.8 and 1 standard deviations: 199, 34, 15, 10 (G*Power, paired t, two-sided 0.05, power 0.8)."""
    assert statistics.seeds_needed(np.array([0.2, 0.5, 0.8, 1.0]), 0.025).tolist() == [199, 34, 15, 10]
    assert statistics.seeds_needed(np.array([1e-4, 0.0, -1.0]), 0.025).tolist() == [np.inf] * 3
    assert statistics.seeds_needed(np.array([1e6]), 0.025).tolist() == [3]


@pytest.mark.parametrize("level", [0.025, 0.05 / 90])
def test_seeds_needed_are_the_fewest_with_the_power(level):
    """With so many the power of scipy's noncentral t is 0.8, with one fewer it is not; three are the fewest."""
    effects = np.linspace(0.05, 4, 2000)  # of smaller ones, more than 10,000 are needed
    n = statistics.seeds_needed(effects, level)

    def power(n):
        return stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effects * np.sqrt(n))

    assert (power(n) >= 0.8).all()
    assert (power(np.maximum(n - 1, 2)) < 0.8)[n > 3].all()


def test_mcnemar_is_the_exact_binomial_test():
    """b, c and p are those counted by hand and given by scipy's binomtest."""
    rng = np.random.default_rng(2)
    right, others = rng.random(300) < 0.8, rng.random((4, 300)) < [[0.8], [0.7], [0.9], [0.8]]
    others[3] = right
    b, c, p = statistics.mcnemar(right, others)
    for i in range(4):
        only, other = int((right & ~others[i]).sum()), int((~right & others[i]).sum())
        expected = stats.binomtest(only, only + other).pvalue if only + other else 1.0
        assert (b[i], c[i], p[i]) == (only, other, pytest.approx(expected))

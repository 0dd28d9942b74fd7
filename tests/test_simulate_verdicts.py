"""How often the verdicts are wrong, and find what is there: the smaller simulation (the full one: `make simulate`)."""

import numpy as np
import pytest
import simulate_verdicts
from tables import most

TABLES = {3: 300, 12: 120, 30: 60}  # by number of settings
GRID = [(k, n) for k in TABLES for n in (3, 5, 10)]


@pytest.mark.parametrize(("k", "n"), GRID)
def test_intervals_hold_and_better_is_rarely_false(k, n):
    """All settings equal: 93-97 % of the intervals hold the truth, at most 6 % of tables have any false "better"."""
    tables = 3 * TABLES[k]
    truth = simulate_verdicts.build_truth("equal", k, 1)
    coverage, false = simulate_verdicts.simulate_pairs(truth, n, 0.0, tables, np.random.default_rng(100 * k + n))
    slack = 3 * np.sqrt(0.05 * 0.95 / (tables * k))
    assert 0.95 - slack <= coverage <= 0.95 + slack
    assert slack < 0.023
    assert false <= most(tables, 0.05)


@pytest.mark.parametrize(("k", "n"), GRID)
def test_verdicts_are_rarely_false(k, n):
    """Over all known truths, at most 6 % of the tables have any false verdict (and the luck of so many tables)."""
    rng, tables = np.random.default_rng(100 * k + n), TABLES[k] // 6
    truths = [simulate_verdicts.build_truth(name, k, 20) for name in simulate_verdicts.TRUTHS]
    false = [simulate_verdicts.simulate_verdicts(truth, n, 0.0, tables, rng)[0] for truth in truths]
    assert np.mean(false) <= most(tables * len(truths), 0.05)


def test_verdicts_find_what_is_there():
    """Clear cases (lesson's baseline, L2 0.01, a rising loss) are found with five seeds in 9 tables of 10."""
    truth = simulate_verdicts.build_truth("mixed", 3, 20)
    _, shares = simulate_verdicts.simulate_verdicts(truth, 5, 0.0, 100, np.random.default_rng(7))
    underfit, overfit = shares[1][0], shares[2][1]
    assert min(underfit, overfit) >= 0.9


@pytest.mark.parametrize(("k", "n", "power"), [(3, 5, 0.88), (3, 10, 1.0), (12, 10, 0.96), (30, 10, 0.72)])
def test_power_at_one_point_is_as_stated(k, n, power):
    """A difference of one point, spread 0.003, is found as often as the documentation says."""
    found = simulate_verdicts.measure_power(k, n, 0.01, 300, np.random.default_rng(k))
    assert found == pytest.approx(power, abs=3 * np.sqrt(power * (1 - power) / 300) + 0.015)

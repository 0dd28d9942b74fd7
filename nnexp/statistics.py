"""The statistics under the verdicts, each with its formula, its assumptions and its source.

Everything works on whole arrays, because a table of 10,000 runs is to be read in the blink of a command. The
distributions are those of `scipy.special`, on which `scipy.stats` is built (the tests compare the two): importing the
latter takes longer than all the arithmetic here.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

ALPHA = 0.05  # share of tables that may hold a false claim
POWER = 0.8  # chance to find a difference as large as the one seen, for the seeds needed
MINIMUM_SEEDS = 3  # fewer give no usable estimate of the noise
MAXIMUM_SEEDS = 10_000  # "more than" beyond this
MOST_NUMBERS = 200_000  # in an array: what a processor's cache holds, and no gigabytes for thousands of settings

Array = np.ndarray


class Tests(NamedTuple):
    """One t-test a row: arrays [...], NaN (and p = 1) where fewer than three seeds are common."""

    n: Array
    mean: Array
    sd: Array
    t: Array
    p: Array  # one-sided: the mean is above zero


def mean_interval(values: Array, step: float = 0.0) -> tuple[Array, Array, Array]:
    """Mean over seeds and its 95 % interval, mean +- t(0.975, n - 1) * sd / sqrt(n), for values [..., s].

    NaN are seeds without a run; no interval below two. An sd below `step` is taken as `step`: n equal scores mean that
    the noise is smaller than one image, not that there is none. Assumes that the scores of a setting over seeds are
    independent and about normal. Source: Student 1908; the numbers are those of `scipy.stats.t.interval`.
    """
    n, mean, sd = moments(values, step)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.where(n >= 2, special.stdtrit(np.maximum(n - 1, 1), 0.975) * sd / np.sqrt(n), np.nan)
    return mean, mean - half, mean + half


def paired_t(differences: Array, step: float = 0.0, chosen: bool = False) -> Tests:
    """One-sided t-tests of mean(d) > 0 for the differences d [..., s] of settings on the same seeds.

    t = mean(d) / (sd(d) * sqrt(1/n)), with n - 1 degrees of freedom; two-sided p = 2 * min(p, 1 - p). NaN are seeds
    that are not common. Assumes independent, about normal differences. Source: Student 1908; the numbers are those of
    `scipy.stats.ttest_rel`. `step` as in `mean_interval`.

    chosen: each d is measured against the best of many (epochs, settings), chosen by the other n - 1 seeds. Then the d
    are correlated and sqrt(1/n) is too small: in simulation, false claims are up to nine times as frequent as stated.
    With sqrt(1/n + 1/(n - 1)) they are not. Source: the corrected resampled t-test of Nadeau & Bengio 2003 ("Inference
    for the Generalization Error", Machine Learning 52) with one of n seeds held out.
    """
    n, mean, sd, t = _t_statistic(differences, step, chosen)
    p = special.stdtr(np.maximum(n - 1, 1), -t)
    return Tests(n, mean, sd, t, np.where(np.isnan(p), 1.0, p))


def _t_statistic(differences: Array, step: float, chosen: bool) -> tuple[Array, Array, Array, Array]:
    """n, mean, sd and t of `paired_t`; t is NaN below three seeds."""
    n, mean, sd = moments(differences, step)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / (sd * np.sqrt(1 / n + (1 / (n - 1) if chosen else 0)))
    return n, mean, sd, np.where(n >= MINIMUM_SEEDS, np.where(mean == 0, 0.0, t), np.nan)


def moments(values: Array, step: float) -> tuple[Array, Array, Array]:
    """n, mean, standard deviation (n - 1) along the last axis, without NaN."""
    there = np.isfinite(values)
    size = values.shape[-1]
    if size > 1 and there.all():  # the short way, for large tables
        return np.full(values.shape[:-1], size), values.mean(-1), np.maximum(values.std(-1, ddof=1), step)
    n = there.sum(-1)
    filled = np.where(there, values, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(-1) / n
        sd = np.sqrt((np.where(there, filled - mean[..., None], 0.0) ** 2).sum(-1) / (n - 1))
    return n, mean, np.maximum(sd, step)


def holm(p: Array) -> Array:
    """Holm's corrected p-values: the i-th smallest of m becomes max over j <= i of (m - j + 1) * p_j, at most 1.

    Claiming what is at most 0.05 makes a false claim in at most 5 % of tables, whatever the dependence between the
    tests. NaN are tests that could not be made; they do not count. Source: Holm 1979, Scandinavian Journal of
    Statistics 6.
    """
    corrected = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected


def seeds_needed(effect: Array, level: float, chosen: bool = False) -> Array:
    """The fewest seeds that find a difference of `effect` standard deviations with power 0.8; inf beyond 10,000.

    The power of the one-sided t-test at `level` (half of alpha for a two-sided one): that a noncentral t with n - 1
    degrees of freedom and noncentrality effect / sqrt(1/n) exceeds t(1 - level, n - 1). It takes the difference and the
    spread seen so far for the true ones, so it is a guide. Close to ((z(1 - level) + 0.842) / effect)^2 + z(1 -
    level)^2 / 2 (Guenther 1981), which a pocket calculator gives. `chosen` as in `paired_t`. Source: Cohen 1988; the
    numbers are those of `scipy.stats.nct`.
    """
    effect = np.minimum(np.atleast_1d(np.asarray(effect, dtype=float)), 50.0)  # beyond it, three seeds do anyway
    low, high = np.full(effect.shape, MINIMUM_SEEDS), np.full(effect.shape, MAXIMUM_SEEDS + 1)
    while (low < high).any():
        middle = (low + high) // 2
        enough = _power(effect, middle, level, chosen) >= POWER
        low, high = np.where(enough | (low == high), low, middle + 1), np.where(enough, middle, high)
    return np.where(low > MAXIMUM_SEEDS, np.inf, low)


def _power(effect: Array, n: Array, level: float, chosen: bool) -> Array:
    center = effect / np.sqrt(1 / n + (1 / (n - 1) if chosen else 0))
    power = 1 - special.nctdtr(n - 1, np.maximum(center, 0), t_needed(level, n - 1))
    power = np.where(np.isnan(power), 1.0, power)  # nctdtr gives up where it is one to the last digit
    return np.where(effect > 0, power, 0.0)


def t_needed(level: float, df: Array | int) -> Array:
    """What t must exceed to be claimed, one-sided, at this level: t(1 - level, df) of a t table."""
    return np.asarray(-special.stdtrit(df, level))


def mcnemar(correct: Array, others: Array) -> tuple[Array, Array, Array]:
    """Exact McNemar tests of one run (correct, bool [n_test]) against others (bool [m, n_test]) on the same images.

    Of the b + c images that exactly one of the two gets right, b ~ Binomial(b + c, 1/2) if both are as good:
    p = min(1, 2 * P(B <= min(b, c))), the two-sided p of `scipy.stats.binomtest(b, b + c)`. It compares two trained
    networks; between seeds of one and the same setting it finds a difference in 18-30 % of cases, so it says nothing
    about settings. Returns b (only this run right), c (only the other), p, each [m]. Source: McNemar 1947.
    """
    b, c = (correct & ~others).sum(1), (~correct & others).sum(1)
    return b, c, np.minimum(1.0, 2 * special.bdtr(np.minimum(b, c), b + c, 0.5))


def compare_pairs(test: Array, step: float) -> tuple[Tests, Array]:
    """All pairs of settings, test [k, s], the best first: tests of the best against the others [k - 1]; corrected p.

    The p [k (k - 1) / 2] are two-sided, corrected by Holm over all pairs, in the order of `itertools.combinations`: the
    first k - 1 belong to the best. NaN below three common seeds.
    """
    first, second = np.triu_indices(len(test), 1)
    parts = np.array_split(np.arange(len(first)), len(first) * test.shape[1] // MOST_NUMBERS + 1)
    p = [_two_sided(test[first[part]] - test[second[part]], step) for part in parts]
    return paired_t(test[0] - test[1:], step), holm(np.concatenate(p))


def _two_sided(differences: Array, step: float) -> Array:
    n, _, _, t = _t_statistic(differences, step, chosen=False)
    return np.asarray(2 * special.stdtr(np.maximum(n - 1, 1), -np.abs(t)))

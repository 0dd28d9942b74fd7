"""Statistics and verdicts over the results table: what overfits, what underfits, what cannot be told apart.

A *setting* is everything but the seed; a *run* is a setting with a seed. All noise here is the noise between seeds, for
the one test set there is: nothing below says how a setting would do on other test images. Settings are compared only
where they saw the same data (`GROUP_COLUMNS`), and only on the seeds that both have.

The rule, for k settings with at least three seeds (a pocket calculator and a t table are enough):

1. Every setting is asked three questions - does it underfit, did its test loss rise, does another setting beat it - so
   each t is held against the t table at 0.05 / (3 k), one-sided, and the share of tables with any false verdict stays
   below 5 % (Bonferroni).
2. A test on one number d per seed: t = mean(d) / (sd(d) * sqrt(1/n)), n - 1 degrees of freedom. Where d is measured
   against the *best* of many (the best epoch, the best other setting), that best is chosen for each seed from the other
   seeds only, and the standard error is sd(d) * sqrt(1/n + 1/(n - 1)), because the choices share their seeds.
3. In this order:
   `underfit`     d = test accuracy of the best other setting - own train accuracy; d > 0.
   `overfit`      the gap (train - test accuracy) > 0, and one of
                  d = test loss at the end - test loss at the best epoch; d > 0;
                  d = the smaller of another setting's two leads (its test accuracy - ours, our train accuracy - its);
                  d > 0.
   `good fit`     for every other setting: its test accuracy is not 0.01 above our train accuracy; it is not 0.01 ahead
                  on the test set, or it fits the training set better (two chances, so 0.05 / (6 k) each); and for every
                  epoch: the test loss at the end is below 1.1 times the loss then.
   `cannot tell`  everything else, with what the means lean to and the seeds that would be needed.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

ALPHA = 0.05  # share of tables that may hold a false claim
POWER = 0.8  # chance to find a difference as large as the one seen, for the seeds needed
MINIMUM_SEEDS = 3  # fewer give no usable estimate of the noise
MAXIMUM_SEEDS = 10_000  # "more than" beyond this
QUESTIONS = 3  # that each setting is asked: underfit, rise of the test loss, beaten by another
ACCURACY_MARGIN = 0.01  # one point: what a good fit must exclude
LOSS_MARGIN = 0.1  # a tenth of the test loss: the rise that a good fit must exclude
LOSS_STEP = 1e-4  # the smallest spread of a loss between seeds that counts as measured
LEANING_CURVES = 100  # histories are read for leanings alone only up to this many settings
MCNEMAR_RUNS = 100  # single runs are compared with each other only up to this many

GROUP_COLUMNS = ["data", "data_sha256", "train_size", "split_seed"]  # same images trained on, same images tested on
SETTING_COLUMNS = [
    *["model", "filters", "units", "activation", "dropout", "l2", "optimizer", "learning_rate", "optimizer_settings"],
    *["epochs", "batch_size", "early_stopping", "data", "train_size", "validation_size", "split_seed"],
    *["engine", "xla", "threads"],
]
NEEDED_COLUMNS = ["run_id", "setting_id", "status", "seed", "train_accuracy", "test_accuracy"]

Array = np.ndarray
Reader = Mapping[str, Any] | Callable[[str], Any] | None  # run_id -> a frame or mapping of columns, read when asked


class Tests(NamedTuple):
    """One t-test a row: arrays [...], NaN (and p = 1) where fewer than three seeds are common."""

    n: Array
    mean: Array
    sd: Array
    t: Array
    p: Array  # one-sided: the mean is above zero


@dataclass
class Group:
    """Settings that may be compared: k settings in rows, s seeds in columns, NaN (or "") where there is no run."""

    ids: list[str]
    names: list[str]
    runs: Array  # str [k, s]
    train: Array  # accuracy [k, s] in [0, 1]
    test: Array  # accuracy [k, s] in [0, 1]
    kept_epoch: Array  # [k, s] >= 1: the epoch whose weights early stopping kept; NaN: the last one
    diverged: Array  # bool [k, s]: a loss or accuracy is not a number
    step: float  # the smallest spread that can be seen

    @property
    def tested(self) -> Array:
        """bool [k]: at least three seeds, and an accuracy for every run."""
        scored = np.isfinite(self.train) & np.isfinite(self.test)
        return np.asarray((scored.sum(1) >= MINIMUM_SEEDS) & (scored == (self.runs != "")).all(1))

    def take(self, rows: Array) -> "Group":
        """The same with these settings only, in this order."""
        ids, names = [self.ids[i] for i in rows], [self.names[i] for i in rows]
        parts = (self.runs[rows], self.train[rows], self.test[rows], self.kept_epoch[rows], self.diverged[rows])
        return Group(ids, names, *parts, self.step)


@dataclass
class Question:
    """One question asked of k settings: d per seed, whether the best was chosen, and the t-test on d."""

    tests: Tests
    chosen: bool
    level: float  # one-sided, corrected
    other: list[str]  # [k] the setting, or the epoch, that d is measured against

    @property
    def yes(self) -> Array:
        """bool [k]: d is above zero beyond the noise."""
        return np.asarray(self.tests.p <= self.level)

    @cached_property
    def seeds_needed(self) -> Array:
        """[k] see `seeds_needed`."""
        return seeds_needed(self.tests.mean / self.tests.sd, self.level, self.chosen)

    def evidence(self, row: int) -> str:
        """The t, what it had to exceed, and the degrees of freedom."""
        df = int(self.tests.n[row]) - 1
        if df < MINIMUM_SEEDS - 1:
            return "fewer than three seeds to compare on"
        return f"t = {self.tests.t[row]:.1f}, {stats.t.isf(self.level, df):.1f} needed, {df} degrees of freedom"


# --- the statistics ---------------------------------------------------------------------------------------------------


def mean_interval(values: Array, step: float = 0.0) -> tuple[Array, Array, Array]:
    """Mean over seeds and its 95 % interval, mean +- t(0.975, n - 1) * sd / sqrt(n), for values [..., s].

    NaN are seeds without a run; no interval below two. An sd below `step` is taken as `step`: n equal scores mean that
    the noise is smaller than one image, not that there is none. Assumes that the scores of a setting over seeds are
    independent and about normal. Source: Student 1908; `scipy.stats.t.interval`.
    """
    n, mean, sd = _moments(values, step)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.where(n >= 2, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * sd / np.sqrt(n), np.nan)
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
    n, mean, sd = _moments(differences, step)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / (sd * np.sqrt(1 / n + (1 / (n - 1) if chosen else 0)))
    t = np.where(n >= MINIMUM_SEEDS, np.where(mean == 0, 0.0, t), np.nan)
    p = special.stdtr(np.maximum(n - 1, 1), -t)  # what scipy.stats.t.sf(t, n - 1) calls
    return Tests(n, mean, sd, t, np.where(np.isnan(p), 1.0, p))


def _moments(values: Array, step: float) -> tuple[Array, Array, Array]:
    """n, mean, standard deviation (n - 1) along the last axis, without NaN."""
    there = np.isfinite(values)
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
    level)^2 / 2 (Guenther 1981), which a pocket calculator gives. `chosen` as in `paired_t`. Source: Cohen 1988;
    `scipy.stats.nct`.
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
    power = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, np.maximum(center, 0))
    return np.where(effect > 0, power, 0.0)


def mcnemar(correct: Array, others: Array) -> tuple[Array, Array, Array]:
    """Exact McNemar tests of one run (correct, bool [n_test]) against others (bool [m, n_test]) on the same images.

    Of the b + c images that exactly one of the two gets right, b ~ Binomial(b + c, 1/2) if both are as good:
    p = min(1, 2 * P(B <= min(b, c))), the two-sided p of `scipy.stats.binomtest(b, b + c)`. It compares two trained
    networks; between seeds of one and the same setting it finds a difference in 18-30 % of cases, so it says nothing
    about settings. Returns b (only this run right), c (only the other), p, each [m]. Source: McNemar 1947.
    """
    b, c = (correct & ~others).sum(1), (~correct & others).sum(1)
    return b, c, np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5))


# --- the questions ----------------------------------------------------------------------------------------------------


def lead_of_best_other(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """For each setting and seed, the lead of the best other setting, chosen by the other seeds: d [k, s], which [k, s].

    parts: pairs (theirs, ours), each [k, s]; a lead is theirs of one setting - ours of another, and of several parts
    the smallest counts (its mean is above zero only if all are). NaN and -1 where no other setting has this seed and
    two more in common. With the best chosen by the seeds it is measured on, some other setting would always seem to
    lead.
    """
    k, s = parts[0][0].shape
    leads, which = np.full((k, s), np.nan), np.full((k, s), -1)
    there = np.isfinite(np.array([theirs for theirs, _ in parts])).all(axis=0)
    for seed in range(s):
        rest = np.arange(s) != seed
        for rows in np.array_split(np.arange(k), k // 500 + 1):  # blocks, to bound the memory
            means = reduce(np.minimum, (_mean_leads(theirs[:, rest], ours[rows][:, rest]) for theirs, ours in parts))
            means[:, ~there[:, seed]] = -np.inf
            means[np.arange(len(rows)), rows] = -np.inf
            best = means.argmax(1)
            lead = reduce(np.minimum, (theirs[best, seed] - ours[rows, seed] for theirs, ours in parts))
            found = np.isfinite(means.max(1)) & np.isfinite(lead)
            leads[rows, seed], which[rows, seed] = np.where(found, lead, np.nan), np.where(found, best, -1)
    return leads, which


def _mean_leads(theirs: Array, ours: Array) -> Array:
    """mean over common seeds of theirs [b, s] - ours [a, s], as [a, b]; -inf below two common seeds."""
    if theirs.shape[1] >= MINIMUM_SEEDS - 1 and np.isfinite(theirs).all() and np.isfinite(ours).all():
        return np.asarray(theirs.mean(1) - ours.mean(1)[:, None])  # the usual table, without the matrix products
    there, here = np.isfinite(theirs).astype(float), np.isfinite(ours).astype(float)
    common = here @ there.T
    total = here @ np.nan_to_num(theirs).T - np.nan_to_num(ours) @ there.T
    return np.where(common >= MINIMUM_SEEDS - 1, total / np.maximum(common, 1), -np.inf)


def ask_others(group: Group, parts: list[tuple[Array, Array]], level: float) -> Question:
    """Does another setting lead? `parts` as in `lead_of_best_other`."""
    if len(group.ids) < 2:
        return Question(paired_t(np.full(group.train.shape, np.nan)), True, level, [""] * len(group.ids))
    leads, which = lead_of_best_other(parts)
    others = [_name_choices([group.names[i] for i in row if i >= 0]) for row in which]
    return Question(paired_t(leads, group.step, chosen=True), True, level, others)


def _name_choices(names: list[str]) -> str:
    counts = Counter(names).most_common()
    if len(counts) < 2:
        return "".join(name for name, _ in counts)
    (most, times), rest = counts[0], ", ".join(name for name, _ in counts[1:3])
    return f"{most} (on {times} of {len(names)} seeds; else {rest})"


def test_loss_curves(group: Group, row: int, histories: Reader) -> tuple[Array, Array] | None:
    """The test losses of a setting's runs: losses [n, epochs that every run reached], ends [n]. None: no history.

    A run ends with the weights of its last epoch, or with the epoch that early stopping kept; epochs after that are
    not part of what the run is. Runs without a history are left out. A diverged curve keeps its NaN.
    """
    curves = []
    for run_id, kept in zip(group.runs[row], group.kept_epoch[row], strict=True):
        history = _read(histories, run_id) if run_id else None
        if history is None or not len(history["test_loss"]):
            continue
        losses = np.asarray(history["test_loss"], dtype=float)
        curves.append(losses if np.isnan(kept) else losses[np.asarray(history["epoch"]) <= kept])
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return None
    reached = min(len(curve) for curve in curves)
    return np.array([curve[:reached] for curve in curves]), np.array([curve[-1] for curve in curves])


def _all_finite(pair: tuple[Array, Array]) -> bool:
    return bool(np.isfinite(np.column_stack(pair)).all())


def rise_since_best_epoch(losses: Array, ends: Array) -> tuple[Array, Array]:
    """Test loss at the end - at the best epoch, for each seed; the best epoch has the lowest mean of the others.

    losses [n, epochs], ends [n] (cross-entropy); returns rises [n] and best epochs [n]. If the others are best at their
    end, the rise is zero. Each curve against its own minimum would "rise" in 71-97 % of flat curves.
    """
    candidates = np.column_stack([losses, ends])
    best = (candidates.sum(0) - candidates).argmin(1)
    return ends - candidates[np.arange(len(ends)), best], best + 1


def ask_curves(curves: list[tuple[Array, Array] | None], level: float) -> tuple[Question, Question]:
    """Two questions: did the test loss rise since its best epoch; is its end below 1.1 times the loss of every epoch?

    The second is asked of every epoch and answered by the worst, which needs no correction: all must hold
    (intersection-union test, Berger 1982). Unknown (NaN) below three curves, or where one is not a number.
    """
    rises, margins, best = [], [], []
    for pair in curves:
        usable = pair if pair is not None and _all_finite(pair) and len(pair[1]) >= MINIMUM_SEEDS else None
        losses, ends = usable or (np.full((1, 1), np.nan), np.full(1, np.nan))
        rise, epochs = rise_since_best_epoch(losses, ends)
        rises.append(paired_t(rise, LOSS_STEP, chosen=True))
        every = paired_t((1 + LOSS_MARGIN) * losses.T - ends, LOSS_STEP)
        margins.append(Tests(*(values[every.p.argmax()] for values in every)))
        best.append(f"epoch {np.median(epochs):.0f}")
    columns = [Tests(*map(np.array, zip(*tests, strict=True))) for tests in (rises, margins) if tests]
    first, second = columns or [_no_tests(), _no_tests()]
    return Question(first, True, level, best), Question(second, False, level, best)


def _no_tests() -> Tests:
    return Tests(*(np.empty(0) for _ in Tests._fields))


def ask_good_fit(group: Group, rows: Array, level: float) -> tuple[Question, Question]:
    """Two questions, of `rows`: is no other's test accuracy a point above its train accuracy; does none beat it by one?

    Asked of every other setting, answered by the worst (intersection-union, Berger 1982). The second has two ways to be
    true - not a point ahead on the test set, or fitting the training set better - so its p is doubled.
    """
    below: list[list[Array]] = []
    beaten: list[list[Array]] = []
    names: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        others = np.arange(len(group.ids)) != row
        test, train = group.test[others], group.train[others]
        reached = paired_t(group.train[row] + ACCURACY_MARGIN - test, group.step)
        close = paired_t(group.test[row] + ACCURACY_MARGIN - test, group.step)
        fitted = paired_t(train - group.train[row], group.step)
        easier = [np.where(close.p <= fitted.p, a, b) for a, b in zip(close, fitted, strict=True)]
        for tests, answers, named in ((reached, below, names[0]), (Tests(*easier), beaten, names[1])):
            worst = np.where(tests.n >= MINIMUM_SEEDS, tests.p, -1).argmax()
            answers.append([values[worst] for values in tests])
            named.append(group.names[np.flatnonzero(others)[worst]])
    first, second = (Tests(*map(np.array, zip(*a, strict=True))) if a else _no_tests() for a in (below, beaten))
    return Question(first, False, level, names[0]), Question(second, False, level / 2, names[1])


# --- the verdict ------------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """All questions asked of the k tested settings of a group, and what was said."""

    group: Group
    leanings: list[str]
    curves: list[tuple[Array, Array] | None]  # None: not read, or not there
    gap: Question
    underfit: Question
    beaten: Question
    rise: Question
    flat: Question
    reached: dict[int, tuple[Question, int]]  # good fit: the part still to be shown, and its place in the question

    def verdict(self, row: int) -> str:
        """The rule, in its order (see the top of this file)."""
        if self.underfit.yes[row]:
            return "underfit"
        if self.gap.yes[row] and (self.rise.yes[row] or self.beaten.yes[row]):
            return "overfit"
        return "good fit" if row in self.reached and self.reached[row][0].yes[self.reached[row][1]] else "cannot tell"

    def reason(self, row: int) -> str:
        """One sentence of evidence, with its numbers."""
        verdict = self.verdict(row)
        if verdict == "good fit":
            return self._say_good_fit(row)
        if verdict != "cannot tell":
            return self._say_underfit(row) if verdict == "underfit" else self._say_overfit(row)
        if len(self.group.ids) < 2:
            return "No other setting with three seeds to compare it with."
        say = {"underfit": self._say_underfit, "overfit": self._say_overfit, "good fit": self._say_unsure_good_fit}
        return say[self.leanings[row] or "good fit"](row)

    def _say_underfit(self, row: int) -> str:
        lead, other = self.underfit.tests.mean[row], self.underfit.other[row]
        below = f"{lead:.4f} below" if lead > 0 else "about"
        return (
            f"Train accuracy {np.nanmean(self.group.train[row]):.4f} is {below} what {other or 'another'} reaches on "
            f"unseen images ({self.underfit.evidence(row)}){self._unless(self.underfit, row)}."
        )

    def _say_overfit(self, row: int) -> str:
        gap = self.gap.tests.mean[row]
        by_rise = self.rise.tests.p[row] <= self.beaten.tests.p[row]
        question = self.rise if by_rise else self.beaten
        amount, other = question.tests.mean[row], question.other[row]
        if not amount > 0:
            what = "the means point to overfitting, but not seed by seed"
        elif by_rise:
            what = f"test loss rose by {amount:.3f} since its best epoch ({other})"
        else:
            what = f"{other} fits the training set less well and the test set better, by {amount:.4f}"
        if question.yes[row] and not self.gap.yes[row]:
            question = self.gap
        return f"Gap {gap:.4f}, and {what} ({question.evidence(row)}){self._unless(question, row)}."

    def _say_good_fit(self, row: int) -> str:
        (question, place), train = self.reached[row], np.nanmean(self.group.train[row])
        return (
            f"No other setting is a point above its train accuracy of {train:.4f} on unseen images, or a point ahead "
            f"while fitting less (closest: {question.other[place]}, {question.evidence(place)}), and the test loss "
            f"ends less than {LOSS_MARGIN:.0%} above any epoch's ({self.flat.evidence(row)})."
        )

    def _say_unsure_good_fit(self, row: int) -> str:
        start = "No sign of over- or underfitting, but "
        pair = self.curves[row]
        if pair is None:
            return start + "without its history a rise of the test loss cannot be judged."
        if not _all_finite(pair):
            return start + "a test loss is not a number, so its rise cannot be judged."
        if row not in self.reached:
            what, question, place = f"the test loss may end {LOSS_MARGIN:.0%} above an earlier epoch's", self.flat, row
        else:
            question, place = self.reached[row]
            what = f"{question.other[place]} may be a point ahead"
        return f"{start}{what} ({question.evidence(place)}){self._unless(question, place)}."

    def _unless(self, question: Question, place: int) -> str:
        if question.yes[place]:
            return ""
        if question.tests.n[place] < MINIMUM_SEEDS:
            return ": at least three are needed"
        return f", which may be noise: {_say_seeds(question.seeds_needed[place])} would be needed"


def _say_seeds(needed: float) -> str:
    return f"about {needed:,.0f} seeds" if np.isfinite(needed) else f"more than {MAXIMUM_SEEDS:,} seeds"


def ask_all(group: Group, histories: Reader) -> Answers:
    """Asks the tested settings of a group everything; histories are read only of settings that do not underfit."""
    level = ALPHA / (QUESTIONS * max(len(group.ids), 1))
    underfit = ask_others(group, [(group.test, group.train)], level)
    beaten = ask_others(group, [(group.test, group.test), (-group.train, -group.train)], level)
    gap = Question(paired_t(group.train - group.test, group.step), False, level, [])
    curves = [None if underfit.yes[i] else test_loss_curves(group, i, histories) for i in range(len(group.ids))]
    rise, flat = ask_curves(curves, level)
    open_rows = np.flatnonzero(~underfit.yes & ~(gap.yes & (rise.yes | beaten.yes)) & flat.yes)
    reached: dict[int, tuple[Question, int]] = {}
    if len(group.ids) > 1:
        below, close = ask_good_fit(group, open_rows, level)
        for place, row in enumerate(open_rows):
            worse = below.tests.p[place] / below.level > close.tests.p[place] / close.level
            reached[int(row)] = (below if worse else close, place)
    return Answers(group, lean(group, curves), curves, gap, underfit, beaten, rise, flat, reached)


def lean(group: Group, curves: list[tuple[Array, Array] | None]) -> list[str]:
    """[k] what the means alone point to, without regard to noise; "" without a score or without another setting.

    underfit: another's mean test accuracy is above the own train accuracy; overfit: the mean test loss ends a tenth
    above its lowest, or another is a point ahead on the test set while fitting the training set less well.
    """
    (_, train, _), (_, test, _) = _moments(group.train, 0), _moments(group.test, 0)
    best_for_less = _best_test_below(train, test)
    order = np.argsort(np.where(np.isnan(test), -np.inf, test))
    leanings = []
    for row in range(len(train)):
        others = [i for i in order[-2:] if i != row and np.isfinite(test[i])]
        pair = curves[row]
        rose = pair is not None and _all_finite(pair) and _rose(*pair)
        if np.isnan(train[row]) or np.isnan(test[row]) or not (others or rose):
            leanings.append("")
        elif others and test[others[-1]] > train[row]:
            leanings.append("underfit")
        elif train[row] > test[row] and (rose or best_for_less[row] >= test[row] + ACCURACY_MARGIN):
            leanings.append("overfit")
        else:
            leanings.append("good fit" if others else "")
    return leanings


def _rose(losses: Array, ends: Array) -> bool:
    return bool(ends.mean() >= (1 + LOSS_MARGIN) * losses.mean(0).min())


def _best_test_below(train: Array, test: Array) -> Array:
    """[k] the highest test accuracy of the settings with a lower train accuracy; -inf where there is none."""
    scores = np.where(np.isfinite(train) & np.isfinite(test), test, -np.inf)
    order = np.argsort(train, kind="stable")
    highest = np.concatenate([[-np.inf], np.maximum.accumulate(scores[order])])
    return highest[np.searchsorted(train[order], train, side="left")]


def judge_settings(group: Group, histories: Reader) -> pd.DataFrame:
    """`verdict`, `leaning`, `reason` of every setting of a group, in its order."""
    tested = np.flatnonzero(group.tested)
    answers = ask_all(group.take(tested), histories)
    place = {int(row): i for i, row in enumerate(tested)}
    too_few = [row for row in range(len(group.ids)) if row not in place]
    read = histories if len(too_few) <= LEANING_CURVES else None
    curves = [test_loss_curves(group, row, read) if row not in place else None for row in range(len(group.ids))]
    leanings = lean(group, curves)
    for row, i in place.items():
        leanings[row] = answers.leanings[i]
    lines = []
    for row, leaning in enumerate(leanings):
        if row in place:
            verdict, reason = answers.verdict(place[row]), answers.reason(place[row])
        else:
            verdict, reason = "cannot tell", _say_too_few(group, row, histories is None or read is not None)
        note = _say_diverged(group, row)
        lines.append((verdict, leaning if verdict == "cannot tell" else verdict, reason + note))
    return pd.DataFrame(lines, columns=["verdict", "leaning", "reason"])


def _say_too_few(group: Group, row: int, read: bool) -> str:
    runs = int((group.runs[row] != "").sum())
    scored = int(np.isfinite(group.train[row] + group.test[row]).sum())
    if not runs:
        return "No finished run."
    if scored < runs:
        return f"{runs - scored} of {runs} runs have no accuracy; the mean of the others would flatter it."
    note = "" if read else " The leaning is from the accuracies alone."
    return f"{runs} of the three seeds that an estimate of the noise needs: run {MINIMUM_SEEDS - runs} more.{note}"


def _say_diverged(group: Group, row: int) -> str:
    diverged, runs = int(group.diverged[row].sum()), int((group.runs[row] != "").sum())
    return f" {diverged} of {runs} runs diverged: a loss is not a number." if diverged else ""


# --- against the best -------------------------------------------------------------------------------------------------


def compare_with_best(group: Group, predictions: Reader = None, labels: Any = None) -> pd.DataFrame:
    """How every setting compares with the best: the one with the highest mean test accuracy of those with three seeds.

    Paired t-tests, two-sided, of all pairs with three common seeds, corrected by Holm over all of them: the best is
    itself picked by these scores, so correcting for the k - 1 comparisons with it would make false claims in 13-17 % of
    tables of 30. Without three seeds: McNemar between single runs where every setting has one run.
    """
    k = len(group.ids)
    table = pd.DataFrame(
        {"best": [""] * k, "against_best": "cannot tell", "difference": np.nan, "difference_low": np.nan}
        | {"difference_high": np.nan, "p_corrected": np.nan, "seeds_needed": np.nan, "seeds_needed_here": np.nan}
        | {"comparison": "Fewer than three common seeds: settings cannot be compared."}
    )
    mean = _moments(group.test, 0)[1]
    tested = np.flatnonzero(group.tested)
    tested = tested[np.lexsort((tested, -mean[tested]))]
    if len(tested):
        best = tested[0]
        table["best"] = group.ids[best]
        _fill_comparisons(table, group, tested)
        table.loc[best, ["against_best", "comparison"]] = ["best", "The highest test accuracy here."]
    elif k and np.isfinite(mean).any():
        best = int(np.nanargmax(mean))
        table["best"] = group.ids[best]
        if ((group.runs != "").sum(1) == 1).all():
            table["comparison"] = _say_runs(group, best, predictions, labels)
    return table


def compare_pairs(test: Array, step: float) -> tuple[Tests, Array]:
    """All pairs of settings, test [k, s], the best first: tests of the best against the others [k - 1]; corrected p.

    The p [k (k - 1) / 2] are two-sided, corrected by Holm over all pairs, in the order of `itertools.combinations`: the
    first k - 1 belong to the best. NaN below three common seeds.
    """
    first = paired_t(test[0] - test[1:], step)
    return first, holm(np.concatenate([_two_sided(test[i] - test[i + 1 :], step) for i in range(len(test))]))


def _fill_comparisons(table: pd.DataFrame, group: Group, tested: Array) -> None:
    test = group.test[tested]  # the best first
    first, corrected = compare_pairs(test, group.step)
    pairs = int((~np.isnan(corrected)).sum())
    p = corrected[: len(first.n)]
    _, low, high = mean_interval(test[0] - test[1:], group.step)
    apart, known, effect = p <= ALPHA, ~np.isnan(p), np.abs(first.mean / first.sd)
    alone = np.where(apart | ~known, np.nan, seeds_needed(effect, ALPHA / 2))
    here = np.where(apart | ~known, np.nan, seeds_needed(effect, ALPHA / 2 / max(pairs, 1)))
    numbers = np.where(known, [first.mean, low, high, p, alone, here], np.nan)
    rows = tested[1:]
    columns = ["difference", "difference_low", "difference_high", "p_corrected", "seeds_needed", "seeds_needed_here"]
    table.loc[rows, columns] = numbers.T
    told = np.where(first.mean > 0, "worse", "better")
    table.loc[rows, "against_best"] = np.where(apart, told, np.where(known, "not told apart", "cannot tell"))
    for i in np.flatnonzero(known):
        say = (
            "told apart"
            if apart[i]
            else f"not told apart; {_say_pair_seeds(alone[i], here[i], first.n[i], len(tested))}"
        )
        table.at[rows[i], "comparison"] = (
            f"{abs(first.mean[i]):.4f} {'below' if first.mean[i] >= 0 else 'above'} {group.names[tested[0]]} on "
            f"{first.n[i]} common seeds (best - this: 95 % interval {low[i]:.4f} to {high[i]:.4f}; p = {p[i]:.2g} "
            f"after Holm over {pairs} pairs): {say}."
        )


def _two_sided(differences: Array, step: float) -> Array:
    tests = paired_t(differences, step)
    return np.asarray(2 * special.stdtr(np.maximum(tests.n - 1, 1), -np.abs(tests.t)))


def _say_pair_seeds(alone: float, here: float, n: int, k: int) -> str:
    if not np.isfinite(alone):
        return f"more than {MAXIMUM_SEEDS:,} seeds would be needed"
    table = "" if k == 2 else f", {_say_seeds(here).removeprefix('about ')} in this table of {k} settings"
    if alone <= n:
        return f"these two alone would be{table}"
    return f"{_say_seeds(alone)} of these two alone would be needed{table}"


def compare_runs(run_ids: list[str], best: str, predictions: Reader, labels: Array) -> pd.DataFrame:
    """Single runs against the run `best`, as trained networks on the same test images: exact McNemar (see `mcnemar`).

    predictions: run_id -> `label` uint8 [n_test]; labels: the true ones [n_test]. Columns: `run_id`, `only_best_right`,
    `only_this_right` (images), `p`, `p_corrected` (Holm over all pairs of these runs). Runs without predictions are
    left out.
    ValueError: predictions and labels of different lengths.
    """
    rights = {run_id: _rights(run_id, predictions, labels) for run_id in run_ids}
    ids = [best, *(run_id for run_id in run_ids if run_id != best)]
    there = [run_id for run_id in ids if rights[run_id] is not None]
    columns = ["run_id", "only_best_right", "only_this_right", "p", "p_corrected"]
    if best not in there or len(there) < 2:
        return pd.DataFrame(columns=columns)
    correct = np.array([rights[run_id] for run_id in there])
    rows = [mcnemar(correct[i], correct[i + 1 :]) for i in range(len(there) - 1)]
    corrected = holm(np.concatenate([p for _, _, p in rows]))[: len(there) - 1]
    return pd.DataFrame(dict(zip(columns, [there[1:], *rows[0], corrected], strict=True)))


def _rights(run_id: str, predictions: Reader, labels: Array) -> Array | None:
    read = _read(predictions, run_id)
    if read is None:
        return None
    label = np.asarray(read["label"])
    if label.shape != np.shape(labels):
        raise ValueError(f"{run_id}: expected one prediction for each of {len(labels)} test images, got {label.shape}")
    return np.asarray(label == labels)


def _say_runs(group: Group, best: int, predictions: Reader, labels: Any) -> list[str]:
    """[k] a sentence each on the single runs, as runs."""
    start = "One seed each: settings cannot be compared."
    runs = ["".join(row) for row in group.runs]
    if predictions is None or labels is None or not 2 <= len(runs) <= MCNEMAR_RUNS:
        return [start] * len(runs)
    table = compare_runs(runs, runs[best], predictions, labels).set_index("run_id")
    lines = []
    for run_id in runs:
        if run_id not in table.index:
            lines.append(start + (" The best run." if run_id == runs[best] else " Its predictions are not there."))
            continue
        b, c, _, p = (float(value) for value in table.loc[run_id].to_numpy())
        differ = "are two different networks" if p <= ALPHA else "cannot be told apart as networks"
        lines.append(
            f"{start} As runs, this one and {group.names[best]} {differ} (of the {b + c:.0f} test images that one of "
            f"the two gets right, this one gets {c:.0f}; McNemar p = {p:.2g} after Holm), which says nothing about "
            "their settings."
        )
    return lines


# --- the table --------------------------------------------------------------------------------------------------------


def compare_settings(
    results: pd.DataFrame,
    histories: Reader = None,
    predictions: Reader = None,
    labels: Any = None,
    columns: str = "differing",
) -> pd.DataFrame:
    """One row a setting, over its seeds; the rule is at the top of this file.

    results: the results table, one row a run; needs `NEEDED_COLUMNS`. Accuracies in [0, 1]; only `finished` rows count.
    histories: run_id -> columns `epoch` (1, 2, ...) and `test_loss` (cross-entropy, inference mode), read only where a
        rise of the test loss can decide; None, KeyError, OSError: not there, and the reasons say so.
    predictions: run_id -> `label` uint8 [n_test]; labels: the true ones, or a mapping from `data` to them. Read only
        where every setting of a comparison has one run.
    columns: the settings shown, "differing" or "all".

    Returns, best test accuracy first within each comparison (data and training size):
    - `setting_id`, the settings, `name`, `n` (finished runs with an accuracy), `failed`, `diverged` (runs with a loss
    or
      accuracy that is not a number; counted in `n` if they have an accuracy);
    - `train_accuracy`, `test_accuracy`, `accuracy_gap`: means over seeds, each with `_low` and `_high`, its 95 %
    interval
      (Student t; NaN for one seed; accuracies cut to [0, 1]);
    - `verdict` underfit, overfit, good fit, cannot tell; `leaning` what the means alone point to (the verdict, if there
      is one; "" if nothing does); `reason` a sentence;
    - `best` (setting_id), `against_best` best, worse, better, not told apart, cannot tell; `difference` of test
    accuracy
      (best - this, mean over common seeds) with `_low` and `_high` (95 %, for this pair alone), `p_corrected` (Holm
      over all pairs);
    - `seeds_needed` to tell it from the best with power 0.8 at alpha 0.05, if only these two are compared and the
      difference and its spread are as seen; `seeds_needed_here` in this table of k settings; inf: more than 10,000;
      NaN: does not apply; `comparison` a sentence.

    ValueError: a column is missing, or `columns` is unknown.
    """
    missing = [column for column in NEEDED_COLUMNS if column not in results.columns]
    if missing:
        raise ValueError(f"results: expected the columns {', '.join(NEEDED_COLUMNS)}; missing: {', '.join(missing)}")
    if columns not in ("differing", "all"):
        raise ValueError(f'columns: expected "differing" or "all", got {columns!r}')
    settings = results.groupby("setting_id", sort=True)[_present(results, ["data_sha256", *SETTING_COLUMNS])].first()
    shown = _differing(settings) if columns == "differing" else _present(settings, SETTING_COLUMNS)
    failed = results.loc[results["status"] != "finished", "setting_id"].value_counts()
    parts = []
    for key in _comparisons(settings):
        members = settings.loc[key]
        group = build_group(results[results["setting_id"].isin(members.index)], members)
        labels_here = labels.get(members["data"].iloc[0]) if isinstance(labels, Mapping) else labels
        parts.append(_compare_group(group, failed, members[shown], (histories, predictions, labels_here)))
    parts.sort(key=lambda part: -part["test_accuracy"].max() if part["n"].any() else np.inf)
    return pd.concat(parts, ignore_index=True) if parts else _empty_table(shown)


def _compare_group(
    group: Group, failed: pd.Series, shown: pd.DataFrame, read: tuple[Reader, Reader, Any]
) -> pd.DataFrame:
    histories, predictions, labels = read
    table = shown.reset_index()
    table["name"] = group.names
    table["n"] = (np.isfinite(group.train) & np.isfinite(group.test)).sum(1)
    table["failed"] = table["setting_id"].map(failed).fillna(0).astype(int)
    table["diverged"] = group.diverged.sum(1)
    scores = {"train_accuracy": group.train, "test_accuracy": group.test, "accuracy_gap": group.train - group.test}
    for column, values in scores.items():
        mean, low, high = mean_interval(values, group.step)
        cut = -1.0 if column == "accuracy_gap" else 0.0
        table[column] = mean
        table[f"{column}_low"], table[f"{column}_high"] = np.maximum(low, cut), np.minimum(high, 1.0)
    best = compare_with_best(group, predictions, labels)
    table = pd.concat([table, judge_settings(group, histories), best], axis=1)
    return table.sort_values(["test_accuracy", "setting_id"], ascending=[False, True], ignore_index=True)


def build_group(rows: pd.DataFrame, members: pd.DataFrame) -> Group:
    """The finished runs of the settings `members` (index: setting_id); of two runs with one seed, the last."""
    rows = rows[rows["status"] == "finished"].drop_duplicates(["setting_id", "seed"], keep="last")
    i = members.index.get_indexer(pd.Index(rows["setting_id"]))
    j, seeds = pd.factorize(rows["seed"], sort=True)
    shape = (len(members), len(seeds))
    early = rows.get("early_stopping", pd.Series(0, rows.index)).fillna(0) > 0  # 0: off
    kept = rows.get("best_epoch", pd.Series(np.nan, rows.index)).where(early)
    losses = [rows[column] for column in ("train_loss", "test_loss") if column in rows]
    wrong = ~np.isfinite(np.array([*losses, rows["train_accuracy"], rows["test_accuracy"]], dtype=float)).all(0)

    def spread(values: Any, empty: Any, dtype: Any = float) -> Array:
        array = np.full(shape, empty, dtype=dtype)
        array[i, j] = np.asarray(values, dtype=dtype)
        return array

    train, test = spread(rows["train_accuracy"], np.nan), spread(rows["test_accuracy"], np.nan)
    names = name_settings(members)
    runs, diverged = spread(rows["run_id"], "", object), spread(wrong, False, bool)
    step = max(_smallest_step(train), _smallest_step(test))
    return Group(list(members.index), names, runs, train, test, spread(kept, np.nan), diverged, step)


def _smallest_step(scores: Array) -> float:
    """The smallest difference between two scores seen, at most a point: at least one image, so never too certain."""
    distinct = np.unique(np.round(scores[np.isfinite(scores)], 7))
    return float(min(np.diff(distinct).min(), ACCURACY_MARGIN)) if len(distinct) > 1 else 1e-4


def name_settings(members: pd.DataFrame) -> list[str]:
    """A name for each setting: what differs among them; with the setting_id where that does not tell them apart."""
    columns = _differing(members)
    names = [describe_setting(row, columns) for _, row in members.iterrows()]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for name, i in zip(names, members.index, strict=True)]


def describe_setting(row: Mapping[str, Any] | pd.Series, columns: list[str]) -> str:
    """A setting in words: `dropout=0.2 l2=0.01` for these columns; without any, its model's name. Empty is `none`."""
    if not columns:
        return str(row.get("model", "setting"))
    return " ".join(f"{column}={_show(row[column])}" for column in columns)


def _show(value: Any) -> str:
    if not isinstance(value, str | list | tuple | np.ndarray) and pd.isna(value):
        return "none"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _differing(settings: pd.DataFrame) -> list[str]:
    return [column for column in _present(settings, SETTING_COLUMNS) if settings[column].nunique(dropna=False) > 1]


def _present(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    return [column for column in columns if column in frame.columns]


def _comparisons(settings: pd.DataFrame) -> list[pd.Index]:
    """The settings that may be compared with each other, a list of setting_ids each."""
    by = _present(settings, GROUP_COLUMNS)
    if not by or settings.empty:
        return [settings.index] if len(settings) else []
    return [part.index for _, part in settings.groupby(by, dropna=False, sort=True)]


def _empty_table(shown: list[str]) -> pd.DataFrame:
    scores = [f"{name}_accuracy{end}" for name in ("train", "test") for end in ("", "_low", "_high")]
    scores += ["accuracy_gap", "accuracy_gap_low", "accuracy_gap_high"]
    best = ["best", "against_best", "difference", "difference_low", "difference_high", "p_corrected", "seeds_needed"]
    rest = ["verdict", "leaning", "reason", *best, "seeds_needed_here", "comparison"]
    return pd.DataFrame(columns=["setting_id", *shown, "name", "n", "failed", "diverged", *scores, *rest])


def _read(source: Reader, run_id: str) -> Any:
    """What a reader has for a run; None if it has nothing."""
    if source is None:
        return None
    try:
        return source[run_id] if isinstance(source, Mapping) else source(run_id)
    except (KeyError, OSError):
        return None

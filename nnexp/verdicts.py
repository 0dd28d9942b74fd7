"""The rule: what overfits, what underfits, what fits well, and what cannot be told.

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

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnexp.questions import (
    ACCURACY_MARGIN,
    LOSS_MARGIN,
    Group,
    Question,
    Reader,
    all_finite,
    ask_curves,
    ask_good_fit,
    ask_others,
    test_loss_curves,
)
from nnexp.statistics import ALPHA, MAXIMUM_SEEDS, MINIMUM_SEEDS, Array, moments, paired_t

QUESTIONS = 3  # that each setting is asked: underfit, rise of the test loss, beaten by another
LEANING_CURVES = 100  # histories are read for leanings alone only up to this many settings


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
            f"ends less than {100 * LOSS_MARGIN:.0f} % above any epoch's ({self.flat.evidence(row)})."
        )

    def _say_unsure_good_fit(self, row: int) -> str:
        start = "No sign of over- or underfitting, but "
        pair = self.curves[row]
        if pair is None:
            return start + "without its history a rise of the test loss cannot be judged."
        if not all_finite(pair):
            return start + "a test loss is not a number, so its rise cannot be judged."
        if row not in self.reached:
            what, question, place = (
                f"the test loss may end {100 * LOSS_MARGIN:.0f} % above an earlier epoch's",
                self.flat,
                row,
            )
        else:
            question, place = self.reached[row]
            what = f"{question.other[place]} may be a point ahead"
        return f"{start}{what} ({question.evidence(place)}){self._unless(question, place)}."

    def _unless(self, question: Question, place: int) -> str:
        if question.yes[place]:
            return ""
        if question.tests.n[place] < MINIMUM_SEEDS:
            return ": at least three are needed"
        return f", which may be noise: {say_seeds(question.seeds_needed[place])} would be needed"


def say_seeds(needed: float) -> str:
    """About so many seeds, in words."""
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
    (_, train, _), (_, test, _) = moments(group.train, 0), moments(group.test, 0)
    best_for_less = _best_test_below(train, test)
    order = np.argsort(np.where(np.isnan(test), -np.inf, test))
    leanings = []
    for row in range(len(train)):
        others = [i for i in order[-2:] if i != row and np.isfinite(test[i])]
        pair = curves[row]
        rose = pair is not None and all_finite(pair) and _rose(*pair)
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

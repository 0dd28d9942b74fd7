"""What is asked of every setting: does another reach more, did its test loss rise, is it flat, is it beaten?

The rule that the answers lead to stands at the top of verdicts.py; the tests that answer are those of statistics.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from nnexp.statistics import MINIMUM_SEEDS, MOST_NUMBERS, Array, Tests, paired_t, seeds_needed, t_needed

ACCURACY_MARGIN = 0.01  # one point: what a good fit must exclude
LOSS_MARGIN = 0.1  # a tenth of the test loss: the rise that a good fit must exclude
LOSS_STEP = 1e-4  # the smallest spread of a loss between seeds that counts as measured

Reader = Mapping[str, Any] | Callable[[str], Any] | None  # run_id -> a frame or mapping of columns, read when asked


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
        return f"t = {self.tests.t[row]:.1f}, {t_needed(self.level, df):.1f} needed, {df} degrees of freedom"


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
        history = read_or_none(histories, run_id) if run_id else None
        if history is None or not len(history["test_loss"]):
            continue
        losses = np.asarray(history["test_loss"], dtype=float)
        curves.append(losses if np.isnan(kept) else losses[np.asarray(history["epoch"]) <= kept])
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return None
    reached = min(len(curve) for curve in curves)
    return np.array([curve[:reached] for curve in curves]), np.array([curve[-1] for curve in curves])


def all_finite(pair: tuple[Array, Array]) -> bool:
    """Whether every loss of a setting's curves is a number."""
    return bool(np.isfinite(np.column_stack(pair)).all())


def rise_since_best_epoch(losses: Array, ends: Array) -> tuple[Array, Array]:
    """Test loss at the end - at the best epoch, for each seed; the best epoch has the lowest mean of the others.

    losses [..., n, epochs], ends [..., n] (cross-entropy); returns rises and best epochs, [..., n]. If the others are
    best at their end, the rise is zero. Each curve against its own minimum would "rise" in 71-97 % of flat curves.
    """
    candidates = np.concatenate([losses, ends[..., None]], axis=-1)
    best = (candidates.sum(-2, keepdims=True) - candidates).argmin(-1)
    return ends - np.take_along_axis(candidates, best[..., None], -1)[..., 0], best + 1


def ask_curves(curves: list[tuple[Array, Array] | None], level: float) -> tuple[Question, Question]:
    """Two questions: did the test loss rise since its best epoch; is its end below 1.1 times the loss of every epoch?

    The second is asked of every epoch and answered by the worst, which needs no correction: all must hold
    (intersection-union test, Berger 1982). Unknown (NaN) below three curves, or where one is not a number.
    """
    rise, flat, best = no_tests(len(curves)), no_tests(len(curves)), np.zeros(len(curves))
    alike: dict[tuple[int, ...], list[int]] = {}  # settings of as many seeds and epochs are asked at once
    for row, pair in enumerate(curves):
        if pair is not None and len(pair[1]) >= MINIMUM_SEEDS and all_finite(pair):
            alike.setdefault(pair[0].shape, []).append(row)
    for rows in alike.values():
        losses, ends = (np.array(parts) for parts in zip(*(curves[row] or () for row in rows), strict=True))
        rises, epochs = rise_since_best_epoch(losses, ends)
        best[rows] = np.median(epochs, axis=-1)
        every = paired_t((1 + LOSS_MARGIN) * losses.swapaxes(1, 2) - ends[:, None, :], LOSS_STEP)
        fill_tests(rise, rows, paired_t(rises, LOSS_STEP, chosen=True))
        fill_tests(flat, rows, pick_tests(every, every.p.argmax(1)))
    names = [f"epoch {epoch:.0f}" for epoch in best]
    return Question(rise, True, level, names), Question(flat, False, level, names)


def no_tests(k: int) -> Tests:
    """k tests that could not be made."""
    mean, sd, t = np.full((3, k), np.nan)
    return Tests(np.zeros(k, int), mean, sd, t, np.ones(k))


def fill_tests(tests: Tests, rows: list[int], found: Tests) -> None:
    """Put the tests `found` into these rows."""
    for into, values in zip(tests, found, strict=True):
        into[rows] = values


def pick_tests(tests: Tests, columns: Array) -> Tests:
    """Of tests [a, b] one a row, [a]."""
    return Tests(*(values[np.arange(len(columns)), columns] for values in tests))


def ask_good_fit(group: Group, rows: Array, level: float) -> tuple[Question, Question]:
    """Two questions, of `rows`: is no other's test accuracy a point above its train accuracy; does none beat it by one?

    Asked of every other setting, answered by the worst (intersection-union, Berger 1982). The second has two ways to be
    true - not a point ahead on the test set, or fitting the training set better - so its p is doubled.
    """
    below, beaten = no_tests(len(rows)), no_tests(len(rows))
    names: tuple[list[str], list[str]] = ([], [])
    for places in split_rows(len(rows), group.test.size):
        train, test = (values[rows[places], None, :] for values in (group.train, group.test))
        reached = paired_t(train + ACCURACY_MARGIN - group.test, group.step)
        close = paired_t(test + ACCURACY_MARGIN - group.test, group.step)
        fitted = paired_t(group.train - train, group.step)
        easier = Tests(*(np.where(close.p <= fitted.p, a, b) for a, b in zip(close, fitted, strict=True)))
        for tests, answers, named in ((reached, below, names[0]), (easier, beaten, names[1])):
            p = np.where(tests.n >= MINIMUM_SEEDS, tests.p, -1)
            p[np.arange(len(places)), rows[places]] = -2  # not itself
            worst = p.argmax(1)
            fill_tests(answers, places, pick_tests(tests, worst))
            named += [group.names[i] for i in worst]
    return Question(below, False, level, names[0]), Question(beaten, False, level / 2, names[1])


def split_rows(rows: int, size: int) -> list[list[int]]:
    """Places 0 to `rows` - 1 in parts whose arrays, of `size` numbers a row, fit into memory."""
    step = max(MOST_NUMBERS // max(size, 1), 1)
    return [list(range(start, min(start + step, rows))) for start in range(0, rows, step)]


def read_or_none(source: Reader, run_id: str) -> Any:
    """What a reader has for a run; None if it has nothing."""
    if source is None:
        return None
    try:
        return source[run_id] if isinstance(source, Mapping) else source(run_id)
    except (KeyError, OSError):
        return None

"""How often the verdicts of nnexp are wrong, and how often they find what is there: the full simulation.

Draws tables of k settings with n seeds from a known truth and asks the real code for intervals, pairs and verdicts.
Prints three Markdown tables: the share of 95 % intervals that hold the true mean, and of tables with any false
"better"; the power at a difference of one point; the share of tables with any false verdict, and of settings that get
each verdict. Run: python benchmarks/simulate_verdicts.py [--tables 2000] [--parts pairs power verdicts]; about ten
minutes on two cores.
"""

import argparse
import itertools
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nnexp import questions, statistics
from nnexp.verdicts import ask_all

SPREAD_TRAIN, SPREAD_TEST = 0.0027, 0.0033  # sd between seeds of the lesson's baseline (5 epochs)
SPREAD_UNDERFIT = 0.0115  # the same for L2 0.01
TRAIN_TEST_CORRELATION = 0.8  # of one run's train and test accuracy
SPREAD_LOSS, SPREAD_EPOCH = 0.003, 0.008  # test loss: sd between seeds, and between the epochs of a run
STEP = 1e-4  # one of 10,000 test images
VERDICTS = ("underfit", "overfit", "good fit", "cannot tell")
SEEDS = (3, 5, 10)
HEADINGS = {
    "pairs": "| truth | seeds correlated | k | n | tables | 95 % intervals hold | tables with a false better |",
    "power": "| k | n | tables | power at a difference of 0.01, sd 0.003 |",
    "verdicts": f"| truth | seeds correlated | k | n | epochs | tables | false verdict | {' | '.join(VERDICTS)} |",
}
BOUNDS = {"coverage": (0.93, 0.97), "false better": (0.0, 0.06), "false verdict": (0.0, 0.06)}  # docs/verdicts.md

Array = np.ndarray
Table = tuple[questions.Group, dict[str, dict[str, Array]]]


@dataclass
class Truth:
    """True means of k settings: train, test, spread (times the baseline's) [k], curves (test loss) [k, epochs]."""

    train: Array
    test: Array
    spread: Array
    curves: Array

    def underfit(self) -> Array:
        """bool [k]: another setting's test accuracy is above the own train accuracy."""
        return np.asarray(self._best_other() > self.train + 1e-12)

    def overfit(self) -> Array:
        """bool [k]: a gap, and the loss rose or another setting has a lower train and a higher test accuracy."""
        rose = self.curves[:, -1] > self.curves.min(1) + 1e-12
        return np.asarray((self.train > self.test + 1e-12) & (rose | self._beaten_by(1e-12)))

    def no_good_fit(self) -> Array:
        """bool [k]: under- or overfitting by at least the margins of a good fit."""
        margin = questions.ACCURACY_MARGIN - 1e-12
        rose = self.curves[:, -1] >= (1 + questions.LOSS_MARGIN) * self.curves.min(1) - 1e-12
        return np.asarray((self._best_other() >= self.train + margin) | rose | self._beaten_by(margin))

    def _best_other(self) -> Array:
        return np.array([np.delete(self.test, i).max() for i in range(len(self.test))])

    def _beaten_by(self, margin: float) -> Array:
        less = self.train[:, None] > self.train + 1e-12
        return np.asarray((less & (self.test >= self.test[:, None] + margin)).any(axis=1))


def build_truth(name: str, k: int, epochs: int) -> Truth:
    """One known truth; what each is for stands beside it."""
    ones, ramp = np.ones(k), np.linspace(0, 1, epochs)
    third = np.arange(k) % 3
    flat = np.full((k, epochs), 0.36)
    falling = np.tile(0.36 + 0.1 * (1 - ramp) ** 3, (k, 1))
    if name == "equal":  # nothing to find: every setting the lesson's baseline, its test loss at rest
        return Truth(0.896 * ones, 0.872 * ones, ones, flat)
    if name == "falling":  # the same, still learning
        return Truth(0.896 * ones, 0.872 * ones, ones, falling)
    if name == "no gap":  # every setting at the edge of underfitting: train accuracy = the others' test accuracy
        return Truth(0.872 * ones, 0.872 * ones, ones, flat)
    if name == "same test":  # every second setting at the edge of being beaten: fits much better, tests just the same
        return Truth(np.where(np.arange(k) % 2, 0.95, 0.90), 0.872 * ones, ones, flat)
    if name == "mixed":  # a third each: the baseline, the lesson's L2 0.01, a clear overfit
        rising = 0.36 + 0.2 * np.maximum(ramp - 0.4, 0)
        curves = np.where((third == 2)[:, None], rising, falling)
        train, test = np.choose(third, [0.896, 0.798, 0.97]), np.choose(third, [0.872, 0.787, 0.874])
        return Truth(train, test, np.choose(third, [1.0, SPREAD_UNDERFIT / SPREAD_TEST, 1.0]), curves)
    if name == "edge":  # a third each: nothing, a rise of just the margin, just a point behind a setting that fits less
        rising = 0.36 + 0.036 * np.maximum(ramp - 0.4, 0) / 0.6
        curves = np.where((third == 1)[:, None], rising, flat)
        train, test = np.choose(third, [0.896, 0.896, 0.8965]), np.choose(third, [0.872, 0.872, 0.862])
        return Truth(train, test, ones, curves)
    if name == "ladder":  # test accuracies in steps of a fifth of the spread, up to two points; train accuracies alike
        return Truth(0.876 + 0.02 * np.linspace(0, 1, k), 0.872 - 0.00066 * np.minimum(np.arange(k), 30), ones, flat)
    raise ValueError(f"truth: expected one of {', '.join(TRUTHS)}, got {name}")


TRUTHS = ("equal", "falling", "no gap", "same test", "mixed", "edge", "ladder")


def draw_accuracies(truth: Truth, seeds: int, shared: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """train, test [k, seeds] in whole images; `shared`: the correlation between settings on one seed."""
    size = (2, len(truth.test), seeds)
    z = np.sqrt(shared) * rng.standard_normal((2, 1, seeds)) + np.sqrt(1 - shared) * rng.standard_normal(size)
    own = TRAIN_TEST_CORRELATION * z[0] + np.sqrt(1 - TRAIN_TEST_CORRELATION**2) * z[1]
    train = truth.train[:, None] + SPREAD_TRAIN * truth.spread[:, None] * z[0]
    test = truth.test[:, None] + SPREAD_TEST * truth.spread[:, None] * own
    return np.round(train * 60_000) / 60_000, np.round(test * 10_000) / 10_000


def draw_table(truth: Truth, seeds: int, shared: float, rng: np.random.Generator) -> Table:
    """One table of runs and their histories."""
    k, epochs = truth.curves.shape
    train, test = draw_accuracies(truth, seeds, shared, rng)
    noise = SPREAD_EPOCH * rng.standard_normal((k, seeds, epochs)) + SPREAD_LOSS * rng.standard_normal((k, seeds, 1))
    curves = truth.curves[:, None, :] + noise
    runs = np.array([[f"{i}-{j}" for j in range(seeds)] for i in range(k)], dtype=object)
    epoch = np.arange(epochs) + 1
    histories = {str(runs[i]): {"epoch": epoch, "test_loss": curves[i]} for i in np.ndindex(k, seeds)}
    names = [f"l2={i}" for i in range(k)]
    nothing = np.full((k, seeds), np.nan)
    return questions.Group(names, names, runs, train, test, nothing, np.isfinite(nothing), STEP), histories


def judge_pairs(truth: Truth, test: Array) -> tuple[float, bool]:
    """Of one table: the share of 95 % intervals that hold the true mean; whether any "better" is false."""
    _, low, high = statistics.mean_interval(test, STEP)
    order = np.argsort(-test.mean(1), kind="stable")
    _, corrected = statistics.compare_pairs(test[order], STEP)
    first, second = (order[i] for i in np.triu_indices(len(order), 1))
    claimed = corrected <= statistics.ALPHA  # `first` is better than `second`: it has the higher mean
    false = claimed & (truth.test[first] <= truth.test[second])
    return ((low <= truth.test) & (truth.test <= high)).mean(), bool(false.any())


def judge_verdicts(truth: Truth, group: questions.Group, histories: questions.Reader) -> tuple[bool, Array]:
    """Of one table: whether any verdict is false; the verdicts [k]."""
    answers = ask_all(group, histories)
    verdicts = np.array([answers.verdict(row) for row in range(len(group.ids))])
    false = (verdicts == "underfit") & ~truth.underfit() | (verdicts == "overfit") & ~truth.overfit()
    return bool((false | (verdicts == "good fit") & truth.no_good_fit()).any()), verdicts


def simulate_pairs(
    truth: Truth, seeds: int, shared: float, tables: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Coverage of the intervals, share of tables with any false "better"."""
    judged = [judge_pairs(truth, draw_accuracies(truth, seeds, shared, rng)[1]) for _ in range(tables)]
    coverage, false = np.mean(judged, axis=0)
    return float(coverage), float(false)


def simulate_verdicts(
    truth: Truth, seeds: int, shared: float, tables: int, rng: np.random.Generator
) -> tuple[float, Array]:
    """Share of tables with any false verdict; share of each verdict [3 kinds of setting: i % 3, len(VERDICTS)]."""
    judged = [judge_verdicts(truth, *draw_table(truth, seeds, shared, rng)) for _ in range(tables)]
    verdicts = np.array([each for _, each in judged])
    shares = [[(verdicts[:, kind::3] == verdict).mean() for verdict in VERDICTS] for kind in range(3)]
    return float(np.mean([false for false, _ in judged])), np.array(shares)


def measure_power(k: int, seeds: int, difference: float, tables: int, rng: np.random.Generator) -> float:
    """The share of tables in which one setting is told apart from k - 1 equal ones (from the first of them)."""
    found = 0
    for _ in range(tables):
        test = 0.87 + SPREAD_TEST / 1.1 * rng.standard_normal((k, seeds))  # sd 0.003 between seeds
        test[0] += difference
        found += bool(statistics.compare_pairs(test, STEP)[1][0] <= statistics.ALPHA)
    return found / tables


class Case(NamedTuple):
    """One line of a table: what is simulated, and how often."""

    part: str  # pairs, power, verdicts
    truth: str
    shared: float
    k: int
    n: int
    epochs: int
    tables: int


def list_cases(parts: list[str], tables: int) -> list[Case]:
    """Everything that the module's first lines promise; `tables` is for verdicts of k = 3, larger k have fewer."""
    shares = {k: int(tables / share) for k, share in ((3, 1), (12, 1.5), (30, 2))}
    truths = [(name, 0.0) for name in TRUTHS] + [(name, 0.7) for name in ("equal", "no gap", "same test")]
    pairs = itertools.product(("equal", "mixed", "ladder"), (0.0, 0.7), shares, SEEDS)
    verdicts = itertools.product(truths, (5, 20), shares, SEEDS)
    cases = [Case("pairs", name, shared, k, n, 1, 4 * shares[k]) for name, shared, k, n in pairs]
    cases += [Case("power", "", 0.0, k, n, 1, tables) for k, n in itertools.product((2, *shares), SEEDS)]
    cases += [Case("verdicts", *truth, k, n, epochs, shares[k]) for truth, epochs, k, n in verdicts]
    return [case for case in cases if case.part in parts]


def simulate(case: Case, seed: np.random.SeedSequence) -> tuple[str, dict[str, float]]:
    """A case's line of its table, and what is bounded in it, by name."""
    rng = np.random.default_rng(seed)
    if case.part == "power":
        power = measure_power(case.k, case.n, 0.01, case.tables, rng)
        return f"| {case.k} | {case.n} | {case.tables} | {power:.3f} |", {}
    truth = build_truth(case.truth, case.k, case.epochs)
    start = f"| {case.truth} | {case.shared} | {case.k} | {case.n} |"
    if case.part == "pairs":
        coverage, false = simulate_pairs(truth, case.n, case.shared, case.tables, rng)
        return f"{start} {case.tables} | {coverage:.3f} | {false:.3f} |", {"coverage": coverage, "false better": false}
    false, shares = simulate_verdicts(truth, case.n, case.shared, case.tables, rng)
    if case.truth not in ("mixed", "edge"):  # their settings are of three kinds, whose shares stand side by side
        shares = shares.mean(0, keepdims=True)
    cells = " | ".join(" / ".join(f"{share:.2f}" for share in column) for column in shares.T)
    return f"{start} {case.epochs} | {case.tables} | {false:.3f} | {cells} |", {"false verdict": false}


def main() -> None:
    """Prints the three tables, then their extremes; exit code 1 where one is outside of its bounds."""
    parser = argparse.ArgumentParser(description="Simulate tables from known truths and judge them.")
    parser.add_argument("--tables", type=int, default=2000, help="tables for k = 3; fewer for larger k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=list(HEADINGS), choices=list(HEADINGS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    cases = list_cases(arguments.parts, arguments.tables)
    seeds = np.random.SeedSequence(arguments.seed).spawn(len(cases))  # the same numbers with any number of processes
    bounded: dict[str, list[float]] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        heading = ""
        for case, (line, found) in zip(cases, pool.map(simulate, cases, seeds), strict=True):
            if HEADINGS[case.part] != heading:
                heading = HEADINGS[case.part]
                print(f"\n{heading}\n{'| --- ' * (heading.count('|') - 1)}|")
            print(line, flush=True)
            for name, value in found.items():
                bounded.setdefault(name, []).append(value)
    print()
    for name, values in bounded.items():
        low, high = BOUNDS[name]
        print(f"{name}: {min(values):.3f} to {max(values):.3f} (promised: {low} to {high})")
    sys.exit(any(not BOUNDS[name][0] <= value <= BOUNDS[name][1] for name in bounded for value in bounded[name]))


if __name__ == "__main__":
    main()

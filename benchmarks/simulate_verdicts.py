"""How often the statistics of `nnexp.compare` are wrong, and how often they find what is there: the full simulation.

Draws tables of k settings with n seeds from a known truth and asks the real code for intervals, pairs and verdicts.
Prints three Markdown tables: the share of 95 % intervals that hold the true mean, and of tables with any false
"better"; the power at a difference of one point; the share of tables with any false verdict, and of settings that get
each verdict. Run: python benchmarks/simulate_verdicts.py [--tables 2000] [--parts pairs power verdicts]; about 20
minutes on one core.
"""

import argparse
import itertools
from dataclasses import dataclass

import numpy as np

from nnexp import compare

SPREAD_TRAIN, SPREAD_TEST = 0.0027, 0.0033  # sd between seeds of the lesson's baseline (5 epochs)
SPREAD_UNDERFIT = 0.0115  # the same for L2 0.01
TRAIN_TEST_CORRELATION = 0.8  # of one run's train and test accuracy
SPREAD_LOSS, SPREAD_EPOCH = 0.003, 0.008  # test loss: sd between seeds, and between the epochs of a run
STEP = 1e-4  # one of 10,000 test images
VERDICTS = ("underfit", "overfit", "good fit", "cannot tell")

Array = np.ndarray
Table = tuple[compare.Group, dict[str, dict[str, Array]]]


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
        margin = compare.ACCURACY_MARGIN - 1e-12
        rose = self.curves[:, -1] >= (1 + compare.LOSS_MARGIN) * self.curves.min(1) - 1e-12
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
    return compare.Group(names, names, runs, train, test, nothing, np.isfinite(nothing), STEP), histories


def judge_pairs(truth: Truth, test: Array) -> tuple[float, bool]:
    """Of one table: the share of 95 % intervals that hold the true mean; whether any "better" is false."""
    _, low, high = compare.mean_interval(test, STEP)
    order = np.argsort(-test.mean(1), kind="stable")
    _, corrected = compare.compare_pairs(test[order], STEP)
    first, second = (order[i] for i in np.triu_indices(len(order), 1))
    claimed = corrected <= compare.ALPHA  # `first` is better than `second`: it has the higher mean
    false = claimed & (truth.test[first] <= truth.test[second])
    return ((low <= truth.test) & (truth.test <= high)).mean(), bool(false.any())


def judge_verdicts(truth: Truth, group: compare.Group, histories: compare.Reader) -> tuple[bool, Array]:
    """Of one table: whether any verdict is false; the verdicts [k]."""
    answers = compare.ask_all(group, histories)
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
        found += bool(compare.compare_pairs(test, STEP)[1][0] <= compare.ALPHA)
    return found / tables


def main() -> None:
    """Prints the tables that the module's first lines promise."""
    parser = argparse.ArgumentParser(description="Simulate tables from known truths and judge them.")
    parser.add_argument("--tables", type=int, default=2000, help="tables for k = 3; fewer for larger k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=["pairs", "power", "verdicts"])
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    tables = {k: int(arguments.tables / share) for k, share in ((3, 1), (12, 1.5), (30, 2))}
    parts = {"pairs": print_pairs, "power": print_power, "verdicts": print_verdicts}
    for name, print_part in parts.items():
        if name in arguments.parts:
            print_part(tables, rng)


def print_pairs(tables: dict[int, int], rng: np.random.Generator) -> None:
    """Intervals and pairs."""
    print("\n| truth | seeds correlated | k | n | tables | 95 % intervals hold | tables with a false better |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, shared, k, n in itertools.product(("equal", "mixed", "ladder"), (0.0, 0.7), tables, (3, 5, 10)):
        coverage, false = simulate_pairs(build_truth(name, k, 1), n, shared, 4 * tables[k], rng)
        print(f"| {name} | {shared} | {k} | {n} | {4 * tables[k]} | {coverage:.3f} | {false:.3f} |", flush=True)


def print_power(tables: dict[int, int], rng: np.random.Generator) -> None:
    """Power of the pairs at one point."""
    print("\n| k | n | tables | power at a difference of 0.01, sd 0.003 |\n| --- | --- | --- | --- |")
    for k, n in itertools.product((2, 3, 12, 30), (3, 5, 10)):
        print(f"| {k} | {n} | {tables[3]} | {measure_power(k, n, 0.01, tables[3], rng):.3f} |", flush=True)


def print_verdicts(tables: dict[int, int], rng: np.random.Generator) -> None:
    """Verdicts; the settings of a truth are of three kinds (see `build_truth`), whose shares stand side by side."""
    print("\n| truth | seeds correlated | k | n | epochs | tables | false verdict |", *(f"{v} |" for v in VERDICTS))
    print("| --- " * 11 + "|")
    cases = [(name, 0.0) for name in TRUTHS] + [(name, 0.7) for name in ("equal", "no gap", "same test")]
    for (name, shared), epochs, k, n in itertools.product(cases, (5, 20), tables, (3, 5, 10)):
        false, shares = simulate_verdicts(build_truth(name, k, epochs), n, shared, tables[k], rng)
        if name not in ("mixed", "edge"):
            shares = shares.mean(0, keepdims=True)
        cells = [" / ".join(f"{share:.2f}" for share in column) for column in shares.T]
        print(
            f"| {name} | {shared} | {k} | {n} | {epochs} | {tables[k]} | {false:.3f} |",
            *(f"{cell} |" for cell in cells),
            flush=True,
        )


if __name__ == "__main__":
    main()

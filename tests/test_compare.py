"""The promises of `nnexp.compare`, a sentence each."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simulate_verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnexp import compare
from nnexp.compare import compare_runs, compare_settings, describe_setting

LESSON = {  # FACTS: train mean and sd, test mean and sd over seeds 0-4 after 5 epochs; lowest and typical test loss
    "baseline": {"dropout": 0.0, "l2": 0.0, "train": (0.8959, 0.0027), "test": (0.8719, 0.0033), "loss": 0.36},
    "dropout": {"dropout": 0.2, "l2": 0.0, "train": (0.8921, 0.0031), "test": (0.8706, 0.0039), "loss": 0.36},
    "l2": {"dropout": 0.0, "l2": 0.01, "train": (0.7982, 0.0118), "test": (0.7872, 0.0112), "loss": 0.62},
}


def build_results(scores, **columns):
    """A results table from {setting_id: (train accuracies, test accuracies)} with seeds 0, 1, ...; columns: one value
    or one a setting.
    """
    rows = []
    for i, (setting, (train, test)) in enumerate(scores.items()):
        shared = {name: value[i] if isinstance(value, list) else value for name, value in columns.items()}
        for seed, (a, b) in enumerate(zip(train, test, strict=True)):
            row = {"run_id": f"{setting}-s{seed}", "setting_id": setting, "status": "finished", "seed": seed}
            rows.append(row | {"model": "mlp", "data": "fashion_mnist", "train_size": 60_000} | shared)
            rows[-1] |= {"train_accuracy": a, "test_accuracy": b}
    return pd.DataFrame(rows)


def build_histories(results, curve, noise=0.005, seed=0):
    """A history for every run: the curve (or curve[setting_id]) plus noise."""
    rng = np.random.default_rng(seed)
    histories = {}
    for run, setting in zip(results["run_id"], results["setting_id"], strict=True):
        losses = np.asarray(curve[setting] if isinstance(curve, dict) else curve, dtype=float)
        losses = losses + noise * rng.standard_normal(len(losses))
        histories[run] = pd.DataFrame({"epoch": np.arange(len(losses)) + 1, "test_loss": losses})
    return histories


def exactly(mean, sd, n=5, seed=0):
    """n scores with exactly this mean and standard deviation."""
    z = np.random.default_rng(seed).standard_normal(n)
    return mean + sd * (z - z.mean()) / z.std(ddof=1)


def build_lesson(seeds=5):
    """The lesson's three models with the real means and spreads, and curves like the real ones."""
    scores, curves = {}, {}
    for i, (name, lesson) in enumerate(LESSON.items()):
        scores[name] = (exactly(*lesson["train"], seeds, i), exactly(*lesson["test"], seeds, 10 + i))
        curves[name] = lesson["loss"] + np.array([0.08, 0.04, 0.015, 0.005, 0.0])
    parts = {key: [lesson[key] for lesson in LESSON.values()] for key in ("dropout", "l2")}
    results = build_results(scores, **parts)
    return results, build_histories(results, curves, noise=0.008)


def row_of(table, setting):
    return table.set_index("setting_id").loc[setting]


def fail_to_read(run_id):
    raise AssertionError(f"{run_id} was read")


# --- statistics -------------------------------------------------------------------------------------------------------


def test_intervals_are_students():
    """Mean and 95 % interval are those of scipy, for every number of seeds; one seed has none."""
    for n in (2, 3, 10):
        x = exactly(0.87, 0.003, n)
        expected = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
        mean, low, high = compare.mean_interval(np.append(x, np.nan))
        assert (mean, low, high) == pytest.approx((x.mean(), *expected), abs=1e-12)
    assert np.isnan(compare.mean_interval(np.array([0.87]))[1])


def test_paired_tests_are_scipys():
    """t and p are those of scipy's paired t-test; seeds that only one of the two has do not count."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 6))
    expected = stats.ttest_rel(a, b, alternative="greater")
    tests = compare.paired_t(np.append(a - b, np.nan))
    assert (tests.n, tests.t, tests.p) == pytest.approx((6, expected.statistic, expected.pvalue))


def test_what_is_chosen_widens_the_error():
    """Against a chosen best, the squared standard error is 1/n + 1/(n - 1) instead of 1/n times the variance."""
    d = exactly(0.01, 0.004, 5)
    plain, chosen = compare.paired_t(d), compare.paired_t(d, chosen=True)
    assert chosen.t == pytest.approx(0.01 / (0.004 * np.sqrt(1 / 5 + 1 / 4)))
    assert chosen.t < plain.t == pytest.approx(0.01 / (0.004 * np.sqrt(1 / 5)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_step_down_bonferroni(p):
    """Claiming corrected p <= 0.05 is Holm's procedure: the i-th smallest against 0.05 / (m - i), until one fails."""
    corrected = compare.holm(np.array([*p, np.nan]))[:-1]
    passing = True
    for i, index in enumerate(np.argsort(p, kind="stable")):
        threshold = 0.05 / (len(p) - i)
        passing = passing and p[index] <= threshold
        if abs(p[index] - threshold) > 1e-9:
            assert (corrected[index] <= 0.05) == passing
    assert corrected.max() <= 1


def test_seeds_needed_are_those_of_the_tables():
    """For 0.2, 0.5, 0.8 and 1 standard deviations: 199, 34, 15, 10 (G*Power, paired t, two-sided 0.05, power 0.8)."""
    assert compare.seeds_needed(np.array([0.2, 0.5, 0.8, 1.0]), 0.025).tolist() == [199, 34, 15, 10]
    assert compare.seeds_needed(np.array([1e-4, 0.0, -1.0]), 0.025).tolist() == [np.inf] * 3
    assert compare.seeds_needed(np.array([1e6]), 0.025).tolist() == [3]


def test_mcnemar_is_the_exact_binomial_test():
    """b, c and p are those counted by hand and given by scipy's binomtest."""
    rng = np.random.default_rng(2)
    right, others = rng.random(300) < 0.8, rng.random((4, 300)) < [[0.8], [0.7], [0.9], [0.8]]
    others[3] = right
    b, c, p = compare.mcnemar(right, others)
    for i in range(4):
        only, other = int((right & ~others[i]).sum()), int((~right & others[i]).sum())
        expected = stats.binomtest(only, only + other).pvalue if only + other else 1.0
        assert (b[i], c[i], p[i]) == (only, other, pytest.approx(expected))


def test_best_epoch_is_chosen_by_the_other_seeds():
    """By hand: seed 0 is lowest at epoch 1, the others at epoch 2; each is measured where the *others* are lowest."""
    losses = np.array([[0.1, 0.6, 0.7], [0.5, 0.3, 0.6], [0.6, 0.2, 0.5]])
    rises, epochs = compare.rise_since_best_epoch(losses, losses[:, -1])
    assert epochs.tolist() == [2, 1, 1]  # others' sums: [1.1 .5 1.1], [.7 .8 1.2], [.6 .9 1.3]
    assert rises == pytest.approx([0.1, 0.1, -0.1])


def test_best_other_is_chosen_by_the_other_seeds():
    """By hand: a seed's lead is that of the setting which leads on the other seeds, never of the setting itself."""
    test = np.array([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.2, 0.3, 0.4]])
    lead, which = compare.lead_of_best_other([(test, np.zeros((3, 3)))])
    assert which.tolist() == [[2, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert lead[0] == pytest.approx([0.2, 0.1, 0.1])


def test_best_other_has_the_seed_and_two_more_in_common():
    """A setting that lacks the seed, or shares only one more, is not chosen however well it scores; the next one is."""
    test = np.array([[0.5, 0.5, 0.5, np.nan], [0.9, 0.9, np.nan, 0.9], [0.6, 0.6, 0.6, 0.6], [np.nan, 0.1, 0.8, 0.8]])
    lead, which = compare.lead_of_best_other([(test, test - test)])
    assert which[0].tolist() == [2, 2, 2, -1]  # setting 1 shares one more seed on seeds 0 and 1, and has no seed 2
    assert which[2].tolist() == [1, 1, 0, 1]
    assert lead[2] == pytest.approx([0.9, 0.9, 0.5, 0.9])
    assert np.isnan(lead[0, 3])
    negative, which = compare.lead_of_best_other([(test - 1, test - test)])
    assert which[0].tolist() == [2, 2, 2, -1]
    assert negative[0, 0] == pytest.approx(-0.4)


def test_incomplete_and_complete_tables_choose_alike():
    """A further seed that nobody has changes nothing (the quick route and the matrix products agree)."""
    test = np.random.default_rng(3).random((5, 4))
    train = np.random.default_rng(4).random((5, 4))
    gap = np.full((5, 1), np.nan)
    parts = [(test, test), (-train, -train)]
    wider = [(np.hstack([a, gap]), np.hstack([b, gap])) for a, b in parts]
    (lead, which), (other_lead, other_which) = compare.lead_of_best_other(parts), compare.lead_of_best_other(wider)
    assert (which == other_which[:, :4]).all()
    assert lead == pytest.approx(other_lead[:, :4])


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_lesson_l2_underfits():
    """On the lesson's figures and five seeds, L2 0.01 is `underfit`, and the reason names a setting and its numbers."""
    row = row_of(compare_settings(*build_lesson()), "l2")
    assert (row["verdict"], row["leaning"], row["against_best"]) == ("underfit", "underfit", "worse")
    assert re.match(
        r"Train accuracy 0\.7982 is 0\.07\d\d below what dropout=0.* reaches on unseen images", row["reason"]
    )


def test_lesson_dropout_is_not_told_apart_from_the_baseline():
    """On the lesson's figures and five seeds, dropout 0.2 is not told apart, and the seeds that it needs are stated."""
    results, histories = build_lesson()
    row = row_of(compare_settings(results, histories), "dropout")
    assert row["against_best"] == "not told apart"
    assert row["verdict"] in ("cannot tell", "good fit")
    test = results.pivot(index="seed", columns="setting_id", values="test_accuracy")
    difference = test["baseline"] - test["dropout"]
    effect = difference.mean() / difference.std()
    approximation = ((1.960 + 0.842) / effect) ** 2 + 1.960**2 / 2  # Guenther 1981
    assert row["seeds_needed"] == pytest.approx(approximation, abs=1.5)
    assert f"about {row['seeds_needed']:,.0f} seeds of these two alone" in row["comparison"]


def test_reason_can_be_checked_by_hand():
    """The t of an `underfit` and the t it needed come out of a pocket calculator and a t table at 0.05 / (3 k)."""
    results = build_results(
        {"low": (exactly(0.80, 0.010), exactly(0.79, 0.01)), "high": (exactly(0.9, 0.003), exactly(0.87, 0.003, 5, 1))}
    )
    row = row_of(compare_settings(results), "low")
    d = results["test_accuracy"][5:].to_numpy() - results["train_accuracy"][:5].to_numpy()
    t = d.mean() / (d.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4))
    assert f"(t = {t:.1f}, {stats.t.ppf(1 - 0.05 / 6, 4):.1f} needed, 4 degrees of freedom)" in row["reason"]


def test_a_rise_of_the_test_loss_overfits():
    """A clear gap and a test loss that rises is `overfit`; the same gap with a loss at rest is not."""
    scores = {name: (exactly(0.99, 0.002, 5, i), exactly(0.87, 0.003, 5, i)) for i, name in enumerate("ab")}
    results = build_results(scores, dropout=[0.0, 0.5])
    curves = {"a": [0.5, 0.35, 0.40, 0.50, 0.60], "b": [0.5, 0.4, 0.36, 0.355, 0.35]}
    table = compare_settings(results, build_histories(results, curves))
    assert row_of(table, "a")["verdict"] == "overfit"
    assert "test loss rose by 0.2" in row_of(table, "a")["reason"]
    assert "(epoch 2)" in row_of(table, "a")["reason"]
    assert row_of(table, "b")["verdict"] != "overfit"


def test_without_a_gap_nothing_overfits():
    """A rising test loss without a gap between train and test accuracy is not `overfit`."""
    score = exactly(0.87, 0.003)
    results = build_results({"a": (score, score), "b": (score + 0.001, score - 0.05)})
    table = compare_settings(results, build_histories(results, [0.3, 0.4, 0.5]))
    assert row_of(table, "a")["verdict"] == "cannot tell"
    assert row_of(table, "b")["verdict"] == "overfit"


def test_beaten_by_a_setting_that_fits_less_is_overfit():
    """Without any history: another setting with a lower train and a higher test accuracy makes it `overfit`."""
    scores = {
        "a": (exactly(0.99, 0.002), exactly(0.86, 0.002)),
        "b": (exactly(0.93, 0.002, 5, 1), exactly(0.90, 0.002, 5, 1)),
    }
    table = compare_settings(build_results(scores, dropout=[0.0, 0.5]))
    row = row_of(table, "a")
    assert row["verdict"] == "overfit"
    assert "dropout=0.5 fits the training set less well and the test set better, by 0.0400" in row["reason"]
    assert row_of(table, "b")["verdict"] == "cannot tell"


def test_a_better_fit_is_no_overfit():
    """A setting that another beats on both sets is not `overfit`: more fitting still helps."""
    scores = {
        "a": (exactly(0.92, 0.002), exactly(0.86, 0.002)),
        "b": (exactly(0.95, 0.002, 5, 1), exactly(0.90, 0.002, 5, 1)),
    }
    results = build_results(scores)
    table = compare_settings(results, build_histories(results, [0.4, 0.35, 0.33]))
    assert row_of(table, "a")["verdict"] == "good fit"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "good fit"),
        ({"behind": 0.009}, "cannot tell"),
        ({"curve": 0.03}, "cannot tell"),
        ({"noise": 0.02}, "cannot tell"),
    ],
)
def test_a_good_fit_is_seen_and_not_assumed(change, verdict):
    """`good fit` needs evidence: not when just short of a point behind, or amid noise of the curve or the scores."""
    case = {"behind": 0.0, "curve": 0.005, "noise": 0.002} | change
    a = (exactly(0.90, 0.002), exactly(0.87 - case["behind"], case["noise"]))
    b = (exactly(0.8999, 0.002, 5, 1), exactly(0.87, case["noise"], 5, 1))
    results = build_results({"a": a, "b": b})
    histories = build_histories(results, [0.45, 0.38, 0.355, 0.35, 0.35], case["curve"])
    row = row_of(compare_settings(results, histories), "a")
    assert (row["verdict"], row["leaning"]) == (verdict, "good fit")


def test_cannot_tell_says_what_is_needed():
    """Undecided for noise: the reason gives the leaning's t and the seeds that would decide it."""
    results, histories = build_lesson()
    row = row_of(compare_settings(results, histories), "baseline")
    assert row["verdict"] == "cannot tell"
    assert re.search(r"may be noise: about \d+ seeds would be needed\.$", row["reason"])
    assert (
        f"{stats.t.ppf(1 - 0.05 / 18, 4):.1f} needed, 4 degrees of freedom" in row["reason"]
    )  # two chances: 0.05 / (6 k)


def test_one_or_two_seeds_cannot_tell_but_lean():
    """Below three seeds the verdict is `cannot tell`, the leaning is there, and the reason counts the seeds."""
    for seeds in (1, 2):
        results, histories = build_lesson()
        table = compare_settings(results[results["seed"] < seeds], histories)
        assert set(table["verdict"]) == {"cannot tell"}
        assert row_of(table, "l2")["leaning"] == "underfit"
        assert row_of(table, "l2")["reason"].startswith(f"{seeds} of the three seeds")
        assert set(table["against_best"]) == {"cannot tell"}
    overfit = build_results({"a": ([0.99], [0.87]), "b": ([0.90], [0.87])}, dropout=[0.0, 0.5])
    histories = build_histories(overfit, {"a": [0.4, 0.35, 0.5], "b": [0.4, 0.36, 0.35]})
    assert row_of(compare_settings(overfit, histories), "a")["leaning"] == "overfit"


def test_a_setting_alone_cannot_underfit_or_fit_well():
    """One setting has nothing to be compared with: `cannot tell`, and said so - unless its test loss rises."""
    results = build_results({"a": (exactly(0.99, 0.002), exactly(0.87, 0.003))})
    table = compare_settings(results, build_histories(results, [0.4, 0.35, 0.34]))
    assert table.loc[0, "reason"] == "No other setting with three seeds to compare it with."
    assert (table.loc[0, "verdict"], table.loc[0, "against_best"]) == ("cannot tell", "best")
    assert compare_settings(results, build_histories(results, [0.4, 0.35, 0.6])).loc[0, "verdict"] == "overfit"


# --- what the runs may look like --------------------------------------------------------------------------------------


def test_different_data_are_never_compared():
    """Settings with another training size, data, hash or split are a comparison of their own, with their own best."""
    for column, values in {
        "train_size": [60_000, 1_000],
        "data": ["fashion_mnist", "sample"],
        "data_sha256": ["a", "b"],
        "split_seed": [0, 1],
    }.items():
        scores = {"a": (exactly(0.9, 0.002), exactly(0.88, 0.002)), "b": (exactly(0.8, 0.002), exactly(0.7, 0.002))}
        table = compare_settings(build_results(scores, **{column: values}))
        assert set(table["against_best"]) == {"best"}, column
        assert set(table["verdict"]) == {"cannot tell"}, column
        assert table["setting_id"].tolist() == ["a", "b"]


def test_pairs_are_compared_on_common_seeds_only():
    """With seeds 0-4 and 2-6, three are common: difference and n are theirs; with two, no comparison is made."""
    results = build_results(
        {"a": (exactly(0.9, 0.002), exactly(0.88, 0.002)), "b": (exactly(0.9, 0.002), exactly(0.86, 0.003, 5, 1))}
    )
    results.loc[results["setting_id"] == "b", "seed"] += 2
    row = row_of(compare_settings(results), "b")
    a, b = (results[results["setting_id"] == s].set_index("seed")["test_accuracy"] for s in "ab")
    assert row["difference"] == pytest.approx((a - b).loc[2:4].mean())
    assert "on 3 common seeds" in row["comparison"]
    results.loc[results["setting_id"] == "b", "seed"] += 1
    row = row_of(compare_settings(results), "b")
    assert (row["against_best"], row["verdict"]) == ("cannot tell", "cannot tell")


def test_identical_scores_are_neither_nan_nor_certain():
    """n equal scores: a finite interval wider than nothing, p above zero, and equal settings are not told apart."""
    same = [0.9] * 5
    scores = {"a": (same, same), "b": (same, same), "c": ([0.95] * 5, [0.8731] * 5), "d": ([0.95] * 5, [0.873] * 5)}
    table = compare_settings(build_results(scores, dropout=[0.0, 0.1, 0.2, 0.3]))
    assert (table["test_accuracy_high"] > table["test_accuracy_low"]).all()
    assert np.isfinite(table[["train_accuracy_low", "accuracy_gap_high"]]).all(axis=None)
    assert table["p_corrected"].dropna().between(0, 1, inclusive="right").all()
    assert row_of(table, "b")["against_best"] == "not told apart"
    assert "inf" not in " ".join(table["reason"] + table["comparison"])


def test_coarse_scores_do_not_make_false_claims():
    """With 100 test images, three equal differences by rounding alone are no evidence: at most 6 % false claims."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(200):
        test = np.round(0.875 + 0.003 * rng.standard_normal((6, 3)), 2)
        scores = {str(i): (test[i] + 0.02, test[i]) for i in range(6)}
        step = compare.build_group(build_results(scores), pd.DataFrame(index=list(scores))).step
        order = np.argsort(-test.mean(1))
        false += (compare.compare_pairs(test[order], step)[1] <= 0.05).any()
    assert false <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_diverged_run_is_counted_and_said():
    """A loss that is not a number: counted, said, and no rise is claimed; an accuracy that is not: `cannot tell`."""
    scores = {name: (exactly(0.9, 0.002, 5, i), exactly(0.87, 0.003, 5, i)) for i, name in enumerate("ab")}
    results = build_results(scores, dropout=[0.0, 0.5]).assign(train_loss=0.3, test_loss=0.35)
    results.loc[0, "test_loss"] = np.nan
    histories = build_histories(results, [0.5, 0.3, 0.6])
    histories["a-s0"].loc[2, "test_loss"] = np.nan
    row = row_of(compare_settings(results, histories), "a")
    assert (row["n"], row["diverged"], row["verdict"]) == (5, 1, "cannot tell")
    assert "1 of 5 runs diverged" in row["reason"]
    results.loc[0, ["train_accuracy", "test_accuracy"]] = np.nan
    row = row_of(compare_settings(results, histories), "a")
    assert (row["n"], row["verdict"], row["against_best"]) == (4, "cannot tell", "cannot tell")
    assert "1 of 5 runs have no accuracy" in row["reason"]


def test_a_curve_that_is_not_a_number_is_no_evidence():
    """One test loss that is not a number, at the end or before: no good fit, and the reason says why."""
    scores = {name: (exactly(0.9, 0.001, 8, i), exactly(0.87, 0.001, 8, i)) for i, name in enumerate("ab")}
    results = build_results(scores)
    for epoch, value in ((0, np.nan), (2, np.inf)):
        histories = build_histories(results, [0.4, 0.35, 0.34])
        histories["a-s0"].loc[epoch, "test_loss"] = value
        table = compare_settings(results, histories)
        assert row_of(table, "a")["verdict"] == "cannot tell"
        assert "a test loss is not a number, so its rise cannot be judged" in row_of(table, "a")["reason"]
        assert row_of(table, "b")["verdict"] == "good fit"


def test_missing_histories_are_said():
    """Without histories nothing is a good fit, and the reason says why; some missing: the others are used."""
    scores = {name: (exactly(0.9, 0.001, 8, i), exactly(0.87, 0.001, 8, i)) for i, name in enumerate("ab")}
    results = build_results(scores)
    for histories in (None, {}, lambda run_id: None):
        table = compare_settings(results, histories)
        assert set(table["verdict"]) == {"cannot tell"}
        assert table["reason"].str.contains("without its history a rise of the test loss cannot be judged").all()
    histories = build_histories(results, [0.4, 0.35, 0.34])
    del histories["a-s0"], histories["a-s5"]
    assert row_of(compare_settings(results, histories), "a")["verdict"] == "good fit"


def test_early_stopping_is_judged_where_the_weights_are_kept():
    """Epochs after the one whose weights were kept are not the run's; curves of different lengths are compared."""
    scores = {name: (exactly(0.95, 0.002, 5, i), exactly(0.87, 0.002, 5, i)) for i, name in enumerate("ab")}
    results = build_results(scores, early_stopping=[3, np.nan])
    results["best_epoch"] = [3, 4, 3, 4, 4, *[2] * 5]  # counts only where training stopped early
    histories = build_histories(results, [0.5, 0.4, 0.352, 0.35, 0.5, 0.6, 0.7], noise=0.002)
    histories["a-s0"] = histories["a-s0"].iloc[:5]
    table = compare_settings(results, histories)
    assert row_of(table, "a")["verdict"] == "good fit"
    assert row_of(table, "b")["verdict"] == "overfit"


def test_failed_runs_are_counted_and_nothing_else():
    """Failed rows change no number; a setting with nothing else is listed with n = 0."""
    results, histories = build_lesson()
    failed = results.iloc[[0, 5]].assign(status="failed", train_accuracy=np.nan, test_accuracy=np.nan, seed=[7, 8])
    failed["run_id"] += "x"
    only = failed.iloc[[0]].assign(setting_id="never", run_id="never", dropout=0.9)
    before = compare_settings(results, histories)
    after = compare_settings(pd.concat([results, failed, only]), histories)
    assert after["failed"].tolist() == [1, 1, 0, 1]
    assert row_of(after, "never")[["n", "verdict", "reason"]].tolist() == [0, "cannot tell", "No finished run."]
    columns = [c for c in before.columns if c != "failed"]
    pd.testing.assert_frame_equal(before[columns], after.iloc[:3][columns], check_dtype=False)


def test_a_repeated_run_counts_once():
    """Of two finished rows with one setting and seed, the last counts."""
    results, _ = build_lesson()
    again = results.iloc[[0]].assign(run_id="again", test_accuracy=0.5)
    row = row_of(compare_settings(pd.concat([results, again])), "baseline")
    expected = np.append(results["test_accuracy"][1:5], 0.5).mean()
    assert (row["n"], row["test_accuracy"]) == (5, pytest.approx(expected))


def test_the_order_of_rows_does_not_matter():
    """Reversed rows give the same table, ties included."""
    results, histories = build_lesson()
    twin = results[results["setting_id"] == "baseline"].assign(setting_id="a twin", dropout=1e-9)
    results = pd.concat([results, twin.assign(run_id=twin["run_id"] + "t")])
    reversed_rows = compare_settings(results.iloc[::-1], histories)
    pd.testing.assert_frame_equal(compare_settings(results, histories), reversed_rows)


def test_empty_tables_have_the_same_columns():
    """No rows: an empty frame with the columns of a full one."""
    results, _ = build_lesson()
    empty, full = compare_settings(results.iloc[:0]), compare_settings(results)
    assert empty.empty
    assert [c for c in full.columns if c not in ("dropout", "l2")] == empty.columns.tolist()


def test_missing_columns_are_named():
    """A table without the needed columns is refused by name, and so is an unknown choice of columns."""
    results, _ = build_lesson()
    with pytest.raises(ValueError, match=r"expected the columns .*; missing: seed, test_accuracy"):
        compare_settings(results.drop(columns=["seed", "test_accuracy"]))
    with pytest.raises(ValueError, match='expected "differing" or "all", got \'some\''):
        compare_settings(results, columns="some")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_table_gets_an_answer(data):
    """Whatever is missing, failed, tied or not a number: every setting gets one row and a verdict, no error."""
    k, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    score = st.sampled_from([0.0, 0.1, 0.87, 0.8701, 0.88, 1.0, np.nan])
    scores = data.draw(st.lists(st.lists(score, min_size=n, max_size=n), min_size=2 * k, max_size=2 * k))
    results = build_results({str(i): (scores[2 * i], scores[2 * i + 1]) for i in range(k)}, dropout=list(range(k)))
    kept = data.draw(st.lists(st.booleans(), min_size=k * n, max_size=k * n))
    results["status"] = np.where(kept, "finished", "failed")
    loss = st.lists(st.sampled_from([0.3, 0.31, 0.5, np.nan, np.inf]), max_size=4)
    curves = {run: data.draw(loss) for run in results["run_id"]}
    histories = {run: {"epoch": np.arange(len(c)) + 1, "test_loss": c} for run, c in curves.items()}
    table = compare_settings(results, histories)
    assert sorted(table["setting_id"]) == sorted(set(results["setting_id"]))
    assert set(table["verdict"]) <= {"underfit", "overfit", "good fit", "cannot tell"}
    assert set(table["leaning"]) <= {"underfit", "overfit", "good fit", ""}
    assert table["reason"].str.len().min() > 10
    assert table["p_corrected"].dropna().between(0, 1).all()


# --- reading, naming, speed -------------------------------------------------------------------------------------------


def test_histories_are_read_only_where_they_can_matter():
    """Not of settings that underfit, and not for the leanings of many settings with a seed each."""
    results, histories = build_lesson()
    read = []
    compare_settings(results, lambda run_id: read.append(run_id) or histories[run_id])
    assert not [run for run in read if run.startswith("l2")]
    assert len(read) == 10
    many = build_results({str(i): ([0.9], [0.8]) for i in range(compare.LEANING_CURVES + 1)})
    table = compare_settings(many, fail_to_read)
    assert table["reason"].str.contains("from the accuracies alone").all()


def build_predictions(results, n=1000, seed=0):
    """Labels, and predictions that get each run's test accuracy."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n).astype(np.uint8)
    predictions = {}
    for run, accuracy in zip(results["run_id"], results["test_accuracy"], strict=True):
        wrong = rng.permutation(n)[: round((1 - accuracy) * n)]
        predictions[run] = {"label": labels.copy()}
        predictions[run]["label"][wrong] = (labels[wrong] + 1) % 10
    return labels, predictions


def test_single_runs_are_compared_as_runs():
    """With one seed each: McNemar against the best, corrected over all pairs, worded as being about the runs."""
    results = build_results({"a": ([0.9], [0.9]), "b": ([0.9], [0.8]), "c": ([0.9], [0.895])}, dropout=[0.0, 0.1, 0.2])
    labels, predictions = build_predictions(results)
    table = compare_settings(results, predictions=predictions, labels={"fashion_mnist": labels})
    assert "are two different networks" in row_of(table, "b")["comparison"]
    assert "cannot be told apart as networks" in row_of(table, "c")["comparison"]
    assert row_of(table, "b")["comparison"].endswith("which says nothing about their settings.")
    assert set(table["against_best"]) == {"cannot tell"}
    runs = compare_runs(results["run_id"].tolist(), "a-s0", predictions, labels)
    right = {run: p["label"] == labels for run, p in predictions.items()}
    pairs = [("a-s0", "b-s0"), ("a-s0", "c-s0"), ("b-s0", "c-s0")]
    p = [stats.binomtest(int((right[x] & ~right[y]).sum()), int((right[x] ^ right[y]).sum())).pvalue for x, y in pairs]
    assert runs["p"].tolist() == pytest.approx(p[:2])
    assert runs["p_corrected"].tolist() == pytest.approx(compare.holm(np.array(p))[:2])


def test_predictions_are_read_only_for_single_runs():
    """Predictions stay unread where settings have several seeds; missing are said; a wrong length is an error."""
    results, _ = build_lesson()
    labels, predictions = build_predictions(results)
    for seeds in (2, 5):
        compare_settings(results[results["seed"] < seeds], predictions=fail_to_read, labels=labels)
    single = results[results["seed"] == 0]
    del predictions["baseline-s0"]
    table = compare_settings(single, predictions=predictions, labels=labels)
    assert row_of(table, "baseline")["comparison"].endswith("Its predictions are not there.")
    with pytest.raises(ValueError, match=r"expected one prediction for each of 7 test images, got \(1000,\)"):
        compare_settings(single, predictions=predictions, labels=labels[:7])


def test_settings_are_named_by_what_differs():
    """The columns and names are the settings that differ; the model's name if none does; `all` shows all."""
    table = compare_settings(build_lesson()[0])
    assert set(table["name"]) == {"dropout=0 l2=0", "dropout=0.2 l2=0", "dropout=0 l2=0.01"}
    assert table.columns[:4].tolist() == ["setting_id", "dropout", "l2", "name"]
    assert "model" in compare_settings(build_lesson()[0], columns="all").columns
    row = {"model": "mlp", "dropout": 0.2, "l2": 1e-4, "early_stopping": np.nan, "units": "[128]"}
    assert describe_setting(row, ["dropout"]) == "dropout=0.2"
    assert describe_setting(row, ["l2", "early_stopping", "units"]) == "l2=0.0001 early_stopping=none units=[128]"
    assert describe_setting(row, []) == "mlp"


def test_sorted_by_test_accuracy():
    """The best test accuracy comes first."""
    assert compare_settings(build_lesson()[0])["test_accuracy"].is_monotonic_decreasing


def test_needs_only_numpy_pandas_and_scipy():
    """compare.py imports the standard library, numpy, pandas and scipy, and nothing else."""
    tree = ast.parse(Path(compare.__file__).read_text(encoding="utf-8"))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "pandas", "scipy"}


# --- simulation: the smaller one (the full one is simulate_verdicts.py) -----------------------------------------------

TABLES = {3: 300, 12: 120, 30: 60}  # by number of settings
GRID = [(k, n) for k in TABLES for n in (3, 5, 10)]


def most(tables, share):
    """As many as `tables` may show if each does with chance `share`: exceeded by luck once in a thousand."""
    return stats.binom.ppf(0.999, tables, share) / tables


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


@pytest.mark.parametrize("epochs", [5, 20])
def test_flat_curves_rarely_rise(epochs):
    """Tested at 5 %, at most 5 % of flat noisy curves rise - where their own minimum says so in most of them."""
    rng = np.random.default_rng(epochs)
    curves = 0.35 + 0.008 * rng.standard_normal((2000, 5, epochs))
    rises = np.array([compare.rise_since_best_epoch(c, c[:, -1])[0] for c in curves])
    naive = curves[:, :, -1] - curves.min(2)
    assert (compare.paired_t(rises, 1e-4, chosen=True).p <= 0.05).mean() <= most(2000, 0.05)
    assert (compare.paired_t(rises, 1e-4).p <= 0.05).mean() > 0.06  # why the standard error is widened
    assert (compare.paired_t(naive, 1e-4).p <= 0.05).mean() > 0.5


@pytest.mark.parametrize(("k", "n", "power"), [(3, 5, 0.88), (3, 10, 1.0), (12, 10, 0.96), (30, 10, 0.72)])
def test_power_at_one_point_is_as_stated(k, n, power):
    """A difference of one point, spread 0.003, is found as often as the documentation says."""
    found = simulate_verdicts.measure_power(k, n, 0.01, 300, np.random.default_rng(k))
    assert found == pytest.approx(power, abs=3 * np.sqrt(power * (1 - power) / 300) + 0.015)

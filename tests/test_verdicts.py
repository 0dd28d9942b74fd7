"""The promises of `nnexp.verdicts`, a sentence each: what is found in tables whose truth is known."""

import re

import numpy as np
import pytest
from scipy import stats
from tables import build_histories, build_lesson, build_results, exactly, row_of

from nnexp.compare import compare_settings


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

"""The promises of `nnexp.compare`, a sentence each: whatever the runs look like."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tables import build_histories, build_lesson, build_results, exactly, fail_to_read, row_of

from nnexp import compare, questions, statistics
from nnexp.compare import build_group, compare_runs, compare_settings, describe_setting
from nnexp.verdicts import LEANING_CURVES


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
        step = build_group(build_results(scores), pd.DataFrame(index=list(scores))).step
        order = np.argsort(-test.mean(1))
        false += (statistics.compare_pairs(test[order], step)[1] <= 0.05).any()
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


def test_histories_are_read_only_where_they_can_matter():
    """Not of settings that underfit, and not for the leanings of many settings with a seed each."""
    results, histories = build_lesson()
    read = []
    compare_settings(results, lambda run_id: read.append(run_id) or histories[run_id])
    assert not [run for run in read if run.startswith("l2")]
    assert len(read) == 10
    many = build_results({str(i): ([0.9], [0.8]) for i in range(LEANING_CURVES + 1)})
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
    assert runs["p_corrected"].tolist() == pytest.approx(statistics.holm(np.array(p))[:2])


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


def test_settings_of_one_name_are_told_apart():
    """Where the columns do not tell settings apart, their names have the setting_id."""
    results = build_results({i: ([0.9], [0.8]) for i in "abc"}, l2=[0.1, 0.1, 0.2])
    assert sorted(compare_settings(results)["name"]) == ["l2=0.1 (a)", "l2=0.1 (b)", "l2=0.2"]


def test_names_leave_out_what_another_setting_says():
    """A model of one shape says its filters."""
    columns = {"model": ["mlp", "cnn"], "filters": ["[]", "[8]"], "units": ["[9]", "[9]"], "dropout": [0.1, 0.2]}
    assert compare.list_differing(pd.DataFrame(columns)) == ["model", "dropout"]


def test_a_setting_that_only_failed_stays_in_its_comparison():
    """A failed run has no data_sha256; its setting is compared, and named, with those that finished."""
    results = build_results({"a": ([0.9], [0.8]), "b": ([0.9], [0.7])}, l2=[0.1, 0.2], data_sha256=["d", np.nan])
    results.loc[results["setting_id"] == "b", ["status", "train_accuracy", "test_accuracy"]] = ["failed", None, None]
    table = compare_settings(results)
    assert table["group"].tolist() == [1, 1] and table["name"].tolist() == ["l2=0.1", "l2=0.2"]


def test_thousands_of_settings_are_asked_as_few_are(monkeypatch):
    """To save memory, many settings are worked on in parts; where the parts end changes nothing."""
    rng = np.random.default_rng(3)
    results = build_results({str(i): rng.normal([[0.9], [0.87]], 0.002, (2, 5)) for i in range(9)})
    histories = build_histories(results, np.full(6, 0.36))
    whole = compare_settings(results, histories)
    for module in (statistics, questions):
        monkeypatch.setattr(module, "MOST_NUMBERS", 100)
    pd.testing.assert_frame_equal(compare_settings(results, histories), whole)

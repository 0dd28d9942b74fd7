"""The comparison of settings over their seeds: from the results table to a table with a verdict for each setting."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nnexp.questions import ACCURACY_MARGIN, Group, Reader, read_or_none
from nnexp.statistics import (
    ALPHA,
    MAXIMUM_SEEDS,
    Array,
    compare_pairs,
    holm,
    mcnemar,
    mean_interval,
    moments,
    seeds_needed,
)
from nnexp.verdicts import judge_settings, say_seeds

MCNEMAR_RUNS = 100  # single runs are compared with each other only up to this many

GROUP_COLUMNS = ["data", "data_sha256", "train_size", "split_seed"]  # same images trained on, same images tested on
SETTING_COLUMNS = [
    *["model", "filters", "units", "activation", "dropout", "l2", "optimizer", "learning_rate", "optimizer_settings"],
    *["epochs", "batch_size", "early_stopping", "data", "train_size", "validation_size", "split_seed"],
    *["engine", "xla", "threads"],
]
NEEDED_COLUMNS = ["run_id", "setting_id", "status", "seed", "train_accuracy", "test_accuracy"]


def compare_settings(
    results: pd.DataFrame,
    histories: Reader = None,
    predictions: Reader = None,
    labels: Any = None,
    columns: str = "differing",
) -> pd.DataFrame:
    """One row a setting, over its seeds; the rule is at the top of verdicts.py.

    results: the results table, one row a run; needs `NEEDED_COLUMNS`. Accuracies in [0, 1]; only `finished` rows count.
    histories: run_id -> columns `epoch` (1, 2, ...) and `test_loss` (cross-entropy, inference mode), read only where a
        rise of the test loss can decide; None, KeyError, OSError: not there, and the reasons say so.
    predictions: run_id -> `label` uint8 [n_test]; labels: the true ones, or a mapping from `data` to them. Read only
        where every setting of a comparison has one run.
    columns: the settings shown, "differing" or "all".

    Returns, best test accuracy first within each comparison (data and training size):
    - `setting_id`, the settings, `name`, `group` (1, 2, ...: the comparison that it is part of; settings of two groups
      are never compared), `n` (finished runs with an accuracy), `failed`, `diverged` (runs with a loss or
      accuracy that is not a number; counted in `n` if they have an accuracy);
    - `train_accuracy`, `test_accuracy`, `accuracy_gap`: means over seeds, each with `_low` and `_high`, its 95 %
      interval (Student t; NaN for one seed; accuracies cut to [0, 1]);
    - `verdict` underfit, overfit, good fit, cannot tell; `leaning` what the means alone point to (the verdict, if there
      is one; "" if nothing does); `reason` a sentence;
    - `best` (setting_id), `against_best` best, worse, better, not told apart, cannot tell; `difference` of test
      accuracy (best - this, mean over common seeds) with `_low` and `_high` (95 %, for this pair alone),
      `p_corrected` (Holm over all pairs);
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
    for number, part in enumerate(parts, start=1):
        part["group"] = number
    return pd.concat(parts, ignore_index=True) if parts else _empty_table(shown)


def _compare_group(
    group: Group, failed: pd.Series, shown: pd.DataFrame, read: tuple[Reader, Reader, Any]
) -> pd.DataFrame:
    histories, predictions, labels = read
    table = shown.reset_index()
    table["name"] = group.names
    table["group"] = 0  # numbered when all comparisons are there
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
    columns = list_differing(members)
    rows = members[columns or _present(members, ["model"])].to_dict("records")
    names = [describe_setting({str(key): value for key, value in row.items()}, columns) for row in rows]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for name, i in zip(names, members.index, strict=True)]


def describe_setting(row: Mapping[str, Any] | pd.Series, columns: list[str]) -> str:
    """A setting in words: `dropout=0.2 l2=0.01` for these columns; without any, its model's name. Empty is `none`."""
    if not columns:
        return str(row.get("model", "setting"))
    return " ".join(f"{column}={show_value(row[column])}" for column in columns)


def show_value(value: Any) -> str:
    """A setting's value as it is typed: 0.001, [128], none."""
    if not isinstance(value, str | list | tuple | np.ndarray) and pd.isna(value):
        return "none"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def list_differing(settings: pd.DataFrame) -> list[str]:
    """The settings that differ, without those that another one's value already says: a model says its filters."""
    differing = _differing(settings)
    for column, by in (("filters", "model"), ("optimizer_settings", "optimizer")):
        if column in differing and len(settings[[by, column]].drop_duplicates()) == settings[by].nunique():
            differing.remove(column)
    return differing


def _differing(settings: pd.DataFrame) -> list[str]:
    return [column for column in _present(settings, SETTING_COLUMNS) if settings[column].nunique(dropna=False) > 1]


def _present(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    return [column for column in columns if column in frame.columns]


def _comparisons(settings: pd.DataFrame) -> list[pd.Index]:
    """The settings that may be compared with each other, a list of setting_ids each."""
    by = _present(settings, GROUP_COLUMNS)
    if not by or settings.empty:
        return [settings.index] if len(settings) else []
    keys = settings[by].copy()
    if "data_sha256" in by and len(by) > 1:  # a run that failed has no hash
        known = keys.groupby([column for column in by if column != "data_sha256"], dropna=False)["data_sha256"]
        keys["data_sha256"] = keys["data_sha256"].fillna(known.transform("first"))
    return [part.index for _, part in keys.groupby(by, dropna=False, sort=True)]


def _empty_table(shown: list[str]) -> pd.DataFrame:
    scores = [f"{name}_accuracy{end}" for name in ("train", "test") for end in ("", "_low", "_high")]
    scores += ["accuracy_gap", "accuracy_gap_low", "accuracy_gap_high"]
    best = ["best", "against_best", "difference", "difference_low", "difference_high", "p_corrected", "seeds_needed"]
    rest = ["verdict", "leaning", "reason", *best, "seeds_needed_here", "comparison"]
    return pd.DataFrame(columns=["setting_id", *shown, "name", "group", "n", "failed", "diverged", *scores, *rest])


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
    mean = moments(group.test, 0)[1]
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
            f"after Holm over {pairs} {'pair' if pairs == 1 else 'pairs'}): {say}."
        )


def _say_pair_seeds(alone: float, here: float, n: int, k: int) -> str:
    if not np.isfinite(alone):
        return f"more than {MAXIMUM_SEEDS:,} seeds would be needed"
    table = "" if k == 2 else f", {say_seeds(here).removeprefix('about ')} in this table of {k} settings"
    if alone <= n:
        return f"these two alone would be{table}"
    return f"{say_seeds(alone)} of these two alone would be needed{table}"


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
    read = read_or_none(predictions, run_id)
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

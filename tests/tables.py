"""Results tables and histories for tests of the comparison, drawn or given."""

import numpy as np
import pandas as pd
from scipy import stats

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


def most(tables, share):
    """As many as `tables` may show if each does with chance `share`: exceeded by luck once in a thousand."""
    return stats.binom.ppf(0.999, tables, share) / tables

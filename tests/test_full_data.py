"""The promise of the numbers: on the whole of Fashion-MNIST nnexp comes to what stock Keras comes to."""

import json
from pathlib import Path

import pandas as pd
import pytest

STOCK_FIT = {"train_accuracy": 0.8959, "test_accuracy": 0.8719}
"""The lesson's network by stock Keras `fit` and `evaluate`, 5 epochs, means over 5 seeds; sd between seeds 0.003."""


def test_the_lessons_network_scores_what_stock_keras_scores_on_the_full_data(run_nnexp, tmp_path: Path) -> None:
    run = run_nnexp("seed=1")
    assert run.returncode == 0, run.stderr
    [row] = pd.read_csv(tmp_path / "outputs" / "results.csv").to_dict("records")
    assert (row["train_size"], row["parameters"], row["epochs_run"]) == (60_000, 101_770, 5)
    for score, expected in STOCK_FIT.items():
        assert row[score] == pytest.approx(expected, abs=0.015)  # five sd: one seed against a mean
    [record] = (tmp_path / "outputs").glob("runs/*/result.json")
    assert json.loads(record.read_bytes())["settings"]["data"]["name"] == "fashion_mnist"

"""Ledgers for tests, written as nnexp writes them but without training."""

import json
from pathlib import Path

import numpy as np

from nnexp.config import DATASETS, Config, DataConfig, ModelConfig, OptimizerConfig
from nnexp.ledger import COLUMNS, Ledger, Result, _format_arrays, _format_table, format_row, make_record

ADAM = {"name": "adam", "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
VERSIONS = {"nnexp": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7", "git_commit": "none"}


def make_config(
    units=(32,), filters=(), learning_rate=0.001, train_size=None, validation_size=0, early_stopping=None, **settings
):
    """A Config on the sample; settings: dropout, l2, epochs, seed, batch_size."""
    defaults = {"dropout": 0.0, "l2": 0.0, "epochs": 4, "batch_size": 32, "seed": 0}
    return Config(
        model=ModelConfig(list(filters), list(units), "relu"),
        optimizer=OptimizerConfig(learning_rate=learning_rate, **ADAM),
        data=DataConfig("sample", None, train_size, validation_size, 0),
        early_stopping=early_stopping,
        **{"threads": 1, "engine": "compiled", "xla": "auto", "save_model": False, "outputs": "/tmp"},
        **{"force": False, "dry_run": False, "fail_fast": False},
        **{**defaults, **settings},
    )


def make_result(config, test=0.8, gap=0.02, labels=None):
    """Scores around `test` with noise by seed, a history that ends there, predictions of the sample's test images."""
    generator = np.random.default_rng(config.seed)
    test = test + 0.004 * generator.standard_normal()
    train = test + gap
    history = []
    for epoch in range(1, config.epochs + 1):
        left = 0.3 * (config.epochs - epoch) / config.epochs
        history.append(
            {"epoch": epoch, "train_loss": 1 - train + left, "train_accuracy": train - left}
            | {"test_loss": 1 - test + left, "test_accuracy": test - left}
            | {"running_loss": 1 - train + left, "running_accuracy": train - left}
        )
    scores = {key: history[-1][key] for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")}
    scores |= {"accuracy_gap": train - test, "epochs_run": config.epochs, "best_epoch": config.epochs}
    scores |= {"parameters": 25450, "train_seconds": 1.0, "seconds": 2.0}
    predictions = {}
    if labels is not None:
        label = np.where(generator.random(len(labels)) < test, labels, (labels + 1) % 10).astype(np.uint8)
        predictions = {"label": label, "confidence": generator.uniform(0.3, 1, len(labels)).astype(np.float16)}
    provenance = VERSIONS | {"data_sha256": DATASETS["sample"].sha256, "weights_sha256": f"{config.seed:064x}"}
    return Result(scores, provenance, history, predictions)


def fail(error):
    """The result of a run that failed."""
    return Result(error=error, provenance=VERSIONS)


def write_runs(outputs, runs):
    """Write (config, result) pairs into a ledger, as Ledger.record does."""
    ledger = Ledger(outputs)
    for config, result in runs:
        claim = ledger.claim(config, f"nnexp data=sample seed={config.seed}", VERSIONS)
        ledger.record(claim, result)
        ledger.release(claim)
    return ledger


def write_many(outputs, runs):
    """The same for thousands of runs: files without flushing each to the disk, predictions once."""
    Path(outputs).mkdir(parents=True, exist_ok=True)
    rows, arrays = [",".join(COLUMNS) + "\n"], None
    for config, result in runs:
        record = make_record(config, result, f"nnexp -m data=sample dropout={config.dropout} seed={config.seed}")
        directory = Path(outputs) / "runs" / config.run_id
        directory.mkdir(parents=True)
        (directory / "result.json").write_text(json.dumps(record))
        if result.history:
            (directory / "history.csv").write_bytes(_format_table(result.history))
        if result.predictions:
            arrays = arrays or _format_arrays(result.predictions)
            (directory / "predictions.npz").write_bytes(arrays)
        rows.append(format_row(record))
    (Path(outputs) / "results.csv").write_text("".join(rows))

"""How long the ledger takes when it holds 10,000 runs (synthetic ones; nothing is trained).

Run it on a quiet machine:  .venv/bin/python benchmarks/bench_ledger.py
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pandas as pd

from nnexp.compose import Composer, build_config_loader
from nnexp.config import Config
from nnexp.ledger import Ledger, Result

RUNS = 10_000
ADDED = 200  # rows timed in an empty and a full ledger
VERSIONS = {"nnexp": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7", "git_commit": "a" * 40}
SCORES = ("train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss", "train_seconds", "seconds")


def add_runs(ledger: Ledger, config: Config, seeds: range) -> list[float]:
    """Claim, record and release runs; returns the seconds of each."""
    scores = dict.fromkeys(SCORES, 0.123456789) | {"epochs_run": 5, "best_epoch": 5, "parameters": 101770}
    hashes = {"data_sha256": "d" * 64, "weights_sha256": "e" * 64}
    seconds = []
    for seed in seeds:
        run = dataclasses.replace(config, seed=seed)
        started = time.perf_counter()
        claim = ledger.claim(run, "nnexp", VERSIONS)
        assert claim is not None
        ledger.record(claim, Result(scores, hashes))
        ledger.release(claim)
        seconds.append(time.perf_counter() - started)
    return seconds


def time_call(call: Callable[[], object]) -> float:
    """Seconds of the quickest of three calls."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Print the figures, a line each."""
    composer = Composer(build_config_loader(None))
    config = composer.compose(composer.parse(["data=sample"]))
    with tempfile.TemporaryDirectory() as directory:
        ledger, fresh = Ledger(Path(directory, "full")), Ledger(Path(directory, "empty"))
        with mock.patch.object(os, "fsync"):  # filling it is not what is timed
            add_runs(ledger, config, range(RUNS))
        pairs = [  # one by one in turn, so that both meet the same load of the machine
            (add_runs(fresh, config, range(seed, seed + 1)), add_runs(ledger, config, range(seed, seed + 1)))
            for seed in range(RUNS, RUNS + ADDED)
        ]
        empty, full = (statistics.median([second for [second] in seconds]) for seconds in zip(*pairs, strict=True))
        print(f"adding a run: {1e3 * empty:.2f} ms to an empty ledger, {1e3 * full:.2f} ms to one of {RUNS}")
        print(f"ratio {full / empty:.2f} (promised: below 2)")
        print(f"healing a healthy ledger: {time_call(ledger.heal):.3f} s")
        print(f"rebuild: {time_call(ledger.rebuild):.2f} s (promised: below 10)")
        print(f"reading the table with pandas: {time_call(lambda: pd.read_csv(ledger.table)):.2f} s")
        print(f"size of the table: {ledger.table.stat().st_size / 1e6:.1f} MB")
    sys.exit(full / empty >= 2)


if __name__ == "__main__":
    main()

"""The table as text, and what it is read from."""

import csv
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from nnexp.config import DATASETS, DataConfig
from nnexp.ledger import Ledger

CURVES = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
SCORES = ("train_accuracy", "test_accuracy", "accuracy_gap")


def load_results(outputs: str | Path = "outputs") -> pd.DataFrame:
    """Read results.csv: one row a run, with the types that docs/results.md states."""
    return pd.read_csv(Path(outputs) / "results.csv", dtype={"error": "str"})


def compare_results(ledger: Ledger, results: pd.DataFrame) -> pd.DataFrame:
    """`compare_settings` with the curves and predictions that lie beside the records, where they can be read."""
    from nnexp.compare import compare_settings

    sizes = results["data"].map({name: facts.test_images for name, facts in DATASETS.items()})
    images = dict(zip(results["run_id"], sizes, strict=True))
    return compare_settings(
        results,
        histories=lambda run_id: read_history(ledger, run_id),
        predictions=lambda run_id: read_predictions(ledger, run_id, images[run_id]),
        labels=TestData(),
    )


def read_history(ledger: Ledger, run_id: str) -> dict[str, np.ndarray]:
    """The epochs of a run, float64 [epochs] by column; OSError where there is no history, or none that can be read."""
    path = ledger.runs / run_id / "history.csv"
    with open(path, encoding="utf-8") as file:  # a hundred times as fast as pandas, which 10,000 runs feel
        try:
            names, *rows = csv.reader(file)
            values = np.array([[float(value or "nan") for value in row] for row in rows]).reshape(len(rows), len(names))
            history = dict(zip(names, values.T, strict=True))
        except ValueError as error:
            raise OSError(f"{path} is not a history: {error}") from error
    if missing := [column for column in CURVES if column not in history]:
        raise OSError(f"{path} has no {', '.join(missing)}")
    return history


def read_predictions(ledger: Ledger, run_id: str, images: float = np.nan) -> dict[str, np.ndarray]:
    """What a run said of every test image: `label` uint8 [n], `confidence` float16 [n].

    OSError where that is not there, cannot be read, or is not of this many test `images` (NaN: any number).
    """
    path = ledger.runs / run_id / "predictions.npz"
    try:
        with np.load(path) as stored:
            label, confidence = stored["label"], stored["confidence"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"{path} cannot be read: {error}") from error
    if label.ndim != 1 or label.shape != confidence.shape or (images == images and len(label) != images):
        raise OSError(f"{path} is not of {images} test images")
    return {"label": label, "confidence": confidence}


class TestData(Mapping[str, np.ndarray]):
    """The true test labels of a data set by its name, read when asked for; a data set is never downloaded for it."""

    __test__ = False  # not a test, though its name begins like one

    def __init__(self) -> None:
        self._found: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """uint8 [n]; KeyError where the data set is not on this machine, or broken."""
        test = self.read(name)
        if test is None:
            raise KeyError(name)
        return test[1]

    def __iter__(self) -> Iterator[str]:
        return iter(DATASETS)

    def __len__(self) -> int:
        return len(DATASETS)

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Images uint8 [n, 28, 28] and labels uint8 [n], or None."""
        if name not in self._found:
            self._found[name] = _read_test_data(name) if name in DATASETS else None
        return self._found[name]


def _read_test_data(name: str) -> tuple[np.ndarray, np.ndarray] | None:
    from nnexp.data import DataError, locate_data, read_folder, read_sample

    source = locate_data(DataConfig(name, None, None, 0, 0))
    if source.kind == "download":
        return None
    try:
        arrays = read_sample() if source.kind == "sample" else read_folder(source)
    except DataError:
        return None
    return arrays.test_images, arrays.test_labels


def list_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by column."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def format_comparison(comparison: pd.DataFrame, style: str) -> str:
    """The comparison of `compare_settings` as text, csv, json or markdown."""
    if style == "csv":
        return comparison.to_csv(index=False, lineterminator="\n")
    if style == "json":
        return comparison.to_json(orient="records", indent=1, double_precision=10) + "\n"
    if comparison.empty:
        return "The table is empty: nothing has been run here yet. `nnexp` makes the first run.\n"
    rows = [_format_row(row) for row in list_rows(comparison)]
    if style == "markdown":
        return _format_markdown(rows)
    return _format_text(rows) + "\n" + "\n".join(_list_sentences(comparison)) + "\n"


def _format_row(row: "pd.Series[Any]") -> dict[str, str]:
    cells = {"setting": str(row["name"])}
    for score in SCORES:
        mean, low, high = row[score], row[f"{score}_low"], row[f"{score}_high"]
        interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
        cells[score.replace("_", " ")] = f"{mean:.3f}{interval}" if np.isfinite(mean) else "none"
    verdict = str(row["verdict"])
    if verdict == "cannot tell" and row["leaning"]:
        verdict += f" (leans to {row['leaning']})"
    return cells | {"n": str(row["n"]), "verdict": verdict, "against the best": str(row["against_best"])}


def _format_text(rows: list[dict[str, str]]) -> str:
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _format_markdown(rows: list[dict[str, str]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0]), *(" | ".join(row.values()) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def _list_sentences(comparison: pd.DataFrame) -> list[str]:
    rows = list_rows(comparison)
    sentences = [f"{row['name']}: {row['verdict']}. {row['reason']}" for row in rows]
    comparisons = [f"{row['name']}: {row['comparison']}" for row in rows if row["comparison"]]
    failed = int(comparison["failed"].sum())
    notes = ["Accuracies are means over n seeds with 95 % intervals."]
    if failed:
        notes.append(f"Not counted: {failed} failed {'run' if failed == 1 else 'runs'}; results.csv says why.")
    return [*notes, "", *sentences, "", *comparisons]

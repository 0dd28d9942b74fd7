"""The table as text, and what it is read from."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from nnexp.config import DataConfig
from nnexp.ledger import Ledger

SCORES = ("train_accuracy", "test_accuracy", "accuracy_gap")


def load_results(outputs: str | Path = "outputs") -> pd.DataFrame:
    """Read results.csv: one row a run, with the types that docs/results.md states."""
    return pd.read_csv(Path(outputs) / "results.csv", float_precision="round_trip", dtype={"error": "str"})


def read_history(ledger: Ledger, run_id: str) -> pd.DataFrame:
    """The epochs of a run, one row each; FileNotFoundError where it has none."""
    return pd.read_csv(ledger.runs / run_id / "history.csv")


def read_predictions(ledger: Ledger, run_id: str) -> dict[str, np.ndarray]:
    """What a run said of every test image: `label` uint8 [n], `confidence` float16 [n]."""
    with np.load(ledger.runs / run_id / "predictions.npz") as stored:
        return dict(stored)


class TestLabels(dict[str, np.ndarray]):
    """The true test labels of a data set by its name, read when asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        """uint8 [n], or `default` where the data set is not on this machine."""
        from nnexp.data import DataError, load_data

        try:
            return load_data(DataConfig(name, None, None, 0, 0)).test_labels
        except DataError:
            return default


def format_comparison(comparison: pd.DataFrame, style: str) -> str:
    """The comparison of `compare_settings` as text, csv, json or markdown."""
    if style == "csv":
        return comparison.to_csv(index=False, lineterminator="\n")
    if style == "json":
        return comparison.to_json(orient="records", indent=1, double_precision=10) + "\n"
    rows = [_format_row(row) for _, row in comparison.iterrows()]
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
    rows = comparison.to_dict("records")
    sentences = [f"{row['name']}: {row['verdict']}. {row['reason']}" for row in rows]
    comparisons = [f"{row['name']}: {row['comparison']}" for row in rows if row["comparison"]]
    return ["Accuracies are means over n seeds with 95 % intervals.", "", *sentences, "", *comparisons]

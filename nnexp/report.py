"""The table as text, and what it is read from."""

import csv
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len, set_cell_size

from nnexp.compare import compare_settings, list_differing, show_value
from nnexp.config import DATASETS, DataConfig
from nnexp.ledger import Ledger, guard_cell

CURVES = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
MOST_LETTERS = 40  # of a cell of the text table
SCORES = ("train_accuracy", "test_accuracy", "accuracy_gap")


def load_results(outputs: str | Path = "outputs") -> pd.DataFrame:
    """Read results.csv: one row a run, with the types that docs/results.md states."""
    return pd.read_csv(Path(outputs) / "results.csv", dtype={"error": "str"})


def compare_results(ledger: Ledger, results: pd.DataFrame) -> pd.DataFrame:
    """`compare_settings` with the curves and predictions that lie beside the records, where they can be read."""
    sizes = results["data"].map({name: facts.test_images for name, facts in DATASETS.items()})
    images = dict(zip(results["run_id"], sizes, strict=True))
    return compare_settings(
        results,
        histories=lambda run_id: read_history(ledger, run_id),
        predictions=lambda run_id: read_predictions(ledger, run_id, images[run_id]),
        labels=TestData(),
        columns="all",
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


def name_group(setting: Mapping[str, Any] | pd.Series) -> str:
    """What the settings of a comparison have in common: the data, and how many of its images they were trained on."""
    facts = DATASETS.get(str(setting.get("data")))
    images = f", {facts.test_images:,} test images" if facts else ""
    split = f", split {setting['split_seed']}" if setting.get("split_seed") else ""
    return f"{setting.get('data')}, {int(setting['train_size']):,} training images{images}{split}"


def format_comparison(comparison: pd.DataFrame, style: str) -> str:
    """The comparison of `compare_settings` (with all columns) as text, csv, json or markdown."""
    if style == "csv":
        return comparison.map(lambda cell: guard_cell(cell) if isinstance(cell, str) else cell).to_csv(
            index=False, lineterminator="\n"
        )
    if style == "json":
        return comparison.to_json(orient="records", indent=1, double_precision=10) + "\n"
    if comparison.empty:
        return "The table is empty: nothing has been run here yet. `nnexp` makes the first run.\n"
    groups = [rows for _, rows in comparison.groupby("group", sort=False)]
    form = _format_markdown if style == "markdown" else _format_text
    tables = [form(rows, name_group(rows.iloc[0]) if len(groups) > 1 else "") for rows in groups]
    notes = ["Accuracies are means over n seeds with 95 % intervals."]
    if len(groups) > 1:
        notes.append("Other data or another training size are another comparison.")
    if failed := int(comparison["failed"].sum()):
        notes.append(f"Not counted: {failed} failed {'run' if failed == 1 else 'runs'}; results.csv says why.")
    return "".join(tables) + " ".join(notes) + "\n"


def _format_rows(rows: pd.DataFrame) -> list[list[str]]:
    """Headings and cells: the settings that differ, the scores, the verdict."""
    differing = list_differing(rows) or ["name"]
    told_apart = len(rows[differing].drop_duplicates()) == len(rows)
    settings = differing if told_apart else ["setting_id", *differing]
    scores = [score.replace("_", " ") for score in SCORES]
    headings = [*("setting" if column == "name" else column for column in settings), *scores]
    lines = [[*headings, "n", "verdict", "against the best"]]
    shown = [*settings, *(score + end for score in SCORES for end in ("", "_low", "_high"))]
    for row in list_rows(rows[[*shown, "n", "verdict", "leaning", "against_best"]]):
        verdict = str(row["verdict"])
        if verdict == "cannot tell" and row["leaning"]:
            verdict += f" (leans to {row['leaning']})"
        cells = [*(show_value(row[column]) for column in settings), *(_format_score(row, score) for score in SCORES)]
        lines.append([_clean(cell) for cell in (*cells, str(row["n"]), verdict, str(row["against_best"]))])
    return lines


def _format_score(row: dict[str, Any], score: str) -> str:
    mean, low, high = row[score], row[f"{score}_low"], row[f"{score}_high"]
    interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
    return f"{mean:.3f}{interval}" if np.isfinite(mean) else "none"


def _clean(text: str) -> str:
    """What a terminal can show on one line, whatever is in a name."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def _format_text(rows: pd.DataFrame, title: str) -> str:
    lines = [[_shorten(cell) for cell in line] for line in _format_rows(rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    blocks = ["\n".join("  ".join(map(_pad, line, widths)).rstrip() for line in lines)]
    blocks += ["\n".join(f"{name}: {text}" for name, text in block) for block in _list_sentences(rows) if block]
    return "".join(f"{block}\n\n" for block in ([title] if title else []) + blocks)


def _shorten(cell: str) -> str:
    return cell if cell_len(cell) <= MOST_LETTERS else set_cell_size(cell, MOST_LETTERS - 3) + "..."


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - cell_len(cell))  # a wide letter counts for two


def _format_markdown(rows: pd.DataFrame, title: str) -> str:
    headings, *lines = [[_escape_markdown(cell) for cell in line] for line in _format_rows(rows)]
    table = [headings, ["---"] * len(headings), *lines]
    blocks = ["\n".join(f"| {' | '.join(line)} |" for line in table)]
    for block in filter(None, _list_sentences(rows)):
        blocks.append("\n".join(f"- **{_escape_markdown(name)}**: {_escape_markdown(text)}" for name, text in block))
    return "".join(f"{block}\n\n" for block in ([f"### {title}"] if title else []) + blocks)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|<*`])", r"\\\1", text)


def _list_sentences(rows: pd.DataFrame) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, sentence): the evidence of each verdict; how each compares with the best."""
    names = [_clean(name) for name in rows["name"]]
    reasons = [_clean(f"{verdict}. {why}") for verdict, why in zip(rows["verdict"], rows["reason"], strict=True)]
    compared = [(name, _clean(text)) for name, text in zip(names, rows["comparison"], strict=True) if text]
    return list(zip(names, reasons, strict=True)), compared

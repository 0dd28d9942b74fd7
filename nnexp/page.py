"""outputs/report.html: the comparison, its pictures and its evidence on one self-contained page.

A page of ten thousand runs has to open too, so everything on it is bounded by the constants below; what is left out is
counted on the page, and `nnexp-results table --format csv` has it.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nnexp import drawing, plots
from nnexp.compare import list_differing, show_value
from nnexp.data import CLASS_NAMES
from nnexp.ledger import Ledger
from nnexp.questions import ACCURACY_MARGIN, LOSS_MARGIN
from nnexp.report import (
    SCORES,
    TestData,
    compare_results,
    list_rows,
    load_results,
    name_group,
    read_history,
    read_predictions,
)

MOST_GROUPS = 12  # comparisons (data and training size) on the page
MOST_ROWS = 500  # settings in a comparison's table
MOST_COMMANDS = 20  # runs of a setting whose commands are listed
MOST_IN_PLOT = 30  # settings in the picture of accuracies
MOST_IN_DETAIL = 8  # settings with curves, confusion matrix, mistakes and network
MOST_SWEEPS = 6  # heat maps and curves of a comparison
MOST_FAILURES = 100  # failed runs listed
MOST_RUNS_READ = 50  # runs of a setting whose curves and predictions are read
MOST_MISTAKES = 12
SWEEPABLE = ("dropout", "l2", "learning_rate", "epochs", "batch_size", "early_stopping")


@dataclass
class Source:
    """What the page is made of."""

    ledger: Ledger
    results: pd.DataFrame  # one row a run
    comparison: pd.DataFrame  # one row a setting
    data: TestData

    def runs_of(self, setting_id: str) -> pd.DataFrame:
        """The finished runs of a setting, by seed."""
        return self._finished.get_group(setting_id) if setting_id in self._finished.groups else self.results.iloc[:0]

    def __post_init__(self) -> None:
        finished = self.results[self.results["status"] == "finished"].sort_values("seed", kind="stable")
        self._finished = finished.groupby("setting_id", sort=False)
        self.settings = self.results.groupby("setting_id", sort=False).first()


def write_report(outputs: Path, png: Path | None = None, setting: str = "") -> Path:
    """Write `outputs`/report.html, and the main pictures as PNG into `png`.

    setting: the setting_id, or a part that only one has, that is shown first in detail; "" is the best.

    Raises:
        ValueError: no setting, or several, fit `setting`.
    """
    source = read_source(outputs)
    if setting:
        setting = find_setting(list(source.comparison["setting_id"]), setting)
    if png is not None:
        png.mkdir(parents=True, exist_ok=True)
    page = render_page(describe_page(source, setting, png))
    path = outputs / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def read_source(outputs: Path) -> Source:
    """Read the table and compare its settings."""
    ledger, results = Ledger(outputs), load_results(outputs)
    return Source(ledger, results, compare_results(ledger, results), TestData())


def find_setting(setting_ids: list[str], part: str) -> str:
    """The one setting_id that is, or contains, `part`; ValueError where there is none, or several."""
    found = [part] if part in setting_ids else [setting_id for setting_id in setting_ids if part in setting_id]
    if len(found) != 1:
        hint = f"; several have it: {', '.join(found[:5])}" if found else ""
        raise ValueError(f"expected one of the {len(setting_ids)} setting_ids of the table; received {part}{hint}")
    return found[0]


def render_page(content: dict[str, Any]) -> str:
    """Fill the template. The page's policy lets only its own script run, and nothing be fetched."""
    folder = files("nnexp") / "page_files"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("nnexp", "page_files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "interval": format_interval, "value": show_value}
    template = environment.get_template("report.html.j2")
    return template.render(content, style=Markup(style), script=Markup(script), digest=digest)


def describe_page(source: Source, setting: str, png: Path | None) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    results, comparison = source.results, source.comparison
    groups = [rows for _, rows in comparison.groupby("group", sort=False)]
    shown = groups[:MOST_GROUPS]
    finished = int((results["status"] == "finished").sum())
    failures = results[results["status"] != "finished"]
    return {
        "runs": len(results),
        "finished": finished,
        "failed": len(failures),
        "settings": len(comparison),
        "newest": str(results["started_at"].max())[:16].replace("T", " ") if len(results) else "",
        "versions": _list_versions(results),
        "margins": {"accuracy": f"{ACCURACY_MARGIN:g}", "loss": f"{100 * LOSS_MARGIN:.0f} %"},
        "groups": [describe_group(source, rows, setting, png, i) for i, rows in enumerate(shown)],
        "groups_left_out": len(groups) - len(shown),
        "failures": [_describe_run(source, row) for row in list_rows(failures.head(MOST_FAILURES))],
    }


def _list_versions(results: pd.DataFrame) -> str:
    names = {"nnexp": "nnexp", "tensorflow": "TensorFlow", "keras": "Keras", "python": "Python"}
    found = {name: sorted(results[column].dropna().astype(str).unique()) for column, name in names.items()}
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items() if versions)


# --- one comparison ---------------------------------------------------------------------------------------------------


def describe_group(source: Source, rows: pd.DataFrame, setting: str, png: Path | None, number: int) -> dict[str, Any]:
    """One comparison: its title, table and pictures; the files of pictures go to `png`."""
    settings = source.settings.loc[rows["setting_id"]]
    differing = list_differing(settings)
    scored = rows[np.isfinite(rows["test_accuracy"].astype(float))]
    pictures = _Pictures(png, f"-{number + 1}" if number else "")
    content = {
        "title": name_group(settings.iloc[0]),
        "columns": differing,
        "rows": [_describe_setting(source, row, differing) for row in list_rows(rows.head(MOST_ROWS))],
        "rows_left_out": max(len(rows) - MOST_ROWS, 0),
        "headline": _say_headline(rows, scored),
        "accuracy": "",
        "accuracy_left_out": max(len(scored) - MOST_IN_PLOT, 0),
        "overview": "",
        "sweeps": [],
        "sweeps_left_out": 0,
        "details": [],
        "details_left_out": 0,
    }
    if scored.empty:
        return content
    best = scored.head(MOST_IN_PLOT)
    runs = {setting_id: source.runs_of(setting_id) for setting_id in best["setting_id"]}
    content["accuracy"] = pictures.add("accuracy", plots.plot_accuracy(best, runs), "Train and test accuracy")
    if len(scored) > MOST_IN_DETAIL:
        content["overview"] = pictures.add("overview", plots.plot_overview(scored), "Train against test accuracy")
    sweeps = list(find_sweeps(scored, settings, differing))
    content["sweeps"] = [
        picture for i, sweep in enumerate(sweeps[:MOST_SWEEPS]) for picture in pictures.sweep(sweep, i)
    ]
    content["sweeps_left_out"] = max(len(sweeps) - MOST_SWEEPS, 0)
    chosen = choose_settings(scored, setting)
    content["details"] = [describe_detail(source, row, pictures) for row in list_rows(chosen)]
    content["details_left_out"] = len(scored) - len(chosen)
    return content


def _say_headline(rows: pd.DataFrame, scored: pd.DataFrame) -> str:
    if scored.empty:
        return "No run has finished here: there are no scores to compare."
    best = scored.iloc[0]
    counts = rows["verdict"].value_counts()
    verdicts = ", ".join(f"{counts[name]} {name}" for name in counts.index)
    interval = format_interval(best, "test_accuracy")
    return (
        f"Best on the test set: {best['name']}, {format_score(best['test_accuracy'])} {interval}".strip()
        + f" over {best['n']} {'seed' if best['n'] == 1 else 'seeds'}. Verdicts: {verdicts}."
    )


def _describe_setting(source: Source, row: dict[str, Any], differing: list[str]) -> dict[str, Any]:
    runs = source.runs_of(row["setting_id"])
    values = source.settings.loc[row["setting_id"]]
    row["settings"] = [(column, values[column]) for column in differing]
    row["slug"] = str(row["verdict"]).replace(" ", "-")
    row["runs"] = [_describe_run(source, run) for run in list_rows(runs.head(MOST_COMMANDS))]
    row["runs_left_out"] = max(len(runs) - MOST_COMMANDS, 0)
    return row


def _describe_run(source: Source, run: dict[str, Any]) -> dict[str, Any]:
    try:
        record = source.ledger.read_record(run["run_id"]) or {}
    except (OSError, ValueError):
        record = {}
    return run | {"command": record.get("command", "not there: its record, result.json, cannot be read")}


def choose_settings(scored: pd.DataFrame, setting: str = "") -> pd.DataFrame:
    """At most MOST_IN_DETAIL settings: `setting`, the best of each verdict, then the best; in the table's order."""
    firsts = list(scored[scored["setting_id"] == setting].index)
    firsts += list(scored.drop_duplicates("verdict").index)
    order = list(dict.fromkeys([*firsts[:1], *scored.index[:1], *firsts, *scored.index]))[:MOST_IN_DETAIL]
    chosen = scored.loc[sorted(order, key=list(scored.index).index)]
    return chosen.assign(chosen=chosen["setting_id"] == (setting if setting in set(chosen["setting_id"]) else ""))


def find_sweeps(scored: pd.DataFrame, settings: pd.DataFrame, differing: list[str]) -> Iterator[plots.Sweep]:
    """What to draw of the settings of one comparison: a heat map for each two swept numbers, a curve for each one.

    Settings that agree in everything but numbers belong together; of three numbers or more, the one with the fewest
    values divides them further. A heat map needs most of its grid, a curve three values.
    """
    scores = [score + end for score in SCORES for end in ("", "_low", "_high")]
    cells = scored.set_index("setting_id")[scores].astype(float).join(settings[differing])
    fixed = [column for column in differing if column not in SWEEPABLE]
    yield from _divide(cells, fixed, [column for column in differing if column in SWEEPABLE])


def _divide(cells: pd.DataFrame, fixed: list[str], swept: list[str]) -> Iterator[plots.Sweep]:
    parts = cells.groupby(fixed, dropna=False, sort=False) if fixed else [((), cells)]
    for key, part in parts:
        values = {column: part[column].nunique() for column in swept}
        varying = sorted((column for column in swept if values[column] > 1), key=lambda column: values[column])
        if len(varying) > 2:
            yield from _divide(part, [*fixed, varying[0]], varying[1:])
            continue
        name = ", ".join(f"{column}={show_value(value)}" for column, value in zip(fixed, key, strict=True))
        if len(varying) == 1 and len(part) >= 3:
            yield plots.Sweep(varying[0], "", name, part)
        if len(varying) == 2 and len(part) >= 4 and len(part) > 0.6 * values[varying[0]] * values[varying[1]]:
            yield plots.Sweep(varying[1], varying[0], name, part)


# --- one setting in detail --------------------------------------------------------------------------------------------


def describe_detail(source: Source, row: dict[str, Any], pictures: "_Pictures") -> dict[str, Any]:
    """Curves, confusion matrix, most confident mistakes and the network of one setting."""
    setting_id, name = row["setting_id"], str(row["name"])
    values = source.settings.loc[setting_id]
    runs = source.runs_of(setting_id).head(MOST_RUNS_READ)
    detail = {"setting_id": setting_id, "name": name, "chosen": row["chosen"], "verdict": row["verdict"]}
    detail |= {"curves": "", "confusion": "", "mistakes": [], "network": "", "missing": []}
    histories = read_all(lambda run_id: read_history(source.ledger, run_id), runs["run_id"])
    histories = [pd.DataFrame(history) for history in histories if len(history["epoch"])]
    if histories:
        kept = runs["best_epoch"].astype(int).tolist() if values.get("early_stopping", 0) else []
        figure = plots.plot_curves(name, histories, kept[: plots.MOST_LINES])
        detail["curves"] = pictures.add(f"curves-{setting_id}", figure, f"Learning curves of {name}")
    else:
        detail["missing"].append("No learning curves: its runs have no history.csv.")
    answers = read_answers(source, runs["run_id"], str(values.get("data")))
    if isinstance(answers, str):
        detail["missing"].append(answers)
    else:
        detail |= _picture_answers(answers, setting_id, name, pictures)
    layers = list_layers_of(values)
    if layers:
        figure = drawing.draw_network(layers)
        detail["network"] = pictures.add(f"network-{setting_id}", figure, f"The network of {name}")
    return detail


def read_all(read: Any, run_ids: Any) -> list[Any]:
    """What `read` gives for each run, without the runs that have nothing, or nothing that can be read."""
    found = []
    for run_id in run_ids:
        try:
            found.append(read(run_id))
        except OSError:
            continue
    return found


@dataclass
class Answers:
    """What n runs said of the test images: labels uint8 [n, m], confidences float32 [n, m], truth uint8 [m]."""

    labels: np.ndarray
    confidences: np.ndarray
    truth: np.ndarray
    images: np.ndarray


def read_answers(source: Source, run_ids: Any, data: str) -> Answers | str:
    """What the runs of a setting predicted, or a sentence that says why that cannot be shown."""
    test = source.data.read(data)
    if test is None:
        return f"No confusion matrix: the data set {data} is not on this machine, and with it the true classes."
    images, truth = test
    predictions = read_all(lambda run_id: read_predictions(source.ledger, run_id, len(truth)), run_ids)
    if not predictions:
        return "No confusion matrix: its runs have no predictions.npz for these test images."
    labels = np.array([prediction["label"] for prediction in predictions])
    confidences = np.array([prediction["confidence"] for prediction in predictions], dtype=np.float32)
    return Answers(labels, confidences, truth, images)


def count_confusion(answers: Answers) -> np.ndarray:
    """[true class, predicted class]: share of the true class's images, over all runs; rows add up to 1."""
    truth = np.broadcast_to(answers.truth, answers.labels.shape)
    size = len(CLASS_NAMES)
    places = truth.astype(int) * size + np.minimum(answers.labels, size - 1)
    counts = np.bincount(places.ravel(), minlength=size * size).reshape(size, size)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def find_mistakes(answers: Answers) -> list[dict[str, Any]]:
    """The images that the runs got wrong most confidently: by the confidence in wrong classes, averaged over runs.

    `said` is the wrong class of the run that was most confident, `confidence` its confidence, `wrong` of `runs` erred.
    """
    wrong = np.where(answers.labels != answers.truth, answers.confidences, 0.0)
    order = np.argsort(-wrong.mean(0), kind="stable")[:MOST_MISTAKES]
    mistakes = []
    for i in order[wrong.mean(0)[order] > 0]:
        run = int(wrong[:, i].argmax())
        mistakes.append(
            {
                "image": answers.images[i],
                "truth": CLASS_NAMES[answers.truth[i]],
                "said": CLASS_NAMES[min(answers.labels[run, i], len(CLASS_NAMES) - 1)],
                "confidence": float(wrong[run, i]),
                "wrong": int((wrong[:, i] > 0).sum()),
                "runs": len(wrong),
                "number": int(i),
            }
        )
    return mistakes


def _picture_answers(answers: Answers, setting_id: str, name: str, pictures: "_Pictures") -> dict[str, Any]:
    figure = plots.plot_confusion(name, count_confusion(answers), CLASS_NAMES)
    mistakes = find_mistakes(answers)
    if mistakes and pictures.png:
        plots.write_png(plots.plot_mistakes(name, mistakes), pictures.path(f"mistakes-{setting_id}"))
    return {
        "confusion": pictures.add(f"confusion-{setting_id}", figure, f"Confusion matrix of {name}"),
        "mistakes": [mistake | {"image": encode_image(mistake["image"])} for mistake in mistakes],
    }


def encode_image(image: np.ndarray) -> str:
    """An image uint8 [28, 28] as a data: address, dark on light as on paper."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(255 - image).save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def list_layers_of(setting: pd.Series) -> list[drawing.Layer]:
    """The layers of a row of the table; none where its architecture cannot be read."""
    try:
        filters, units = json.loads(setting["filters"]), json.loads(setting["units"])
        return drawing.list_layers(filters, units, str(setting["activation"]), float(setting["dropout"]))
    except (KeyError, TypeError, ValueError):
        return []


# --- pictures and words -----------------------------------------------------------------------------------------------


class _Pictures:
    """Turns figures into SVG for the page, and into files where these are asked for."""

    def __init__(self, png: Path | None, suffix: str) -> None:
        self.png = png
        self._suffix = suffix

    def add(self, name: str, figure: Any, label: str) -> Markup:
        if self.png is not None:
            plots.write_png(figure, self.path(name))
        return Markup(plots.format_svg(figure, label))

    def path(self, name: str) -> Path:
        assert self.png is not None
        return self.png / (re.sub(r"[^\w.-]", "_", name + self._suffix)[:150] + ".png")

    def sweep(self, sweep: plots.Sweep, number: int) -> list[Markup]:
        of = f" of {sweep.name}" if sweep.name else ""
        if not sweep.y:
            label = f"Accuracy against {sweep.x}{of}"
            return [self.add(f"sweep-{sweep.x}-{number + 1}", plots.plot_sweep_curve(sweep), label)]
        file = f"heatmap-{sweep.x}-{sweep.y}-{number + 1}"
        return [
            self.add(f"{file}-{score}", plots.plot_heat_map(sweep, score), f"{score} over {sweep.x} and {sweep.y}{of}")
            for score in ("test_accuracy", "accuracy_gap")
        ]


def format_score(value: Any) -> str:
    """A score in three digits; "none" where there is none."""
    return f"{value:.3f}" if np.isfinite(value) else "none"


def format_interval(row: Any, score: str) -> str:
    """The 95 % interval of a score; "" for a single run."""
    low, high = row[f"{score}_low"], row[f"{score}_high"]
    return f"[{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""

"""The pictures of the report: each function returns a matplotlib Figure, for the page as SVG and for papers as PNG.

Figures are as wide as a telephone shows them legibly. Colours are those of a light page; `format_svg` replaces them by
the page's CSS variables, so that one SVG serves light and dark.
"""

import functools
import io
import re
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from nnexp.report import list_rows
from nnexp.statistics import mean_interval

FIGURE_WIDTH = 4.5  # inches
MOST_POINTS = 60  # single runs of a setting that are drawn as points, spread evenly over their ranks
MOST_LINES = 10  # single runs of a setting that are drawn as curves
MOST_DIGITS = 30  # of the numbers below a heat map, side by side
MOST_CELLS = 12  # values of a setting up to which a heat map's cells have their number written in
COLORS = {
    "text": "#1a1c20",
    "muted": "#6b7281",
    "grid": "#d9dce1",
    "page": "#ffffff",
    "train": "#2166ac",
    "test": "#c4481f",
}

_STYLE: dict[Any, Any] = {
    **matplotlib.rcParamsDefault,
    "font.size": 10,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
    "text.color": COLORS["text"],
    "axes.labelcolor": COLORS["text"],
    "axes.titlecolor": COLORS["text"],
    "axes.edgecolor": COLORS["muted"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.labelcolor": COLORS["text"],
    "ytick.labelcolor": COLORS["text"],
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: small, and in the page's font
}


class Sweep(NamedTuple):
    """Settings that differ in one number, or two: what a curve or a heat map is drawn of.

    Attributes:
        x, y: the settings swept; y is "" for a curve.
        name: what else is common to these settings, where there are several such sweeps.
        cells: one row a setting: x, y, and train_accuracy, test_accuracy, accuracy_gap with `_low` and `_high`.
    """

    x: str
    y: str
    name: str
    cells: pd.DataFrame


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Have a function draw in the report's style, whatever style the caller has set."""

    @functools.wraps(draw)
    def draw_styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_STYLE | {"figure.constrained_layout.use": True}):
            return draw(*args, **kwargs)

    return draw_styled


def format_svg(figure: Figure, label: str) -> str:
    """A figure as an <svg> element for the page: colours from the page, ids of its own, `label` for a screen reader."""
    content = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": label}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has more characters
        figure.savefig(content, format="svg", transparent=True, metadata=dict.fromkeys(_SVG_METADATA))
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'"[^"]*"', _round_places, re.sub(r"\n\s*", "\n", svg))
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_escape(label)}"', 1)


_SVG_METADATA = ("Creator", "Date", "Format", "Type")


def _round_places(attribute: re.Match[str]) -> str:
    """Hundredths of a point are enough for a place; what is written in the picture is no attribute, and stays."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])


def _escape(text: str) -> str:
    import html

    return html.escape(text)


def write_png(figure: Figure, path: Path | BinaryIO) -> None:
    """A figure as a PNG of 200 dots an inch on white, nothing cut off."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=200, facecolor="white", bbox_inches="tight", pad_inches=0.08)


def shorten(name: str, width: int = 52, lines: int = 2) -> str:
    """A setting's name in at most this many lines."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder=" ...", break_on_hyphens=False)) or "-"


@styled
def plot_accuracy(comparison: pd.DataFrame, runs: dict[str, pd.DataFrame]) -> Figure:
    """Train and test accuracy of every setting: mean, 95 % interval, and every single run.

    comparison: rows of `compare_settings`; runs: setting_id -> its finished rows of the results table.
    """
    rows = list_rows(comparison)
    names = [shorten(row["name"], 60) for row in rows]
    lines = max(name.count("\n") for name in names)
    figure = Figure(figsize=(FIGURE_WIDTH, 0.8 + (0.62 + 0.16 * lines) * len(rows)))
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        clear = {"facecolor": COLORS["page"], "edgecolor": "none", "pad": 1.5}  # no grid line through the letters
        place = axes.get_yaxis_transform()
        axes.text(0, i - 0.12, names[i], transform=place, va="bottom", size=9, bbox=clear, zorder=1.5)
        for j, split in enumerate(("train", "test")):
            _draw_interval(axes, row, f"{split}_accuracy", i + 0.02 + 0.22 * j, runs.get(row["setting_id"]))
    axes.set(ylim=(len(rows) - 0.45, -0.55), yticks=[], xlabel="accuracy (share of images classified rightly)")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside upper center", ncols=2)
    return figure


def _draw_interval(axes: Axes, row: dict[str, Any], score: str, y: float, runs: pd.DataFrame | None) -> None:
    split = score.split("_")[0]
    color, marker = COLORS[split], "o" if split == "train" else "D"
    values = _spread_out(runs[score]) if runs is not None else np.empty(0)
    axes.plot([row[f"{score}_low"], row[f"{score}_high"]], [y, y], color=color, linewidth=1.8)
    axes.plot(values, np.full(len(values), y), "|", color=color, alpha=0.8, markersize=8)
    axes.plot([row[score]], [y], marker, color=color, markersize=6, label=split)


def _spread_out(values: pd.Series) -> np.ndarray:
    """At most MOST_POINTS of the values, evenly over their ranks."""
    there = np.sort(values.dropna().to_numpy(float))
    if len(there) <= MOST_POINTS:
        return there
    return np.asarray(there[np.linspace(0, len(there) - 1, MOST_POINTS).round().astype(int)])


@styled
def plot_overview(comparison: pd.DataFrame) -> Figure:
    """Every setting as a point, train against test accuracy: the gap is the distance from the diagonal."""
    figure = Figure(figsize=(FIGURE_WIDTH, 4.2))
    axes = figure.add_subplot()
    train, test = comparison["train_accuracy"].to_numpy(float), comparison["test_accuracy"].to_numpy(float)
    axes.scatter(train, test, s=9, color=COLORS["train"], alpha=0.5, linewidths=0, rasterized=len(train) > 500)
    low, high = np.nanmin([train, test]), np.nanmax([train, test])
    axes.plot([low, high], [low, high], color=COLORS["muted"], linewidth=1, linestyle="--")
    axes.annotate("no gap", (high, high), (-4, 4), textcoords="offset points", ha="right", color=COLORS["muted"])
    axes.set(xlabel="train accuracy, mean over seeds", ylabel="test accuracy, mean over seeds")
    axes.grid()
    axes.set_axisbelow(True)
    return figure


@styled
def plot_curves(name: str, histories: list[pd.DataFrame], kept: list[int]) -> Figure:
    """Learning curves of a setting: accuracy and loss by epoch, mean and 95 % band over its runs, each run thin.

    histories: of each run; kept: the epochs whose weights early stopping kept (empty without early stopping).
    """
    figure = Figure(figsize=(FIGURE_WIDTH, 4.6))
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, quantity in ((above, "accuracy"), (below, "loss")):
        for split, line in (("train", "-"), ("test", "--")):
            _draw_band(axes, histories, f"{split}_{quantity}", COLORS[split], line)
        axes.grid()
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
    best = find_best_epoch(histories)
    _mark_best(above, below, best)
    for epoch in kept:
        below.axvline(epoch, ymax=0.06, color=COLORS["text"], linewidth=1.5)
    above.set(ylabel="accuracy")
    below.set(ylabel="loss (cross-entropy, nats)", xlabel="epoch" + (" (ticks below: kept)" if kept else ""))
    below.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(shorten(name), size=10)
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _mark_best(above: Axes, below: Axes, best: int | None) -> None:
    if best is None:
        return
    for axes in (above, below):
        axes.axvline(best, color=COLORS["muted"], linewidth=1, linestyle=":", label=f"best epoch, {best}")


def find_best_epoch(histories: list[pd.DataFrame]) -> int | None:
    """The epoch of the lowest mean test loss, among those that every run reached; None where none is a number."""
    losses = _stack(histories, "test_loss").mean(0)
    return int(histories[0]["epoch"].iloc[int(np.nanargmin(losses))]) if np.isfinite(losses).any() else None


def _stack(histories: list[pd.DataFrame], column: str) -> np.ndarray:
    reached = min(len(history) for history in histories)
    return np.array([history[column].to_numpy(float)[:reached] for history in histories])


def _draw_band(axes: Axes, histories: list[pd.DataFrame], column: str, color: str, line: str) -> None:
    for history in histories[:MOST_LINES] if len(histories) > 1 else []:
        axes.plot(history["epoch"], history[column].astype(float), line, color=color, linewidth=0.6, alpha=0.45)
    values = _stack(histories, column)
    epochs = histories[0]["epoch"].to_numpy(float)[: values.shape[1]]
    mean, low, high = mean_interval(values.T)
    axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    marker = "o" if len(epochs) == 1 else ""
    axes.plot(epochs, mean, line, marker=marker, color=color, linewidth=1.8, label=column.split("_")[0])


@styled
def plot_sweep_curve(sweep: Sweep) -> Figure:
    """Train and test accuracy against one swept number, with the 95 % band over seeds."""
    cells = sweep.cells.sort_values(sweep.x)
    figure = Figure(figsize=(FIGURE_WIDTH, 3.4))
    axes = figure.add_subplot()
    places = _place(axes, cells[sweep.x].to_numpy(float), sweep.x)
    for split, line in (("train", "-o"), ("test", "--D")):
        mean, low, high = (cells[f"{split}_accuracy{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        axes.fill_between(places, low, high, color=COLORS[split], alpha=0.18, linewidth=0)
        axes.plot(places, mean, line, color=COLORS[split], markersize=4.5, label=f"{split} (mean, 95 % band)")
    axes.set(ylabel="accuracy")
    axes.grid()
    axes.set_axisbelow(True)
    if sweep.name:
        axes.set_title(shorten(sweep.name))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _place(axes: Axes, values: np.ndarray, label: str) -> np.ndarray:
    """Where values go on the x axis: to scale where they are spread about evenly, else in equal steps, and says so."""
    steps = np.diff(values)
    if len(steps) == 0 or steps.max() <= 4 * steps.min():
        axes.set_xlabel(label)
        if len(values) <= 8:
            axes.set_xticks(values, [f"{value:g}" for value in values])
        return values
    axes.set_xlabel(f"{label} (values in equal steps, not to scale)")
    places = np.arange(len(values), dtype=float)
    shown = slice(None, None, -(-len(values) // 8))
    axes.set_xticks(places[shown], [f"{value:g}" for value in values[shown]])
    return places


@styled
def plot_heat_map(sweep: Sweep, score: str) -> Figure:
    """A score (mean over seeds) over two swept numbers; a cell without a run is left empty."""
    grid = sweep.cells.pivot_table(index=sweep.y, columns=sweep.x, values=score)
    values = grid.to_numpy(float)
    figure = Figure(figsize=(FIGURE_WIDTH, min(1.5 + 0.42 * len(grid), 5.5)))
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(values, cmap="viridis", edgecolors="none", linewidth=0)
    _label_cells(axes, values, mesh.norm, "{:.3f}")
    for axis, names in ((axes.xaxis, grid.columns), (axes.yaxis, grid.index)):
        step = -(-len(names) // MOST_CELLS)
        labels = [f"{value:g}" for value in names[::step]]
        axis.set_ticks(np.arange(0, len(names), step) + 0.5, labels)
        if axis is axes.xaxis and sum(map(len, labels)) > MOST_DIGITS:
            axes.tick_params(axis="x", rotation=45)
    axes.set(xlabel=sweep.x, ylabel=sweep.y)
    figure.colorbar(mesh, ax=axes, label=f"{score.replace('_', ' ')} (mean over seeds)")
    if sweep.name:
        axes.set_title(shorten(sweep.name))
    return figure


def _label_cells(axes: Axes, values: np.ndarray, norm: Any, form: str) -> None:
    if max(values.shape) > MOST_CELLS:
        return
    size = 9 if values.shape[1] <= 6 else 6.5
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "#101010" if norm(value) > 0.5 else "#fefefe"  # the same in light and dark
            axes.text(j + 0.5, i + 0.5, form.format(value), ha="center", va="center", color=color, size=size)


@styled
def plot_confusion(name: str, shares: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Confusion matrix: of the images of each class (row), the share given each class (column), in percent."""
    figure = Figure(figsize=(FIGURE_WIDTH, 4.6))
    axes = figure.add_subplot()
    clear = LinearSegmentedColormap.from_list("shares", [(*to_rgb(COLORS["train"]), alpha) for alpha in (0.0, 1.0)])
    axes.pcolormesh(shares, cmap=clear, vmin=0, vmax=1, edgecolors=COLORS["grid"], linewidth=0.4)
    for (i, j), share in np.ndenumerate(100 * shares):
        if share >= 0.5:
            color = COLORS["page"] if share > 50 else COLORS["text"]
            axes.text(j + 0.5, i + 0.5, f"{share:.0f}", ha="center", va="center", size=8.5, color=color)
    places = np.arange(len(classes)) + 0.5
    axes.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes)
    axes.invert_yaxis()
    axes.set(xlabel="predicted class (% of the true class's test images)", ylabel="true class", aspect="equal")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(shorten(name, 44))
    return figure


@styled
def plot_mistakes(name: str, mistakes: list[dict[str, Any]]) -> Figure:
    """The most confident mistakes as pictures: `image` [28, 28], `truth`, `said`, `confidence`."""
    columns = 4
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(FIGURE_WIDTH * 1.3, 0.5 + 1.75 * rows))
    for axes, mistake in zip(figure.subplots(rows, columns, squeeze=False).flat, mistakes, strict=False):
        axes.imshow(mistake["image"], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(f"{mistake['truth']}, called\n{mistake['said']} ({mistake['confidence']:.2f})", size=7.5)
    for axes in figure.axes:
        axes.axis("off")
    figure.suptitle(shorten(name), size=10)
    return figure

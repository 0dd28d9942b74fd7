"""What docs/lesson.ipynb shows beside the report's pictures; each function returns a matplotlib Figure."""

import base64
import html
import io
import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnexp.config import DataConfig
from nnexp.data import Arrays, load_data, locate_data, read_folder, read_sample
from nnexp.plots import COLORS, FIGURE_WIDTH, styled, write_png
from nnexp.reference import Layer
from nnexp.statistics import mean_interval


class Picture:
    """A figure as a notebook shows it where it is a cell's last line, with a caption, and words for who cannot see it.

    alt: what is to be seen in it, in a sentence; it is read aloud in the picture's place.
    """

    def __init__(self, figure: Figure, alt: str, caption: str = "") -> None:
        if not alt.strip():
            raise ValueError("alt: expected what is to be seen in the picture, in a sentence; received nothing")
        self._figure, self._alt, self._caption = figure, alt, caption

    def __repr__(self) -> str:
        return f"[picture: {self._alt}]"

    def _repr_html_(self) -> str:
        content = io.BytesIO()
        write_png(self._figure, content)
        source = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
        width = round(1.3 * 96 * self._figure.get_figwidth())  # pixels: a little larger than on paper
        image = f'<img alt="{html.escape(self._alt)}" src="{source}" style="width: {width}px; max-width: 100%">'
        return f"<figure>{image}<figcaption>{html.escape(self._caption)}</figcaption></figure>"


def load_images(name: str) -> Arrays:
    """The images and labels of a data set as they are stored, uint8; finds, fetches and checks them as a run does."""
    config = DataConfig(name, directory=None, train_size=None, validation_size=0, split_seed=0)
    load_data(config)
    source = locate_data(config)
    return read_sample() if source.kind == "sample" else read_folder(source)


@styled
def draw_slope(entries: np.ndarray, losses: np.ndarray, here: float, kink: float) -> Figure:
    """The loss [n] against one weight [n]: where it stands, and where a ReLU wakes up."""
    figure = Figure(figsize=(FIGURE_WIDTH, 3.0))
    axes = figure.add_subplot()
    axes.plot(entries, losses, color=COLORS["train"], linewidth=1.8)
    for value, marker, name, offset, side in (
        (here, "o", "here", -16, "center"),
        (kink, "D", "kink, the unit wakes up", 9, "right"),
    ):
        place = (value, float(np.interp(value, entries, losses)))
        axes.plot(*place, marker, color=COLORS["test"], markersize=6)
        axes.annotate(f"{name}: {value:g}", place, (0, offset), textcoords="offset points", ha=side, size=9)
    axes.set(xlabel="top-left entry of W1 (no unit)", ylabel="error, |output - target|", ylim=(0, None))
    _add_grid(axes)
    return figure


@styled
def draw_gradients(gradients: list[Layer]) -> Figure:
    """Every derivative of a small network in its place: a row a unit, the bias last; those that are 0 stand in gray."""
    blocks = [np.column_stack([layer.W, layer.b]) for layer in gradients]
    largest = max(np.abs(block).max() for block in blocks)
    widths, height = [block.shape[1] for block in blocks], max(len(block) for block in blocks)
    figure = Figure(figsize=(FIGURE_WIDTH * 1.4, 0.9 + 0.42 * height))
    panels = figure.subplots(1, len(blocks), width_ratios=widths, squeeze=False)[0]
    for i, (axes, block) in enumerate(zip(panels, blocks, strict=True), start=1):
        shown = np.ma.masked_equal(block, 0)
        mesh = axes.pcolormesh(shown, cmap="PuOr_r", vmin=-largest, vmax=largest, edgecolors="white", linewidth=1.5)
        for (row, column), value in np.ndenumerate(block):
            ink = COLORS["page"] if abs(value) > 0.6 * largest else COLORS["text"] if value else COLORS["muted"]
            axes.text(column + 0.5, row + 0.5, f"{value:.3g}", ha="center", va="center", size=8, color=ink)
        inputs = [*(str(j) for j in range(1, block.shape[1])), f"b{i}"]
        axes.set_xticks(np.arange(len(inputs)) + 0.5, inputs)
        axes.set_yticks(np.arange(len(block)) + 0.5, [str(j) for j in range(1, len(block) + 1)])
        axes.set(ylim=(height, 0), title=f"W{i} and b{i}", xlabel="input", ylabel="unit" if i == 1 else "")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=list(panels), label="derivative of the error")
    return figure


@styled
def draw_images(images: np.ndarray, names: list[str], columns: int = 6) -> Figure:
    """Images [n, 28, 28], dark on light, each below its name."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(0.95 * columns, 1.2 * rows))
    for axes, image, name in zip(figure.subplots(rows, columns, squeeze=False).flat, images, names, strict=False):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(name, size=8)
    for axes in figure.axes:
        axes.axis("off")
    return figure


@styled
def draw_depths(results: pd.DataFrame) -> Figure:
    """Train and test accuracy against the number of hidden layers, for each activation; results: one row a run."""
    results = results.assign(depth=[len(json.loads(units)) for units in results["units"]])
    none = results[results["depth"] == 0]
    figure = Figure(figsize=(FIGURE_WIDTH, 3.4))
    axes = figure.add_subplot()
    for activation, color in (("linear", COLORS["muted"]), ("relu", COLORS["train"])):
        runs = pd.concat([none, results[(results["activation"] == activation) & (results["depth"] > 0)]])
        for split, line in (("train", ":o"), ("test", "-D")):
            _draw_means(axes, runs, "depth", f"{split}_accuracy", color, line, f"{activation}, {split}")
    axes.set(xlabel="hidden layers of 128 units", ylabel="accuracy (share of images)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _add_grid(axes)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def draw_running_average(histories: dict[str, list[pd.DataFrame]]) -> Figure:
    """By epoch, for each setting: Keras's running train accuracy beside train and test accuracy scored alike."""
    figure = Figure(figsize=(FIGURE_WIDTH * 1.5, 3.3))
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    lines = {"running_accuracy": ("muted", ":s", "running average of fit")}
    lines |= {"train_accuracy": ("train", "-o", "train, scored"), "test_accuracy": ("test", "--D", "test, scored")}
    for axes, (name, runs) in zip(panels, histories.items(), strict=True):
        epochs = pd.concat(runs)
        for column, (color, line, label) in lines.items():
            _draw_means(axes, epochs, "epoch", column, COLORS[color], line, label)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _add_grid(axes)
    panels[0].set_ylabel("accuracy (share of images)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


@styled
def draw_misfits(capacity: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Train and test accuracy against the units of a hidden layer, and against the epochs; results: one row a run."""
    sizes = capacity.assign(units=[sum(json.loads(units)) for units in capacity["units"]])
    figure = Figure(figsize=(FIGURE_WIDTH * 1.5, 3.5))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, runs, column, label in zip(
        panels, (sizes, epochs), ("units", "epochs"), ("hidden units", "epochs"), strict=True
    ):
        values = sorted(runs[column].unique())
        places = runs.assign(place=[values.index(value) for value in runs[column]])
        for split, line in (("train", "-o"), ("test", "--D")):
            _draw_means(axes, places, "place", f"{split}_accuracy", COLORS[split], line, split)
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlabel(f"{label} (values in equal steps)")
        axes.set_title(f"too few {label}: underfit      too many: overfit", size=9)
        _add_grid(axes)
    panels[0].set_ylabel("accuracy (share of images)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw_means(axes: Axes, runs: pd.DataFrame, x: str, score: str, color: str, line: str, label: str) -> None:
    """The mean over seeds at each x, with its 95 % interval as a band."""
    groups = runs.groupby(x)[score]
    places = np.array(list(groups.groups))
    values = np.full((len(places), int(groups.size().max())), np.nan)
    for row, (_, group) in zip(values, groups, strict=True):
        row[: len(group)] = group
    mean, low, high = mean_interval(values)
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(places, mean, line, color=color, markersize=4.5, label=label)


def _add_grid(axes: Axes) -> None:
    axes.grid()
    axes.set_axisbelow(True)

"""A network as a picture: by layers, or where it is small, unit by unit."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from nnexp.plots import COLORS, FIGURE_WIDTH, styled

IMAGE_SHAPE = (28, 28, 1)
NUM_CLASSES = 10
MOST_UNITS = 16  # the largest hidden layer that is drawn by units
MOST_CIRCLES = 10  # of a layer; of a larger one the first and last are drawn


class Layer(NamedTuple):
    """One layer as it is drawn. shape: of what it gives; parameters: the numbers that training changes."""

    kind: str
    detail: str
    shape: tuple[int, ...]
    parameters: int = 0

    @property
    def size(self) -> int:
        """How many numbers it gives."""
        return math.prod(self.shape)


def list_layers(filters: list[int], units: list[int], activation: str, dropout: float = 0.0) -> list[Layer]:
    """The layers of a configured network, as `nnexp.model.build_model` builds them, from the image to the classes."""
    height, width, channels = IMAGE_SHAPE
    layers = [Layer("Image", "gray levels in [0, 1]", IMAGE_SHAPE)]
    for number in filters:
        shape = (height, width, number)
        layers.append(Layer("Conv2D", f"{number} filters 3 x 3, {activation}", shape, (9 * channels + 1) * number))
        height, width, channels = height // 2, width // 2, number
        layers.append(Layer("MaxPooling2D", "2 x 2", (height, width, channels)))
    layers.append(Layer("Flatten", "", (height * width * channels,)))
    for number in units:
        layers.append(_dense(number, activation, layers[-1].size))
        if dropout:
            layers.append(Layer("Dropout", f"{dropout:g}, while training", (number,)))
    return [*layers, _dense(NUM_CLASSES, "softmax", layers[-1].size)]


def list_dense_layers(sizes: list[int], activation: str, last: str = "softmax", apart: bool = False) -> list[Layer]:
    """The layers of any multilayer perceptron: `list_dense_layers([3, 2, 4, 2], "relu", last="linear")`.

    apart: a layer's linear part `W x + b` and its activation are two layers.
    """
    layers = [Layer("Input", "", (sizes[0],))]
    for i, (before, size) in enumerate(itertools.pairwise(sizes), start=1):
        function = last if i == len(sizes) - 1 else activation
        if apart:
            layers.append(Layer(f"W{i} x + b{i}", "", (size,), (before + 1) * size))
            layers += [Layer(function, "", (size,))] if function != "linear" else []
        else:
            layers.append(_dense(size, function, before))
    return layers


def _dense(units: int, activation: str, inputs: int) -> Layer:
    return Layer("Dense", f"{units}, {activation}", (units,), (inputs + 1) * units)


@styled
def draw_network(
    layers: list[Layer], by: str = "auto", title: str = "", values: Sequence[np.ndarray] | None = None
) -> Figure:
    """Draw the layers of `list_layers` or `list_dense_layers`, with their sizes and numbers of weights.

    by: "layers", a box each; "units", a circle for each number and a line for each weight (Dense layers only); "auto",
    units where no hidden layer has more than 16.
    values: what each layer gives for one input, to be written in; by units, a circle that gives 0 is left empty.
    """
    if by not in ("auto", "layers", "units"):
        raise ValueError(f'by: expected "auto", "layers" or "units", got {by!r}')
    if values is not None and [layer.size for layer in layers] != [np.size(value) for value in values]:
        expected, received = [layer.size for layer in layers], [np.size(value) for value in values]
        raise ValueError(f"values: expected one vector a layer, of {expected} numbers, got {received}")
    flat = all(layer.kind not in ("Conv2D", "MaxPooling2D") for layer in layers)
    weighted = [layer for layer in layers if layer.parameters]
    if by == "units" and not flat:
        raise ValueError('by="units": expected Dense layers only, got a convolution')
    small = flat and len(weighted) > 1 and all(layer.size <= MOST_UNITS for layer in weighted)
    draw = _draw_units if by == "units" or (by == "auto" and small) else _draw_layers
    return draw(layers, title, [None] * len(layers) if values is None else list(values))


def _canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(-height, 0), aspect="equal")
    axes.axis("off")
    if title:
        axes.text(width / 2, -0.1, title, ha="center", va="top", weight="bold")
    return figure, axes


def _draw_layers(layers: list[Layer], title: str, values: list[np.ndarray | None]) -> Figure:
    """Boxes from top to bottom, wider for more numbers; inches are the units of the canvas."""
    step, box, top = 0.74, 0.5, 0.42 if title else 0.06
    figure, axes = _canvas(FIGURE_WIDTH, top + step * len(layers), title)
    largest = max(math.log(layer.size) for layer in layers)
    for i, layer in enumerate(layers):
        width = FIGURE_WIDTH * (0.6 + 0.38 * math.log(layer.size) / largest)
        y = -top - i * step
        axes.add_patch(_box(FIGURE_WIDTH / 2 - width / 2, y - box, width, box, layer))
        axes.text(FIGURE_WIDTH / 2, y - 0.17, f"{layer.kind} {layer.detail}".strip(), ha="center", va="center")
        count = _count(layer) + _write_vector(values[i])
        axes.text(FIGURE_WIDTH / 2, y - 0.365, count, ha="center", va="center", size=8, color=COLORS["muted"])
        if i:
            _arrow(axes, (FIGURE_WIDTH / 2, y + step - box), (FIGURE_WIDTH / 2, y))
    return figure


def _box(x: float, y: float, width: float, height: float, layer: Layer) -> FancyBboxPatch:
    color = COLORS["train"] if layer.parameters else COLORS["test"] if layer.kind == "Dropout" else COLORS["muted"]
    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.0}
    line = "--" if layer.kind == "Dropout" else "-"
    patch = FancyBboxPatch((x, y), width, height, edgecolor=color, facecolor="none", linestyle=line, **style)
    if layer.parameters:
        patch.set_facecolor((*to_rgb(color), 0.12))
    return patch


def _count(layer: Layer) -> str:
    shape = " x ".join(map(str, layer.shape))
    numbers = f"{shape} = {layer.size:,} numbers" if len(layer.shape) > 1 else f"{layer.size:,} numbers"
    return numbers + (f", {layer.parameters:,} weights" if layer.parameters else "")


def _write_vector(values: np.ndarray | None) -> str:
    return "" if values is None else ": (" + ", ".join(f"{value:g}" for value in values) + ")"


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": COLORS["muted"], "shrinkA": 0, "shrinkB": 1, "linewidth": 1}
    axes.annotate("", end, start, arrowprops=arrow)


def _draw_units(layers: list[Layer], title: str, values: list[np.ndarray | None]) -> Figure:
    """Columns of circles from left to right, joined by a line for each weight; without weights, each to its own."""
    dropped = [layer.kind == "Dropout" for layer in layers[1:]] + [False]
    columns = [each for each in zip(layers, dropped, values, strict=True) if each[0].kind not in _UNSEEN]
    width = max(FIGURE_WIDTH, 1.15 * len(columns))
    radius, spacing = (0.1, 0.31) if values[0] is None else (0.17, 0.44)
    top, rows = (0.42 if title else 0.1), max(len(_pick_units(layer.size)) for layer, *_ in columns)
    figure, axes = _canvas(width, top + rows * spacing + 0.62, title)
    middle, gap = -top - rows * spacing / 2, width / len(columns)
    before: list[Unit] = []
    for i, (layer, drop, numbers) in enumerate(columns):
        units = _place_units(gap * (i + 0.5), middle, spacing, layer.size, numbers)
        _join(axes, before, units, one_to_one=not layer.parameters)
        _draw_column(axes, units, radius, COLORS["train"] if layer.parameters else COLORS["muted"])
        lines = [layer.kind, layer.detail if layer.detail and layer.parameters else f"{layer.size:,} numbers"]
        lines += ["with dropout"] if drop else []
        axes.text(gap * (i + 0.5), -top - rows * spacing - 0.06, "\n".join(lines), ha="center", va="top", size=8)
        before = units
    return figure


_UNSEEN = ("Flatten", "Dropout")


class Unit(NamedTuple):
    """A number of a layer in the picture: its place, and what it is for the input that is drawn. dots: many of them."""

    x: float
    y: float
    value: float | None
    dots: bool


def _place_units(x: float, middle: float, spacing: float, size: int, values: np.ndarray | None) -> list[Unit]:
    picked = _pick_units(size)
    ys = [middle + spacing * ((len(picked) - 1) / 2 - j) for j in range(len(picked))]
    numbers = [None if values is None or unit is None else float(values[unit]) for unit in picked]
    return [Unit(x, y, value, unit is None) for y, value, unit in zip(ys, numbers, picked, strict=True)]


def _pick_units(size: int) -> list[int | None]:
    """The units that are drawn; None stands for the dots."""
    if size <= MOST_CIRCLES:
        return list(range(size))
    half = (MOST_CIRCLES - 1) // 2
    return [*range(half), None, *range(size - half, size)]


def _draw_column(axes: Axes, units: list[Unit], radius: float, color: str) -> None:
    for unit in units:
        if unit.dots:
            axes.text(unit.x, unit.y, "⋮", ha="center", va="center", size=12)
            continue
        is_empty = unit.value == 0
        face = COLORS["page"] if is_empty else color
        axes.add_patch(Circle((unit.x, unit.y), radius, facecolor=face, edgecolor=color, linewidth=1, zorder=3))
        if unit.value is not None:
            ink = COLORS["text"] if is_empty else COLORS["page"]
            number = f"{unit.value:.3g}"
            axes.text(unit.x, unit.y, number, ha="center", va="center_baseline", size=8, color=ink, zorder=4)


def _join(axes: Axes, before: list[Unit], after: list[Unit], one_to_one: bool) -> None:
    """A line for each weight, dotted where it carries nothing, from a unit that gives 0."""
    pairs = zip(before, after, strict=False) if one_to_one else itertools.product(before, after)
    joined = [(start, end) for start, end in pairs if not start.dots and not end.dots]
    lines = [((start.x, start.y), (end.x, end.y)) for start, end in joined]
    styles = [":" if start.value == 0 else "-" for start, _ in joined]
    axes.add_collection(
        LineCollection(lines, colors=COLORS["muted"], linewidths=0.6, linestyles=styles, alpha=0.7, zorder=1)
    )

"""A network as a picture: by layers, or where it is small, unit by unit."""

import itertools
import math
from typing import Any, NamedTuple

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


def list_dense_layers(sizes: list[int], activation: str, last: str = "softmax") -> list[Layer]:
    """The layers of any multilayer perceptron: `list_dense_layers([3, 2, 4, 2], "relu", last="linear")`."""
    layers = [Layer("Input", "", (sizes[0],))]
    for before, size in itertools.pairwise(sizes):
        layers.append(_dense(size, activation, before))
    return [*layers[:-1], _dense(sizes[-1], last, sizes[-2])]


def _dense(units: int, activation: str, inputs: int) -> Layer:
    return Layer("Dense", f"{units}, {activation}", (units,), (inputs + 1) * units)


@styled
def draw_network(layers: list[Layer], by: str = "auto", title: str = "") -> Figure:
    """Draw the layers of `list_layers` or `list_dense_layers`, with their sizes and numbers of weights.

    by: "layers", a box each; "units", a circle for each number and a line for each weight (Dense layers only); "auto",
    units where no hidden layer has more than 16.
    """
    if by not in ("auto", "layers", "units"):
        raise ValueError(f'by: expected "auto", "layers" or "units", got {by!r}')
    flat = all(layer.kind not in ("Conv2D", "MaxPooling2D") for layer in layers)
    dense = [layer for layer in layers if layer.kind == "Dense"]
    if by == "units" and not flat:
        raise ValueError('by="units": expected Dense layers only, got a convolution')
    small = flat and len(dense) > 1 and all(layer.size <= MOST_UNITS for layer in dense)
    return _draw_units(layers, title) if by == "units" or (by == "auto" and small) else _draw_layers(layers, title)


def _canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(-height, 0), aspect="equal")
    axes.axis("off")
    if title:
        axes.text(width / 2, -0.1, title, ha="center", va="top", weight="bold")
    return figure, axes


def _draw_layers(layers: list[Layer], title: str) -> Figure:
    """Boxes from top to bottom, wider for more numbers; inches are the units of the canvas."""
    step, box, top = 0.74, 0.5, 0.42 if title else 0.06
    figure, axes = _canvas(FIGURE_WIDTH, top + step * len(layers), title)
    largest = max(math.log(layer.size) for layer in layers)
    for i, layer in enumerate(layers):
        width = FIGURE_WIDTH * (0.6 + 0.38 * math.log(layer.size) / largest)
        y = -top - i * step
        axes.add_patch(_box(FIGURE_WIDTH / 2 - width / 2, y - box, width, box, layer))
        axes.text(FIGURE_WIDTH / 2, y - 0.17, f"{layer.kind} {layer.detail}".strip(), ha="center", va="center")
        axes.text(FIGURE_WIDTH / 2, y - 0.365, _count(layer), ha="center", va="center", size=8, color=COLORS["muted"])
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


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": COLORS["muted"], "shrinkA": 0, "shrinkB": 1, "linewidth": 1}
    axes.annotate("", end, start, arrowprops=arrow)


def _draw_units(layers: list[Layer], title: str) -> Figure:
    """Columns of circles from left to right, joined by a line for each weight."""
    dropped = [layer.kind == "Dropout" for layer in layers[1:]] + [False]
    columns = [(layer, drop) for layer, drop in zip(layers, dropped, strict=True) if layer.kind not in _UNSEEN]
    width = max(FIGURE_WIDTH, 1.15 * len(columns))
    top, spacing = (0.42 if title else 0.1), 0.31
    rows = max(len(_pick_units(layer.size)) for layer, _ in columns)
    figure, axes = _canvas(width, top + rows * spacing + 0.62, title)
    middle, gap = -top - rows * spacing / 2, width / len(columns)
    places: list[tuple[float, float]] = []
    for i, (layer, drop) in enumerate(columns):
        x, units = gap * (i + 0.5), _pick_units(layer.size)
        here = [(x, middle + spacing * ((len(units) - 1) / 2 - j)) for j, unit in enumerate(units) if unit is not None]
        _join(axes, places, here)
        _draw_column(axes, x, middle, units, spacing, COLORS["train"] if layer.parameters else COLORS["muted"])
        lines = [layer.kind, layer.detail if layer.parameters else f"{layer.size:,} numbers"]
        lines += ["with dropout"] if drop else []
        axes.text(x, -top - rows * spacing - 0.06, "\n".join(lines), ha="center", va="top", size=8)
        places = here
    return figure


_UNSEEN = ("Flatten", "Dropout")


def _pick_units(size: int) -> list[int | None]:
    """The units that are drawn; None stands for the dots."""
    if size <= MOST_CIRCLES:
        return list(range(size))
    half = (MOST_CIRCLES - 1) // 2
    return [*range(half), None, *range(size - half, size)]


def _draw_column(axes: Axes, x: float, middle: float, units: list[int | None], spacing: float, color: str) -> None:
    for j, unit in enumerate(units):
        y = middle + spacing * ((len(units) - 1) / 2 - j)
        if unit is None:
            axes.text(x, y, "⋮", ha="center", va="center", size=12)
        else:
            axes.add_patch(Circle((x, y), 0.1, facecolor=color, edgecolor="none", zorder=3))


def _join(axes: Axes, before: list[tuple[float, float]], after: list[tuple[float, float]]) -> None:
    lines = [(start, end) for start in before for end in after]
    axes.add_collection(LineCollection(lines, colors=COLORS["muted"], linewidths=0.4, alpha=0.6, zorder=1))

"""The lesson: the notebook runs from top to bottom, checks itself, and its page can be read by everyone."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nnexp import lesson
from nnexp.reference import Layer

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "lesson.ipynb").read_text(encoding="utf-8"))
SOURCE = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
SHORTEST_TEXT = 20  # characters of an alternative text that can say what is to be seen


def read_recipe() -> list[str]:
    """What `make lesson` runs, with this environment's programs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [recipe] = re.findall(r"^lesson:.*\n\t(.+)$", makefile, re.MULTILINE)
    return shlex.split(recipe.replace("$(BIN)", str(Path(sys.executable).parent)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Path:
    """The page that the recipe of `make lesson` writes, on the sample."""
    directory = tmp_path_factory.mktemp("lesson")
    shutil.copytree(ROOT / "docs", directory / "docs", ignore=shutil.ignore_patterns("*.png"))
    settings = {"NNEXP_LESSON_DATA": "sample", "IPYTHONDIR": str(directory / "ipython")}
    done = subprocess.run(
        read_recipe(), cwd=directory, env=plain_environment | settings, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return directory / "outputs" / "lesson.html"


class Reader(HTMLParser):
    """What a page shows: its text, the attributes of its pictures, and its scripts and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self._hidden = "", [], 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def list_attributes(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


@pytest.fixture(scope="module")
def page(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def list_outputs(page: Reader, begin: str) -> list[str]:
    """The lines of the page that begin so, as the notebook printed them."""
    return [line for line in page.text.splitlines() if line.startswith(begin)]


def test_every_check_of_the_notebook_is_made_or_skipped_visibly(page: Reader) -> None:
    made, skipped = list_outputs(page, "checked: "), list_outputs(page, "skipped, needs the full data: ")
    assert len(skipped) == len(re.findall(r"^check_on_full_data\(", SOURCE, re.MULTILINE)) >= 5
    assert len(made) == len(re.findall(r"^check\(", SOURCE, re.MULTILINE)) >= 20


def test_every_exercise_ends_with_an_answer_in_numbers_of_the_run(page: Reader) -> None:
    exercises = re.split(r"^(?:One step further|Exercise)\b.*$", page.text, flags=re.MULTILINE)[1:]
    assert len(exercises) == 5
    for exercise in exercises:
        [answer] = re.findall(r"^Answer\. .+", exercise, re.MULTILINE)
        assert re.search(r"\d", answer) and answer.endswith(".")
    assert "Answer. " not in "".join(
        "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"
    )


def test_the_page_has_no_picture_without_alternative_text(page: Reader) -> None:
    images = page.list_attributes("img")
    assert len(images) == len(re.findall(r"^Picture\(", SOURCE, re.MULTILINE)) >= 8
    assert all(len(image.get("alt") or "") >= SHORTEST_TEXT for image in images)
    assert all(drawing.get("aria-label") for drawing in page.list_attributes("svg"))


def test_the_page_fetches_nothing_and_runs_nothing(page: Reader) -> None:
    addresses = [each.get("src") or each.get("href", "") for each in page.list_attributes("img", "link", "iframe")]
    assert all(address.startswith("data:") for address in addresses)
    assert page.list_attributes("script") == []


def test_the_links_of_the_page_lead_to_files_of_the_project(page: Reader) -> None:
    links = [each["href"] for each in page.list_attributes("a") if not each["href"].startswith("#")]
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert [link for link in links if not (ROOT / "outputs" / link).exists()] == []


def test_the_page_opens_in_a_browser_without_an_error(browser: Any, path: Path) -> None:
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    sizes = "return [...document.images].map(image => image.complete && image.naturalWidth)"
    assert all(width > 100 for width in browser.execute_script(sizes))


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(browser: Any, path: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_notebook_is_kept_without_outputs() -> None:
    """So that a change of it can be read, and no number in it is older than the program."""
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_a_wrong_gradient_fails_the_notebook(tmp_path: Path) -> None:
    """Its checks are not decoration: where backpropagation forgets which units are off, it stops, and says where."""
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    by_hand = cells[: next(i for i, cell in enumerate(cells) if "CLASS_NAMES" in cell)]
    by_hand = [cell for cell in by_hand if "results" not in cell or "def nnexp" in cell]  # without the study
    wrong = """
right = reference.backpropagate
reference.backpropagate = lambda layers, values, gradient: right(layers, [v + 1e-9 for v in values], gradient)
"""
    script = tmp_path / "lesson.py"
    script.write_text("\n".join([by_hand[0], wrong, *by_hand[1:]]))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "AssertionError: does not hold: the derivative is zero, by both" in done.stderr
    script.write_text("\n".join(by_hand))
    assert subprocess.run([sys.executable, str(script)], capture_output=True).returncode == 0


# --- its pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_needs_words() -> None:
    with pytest.raises(ValueError, match="alt: expected what is to be seen"):
        lesson.Picture(Figure(), alt=" ")


def test_words_of_a_picture_are_text_and_never_markup() -> None:
    shown = lesson.Picture(Figure(), alt='a "<b>" & more', caption="<i>")._repr_html_()
    assert 'alt="a &quot;&lt;b&gt;&quot; &amp; more"' in shown and "<figcaption>&lt;i&gt;</figcaption>" in shown


def test_the_picture_of_the_gradients_has_every_derivative_in_its_place() -> None:
    figure = lesson.draw_gradients([Layer(np.array([[1.5, 0.0], [0.0, -2.0]]), np.array([3.0, 0.25]))])
    written = {(text.get_position(), text.get_text()) for text in figure.axes[0].texts}
    assert {((0.5, 0.5), "1.5"), ((1.5, 1.5), "-2"), ((2.5, 0.5), "3"), ((2.5, 1.5), "0.25")} <= written


def test_the_picture_of_depth_gives_both_activations_the_network_without_hidden_layers() -> None:
    rows = [("linear", "[]", 0.5), ("linear", "[9]", 0.5), ("relu", "[9]", 0.7), ("relu", "[9, 9]", 0.8)]
    results = pd.DataFrame(rows, columns=["activation", "units", "test_accuracy"]).assign(train_accuracy=0.9)
    figure = lesson.draw_depths(results)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines["linear, test"] == [[0, 0.5], [1, 0.5]] and lines["relu, test"] == [[0, 0.5], [1, 0.7], [2, 0.8]]


def test_the_picture_of_both_misfits_has_units_and_epochs_in_their_order() -> None:
    scores = {"train_accuracy": [0.9, 0.3, 0.8], "test_accuracy": [0.7, 0.3, 0.75]}
    capacity = pd.DataFrame({"units": ["[512]", "[1]", "[64, 64]"], **scores})
    figure = lesson.draw_misfits(capacity, pd.DataFrame({"epochs": [40, 1, 5], **scores}))
    for axes, ticks in zip(figure.axes, (["1", "128", "512"], ["1", "5", "40"]), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ticks
        assert axes.lines[1].get_ydata().tolist() == [0.3, 0.75, 0.7]

"""The report's numbers and words, and how it bears what is missing or hostile."""

import csv
import itertools
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from ledgers import fail, make_config, make_result, write_many, write_runs
from typer.testing import CliRunner

from nnexp import drawing, page, plots
from nnexp.compare import SETTING_COLUMNS
from nnexp.config import read_options
from nnexp.data import CLASS_NAMES, read_sample
from nnexp.ledger import Ledger
from nnexp.report import SCORES, compare_results, format_comparison, load_results, read_history, read_predictions
from nnexp.results import app

HOSTILE = (
    "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1> =1+1 \U0001f600 $x_ {{ 7*7 }} " + "y" * 700
)


@pytest.fixture(scope="session")
def labels():
    return read_sample().test_labels


def run(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def study(labels, seeds=3, **settings):
    configs = [make_config(seed=seed, **settings) for seed in range(seeds)]
    return [(config, make_result(config, 0.8 - config.l2, 0.02, labels)) for config in configs]


def report(outputs, *args):
    assert run("report", "--outputs", outputs, *args).exit_code == 0
    return (outputs / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("format_", ["text", "markdown"])
def test_an_empty_table_is_a_sentence(tmp_path, format_):
    write_many(tmp_path, [])
    assert "nothing has been run here yet" in run("table", "--outputs", tmp_path, "--format", format_).stdout


def test_an_empty_table_is_a_page_that_says_so(tmp_path):
    write_many(tmp_path, [])
    assert "nothing has been run here yet" in report(tmp_path)


@pytest.mark.parametrize("args", [["--sort", "verdict"], ["--sort", "n"], ["--format", "json"], ["--format", "csv"]])
@pytest.mark.parametrize("runs", ["none", "failed"])
def test_the_table_of_nothing_is_no_traceback(tmp_path, args, runs):
    write_many(tmp_path, [(make_config(), fail("ValueError: no"))] if runs == "failed" else [])
    assert run("table", "--outputs", tmp_path, *args).exit_code == 0


def test_a_condition_that_fits_nothing_says_so(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    result = run("table", "--outputs", tmp_path, "--where", "l2 > 5")
    assert (result.exit_code, "no run of 3 fits" in result.output + result.stderr) == (1, True)


def test_failed_runs_alone_have_a_page_with_their_errors(tmp_path):
    write_runs(tmp_path, [(make_config(), fail("DivergedError: loss is nan"))])
    text = report(tmp_path)
    assert "No run has finished here" in text and "DivergedError: loss is nan" in text


def test_the_text_table_counts_failed_runs(tmp_path, labels):
    write_runs(tmp_path, [*study(labels), (make_config(seed=9), fail("ValueError: no"))])
    assert "1 failed run" in run("table", "--outputs", tmp_path).stdout


def test_one_run_has_a_page(tmp_path, labels):
    write_runs(tmp_path, study(labels, seeds=1))
    text = report(tmp_path)
    assert "1 run of 1 setting" in text and text.count("<figure>") == 4


def test_failed_runs_of_a_setting_stay_in_its_comparison(tmp_path, labels):
    write_runs(tmp_path, [*study(labels), (make_config(l2=0.5), fail("ValueError: no"))])
    assert report(tmp_path).count('class="comparison"') == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"epoch,test_loss\n", b"\x00\xff" * 9, b"epoch,a\n1,2\n", b"epoch\nx\n"]
)
@pytest.mark.parametrize(
    ("file", "sentence"), [("history.csv", "No learning curves"), ("predictions.npz", "No confusion matrix")]
)
def test_missing_or_broken_files_are_a_sentence(tmp_path, labels, file, sentence, content):
    ledger = write_runs(tmp_path, study(labels))
    for path in ledger.runs.glob(f"*/{file}"):
        path.unlink() if content is None else path.write_bytes(content)
    assert sentence in report(tmp_path)
    assert run("table", "--outputs", tmp_path).exit_code == 0


def test_predictions_of_other_images_are_not_used(tmp_path, labels):
    write_runs(tmp_path, [*study(labels[:50], seeds=1), *study(labels, seeds=1, l2=0.1)])
    assert run("table", "--outputs", tmp_path).exit_code == 0
    assert "No confusion matrix" in report(tmp_path)


def test_a_missing_data_set_is_a_sentence(tmp_path, labels, monkeypatch):
    monkeypatch.setattr("nnexp.report._read_test_data", lambda name: None)
    write_runs(tmp_path, study(labels))
    assert "the data set sample is not on this machine" in report(tmp_path)


def test_a_missing_record_leaves_the_page_whole(tmp_path, labels):
    write_many(tmp_path, study(labels))
    source = page.read_source(tmp_path)
    for path in tmp_path.glob("runs/*/result.json"):
        path.write_text("{")
    assert "cannot be read" in page.render_page(page.describe_page(source, "", None))


def test_the_page_has_the_exact_command_of_each_run(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    text = report(tmp_path)
    assert all(f"<code>nnexp data=sample seed={seed}</code>" in text for seed in range(3))


def test_the_page_has_the_verdict_with_its_evidence(tmp_path, labels):
    write_runs(tmp_path, [*study(labels), *study(labels, l2=0.3)])
    text = report(tmp_path)
    assert '<span class="verdict underfit">underfit</span>' in text and "Train accuracy 0." in text


def test_the_page_fetches_nothing(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    text = report(tmp_path).replace("http://www.w3.org/", "")
    assert "://" not in text and ' src="data:' in text and "default-src 'none'" in text


def test_a_chosen_setting_is_selected(tmp_path, labels):
    runs = [*study(labels), *study(labels, l2=0.1)]
    write_runs(tmp_path, runs)
    text = report(tmp_path, "--setting", runs[-1][0].setting_id)
    assert ">l2=0.1 (" in text.split(" selected", 1)[1][:20] and text.count(" selected>") == 1


def test_an_unknown_setting_is_one_message(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    result = run("report", "--outputs", tmp_path, "--setting", "nothing")
    assert result.exit_code == 2 and "--setting: expected one of the 1 setting_ids" in result.stderr


def test_pictures_are_written_as_png(tmp_path, labels):
    write_runs(tmp_path, [run for l2 in (0, 0.1) for drop in (0, 0.5) for run in study(labels, l2=l2, dropout=drop)])
    report(tmp_path, "--png", tmp_path / "png")
    names = {path.name.split("-")[0] for path in (tmp_path / "png").glob("*.png")}
    assert names == {"accuracy.png", "heatmap", "curves", "confusion", "mistakes", "network"}


def find(labels, tmp_path, *grid):
    write_many(tmp_path, [run for settings in grid for run in study(labels, seeds=2, **settings)])
    source = page.read_source(tmp_path)
    settings = source.settings.loc[source.comparison["setting_id"]]
    return list(page.find_sweeps(source.comparison, settings, page.list_differing(settings)))


def test_two_swept_numbers_are_a_heat_map(tmp_path, labels):
    (sweep,) = find(labels, tmp_path, *({"l2": l2, "dropout": d} for l2 in (0, 0.1, 0.2) for d in (0, 0.5)))
    assert (sweep.x, sweep.y, len(sweep.cells)) == ("l2", "dropout", 6)


def test_one_swept_number_is_a_curve(tmp_path, labels):
    (sweep,) = find(labels, tmp_path, *({"l2": l2} for l2 in (0, 0.1, 0.2)))
    assert (sweep.x, sweep.y, len(sweep.cells)) == ("l2", "", 3)


def test_a_third_number_and_the_network_divide_the_heat_maps(tmp_path, labels):
    grid = [
        {"l2": l2, "dropout": d, "learning_rate": rate, "units": units}
        for l2 in (0, 0.1, 0.2)
        for d in (0, 0.2, 0.5)
        for rate in (0.1, 0.2)
        for units in ((8,), (16,))
    ]
    sweeps = find(labels, tmp_path, *grid)
    assert len(sweeps) == 4 and {len(sweep.cells) for sweep in sweeps} == {9}
    assert "units=[8], learning_rate=0.1" in {sweep.name for sweep in sweeps}


def test_the_lesson_is_no_sweep(tmp_path, labels):
    assert find(labels, tmp_path, {}, {"dropout": 0.2}, {"l2": 0.01}) == []


def test_a_heat_map_has_each_cell_in_its_place():
    cells = pd.DataFrame({"x": [1, 2, 1, 2], "y": [5, 5, 6, 6], "test_accuracy": [0.1, 0.2, 0.3, np.nan]})
    figure = plots.plot_heat_map(plots.Sweep("x", "y", "", cells), "test_accuracy")
    written = {(text.get_position(), text.get_text()) for text in figure.axes[0].texts}
    assert written == {((0.5, 0.5), "0.100"), ((1.5, 0.5), "0.200"), ((0.5, 1.5), "0.300")}


@pytest.mark.parametrize("values", [[0.0001 * i for i in range(1, 13)], [0.125, 0.25], list(range(40))])
def test_numbers_below_a_heat_map_do_not_run_into_each_other(values):
    cells = pd.DataFrame({"x": values * 2, "y": [5] * len(values) + [6] * len(values), "test_accuracy": 0.5})
    figure = plots.plot_heat_map(plots.Sweep("x", "y", "", cells), "test_accuracy")
    figure.canvas.draw()
    labels = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    turned = figure.axes[0].get_xticklabels()[0].get_rotation() > 0
    assert turned or all(left.x1 < right.x0 for left, right in itertools.pairwise(labels))


def test_numbers_in_a_picture_are_those_of_the_table():
    cells = pd.DataFrame({"x": [1, 2, 1, 2], "y": [5, 5, 6, 6], "test_accuracy": [0.8125, 0.2, 0.3, 0.9876]})
    figure = plots.plot_heat_map(plots.Sweep("x", "y", "", cells), "test_accuracy")
    svg = plots.format_svg(figure, "l2=0.0001")
    assert ">0.812<" in svg and ">0.988<" in svg and 'aria-label="l2=0.0001"' in svg


def answers(labels, confidences, truth):
    images = np.zeros((len(truth), 28, 28), np.uint8)
    return page.Answers(np.array(labels), np.array(confidences), np.array(truth), images)


def test_confusion_counts_shares_of_the_true_class():
    shares = page.count_confusion(answers([[0, 1, 1, 2], [0, 1, 0, 2]], np.ones((2, 4)), [0, 0, 1, 2]))
    assert shares[0, :2].tolist() == [0.5, 0.5] and shares[1, :2].tolist() == [0.5, 0.5] and shares[2, 2] == 1


def test_mistakes_are_ordered_by_confidence_over_runs():
    found = page.find_mistakes(answers([[1, 1, 2], [1, 0, 2]], [[0.6, 0.9, 0.9], [0.7, 0.9, 0.9]], [0, 0, 2]))
    assert [(m["number"], m["wrong"], round(m["confidence"], 3)) for m in found] == [(0, 2, 0.7), (1, 1, 0.9)]
    assert (found[0]["truth"], found[0]["said"]) == (CLASS_NAMES[0], CLASS_NAMES[1])


def test_the_best_epoch_has_the_lowest_mean_test_loss():
    histories = [pd.DataFrame({"epoch": [1, 2, 3], "test_loss": losses}) for losses in ([3, 1, 2], [3, 1.5, 1.4])]
    assert plots.find_best_epoch(histories) == 2


def test_curves_of_different_lengths_are_drawn_to_their_ends(labels):
    histories = [
        pd.DataFrame({name: np.arange(1.0, n + 1) for name in ("epoch", "train_loss", "test_loss", "train_accuracy")})
        for n in (3, 5)
    ]
    for history in histories:
        history["test_accuracy"] = 0.5
    figure = plots.plot_curves("a", histories, [2, 4])
    assert max(line.get_xdata()[-1] for line in figure.axes[0].lines if len(line.get_xdata()) > 2) == 5


@pytest.mark.parametrize("name", sorted(read_options("model")))
def test_every_shipped_network_is_drawn_with_its_parameters(name):
    from nnexp.model import build_model

    model = yaml.safe_load(read_options("model")[name])
    config = make_config(model["units"], model["filters"], dropout=0.1 if model["units"] else 0.0)
    layers = drawing.list_layers(model["filters"], model["units"], model["activation"], config.dropout)
    built = build_model(config)
    assert sum(layer.parameters for layer in layers) == built.count_params()
    assert [layer.kind for layer in layers[1:]] == [type(layer).__name__ for layer in built.layers]
    assert [layer.shape for layer in layers[1:]] == [layer.output.shape[1:] for layer in built.layers]
    words = [text.get_text() for text in drawing.draw_network(layers).axes[0].texts]
    assert any(f"{layers[-1].parameters:,}" in word for word in words)


def test_a_small_network_is_drawn_by_units():
    figure = drawing.draw_network(drawing.list_dense_layers([3, 2, 4, 2], "relu", last="linear"))
    assert [len(lines.get_segments()) for lines in figure.axes[0].collections] == [0, 6, 8, 8]


def test_an_activation_drawn_apart_is_joined_number_by_number():
    layers = drawing.list_dense_layers([3, 2, 4, 2], "ReLU", last="linear", apart=True)
    assert [layer.kind for layer in layers] == ["Input", "W1 x + b1", "ReLU", "W2 x + b2", "ReLU", "W3 x + b3"]
    assert [layer.parameters for layer in layers] == [0, 8, 0, 12, 0, 10]
    figure = drawing.draw_network(layers)
    assert [len(lines.get_segments()) for lines in figure.axes[0].collections] == [0, 6, 2, 8, 4, 8]


@pytest.mark.parametrize("by", ["layers", "units"])
def test_the_numbers_of_an_input_are_written_in(by):
    values = [np.array([1, -2]), np.array([0.0, 2.5, 7]), np.array([-1])]
    figure = drawing.draw_network(drawing.list_dense_layers([2, 3, 1], "relu", last="linear"), by, values=values)
    words = [text.get_text() for text in figure.axes[0].texts]
    written = ["1", "-2", "0", "2.5", "7", "-1"] if by == "units" else ["(1, -2)", "(0, 2.5, 7)", "(-1)"]
    assert all(any(word.endswith(number) for word in words) for number in written)
    empty = [patch for patch in figure.axes[0].patches if patch.get_facecolor()[:3] == (1, 1, 1)]
    assert len(empty) == (by == "units")  # the unit that gives 0


def test_numbers_that_are_not_of_the_network_are_refused():
    with pytest.raises(ValueError, match=r"values: expected one vector a layer, of \[2, 3, 1\] numbers, got \[2, 3\]"):
        drawing.draw_network(drawing.list_dense_layers([2, 3, 1], "relu"), values=[np.zeros(2), np.zeros(3)])


def test_a_convolution_cannot_be_drawn_by_units():
    with pytest.raises(ValueError, match="expected Dense layers only"):
        drawing.draw_network(drawing.list_layers([8], [16], "relu"), by="units")


def test_hostile_text_is_escaped_on_the_page(tmp_path, labels):
    write_many(tmp_path, [*study(labels), (make_config(seed=9), fail(HOSTILE))])
    table = pd.read_csv(tmp_path / "results.csv")
    table.loc[0, ["activation", "model"]] = HOSTILE
    table.loc[0, "setting_id"] = HOSTILE
    table.to_csv(tmp_path / "results.csv", index=False)
    text = page.render_page(page.describe_page(page.read_source(tmp_path), "", None))
    assert "<script>window" not in text and "<img src=x" not in text and "{{ 7*7 }}" in text


FORMULAS = ["=1+1", "+1+2", "-2+3", "@SUM(A1)", "=HYPERLINK(1)"]


@pytest.mark.parametrize("text", [*FORMULAS, f"ValueError: {HOSTILE}\n=2+2"])
def test_no_cell_of_the_table_begins_a_formula(tmp_path, text):
    write_runs(tmp_path, [(make_config(), fail(text))])
    for row in csv.DictReader((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()):
        assert not [cell for cell in row.values() if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
        assert row["error"].removeprefix("'").startswith(text[:10])


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_the_comparison_begins_a_formula_but_negative_numbers_are_numbers(tmp_path, labels, text):
    config = make_config()
    write_runs(tmp_path, [(config, make_result(config, 0.8, -0.05, labels))])
    table = pd.read_csv(tmp_path / "results.csv").astype(object)
    table.loc[0, "model"] = text
    table.to_csv(tmp_path / "results.csv", index=False)
    comparison = compare_results(Ledger(tmp_path), load_results(tmp_path))
    (row,) = csv.DictReader(format_comparison(comparison, "csv").splitlines())
    assert row["model"] == f"'{text}" and row["name"] == f"'{text}"
    assert float(row["accuracy_gap"]) == pytest.approx(-0.05)


def test_the_text_table_has_a_column_for_each_setting_that_differs(tmp_path, labels):
    write_many(tmp_path, [run for l2 in (0.0, 0.01) for run in study(labels, l2=l2, dropout=0.5 - 10 * l2)])
    text = run("table", "--outputs", tmp_path).stdout
    assert text.splitlines()[0].split()[:4] == ["dropout", "l2", "train", "accuracy"]
    assert text.splitlines()[1].split()[:2] == ["0.5", "0"]


def test_other_training_sizes_have_a_table_of_their_own(tmp_path, labels):
    write_many(tmp_path, [run for size in (500, 1000) for run in study(labels, train_size=size)])
    text = run("table", "--outputs", tmp_path).stdout
    titles = [line for line in text.splitlines() if line.startswith("sample, ")]
    assert sorted(titles) == [f"sample, {size} training images, 1,000 test images" for size in ("1,000", "500")]


@pytest.mark.parametrize("format_", ["text", "markdown"])
def test_hostile_names_stay_in_their_line(tmp_path, labels, format_):
    write_many(tmp_path, [run for l2 in (0.0, 0.01) for run in study(labels, l2=l2)])
    results = load_results(tmp_path).astype({"model": object})
    results.loc[results["l2"] > 0, "model"] = "a\x1b[31m\nb | [bold]c <script> \U0001f600 " + "y" * 700
    comparison = compare_results(Ledger(tmp_path), results)
    text = format_comparison(comparison, format_)
    lines = text.split("\n")
    assert "\x1b" not in text and "[bold]c" in text
    if format_ == "markdown":
        bars = [line.replace("\\|", "").count("|") for line in lines[:4]]
        assert len(set(bars)) == 1 and "<script>" not in text.replace("\\<", "")
    else:
        assert max(map(len, lines[:3])) < 200 and lines[3] == ""


@pytest.mark.parametrize("format_", ["csv", "json"])
def test_csv_and_json_have_every_setting(tmp_path, labels, format_):
    write_many(tmp_path, study(labels))
    text = run("table", "--outputs", tmp_path, "--format", format_).stdout
    (row,) = json.loads(text) if format_ == "json" else csv.DictReader(text.splitlines())
    ends = [f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")]
    assert set(row) >= {*SETTING_COLUMNS, *ends, "setting_id", "n", "verdict", "leaning", "reason"}


def test_numbers_that_are_none_are_said_so(tmp_path, labels):
    runs = study(labels)
    for _, result in runs:
        result.scores["train_accuracy"] = result.scores["test_accuracy"] = float("nan")
    write_many(tmp_path, runs)
    text = report(tmp_path)
    assert ">none <" in text and ">nan" not in text


@pytest.fixture(scope="module")
def many(tmp_path_factory, labels):
    outputs = tmp_path_factory.mktemp("many")
    grid = [(dropout, l2) for dropout in np.linspace(0, 0.9, 40) for l2 in np.linspace(0, 0.1, 50)]
    write_many(
        outputs,
        (
            (config, make_result(config, 0.8 - l2, 0.02, labels))
            for dropout, l2 in grid
            for config in (make_config(dropout=round(dropout, 4), l2=l2, seed=seed) for seed in range(5))
        ),
    )
    return outputs


def test_ten_thousand_runs_are_one_small_page(many):
    text = report(many)
    assert len(text) < 20e6 and "10,000 runs of 2,000 settings" in text


def test_a_page_never_loads_tensorflow(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    code = (
        "import sys; from pathlib import Path; from nnexp.page import write_report; write_report(Path(sys.argv[1])); "
    )
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_what_is_read_is_what_was_written(tmp_path, labels):
    ((config, result),) = study(labels, seeds=1)
    ledger = write_runs(tmp_path, [(config, result)])
    assert read_history(ledger, config.run_id)["test_loss"].tolist() == [row["test_loss"] for row in result.history]
    assert (read_predictions(ledger, config.run_id)["label"] == result.predictions["label"]).all()


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    pytest.importorskip("mlflow", reason='pip install "nnexp[mlflow]"')
    return f"sqlite:///{tmp_path}/mlflow.db"


def export(outputs, store):
    result = run("export", "mlflow", "--outputs", outputs, "--tracking-uri", store)
    assert result.exit_code == 0, result.output
    return result.output


def exported(store):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    return client, client.search_runs([client.get_experiment_by_name("nnexp").experiment_id])


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_second_export_adds_nothing(tmp_path, labels, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = study(labels)
    ledger = write_runs(tmp_path / "outputs", runs)
    (ledger.runs / runs[0][0].run_id / "model.keras").write_bytes(b"weights")
    assert "3 added" in export(tmp_path / "outputs", store)
    assert "0 added, 0 replaced, 3 already" in export(tmp_path / "outputs", store)
    client, found = exported(store)
    run = next(run for run in found if run.data.tags["run_id"] == runs[0][0].run_id)
    assert len(found) == 3 and run.info.status == "FINISHED"
    assert run.data.params["model.units"] == "[32]" and run.data.params["data.train_size"] == "2000"
    assert run.data.metrics["test_accuracy"] == runs[0][1].scores["test_accuracy"]
    curve = client.get_metric_history(run.info.run_id, "epoch/test_loss")
    assert [(point.step, point.value) for point in curve] == [(r["epoch"], r["test_loss"]) for r in runs[0][1].history]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["model.keras"]


@pytest.mark.filterwarnings("ignore")
def test_a_run_recorded_anew_replaces_its_export_and_one_cut_off_is_completed(tmp_path, labels, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = study(labels, seeds=2)
    ledger = write_runs(tmp_path / "outputs", [runs[0], (runs[1][0], fail("ValueError: no"))])
    export(tmp_path / "outputs", store)
    client, found = exported(store)
    assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED"]
    client.update_run(next(run for run in found if run.info.status == "FINISHED").info.run_id, status="RUNNING")
    write_runs(ledger.outputs, [runs[1]])
    assert "0 added, 2 replaced, 0 already" in export(tmp_path / "outputs", store)
    assert [run.info.status for run in exported(store)[1]] == ["FINISHED", "FINISHED"]


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_does_not_answer_is_one_message(tmp_path, labels, store):
    write_runs(tmp_path, study(labels, seeds=1))
    result = run("export", "mlflow", "--outputs", tmp_path, "--tracking-uri", "nothing://here")
    assert result.exit_code == 1 and "export mlflow: " in result.stderr


def test_a_missing_extra_is_one_message(tmp_path, labels, monkeypatch):
    for name in [name for name in sys.modules if name == "nnexp.export" or name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    write_runs(tmp_path, study(labels, seeds=1))
    result = run("export", "mlflow", "--outputs", tmp_path)
    assert result.exit_code == 1 and 'pip install "nnexp[mlflow]"' in result.stderr


def test_the_table_gives_back_the_bits_that_were_written(tmp_path, labels):
    runs = study(labels, seeds=20)
    write_runs(tmp_path, runs)
    assert load_results(tmp_path)["test_loss"].tolist() == [result.scores["test_loss"] for _, result in runs]


def test_json_of_the_table_is_json(tmp_path, labels):
    write_runs(tmp_path, study(labels))
    (row,) = json.loads(run("table", "--outputs", tmp_path, "--format", "json").stdout)
    assert row["n"] == 3

"""The promises of the command `nnexp`: what it says, what it leaves, and how it ends. A test is what a user types."""

import csv
import os
import pty
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL, RunNnexp

LINE = r"mlp seed=0  train 0\.\d{3}  test 0\.\d{3}  gap -?0\.\d{3}  \(\d+\.\d s\)\n"
DIVERGING = ("data=sample", "epochs=1", "optimizer=sgd", "optimizer.learning_rate=1e30")
DIVERGED = "DivergedError: train_loss is nan in epoch 1; try a smaller optimizer.learning_rate"

WRONG = {  # what is typed: what is said
    "dropout=1.5": "dropout: expected a number in [0, 1); received 1.5",
    "dropout=-0.1": "dropout: expected a number in [0, 1); received -0.1",
    "dropout=1.0": "dropout: expected a number in [0, 1); received 1.0",
    "l2=-1": "l2: expected a number >= 0; received -1.0",
    "epochs=0": "epochs: expected an integer >= 1; received 0",
    "epochs=abc": "epochs: expected an integer >= 1; received abc",
    "dropuot=0.2": "dropuot: there is no such setting; received dropuot=0.2. Did you mean dropout?",
    "units=[64]": "units: there is no such setting; received units=[64]. Did you mean model.units?",
    "model=foo": "model: expected one of cnn, deep, linear, mlp, wide; received foo",
    "model.units=[0]": "model.units: expected a list of integers >= 1, such as [128]; received [0]",
    "model.activation=rleu": (
        "model.activation: expected one of relu, tanh, sigmoid, linear, elu, gelu; received rleu. Did you mean relu?"
    ),
    "optimizer=adamm": "optimizer: expected one of adam, adamw, rmsprop, sgd; received adamm. Did you mean adam?",
    "optimizer.learning_rate=nan": "optimizer.learning_rate: expected a number > 0; received nan",
    "optimizer.momentum=0.9": (
        "optimizer.momentum: expected null, because adam has no momentum "
        "(adam takes learning_rate, beta_1, beta_2, epsilon); received 0.9"
    ),
    "batch_size=0": "batch_size: expected an integer >= 1; received 0",
    "data=sample batch_size=2001": "batch_size: expected at most 2000, the number of training images; received 2001",
    "data.train_size=70000": (
        "data.train_size: expected at most 60000 (fashion_mnist has 60000 training images); received 70000"
    ),
    "data.directory=nowhere": (
        "data.directory: expected an existing directory with the data set's four files, or null; received nowhere"
    ),
    "data=sample data.directory=.": ("data.directory: expected null, because the sample ships with nnexp; received ."),
    "outputs=a_file": "outputs: expected a directory that can be written; received a_file",
    "outputs=a_file/below": "outputs: expected a directory that can be written; received a_file/below",
    "early_stopping=2": (
        "early_stopping: expected data.validation_size > 0, because the epoch to stop at is chosen on validation "
        "images (try data.validation_size=5000); received early_stopping=2 without a validation set"
    ),
    "model=linear dropout=0.2": (
        "dropout: expected 0 for a model without a hidden Dense layer (model.units is []), there is nothing to drop; "
        "received 0.2"
    ),
    "dropout=0,0.2": "dropout=0,0.2: several values are a sweep, which needs -m: nnexp -m dropout=0,0.2",
    "dropout": "Error parsing override 'dropout' (expected key=value, as in dropout=0.2)",
    "study=null": (
        "study: expected one of capacity, epochs, lesson, nonlinearity, regularization, search; received null"
    ),
    "--config-dir nowhere": "--config-dir: expected an existing directory; received nowhere",
    "-m dropuot=0,0.5": "dropuot: there is no such setting; received dropuot=0,0.5. Did you mean dropout?",
    "-m epochs=1,abc": "epochs: expected an integer >= 1; received abc",
    "-m model=mlp,foo": "model: expected one of cnn, deep, linear, mlp, wide; received foo",
    "-m dropout=interval(0,0.5)": (
        "dropout: expected a,b,c or range(...), unless it is searched with hydra/sweeper=optuna; "
        "received dropout=interval(0,0.5)"
    ),
    "-m seed=interval(0,1)": (
        "seed: expected whole numbers, as in seed=int(interval(1,5)); received seed=interval(0,1)"
    ),
    "-m seed=range(0,0)": "seed: expected at least one value; received seed=range(0,0), which comes to none",
    "-m epochs=glob(*)": "epochs: expected at least one value; received epochs=glob(*), which comes to none",
    "-m threads=1,2": "threads: expected one value for the whole sweep; received [1, 2]",
    "-m model=linear,mlp dropout=0,0.2": (
        "dropout: expected 0 for a model without a hidden Dense layer (model.units is []), there is nothing to drop; "
        "received 0.2  (cells: model=linear dropout=0.2)"
    ),
    "-m hydra/launcher=basic,local": (
        "hydra/launcher: expected one value for the whole sweep; received hydra/launcher=basic,local"
    ),
    "study=lesson epochs=0 seed=0": (
        "epochs: expected an integer >= 1; received 0  "
        "(cells: experiment=baseline seed=0; experiment=dropout seed=0; experiment=l2 seed=0)"
    ),
    "-m study=lesson,lesson": "study: expected one value for the whole sweep; received study=lesson,lesson",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_wrong_setting_is_one_message_and_leaves_nothing_behind(
    typed: str, run_nnexp: RunNnexp, tmp_path: Path
) -> None:
    (tmp_path / "a_file").touch()
    run = run_nnexp(*typed.split(), tensorflow=False)
    assert (run.stderr, run.stdout) == (f"nnexp: {WRONG[typed]}\nNothing was run.\n", "")
    assert run.returncode == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "a_file"]


def test_a_sweep_names_every_wrong_cell_at_once(run_nnexp: RunNnexp, tmp_path: Path) -> None:
    run = run_nnexp("-m", "dropout=0.5,1.5", "l2=0,-1", tensorflow=False)
    assert run.stderr.splitlines() == [
        "nnexp: l2: expected a number >= 0; received -1.0  (cells: dropout=0.5 l2=-1; dropout=1.5 l2=-1)",
        "nnexp: dropout: expected a number in [0, 1); received 1.5  (cells: dropout=1.5 l2=0; dropout=1.5 l2=-1)",
        "Nothing was run.",
    ]
    assert (run.returncode, list(tmp_path.iterdir())) == (2, [])


@pytest.fixture(scope="module")
def help_page(run_nnexp_in: RunNnexp, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = run_nnexp_in(tmp_path_factory.mktemp("help"), "--help", tensorflow=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def test_help_lists_every_knob_with_its_default(help_page: str) -> None:
    settings = yaml.safe_load((Path(__file__).parents[1] / "conf" / "config.yaml").read_text())
    knobs = {key for key in settings if key not in ("defaults", "hydra")}
    assert set(re.findall(r"^  (\w+)=\S+ +\S", help_page, re.MULTILINE)) >= knobs
    assert re.search(r"^  epochs=5 +passes over", help_page, re.MULTILINE)


def test_help_lists_every_option_of_every_group(help_page: str) -> None:
    conf = Path(__file__).parents[1] / "conf"
    groups = ("model", "optimizer", "data", "experiment", "study", "hydra/launcher", "hydra/sweeper")
    options = {f"{group}={path.stem}" for group in groups for path in (conf / group).glob("*.yaml")}
    assert {line.split()[0] for line in help_page.splitlines() if line.startswith("  ")} >= options


def test_help_has_five_examples_that_are_legal(help_page: str, run_nnexp: RunNnexp) -> None:
    examples = help_page.partition("\nexamples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) == 5
    for example in examples:
        command = example.strip().partition("   ")[0]
        run = run_nnexp(*command.split()[1:], "dry_run=true", tensorflow=False)
        assert (run.returncode, run.stderr) == (0, ""), command


def test_cfg_job_prints_the_settings_that_would_be_used(run_nnexp: RunNnexp, tmp_path: Path) -> None:
    run = run_nnexp("model=wide", "experiment=l2", "--cfg", "job", tensorflow=False)
    settings = yaml.safe_load(run.stdout)
    assert (settings["model"]["units"], settings["l2"], run.stderr) == ([1024, 1024], 0.01, "")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_trains_nothing(run_nnexp: RunNnexp, tmp_path: Path) -> None:
    run = run_nnexp(*SMALL, "dry_run=true", tensorflow=False)
    assert re.fullmatch(r"1 cell, to run: mlp-8-sample-adam-e1-s0-[0-9a-f]{8}\n", run.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(run_nnexp_in: RunNnexp, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory with one finished run in it, and how that run came out."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, run_nnexp_in(directory, *SMALL)


def test_a_run_ends_with_one_line(finished: tuple[Path, Any]) -> None:
    _, run = finished
    assert re.fullmatch(rf"epoch 1/1  test 0\.\d{{3}}\n{LINE}", run.stdout), run.stdout
    assert run.returncode == 0


def test_the_start_up_noise_of_tensorflow_does_not_reach_the_screen(finished: tuple[Path, Any]) -> None:
    _, run = finished
    assert run.stderr == ""


def test_a_finished_run_typed_again_prints_its_recorded_line(
    finished: tuple[Path, Any], run_nnexp_in: RunNnexp
) -> None:
    directory, first = finished
    again = run_nnexp_in(directory, *SMALL, tensorflow=False)
    recorded = first.stdout.splitlines()[-1]
    assert again.stdout == f"{recorded}\nalready finished; force=true runs it again\n"
    assert again.returncode == 0


def test_a_dry_run_says_what_is_finished_and_what_force_would_run(
    finished: tuple[Path, Any], run_nnexp_in: RunNnexp
) -> None:
    directory, _ = finished
    runs = [run_nnexp_in(directory, *SMALL, "dry_run=true", *more, tensorflow=False) for more in ([], ["force=true"])]
    assert [run.stdout.partition(":")[0] for run in runs] == ["1 cell, finished", "1 cell, to run"]


def test_a_terminal_shows_a_progress_bar_instead_of_lines(plain_environment: dict[str, str], tmp_path: Path) -> None:
    shown = run_on_terminal(tmp_path, plain_environment, *SMALL)
    assert "━" in shown
    assert "1/1" in shown
    assert "epoch 1/1  test" not in shown
    assert re.fullmatch(LINE, shown.replace("\r\n", "\n").rpartition("\x1b[2K")[2])


def run_on_terminal(directory: Path, environment: dict[str, str], *args: str) -> str:
    """Everything that nnexp writes to a terminal of 80 columns."""
    terminal, side_of_nnexp = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), side_of_nnexp)
    command = [str(Path(sys.executable).with_name("nnexp")), *args]
    settings = {"cwd": directory, "env": environment | {"TERM": "xterm", "COLUMNS": "80"}}
    with subprocess.Popen(command, **streams, **settings):
        os.close(side_of_nnexp)
        with open(terminal, "rb", buffering=0) as output:
            return b"".join(read_to_the_end(output)).decode()


def read_to_the_end(output: Any) -> Any:
    while True:
        try:
            part = output.read(4096)
        except OSError:  # how Linux says that the other side has closed the terminal
            return
        if not part:
            return
        yield part


WARNING_CODE = """
import sys, warnings
from nnexp import cli, experiment

def start_and_warn(threads, start=experiment.start_tensorflow):
    start(threads)
    warnings.warn("look at this " + "long " * 30 + "warning")

experiment.start_tensorflow = start_and_warn
sys.argv = ["nnexp", *sys.argv[1:]]
cli.main()
"""


@pytest.fixture(scope="module")
def failed(plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory with one failed run in it, which also warned of something, and how that run came out."""
    directory = tmp_path_factory.mktemp("failed")
    command = [sys.executable, "-c", WARNING_CODE, *DIVERGING]
    run = subprocess.run(command, cwd=directory, env=plain_environment, capture_output=True, text=True)
    return directory, run


def test_a_failing_run_exits_with_1_and_says_why_in_one_line(failed: tuple[Path, Any]) -> None:
    directory, run = failed
    [log] = directory.glob("outputs/runs/*/run.log")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-2:] == [
        f"nnexp: mlp seed=0  failed: {DIVERGED}",
        f"The whole story is in {log}",
    ]
    assert "Traceback" not in run.stderr


def test_a_failing_run_leaves_record_row_and_log(failed: tuple[Path, Any]) -> None:
    directory, _ = failed
    with open(directory / "outputs" / "results.csv", newline="") as table:
        [row] = csv.DictReader(table)
    record = yaml.safe_load((directory / "outputs" / "runs" / row["run_id"] / "result.json").read_text())
    assert row["status"] == record["status"] == "failed"
    assert row["error"] == record["error"] == DIVERGED
    assert "Traceback" in (directory / "outputs" / "runs" / row["run_id"] / "run.log").read_text()


def test_a_python_warning_of_a_run_reaches_the_screen_and_the_log(failed: tuple[Path, Any]) -> None:
    directory, run = failed
    [log] = directory.glob("outputs/runs/*/run.log")
    warning = "UserWarning: look at this " + "long " * 30 + "warning"
    assert (run.stderr.count(warning), log.read_text().count(warning)) == (1, 1)


def test_a_failed_run_is_tried_again_when_it_is_typed_again(failed: tuple[Path, Any], run_nnexp_in: RunNnexp) -> None:
    directory, _ = failed
    run = run_nnexp_in(directory, *DIVERGING, "dry_run=true", tensorflow=False)
    assert run.stdout.startswith("1 cell, to run (failed before): ")


def test_a_launcher_that_does_not_exist_is_one_message(run_nnexp: RunNnexp, tmp_path: Path) -> None:
    run = run_nnexp("-m", "seed=0,1", "hydra/launcher=lokal", tensorflow=False)
    options = r"basic, joblib, local, ray,( \w+,)* slurm(, \w+)*"  # and those of the plugins that are installed
    message = rf"nnexp: hydra/launcher: expected one of {options}; received lokal\. Did you mean local\?\n"
    assert re.fullmatch(message + r"Nothing was run\.\n", run.stderr)
    assert (run.returncode, run.stdout, list(tmp_path.iterdir())) == (2, "", [])


@pytest.mark.parametrize(("launcher", "plugin"), [("slurm", "hydra_submitit_launcher"), ("ray", "hydra_ray_launcher")])
def test_a_launcher_that_is_not_installed_is_one_message_with_what_mends_it(
    run_nnexp: RunNnexp, tmp_path: Path, launcher: str, plugin: str
) -> None:
    if find_spec(f"hydra_plugins.{plugin}"):
        pytest.skip(f"{plugin} is installed here, so that it cannot be missing")
    run = run_nnexp("-m", "seed=0,1", f"hydra/launcher={launcher}", tensorflow=False)
    message = f'hydra/launcher={launcher}: needs a package that is not installed: pip install "nnexp[{launcher}]"'
    assert (run.returncode, run.stderr) == (2, f"nnexp: {message}\nNothing was run.\n")
    assert run.stdout == "" and not list(tmp_path.iterdir())

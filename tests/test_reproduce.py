"""The promises of `nnexp-results reproduce`: the same bits again, or what is otherwise and why.

One story: a few tiny runs are recorded, some records are changed on disk, then all are run again by one command.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnexp.config import hash_identity
from nnexp.ledger import Ledger
from nnexp.reproduce import (
    ALTERED,
    BIT_IDENTICAL,
    DIFFERENT,
    NOT_RUN,
    WITHIN_TOLERANCE,
    Outcome,
    compare_runs,
    find_tolerances,
    restore_config,
)

TINY = ("data=sample", "data.train_size=200", "model.units=[8]", "epochs=3", "optimizer.learning_rate=0.001")
PACKAGE = Path(__file__).parents[1]
FASTER = """
_build_optimizer = build_optimizer


def build_optimizer(config):
    optimizer = _build_optimizer(config)
    optimizer.learning_rate = 0.1
    return optimizer
"""


def type_command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "XLA_", "ONEDNN_"))}
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=plain | {"COLUMNS": "500"} | environment)


def reproduce(outputs: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return type_command("nnexp-results", "reproduce", *arguments, "--outputs", str(outputs), **environment)


def change(ledger: Ledger, run_id: str, edit: Callable[[dict[str, Any]], object]) -> None:
    record = ledger.read_record(run_id)
    assert record is not None
    edit(record)
    (ledger.runs / run_id / "result.json").write_text(json.dumps(record), encoding="utf-8")


def list_bytes(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ledger, list[str]]:
    """Ten runs of one setting as they were recorded, and their run_ids by seed; the tenth is by `fit`."""
    outputs = tmp_path_factory.mktemp("recorded")
    done = type_command("nnexp", "-m", *TINY, "seed=range(9)", f"outputs={outputs}")
    assert not done.returncode, done.stderr
    done = type_command("nnexp", *TINY, "seed=9", "engine=keras", "threads=2", f"outputs={outputs}")
    assert not done.returncode, done.stderr
    ledger = Ledger(outputs)
    rows = sorted(ledger.read_finished_rows(), key=lambda row: int(row["seed"]))
    return ledger, [row["run_id"] for row in rows]


def pretend_training_version(record: dict[str, Any]) -> None:
    identity = restore_config(record["settings"], Path("/tmp")).identity | {"training_version": 0}
    record["provenance"]["training_version"] = 0
    record["identity_sha256"] = hash_identity(identity)


EDITS: dict[int, Callable[[dict[str, Any]], object]] = {
    1: lambda record: record["scores"].update(test_accuracy=record["scores"]["test_accuracy"] + 0.001),
    2: lambda record: record["provenance"].update(tensorflow="2.20.0", git_changed_lines=17, git_commit="0123456789ab"),
    3: lambda record: record["provenance"].update(weights_sha256="0" * 64),
    4: pretend_training_version,
    5: lambda record: record["settings"].update(dropout=0.25),
    6: lambda record: (
        record["provenance"].update(tensorflow="2.20.0"),
        record["scores"].update(test_accuracy=record["scores"]["test_accuracy"] - 0.001),
    ),
    7: lambda record: record["settings"]["data"].update(name="fashion_mnist", directory="/no/such/folder"),
}
"""What is done to the record of each seed; 0 and 9 are left alone, of 8 the file history.csv is changed."""


@pytest.fixture(scope="module")
def story(
    recorded: tuple[Ledger, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], dict[int, str], dict[str, bytes], dict[str, bytes]]:
    """`reproduce --all`: the process, what it says of each seed, every file of the runs before and after."""
    original, run_ids = recorded
    ledger = Ledger(tmp_path_factory.mktemp("story") / "outputs")
    shutil.copytree(original.outputs, ledger.outputs)
    for seed, edit in EDITS.items():
        change(ledger, run_ids[seed], edit)
    history = ledger.runs / run_ids[8] / "history.csv"
    history.write_text(history.read_text().replace("0.", "1.", 1))
    broken = tmp_path_factory.mktemp("keras") / "datasets" / "fashion-mnist"
    broken.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (broken / f"{name}-ubyte").write_bytes(b"broken")
    before = list_bytes(ledger.runs)
    done = reproduce(ledger.outputs, "--all", KERAS_HOME=str(broken.parents[1]))
    parts = {run_id: done.stdout.partition(run_id)[2].partition("\nmlp")[0] for run_id in run_ids}
    said = {seed: parts[run_id].strip() for seed, run_id in enumerate(run_ids)}
    return done, said, before, list_bytes(ledger.runs)


@pytest.mark.parametrize("seed", [0, 9])
def test_a_run_comes_out_the_same_bits_with_its_own_threads_and_engine(story: Any, seed: int) -> None:
    assert story[1][seed].splitlines()[0] == "bit-identical"


def test_the_last_line_counts_and_the_exit_code_tells(story: Any) -> None:
    done = story[0]
    assert "10 runs: " in done.stdout and "4 bit-identical" in done.stdout
    assert done.returncode == 1, done.stdout


def test_a_score_changed_by_a_thousandth_is_an_altered_record(story: Any) -> None:
    verdict, reason = story[1][1].splitlines()[:2]
    assert verdict == "altered"
    assert reason.startswith("  test_accuracy: ") and " recorded, " in reason


def test_another_tensorflow_then_is_said_beside_the_same_bits(story: Any) -> None:
    lines = story[1][2].splitlines()
    assert lines[0] == "bit-identical"
    assert any(line.startswith("  differs: tensorflow: 2.20.0 then, 2.21") for line in lines)
    assert any("git: 0123456789ab with 17 changed lines" in line for line in lines)


def test_other_weights_in_the_same_world_are_different_whatever_the_scores(story: Any) -> None:
    assert story[1][3].splitlines()[0] == "different"
    assert "the recorded hash may have been altered" in story[1][3]


def test_it_says_where_the_training_code_has_changed_its_numbers_on_purpose(story: Any) -> None:
    assert story[1][4].startswith("bit-identical")
    assert "version of the training code: 0 then, " in story[1][4]
    assert "CHANGELOG.md" in story[1][4]


def test_settings_that_are_not_those_of_the_run_id_are_an_altered_record(story: Any) -> None:
    assert story[1][5].startswith("altered\n  the settings, or the identity")


def test_the_same_weights_leave_no_tolerance_for_an_accuracy(story: Any) -> None:
    lines = story[1][6].splitlines()
    assert lines[0] == "altered"
    assert "(tolerance 0)" in lines[1]


def test_without_the_data_it_is_not_run_and_says_why(story: Any) -> None:
    assert story[1][7].startswith("not run again\n  DataError: ")
    assert "is not Fashion-MNIST's" in story[1][7]


def test_a_number_changed_in_the_history_is_an_altered_record(story: Any) -> None:
    assert story[1][8].startswith("altered\n  history.csv: other numbers than now")


def test_the_records_are_not_touched(story: Any) -> None:
    _, _, before, after = story
    assert before == after


def test_a_changed_learning_rate_in_the_code_is_different(recorded: tuple[Ledger, list[str]], tmp_path: Path) -> None:
    ledger, run_ids = recorded
    shutil.copytree(PACKAGE / "nnexp", tmp_path / "nnexp")
    shutil.copytree(PACKAGE / "conf", tmp_path / "nnexp" / "conf")
    with open(tmp_path / "nnexp" / "model.py", "a", encoding="utf-8") as file:
        file.write(FASTER)
    done = reproduce(ledger.outputs, run_ids[9], PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{run_ids[9]}  different\n"), done.stdout + done.stderr
    assert "raise TRAINING_VERSION" in done.stdout
    assert "differs: SHA-256 of nnexp's source: " in done.stdout


def test_a_process_that_dies_is_reported(recorded: tuple[Ledger, list[str]], tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("import os\nos._exit(97)\n")
    done = reproduce(recorded[0].outputs, recorded[1][0], recorded[1][1], PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.count("not run again\n  Died: its process ended without a result") == 2


def test_a_failed_run_is_not_run_again_and_says_so(recorded: tuple[Ledger, list[str]], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "outputs")
    shutil.copytree(recorded[0].outputs, ledger.outputs)
    change(ledger, recorded[1][0], lambda record: record.update(status="failed", error="DataError: no images"))
    done = reproduce(ledger.outputs, recorded[1][0])
    assert done.returncode == 1
    assert "not run again\n  the record is of a run that failed: DataError: no images" in done.stdout


def test_an_unknown_run_is_named(recorded: tuple[Ledger, list[str]]) -> None:
    done = reproduce(recorded[0].outputs, "nothing-like-it")
    assert done.returncode == 2
    assert "expected one of the 10 runs" in done.stderr and "received nothing-like-it" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--all", "--sample", "2"], ["mlp", "--all"]])
def test_it_is_asked_for_one_choice_of_runs(recorded: tuple[Ledger, list[str]], arguments: list[str]) -> None:
    done = reproduce(recorded[0].outputs, *arguments)
    assert done.returncode == 2
    assert "expected one of RUN_ID..., --all and --sample N" in done.stderr


# --- where another processor or version is pretended, without running anything ----------------------------------------


def judge(recorded: tuple[Ledger, list[str]], shift: float, **world: Any) -> Any:
    """The outcome for a record of another world, run again with other weights and `test_loss` moved by `shift`."""
    ledger, run_ids = recorded
    record = ledger.read_record(run_ids[0])
    assert record is not None
    again = json.loads(json.dumps(record))
    record["provenance"].update(world)
    again["provenance"]["weights_sha256"] = "1" * 64
    again["scores"]["test_loss"] += shift
    return compare_runs(ledger, record, ledger, again)


def test_on_another_processor_scores_within_the_tolerance_are_equal(recorded: tuple[Ledger, list[str]]) -> None:
    outcome = judge(recorded, 0.009, processor="Abacus")
    assert outcome.verdict == WITHIN_TOLERANCE and outcome.is_good
    assert "tolerance 0." in outcome.reasons[0]
    assert "processor: Abacus then" in outcome.differences[0]


def test_on_another_processor_a_score_beyond_the_tolerance_is_different(recorded: tuple[Ledger, list[str]]) -> None:
    ledger, run_ids = recorded
    record = ledger.read_record(run_ids[0])
    assert record is not None
    bound = find_tolerances(ledger, record, same_weights=False)["test_loss"]
    assert judge(recorded, bound - 1e-6, processor="Abacus").verdict == WITHIN_TOLERANCE
    assert judge(recorded, bound + 1e-6, processor="Abacus").verdict == DIFFERENT


def test_on_the_same_processor_there_is_no_tolerance(recorded: tuple[Ledger, list[str]]) -> None:
    assert judge(recorded, 1e-12).verdict == DIFFERENT


def test_the_tolerance_is_what_the_last_epochs_changed(recorded: tuple[Ledger, list[str]]) -> None:
    ledger, run_ids = recorded
    record = ledger.read_record(run_ids[0])
    assert record is not None
    with open(ledger.runs / run_ids[0] / "history.csv", newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    largest = max(abs(np.diff(losses)))
    assert find_tolerances(ledger, record, same_weights=False)["train_loss"] == pytest.approx(0.01 + 1.5 * largest)


def test_every_package_that_is_another_version_is_named(recorded: tuple[Ledger, list[str]], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / "environments").mkdir()
    [kept] = (recorded[0].outputs / "environments").iterdir()
    then = kept.read_text().replace(f"pytest=={pytest.__version__}", "pytest==1.0")
    sha256 = hashlib.sha256(then.encode()).hexdigest()
    (tmp_path / "environments" / f"{sha256}.txt").write_text(then)
    shutil.copytree(recorded[0].runs, ledger.runs)
    outcome = judge((ledger, recorded[1]), 0.0, environment_sha256=sha256)
    assert outcome.verdict == DIFFERENT  # another pytest is no excuse for other weights
    assert outcome.differences == [f"pytest: 1.0 then, {pytest.__version__} now"]


def test_settings_of_another_nnexp_are_refused_in_a_sentence(recorded: tuple[Ledger, list[str]]) -> None:
    record = recorded[0].read_record(recorded[1][0])
    assert record is not None
    with pytest.raises(ValueError, match=r"received those of another nnexp .*sparkle"):
        restore_config(record["settings"] | {"sparkle": 1}, Path("/tmp"))


def test_only_two_verdicts_are_good() -> None:
    verdicts = (BIT_IDENTICAL, WITHIN_TOLERANCE, ALTERED, DIFFERENT, NOT_RUN)
    assert [Outcome(verdict).is_good for verdict in verdicts] == [True, True, False, False, False]

"""The promises of nnexp.ledger, on synthetic results: nothing here trains."""

import csv
import dataclasses
import errno
import functools
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnexp import ledger as ledger_module
from nnexp.compose import Composer, build_config_loader
from nnexp.config import Config
from nnexp.ledger import COLUMNS, DIED, Ledger, LedgerError, Record, Result, format_row, make_record

# Python 3.12 warns of every fork where another test has started TensorFlow's threads; these children run none of it.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PROVENANCE = {"nnexp": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7", "git_commit": "none"}
CONTRACT = [
    *("run_id", "setting_id", "status", "started_at"),
    *("model", "filters", "units", "activation", "dropout", "l2", "optimizer", "learning_rate", "optimizer_settings"),
    *("epochs", "batch_size", "early_stopping", "data", "train_size", "validation_size", "split_seed", "seed"),
    *("engine", "xla", "threads", "train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss"),
    *("validation_accuracy", "validation_loss", "epochs_run", "best_epoch", "parameters", "train_seconds", "seconds"),
    *("nnexp", "tensorflow", "keras", "python", "git_commit", "data_sha256", "weights_sha256", "error"),
]
"""The columns that readers of results.csv rely on, in their order; and what pandas reads them as."""
INTEGERS = ["epochs", "batch_size", "early_stopping", "train_size", "validation_size", "split_seed", "seed", "threads"]
INTEGERS += ["epochs_run", "best_epoch", "parameters"]
NUMBERS = ["dropout", "l2", "learning_rate", "train_accuracy", "test_accuracy", "accuracy_gap"]
NUMBERS += ["train_loss", "test_loss", "train_seconds", "seconds"]
TEXTS = ["run_id", "setting_id", "status", "started_at", "model", "filters", "units", "activation", "optimizer"]
TEXTS += ["optimizer_settings", "data", "engine", "nnexp", "tensorflow", "keras", "python", "git_commit"]


@functools.cache
def compose(*overrides: str) -> Config:
    composer = Composer(build_config_loader(None))
    return composer.compose(composer.parse(["data=sample", *overrides]))


def make_config(outputs: Path, seed: int = 0, **settings: object) -> Config:
    return dataclasses.replace(compose(), outputs=str(outputs), seed=seed, **settings)


def make_result(value: float = 0.5) -> Result:
    names = ("train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss", "train_seconds", "seconds")
    scores = dict.fromkeys(names, value) | {"epochs_run": 2, "best_epoch": 2, "parameters": 101770}
    history = [{"epoch": epoch, "train_loss": value / epoch} for epoch in (1, 2)]
    predictions = {"label": np.zeros(10, np.uint8), "confidence": np.ones(10, np.float16)}
    return Result(scores, {"data_sha256": "d" * 64, "weights_sha256": "a" * 64}, history, predictions)


def run(ledger: Ledger, config: Config, result: Result) -> Record:
    claim = ledger.claim(config, "nnexp", PROVENANCE)
    assert claim is not None
    try:
        return ledger.record(claim, result)
    finally:
        ledger.release(claim)


def read_rows(ledger: Ledger) -> list[dict[str, str]]:
    with open(ledger.table, newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def list_leftovers(outputs: Path) -> list[Path]:
    return [*(outputs / ".ledger" / "claims").iterdir(), *outputs.rglob("*.tmp")]


def list_kept(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("results-kept-*.csv"))


def die_while(act: Callable[[], object]) -> None:
    """Do something in another process, which then dies as by kill -9: nothing is cleaned up."""
    child = os.fork()
    if not child:
        with suppress(Exception):
            act()
            os._exit(9)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **kwargs: os._exit(9))
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "outputs")


def test_what_is_recorded_is_what_is_read(ledger: Ledger) -> None:
    config = make_config(ledger.outputs, seed=3)
    written = run(ledger, config, make_result(0.25))
    read = ledger.read_settled(config)
    assert read == written
    assert (read["run_id"], read["status"], read["error"]) == (config.run_id, "finished", "")
    assert read["settings"]["seed"] == 3
    assert read["scores"]["test_accuracy"] == 0.25
    directory = ledger.runs / config.run_id
    assert pd.read_csv(directory / "history.csv").to_dict("list") == {"epoch": [1, 2], "train_loss": [0.25, 0.125]}
    assert np.load(directory / "predictions.npz")["label"].dtype == np.uint8


def test_the_row_says_what_the_record_says(ledger: Ledger) -> None:
    record = run(ledger, make_config(ledger.outputs), make_result(1 / 3))
    [row] = read_rows(ledger)
    assert row["run_id"] == record["run_id"]
    assert float(row["train_accuracy"]) == 1 / 3
    assert row["optimizer_settings"] == "beta_1=0.9 beta_2=0.999 epsilon=1e-07"
    assert row["weights_sha256"] == "a" * 64


def test_the_columns_are_those_that_readers_rely_on(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    assert list(pd.read_csv(ledger.table).columns) == CONTRACT == list(COLUMNS)


@pytest.mark.parametrize("results", [[make_result()], [make_result(), Result(error="ValueError: no")]])
def test_a_column_has_its_type_whatever_the_rows(ledger: Ledger, results: list[Result]) -> None:
    for seed, result in enumerate(results):
        run(ledger, make_config(ledger.outputs, seed), result)
    table = pd.read_csv(ledger.table)
    assert dict.fromkeys(INTEGERS, "int64") == {column: str(table[column].dtype) for column in INTEGERS}
    assert dict.fromkeys(NUMBERS, "float64") == {column: str(table[column].dtype) for column in NUMBERS}
    assert all(isinstance(value, str) for column in TEXTS for value in table[column])
    assert table["xla"].dtype == bool
    assert set(table["units"]) == {"[128]"} and set(table["filters"]) == {"[]"}


def test_sizes_are_numbers_where_the_setting_is_null(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    [row] = read_rows(ledger)
    assert (row["train_size"], row["early_stopping"]) == ("2000", "0")


def test_a_version_with_two_numbers_is_not_read_as_a_float(ledger: Ledger) -> None:
    result = make_result()
    result.provenance |= dict.fromkeys(("nnexp", "tensorflow", "keras", "python"), "4.0")
    run(ledger, make_config(ledger.outputs), result)
    assert pd.read_csv(ledger.table)["keras"].tolist() == ["4.0.0"]


@given(text=st.text(st.characters(codec=None), max_size=80))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_error_makes_one_row_of_one_line(ledger: Ledger, text: str) -> None:
    run(ledger, make_config(ledger.outputs), Result(error=f"ValueError: {text}"))
    assert len(ledger.table.read_text(encoding="utf-8").splitlines()) == 2
    [error] = pd.read_csv(ledger.table)["error"]
    assert error.startswith("ValueError:") and error.isprintable()


def test_a_failed_run_leaves_a_record_and_a_row_with_its_error(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    run(ledger, config, Result(error="ValueError: line one\nline two"))
    assert ledger.read_settled(config)["status"] == "failed"
    [row] = read_rows(ledger)
    assert (row["status"], row["error"], row["epochs_run"]) == ("failed", "ValueError: line one line two", "0")


def test_a_success_takes_the_place_of_the_failure_before_it(ledger: Ledger) -> None:
    for seed in range(3):
        run(ledger, make_config(ledger.outputs, seed), Result(error="ValueError: no"))
    run(ledger, make_config(ledger.outputs, 1), make_result())
    assert [(row["seed"], row["status"]) for row in read_rows(ledger)] == [
        ("0", "failed"),
        ("1", "finished"),
        ("2", "failed"),
    ]
    assert not list_kept(ledger.outputs)


def test_a_finished_record_is_never_replaced_by_a_failure(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    finished = run(ledger, config, make_result())
    table = ledger.table.read_bytes()
    failed = run(ledger, config, Result(error="ValueError: no"))
    assert ledger.read_settled(config) == finished
    assert ledger.table.read_bytes() == table
    assert ledger.read_last(config.run_id) == failed
    again = run(ledger, config, make_result(0.75))
    assert ledger.read_last(config.run_id) == ledger.read_settled(config) == again


def test_a_forced_run_that_dies_leaves_the_finished_record(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    finished = run(ledger, config, make_result())
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    ledger.heal()
    assert ledger.read_settled(config) == finished
    assert ledger.read_last(config.run_id)["error"] == DIED


def edit(text: str) -> str:
    return text.replace(",0.5,", ",0.9,", 1)


def extend(text: str) -> str:
    header, *rows = text.splitlines()
    return "\n".join([f"{header},mine", *(f"{row},good" for row in rows)]) + "\n"


def add_row(text: str) -> str:
    return text + "my own notes,,,\n"


def save_with_crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


def use_older_header(text: str) -> str:
    header, rest = text.split("\n", 1)
    return header.replace("best_epoch", "best") + "\n" + rest


def save_with_mark(text: str) -> str:
    return "\ufeff" + text


def empty(text: str) -> str:
    return ""


HANDS = [edit, extend, add_row, save_with_crlf, use_older_header, save_with_mark, empty]


@pytest.mark.parametrize("change", HANDS)
def test_a_table_that_other_hands_changed_is_kept_aside_when_it_is_replaced(
    ledger: Ledger, change: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    ours = ledger.table.read_bytes()
    theirs = change(ours.decode()).encode()
    ledger.table.write_bytes(theirs)
    ledger.rebuild()
    assert ledger.table.read_bytes() == ours
    [kept] = list_kept(ledger.outputs)
    assert kept.read_bytes() == theirs
    assert kept.name in caplog.text


@pytest.mark.parametrize("change", [extend, save_with_crlf, use_older_header, save_with_mark, empty])
def test_a_row_is_not_appended_to_a_table_of_another_shape(ledger: Ledger, change: Callable[[str], str]) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    theirs = change(ledger.table.read_text()).encode()
    ledger.table.write_bytes(theirs)
    run(ledger, make_config(ledger.outputs, 1), make_result())
    assert [kept.read_bytes() for kept in list_kept(ledger.outputs)] == [theirs]
    assert pd.read_csv(ledger.table)["seed"].tolist() == [0, 1]


def test_an_edited_table_is_left_alone_while_rows_can_be_added(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    edited = edit(ledger.table.read_text())
    ledger.table.write_text(edited)
    ledger.heal()
    run(ledger, make_config(ledger.outputs, 1), make_result())
    assert ledger.table.read_text().startswith(edited)
    assert not list_kept(ledger.outputs)


def test_a_sorted_table_stays_sorted_even_when_it_is_replaced(ledger: Ledger) -> None:
    for seed in range(3):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    header, *rows = ledger.table.read_text().splitlines(keepends=True)
    ledger.table.write_text("".join([header, *reversed(rows)]))
    ledger.rebuild()
    run(ledger, make_config(ledger.outputs, 3), make_result())
    assert [row["seed"] for row in read_rows(ledger)] == ["2", "1", "0", "3"]
    assert not list_kept(ledger.outputs)


def test_a_table_that_was_removed_is_written_again(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    table = ledger.table.read_bytes()
    ledger.table.unlink()
    ledger.heal()
    assert ledger.table.read_bytes() == table


def test_the_row_of_a_run_whose_directory_was_removed_goes(ledger: Ledger) -> None:
    for seed in range(2):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    subprocess.run(["rm", "-r", ledger.runs / make_config(ledger.outputs, 0).run_id], check=True)
    ledger.heal()
    assert [row["seed"] for row in read_rows(ledger)] == ["1"]


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_torn_last_line_is_mended(ledger: Ledger, cut: int) -> None:
    for seed in range(2):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    table = ledger.table.read_bytes()
    ledger.table.write_bytes(table[:-cut])
    ledger.heal()
    assert ledger.table.read_bytes() == table
    assert not list_kept(ledger.outputs)


def test_a_row_is_not_appended_to_a_torn_line(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    ledger.table.write_bytes(ledger.table.read_bytes()[:-20])
    run(ledger, make_config(ledger.outputs, 1), make_result())
    assert pd.read_csv(ledger.table)["seed"].tolist() == [0, 1]


def test_a_run_that_was_cut_off_counts_as_failed(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp seed=0", PROVENANCE))
    ledger.heal()
    assert ledger.read_settled(config)["error"] == DIED
    assert [row["error"] for row in read_rows(ledger)] == [DIED]
    assert not list_leftovers(ledger.outputs)


def test_a_stopped_run_counts_as_not_run(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp seed=0", PROVENANCE))
    ledger.forget_claims([config.run_id])
    ledger.heal()
    assert ledger.read_settled(config) is None
    assert not ledger.table.exists() and not list_leftovers(ledger.outputs)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize(
    "where", ["_append_row", "_rewrite_table", "_write_temporary", "replace", "release", "_remove_claim"]
)
def test_a_process_may_die_anywhere_while_it_records(
    ledger: Ledger, where: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever moment, after healing there is one row a record, what it says, and nothing else."""
    before, old = make_config(ledger.outputs, 0), make_config(ledger.outputs, 1)
    run(ledger, before, make_result())
    run(ledger, old, Result(error="ValueError: no"))
    owner = {"replace": os, "_remove_claim": ledger_module, "_write_temporary": ledger_module}.get(where, Ledger)
    for config in (old, make_config(ledger.outputs, 2)):
        with dying_at(monkeypatch, owner, where):
            die_while(lambda config=config: run(Ledger(ledger.outputs), config, make_result()))
        if stopped:
            ledger.forget_claims([config.run_id])
        ledger.heal()
        records = [json.loads(path.read_text()) for path in ledger.runs.glob("*/result.json")]
        assert sorted(ledger.table.read_text().splitlines(keepends=True)[1:]) == sorted(map(format_row, records))
        assert not list_leftovers(ledger.outputs) and not list_kept(ledger.outputs)
        finished_or_failed = ledger.read_settled(config)
        assert stopped or finished_or_failed is not None


def test_an_interrupt_while_a_row_is_rewritten_leaves_no_old_row(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(ledger.outputs)
    run(ledger, config, Result(error="ValueError: no"))

    def interrupt(*args: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "_rewrite_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(ledger, config, make_result())
    assert [row["status"] for row in read_rows(ledger)] == ["finished"]
    assert not list_kept(ledger.outputs)


def test_the_claim_of_a_living_process_blocks(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    claim = ledger.claim(config, "nnexp", PROVENANCE)
    other = Ledger(ledger.outputs)
    assert other.claim(config, "nnexp", PROVENANCE) is None
    other.heal()
    other.forget_claims([config.run_id])
    assert other.is_running(config.run_id)
    assert other.read_settled(config) is None
    ledger.release(claim)
    assert not other.is_running(config.run_id)


def test_the_claim_of_a_dead_process_does_not_block_and_is_taken_once(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    assert not ledger.is_running(config.run_id)
    claim = ledger.claim(config, "nnexp", PROVENANCE)
    assert claim is not None
    assert Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE) is None
    assert Ledger(ledger.outputs).is_running(config.run_id)
    ledger.record(claim, make_result())
    ledger.release(claim)
    assert ledger.read_settled(config)["status"] == "finished"


def test_looking_whether_a_run_goes_on_does_not_bury_it(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    assert not ledger.is_running(config.run_id)
    ledger.heal()
    assert ledger.read_settled(config)["error"] == DIED


def test_a_claim_that_was_cut_off_while_it_was_written_is_forgotten(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    [note] = (ledger.outputs / ".ledger" / "claims").glob("*.json")
    note.write_text(note.read_text()[:50])
    ledger.heal()
    assert ledger.read_settled(config) is None
    assert not list_leftovers(ledger.outputs)


def test_an_attempt_is_known_whatever_the_clock_says(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(ledger.outputs)
    monkeypatch.setattr(ledger_module, "_now", lambda: "2026-01-01T00:00:00.000000+00:00")
    run(ledger, config, Result(error="ValueError: no"))
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    ledger.heal()
    assert ledger.read_settled(config)["error"] == DIED


def test_a_run_that_two_processes_recorded_has_one_row(ledger: Ledger) -> None:
    """As when somebody removes .ledger, and the claims in it, while a run is going on."""
    config = make_config(ledger.outputs)
    first = ledger.claim(config, "nnexp", PROVENANCE)
    subprocess.run(["rm", "-r", ledger.outputs / ".ledger"], check=True)
    second = Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE)
    for claim in (first, second):
        ledger.record(claim, make_result())
        ledger.release(claim)
    assert len(read_rows(ledger)) == 1 and not list_kept(ledger.outputs)


def test_a_row_is_added_after_those_that_others_add_meanwhile(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ledger, make_config(ledger.outputs), make_result())

    def add_another(record: Record) -> str:
        with open(ledger.table, "ab") as table:
            table.write(format_row(record | {"run_id": "another"}).encode())
        return format_row(record)

    monkeypatch.setattr(ledger_module, "format_row", add_another)
    ledger._append_row(make_record(make_config(ledger.outputs, 1), make_result(), "nnexp"))
    assert [row["run_id"].split("-")[0] for row in read_rows(ledger)] == ["mlp", "another", "mlp"]


def test_hidden_files_of_others_in_a_run_s_directory_are_left(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    theirs = [ledger.runs / config.run_id / name for name in (".ipynb_checkpoints", ".DS_Store")]
    theirs[0].mkdir()
    theirs[1].touch()
    ledger.heal()
    assert all(path.exists() for path in theirs)
    assert ledger.read_settled(config)["error"] == DIED


def test_a_list_of_packages_that_was_cut_off_is_dropped(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    (ledger.outputs / "environments").mkdir()
    (ledger.outputs / "environments" / ".abc.txt.1.tmp").touch()
    ledger.heal()
    assert not list_leftovers(ledger.outputs)


def test_temporary_files_of_dead_processes_are_dropped_and_other_files_are_not(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    die_while(lambda: Ledger(ledger.outputs).claim(config, "nnexp", PROVENANCE))
    mine = ledger.outputs / ".mine.tmp"
    for path in (ledger.outputs / ".results.csv.1.tmp", ledger.runs / config.run_id / ".result.json.1.tmp", mine):
        path.write_text("cut o")
    ledger.heal()
    assert list_leftovers(ledger.outputs) == [mine]


def test_a_record_that_cannot_be_read_is_named(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    run(ledger, config, make_result())
    path = ledger.runs / config.run_id / "result.json"
    path.write_text("{")
    with pytest.raises(
        LedgerError, match=rf"{path} is not its run's record .*remove it, and its run counts as not run"
    ):
        ledger.read_settled(config)
    path.unlink()
    ledger.rebuild()
    assert not read_rows(ledger)


DAMAGES = {
    "cut off": lambda text: text[:200],
    "empty": lambda text: "",
    "not a record": lambda text: "null",
    "no schema": lambda text: "{}",
    "a part is missing": lambda text: text.replace('"optimizer"', '"optimiser"'),
    "another key is missing": lambda text: text.replace('"identity_sha256"', '"identity"'),
    "of another run": lambda text: text.replace('"run_id": "', '"run_id": "x'),
    "of a newer nnexp": lambda text: text.replace('"schema": 1', '"schema": 99'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("is_in_table", [True, False])
def test_a_record_that_cannot_be_read_does_not_hide_the_others(
    ledger: Ledger, damage: str, is_in_table: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    table = ledger.table.read_text()
    path = ledger.runs / make_config(ledger.outputs, 1).run_id / "result.json"
    path.write_text(DAMAGES[damage](path.read_text()))
    if not is_in_table:
        ledger.table.unlink()
    assert ledger.rebuild() == (3 if is_in_table else 2)
    assert [record["settings"]["seed"] for record in ledger.read_records()] == [0, 2]
    assert is_in_table == (ledger.table.read_text() == table)
    assert not list_kept(ledger.outputs)
    assert path.parent.name in caplog.text
    with pytest.raises(LedgerError):
        ledger.read_record(path.parent.name)


def test_many_records_that_cannot_be_read_are_one_message(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(4):
        run(ledger, make_config(ledger.outputs, seed), make_result())
        (ledger.runs / make_config(ledger.outputs, seed).run_id / "result.json").write_text("")
    assert not ledger.read_records()
    [message] = caplog.messages
    assert message.endswith("(and 3 more cannot be read)")


def test_other_settings_under_the_same_digits_are_refused(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    run(ledger, config, make_result())
    path = ledger.runs / config.run_id / "result.json"
    path.write_text(path.read_text().replace(config.identity_sha256, "0" * 64))
    with pytest.raises(LedgerError, match="record of other settings"):
        ledger.read_settled(config)


def test_reading_makes_no_directory(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new")
    ledger.heal()
    assert ledger.read_record("x") is None and not ledger.is_running("x") and not ledger.read_finished_rows()
    assert not ledger.outputs.exists()


def write_rows(outputs: Path, config: Config, first: int, number: int) -> None:
    ledger = Ledger(outputs)
    result = make_result()
    result.history, result.predictions = [], {}
    for seed in range(first, first + number):
        run(ledger, dataclasses.replace(config, seed=seed), result)


def test_sixteen_processes_write_eight_thousand_rows_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 16,000 of them; the disk is not what is tested
    fork = multiprocessing.get_context("fork")
    config = make_config(ledger.outputs)
    writers = [fork.Process(target=write_rows, args=(ledger.outputs, config, 500 * i, 500)) for i in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 16
    lines = ledger.table.read_text().splitlines()
    assert len(lines) == 8001
    assert {len(row) for row in csv.reader(io.StringIO("\n".join(lines)))} == {len(COLUMNS)}
    assert sorted(pd.read_csv(ledger.table)["seed"]) == list(range(8000))
    assert not list_leftovers(ledger.outputs)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes into a file fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_when_a_record_is_written_costs_that_run_only(ledger: Ledger) -> None:
    run(ledger, make_config(ledger.outputs), make_result())
    table = ledger.table.read_bytes()
    config = make_config(ledger.outputs, 1)
    claim = ledger.claim(config, "nnexp", PROVENANCE)
    with files_limited_to(200), pytest.raises(LedgerError, match=r"could not record .*before is intact"):
        ledger.record(claim, dataclasses.replace(make_result(), history=[], predictions={}))
    ledger.release(claim)
    assert ledger.table.read_bytes() == table and ledger.read_settled(config) is None
    assert not list_leftovers(ledger.outputs)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_disk_that_is_full_when_a_row_is_written_is_healed_by_the_next_command(ledger: Ledger, room: int) -> None:
    for seed in range(8):
        run(ledger, make_config(ledger.outputs, seed), make_result())
    table = ledger.table.read_bytes()
    claim = ledger.claim(make_config(ledger.outputs, 8), "nnexp", PROVENANCE)
    with files_limited_to(len(table) + room):
        with pytest.raises(LedgerError, match="before is intact"):
            ledger.record(claim, make_result())
        ledger.release(claim)
    assert ledger.table.read_bytes() == table
    ledger.heal()
    assert ledger.table.read_bytes().startswith(table)
    assert pd.read_csv(ledger.table)["seed"].tolist() == list(range(9))
    assert not list_leftovers(ledger.outputs)


def test_a_disk_that_is_full_when_a_run_is_claimed_leaves_no_claim(ledger: Ledger) -> None:
    config = make_config(ledger.outputs)
    with files_limited_to(100), pytest.raises(LedgerError, match=f"could not claim {config.run_id}"):
        ledger.claim(config, "nnexp", PROVENANCE)
    assert not list_leftovers(ledger.outputs)
    run(ledger, config, make_result())


def test_a_full_disk_is_named_with_what_to_do(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    claim = ledger.claim(make_config(ledger.outputs), "nnexp", PROVENANCE)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerError, match=r"No space left on device. .* mend the cause and type the command again"):
        ledger.record(claim, make_result())
    ledger.release(claim)


def test_adding_a_row_does_not_read_or_write_the_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(300):
        run(ledger, make_config(ledger.outputs, seed), Result({}, {}, [], {}))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_rewrite_table", None)
        inode = ledger.table.stat().st_ino
        run(ledger, make_config(ledger.outputs, 300), make_result())
        ledger.heal()
    assert ledger.table.stat().st_ino == inode
    assert len(read_rows(ledger)) == 301


def test_the_ledger_needs_no_tensorflow_and_no_hydra() -> None:
    code = (
        "import nnexp.ledger, sys; print([name for name in ('tensorflow', 'hydra', 'pandas') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

"""The promises of docs/: what they list is what there is."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nnexp.compose import Composer, build_config_loader
from nnexp.config import ACTIVATIONS, ENGINES, OPTIMIZER_NUMBERS, Config, format_value, walk_settings
from nnexp.ledger import COLUMNS, Ledger, Result

ROOT = Path(__file__).parents[1]
COMPOSER = Composer(build_config_loader(None))
FINISHED = Result(
    scores={
        **dict.fromkeys(("train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss"), 0.5),
        **dict.fromkeys(("epochs_run", "best_epoch", "parameters"), 1),
        **dict.fromkeys(("train_seconds", "seconds"), 1.5),
    },
    provenance={"data_sha256": "ab", "weights_sha256": "cd"},
)
VERSIONS = {"nnexp": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7", "git_commit": "none"}


def read_table(page: str, header: str) -> list[list[str]]:
    """The rows of the table under `header` in a page of docs/, cell by cell, without the marks of code."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    [table] = re.findall(rf"^\| {re.escape(header)} \|\n\|[- |]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


SETTINGS = {key: rest for key, *rest in read_table("settings.md", "key | default | values | id | meaning")}
COLUMN_TYPES = {name: kind for name, kind, *_ in read_table("results.md", "column | type | unit | meaning")}


def compose(*arguments: str) -> Config:
    return COMPOSER.compose(COMPOSER.parse(arguments))


def test_settings_md_lists_exactly_the_settings() -> None:
    assert list(SETTINGS) == [key for key, _, _ in walk_settings(compose())]


def test_settings_md_has_the_defaults_of_conf() -> None:
    defaults = {key: format_value(value) for key, value, _ in walk_settings(compose())}
    documented = {key: default for key, (default, *_) in SETTINGS.items()}
    assert documented == defaults | {"outputs": "outputs"}  # the path in conf/; a Config has it made absolute


def test_settings_md_says_what_is_part_of_the_identity() -> None:
    marked = {key for key, (_, _, identity, _) in SETTINGS.items() if identity in ("yes", "resolved")}
    assert marked == {key for key, _, spec in walk_settings(compose()) if spec.metadata["identity"]}


def test_settings_md_lists_the_words_that_a_setting_takes() -> None:
    for key, words in (("model.activation", ACTIVATIONS), ("optimizer.name", OPTIMIZER_NUMBERS), ("engine", ENGINES)):
        assert SETTINGS[key][1] == ", ".join(words)


def test_settings_md_has_the_numbers_of_every_optimizer() -> None:
    documented = dict(read_table("settings.md", "optimizer | numbers"))
    assert set(documented) == set(OPTIMIZER_NUMBERS)
    for name, numbers in documented.items():
        values = dataclasses.asdict(compose(f"optimizer={name}").optimizer)
        keys = ("learning_rate", *OPTIMIZER_NUMBERS[name])
        assert numbers == " ".join(f"{key}={format_value(values[key])}" for key in keys)


def test_the_option_shown_in_settings_md_works(tmp_path: Path) -> None:
    [option] = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "settings.md").read_text(), re.DOTALL)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text(option)
    composer = Composer(build_config_loader(str(tmp_path)))
    own, typed = composer.compose(composer.parse(["model=tiny"])), compose("model.units=[4]")
    assert own.run_id == typed.run_id
    assert dataclasses.asdict(own.model) == yaml.safe_load(option)


def test_results_md_lists_exactly_the_columns() -> None:
    assert tuple(COLUMN_TYPES) == COLUMNS


@pytest.fixture
def read_results(tmp_path: Path):
    """A function that records results under the seeds 0, 1, ... and reads the table of them with pandas."""

    def read(*results: Result) -> pd.DataFrame:
        ledger = Ledger(tmp_path)
        for seed, result in enumerate(results):
            config = compose(f"seed={seed}", f"outputs={tmp_path}")
            claim = ledger.claim(config, "nnexp", VERSIONS)
            assert claim is not None
            ledger.record(claim, result)
            ledger.release(claim)
        return pd.read_csv(ledger.table)

    return read


@pytest.mark.parametrize("results", [[FINISHED], [FINISHED, Result(error="boom")], [Result(error="boom")]], ids=len)
def test_pandas_reads_the_documented_types(results: list[Result], read_results) -> None:
    table = read_results(*results)
    types = {name: describe_type(table[name], COLUMN_TYPES[name]) for name in COLUMNS}
    assert types == COLUMN_TYPES


def describe_type(column: pd.Series, documented: str) -> str:
    if documented == "text":
        return "text" if pd.api.types.is_string_dtype(column) or column.isna().all() else str(column.dtype)
    return str(column.dtype)


def test_a_failed_row_has_no_scores(read_results) -> None:
    row = read_results(Result(error="boom")).iloc[0]
    assert row[["train_accuracy", "test_loss", "seconds", "weights_sha256"]].isna().all()
    assert (row["status"], row["error"], row["epochs_run"], row["parameters"]) == ("failed", "boom", 0, 0)

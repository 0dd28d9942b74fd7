"""The promises of nnexp.provenance, and of records of earlier versions."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nnexp import provenance
from nnexp.ledger import COLUMNS, SCHEMA_VERSION, Ledger, LedgerError, format_row, upgrade_record
from nnexp.provenance import hash_source, list_packages, read_git, read_provenance, read_variables
from nnexp.reproduce import WORLD, find_altered_settings, restore_config

RECORDS = sorted(Path(__file__).with_name("records").glob("schema-*.json"))


def read_fixture(path: Path) -> dict[str, Any]:
    return upgrade_record(json.loads(path.read_bytes()))


def test_there_is_a_record_of_every_schema() -> None:
    assert [path.name for path in RECORDS] == [f"schema-{number}.json" for number in range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_of_an_earlier_schema_is_still_a_row_of_the_table(path: Path) -> None:
    assert format_row(read_fixture(path)).count(",") == len(COLUMNS) - 1


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_settings_of_an_earlier_schema_still_mean_the_same_run(path: Path, tmp_path: Path) -> None:
    record = read_fixture(path)
    assert restore_config(record["settings"], tmp_path).seed == 3
    assert find_altered_settings(record) == ""


def test_a_record_of_a_newer_nnexp_is_refused_in_a_sentence(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (ledger.runs / "mlp-1").mkdir(parents=True)
    (ledger.runs / "mlp-1" / "result.json").write_text(json.dumps({"schema": SCHEMA_VERSION + 1, "run_id": "mlp-1"}))
    with pytest.raises(LedgerError, match=r"mlp-1: expected a record of schema 1 to .* newer nnexp"):
        ledger.read_record("mlp-1")


def test_provenance_has_all_that_reproduce_compares() -> None:
    assert WORLD.keys() <= read_provenance().keys()
    assert json.loads(json.dumps(read_provenance())) == read_provenance()


def test_the_list_of_packages_is_kept_once_under_its_own_hash(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.keep_environment(list_packages())
    [path] = (tmp_path / "environments").iterdir()
    written = path.stat().st_mtime_ns, path.stat().st_ino
    ledger.keep_environment(list_packages())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem == read_provenance()["environment_sha256"]
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    lines = path.read_text().splitlines()
    assert f"pytest=={pytest.__version__}" in lines and lines == sorted(lines, key=str.lower)


def test_the_source_hash_is_that_of_a_copy_and_of_no_edited_one(tmp_path: Path) -> None:
    shutil.copytree(provenance.SOURCE, tmp_path / "nnexp")
    (tmp_path / "nnexp" / "conf").mkdir()  # as in a wheel
    (tmp_path / "nnexp" / "conf" / "__init__.py").touch()
    assert hash_source(tmp_path / "nnexp") == hash_source(provenance.SOURCE)
    with open(tmp_path / "nnexp" / "model.py", "a") as file:
        file.write("\n")
    assert hash_source(tmp_path / "nnexp") != hash_source(provenance.SOURCE)


def git(directory: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(directory), *author, *arguments], check=True, capture_output=True)


def test_git_tells_the_commit_and_the_number_of_changed_lines(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "config.py").write_text("a\nb\nc\n")
    git(tmp_path, "add", "config.py")
    git(tmp_path, "commit", "-m", "one")
    clean = read_git(tmp_path)
    assert len(clean["git_commit"]) == 40 and clean["git_changed_lines"] == clean["git_new_files"] == 0
    (tmp_path / "config.py").write_text("a\nB\nc\nd\n")
    (tmp_path / "new.py").touch()
    expected = {"git_commit": clean["git_commit"] + "+changed", "git_changed_lines": 3, "git_new_files": 1}
    assert read_git(tmp_path) == expected


def test_the_checkout_of_another_project_is_not_taken_for_ours(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    (tmp_path / "config.py").touch()  # as where nnexp is installed below their checkout
    assert read_git(tmp_path)["git_commit"] == "none"


def test_only_variables_that_change_numbers_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in provenance.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_VAR_password", "secret")
    monkeypatch.setenv("TF_XLA_FLAGS", f"{provenance.CACHE_FLAG}/tmp/cache ")
    assert read_variables() == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert read_variables() == {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}

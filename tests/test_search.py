"""The promises of hydra/sweeper=optuna, with the real Optuna; runs are faked (tests/fake_training) in all but one."""

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nnexp.compose import Composer, build_config_loader
from nnexp.config import SettingError
from nnexp.search import Search, check_search

FAKE = Path(__file__).parent / "fake_training"
COMPOSER = Composer(build_config_loader(None))
SAMPLE = ("data=sample", "data.validation_size=200", "epochs=1")
SPACE = ("dropout=interval(0,0.6)", "l2=tag(log,interval(1e-6,1e-2))", "model=choice(mlp,deep)")
LOCAL = ("hydra/launcher=local", "hydra.launcher.n_jobs=2")
COLUMNS = ("dropout", "l2", "model")


class Folder:
    """A directory to type searches in, with faked runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outputs = path / "outputs"
        self.log = path / "started.log"

    def start(self, *arguments: str, trials: int = 4, path: Path = FAKE, **fake: object) -> subprocess.Popen[str]:
        variables = {f"FAKE_{name.upper()}": str(value) for name, value in fake.items()}
        environment = os.environ | {"PYTHONPATH": str(path), "FAKE_LOG": str(self.log)} | variables
        command = [sys.executable, "-m", "nnexp", "-m", "hydra/sweeper=optuna", *SAMPLE, *SPACE]
        command += [f"hydra.sweeper.n_trials={trials}", *arguments]
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.path, env=environment, **pipes)

    def search(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=250)
        assert "Traceback" not in out + err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def count_started(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def read_table(self) -> pd.DataFrame:
        return pd.read_csv(self.outputs / "results.csv")

    def ask_optuna(self, query: str) -> list[Any]:
        """What Optuna keeps, read without it."""
        with sqlite3.connect(self.outputs / "search.db") as database:
            return [value for (value,) in database.execute(query)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, subprocess.CompletedProcess[str]]:
    """A folder in which four trials have been run, and what was said; for tests that only read."""
    folder = Folder(tmp_path_factory.mktemp("searched"))
    return folder, folder.search()


@pytest.fixture
def copied(searched: tuple[Folder, Any], tmp_path: Path) -> Folder:
    """The same to change."""
    shutil.copytree(searched[0].path, tmp_path, dirs_exist_ok=True)
    return Folder(tmp_path)


# what is refused, before anything is made


def check(*arguments: str) -> Search:
    return check_search(COMPOSER, [*SAMPLE, *SPACE, *arguments])


WRONG = {  # what is typed: what is said
    "data.validation_size=0": (
        "data.validation_size: expected > 0 with hydra/sweeper=optuna, because a search goes by validation accuracy, "
        "never by test accuracy (try data.validation_size=5000); received 0"
    ),
    "dry_run=true": (
        "dry_run: expected false with hydra/sweeper=optuna, because a trial is proposed only when those before it have "
        "ended; received true"
    ),
    "force=true": (
        "force: expected false with hydra/sweeper=optuna, because a search takes finished runs as they are; "
        "received true"
    ),
    "fail_fast=true": (
        "fail_fast: expected false with hydra/sweeper=optuna, because a trial that fails shows the search where not to "
        "look; received true"
    ),
    "seed=0,1": (
        "seed: expected one value for the whole search, because the best of several seeds is luck; received [0, 1]"
    ),
    "data.validation_size=choice(100,200)": (
        "data.validation_size: expected one value for the whole search, because trials are compared on the same "
        "validation images; received [100, 200]"
    ),
    "data.split_seed=int(interval(0,9))": (
        "data.split_seed: expected one value for the whole search, because trials are compared on the same validation "
        "images; received [0, 9]"
    ),
    "threads=1,2": "threads: expected one value for the whole sweep; received [1, 2]",
    "dropuot=interval(0,1)": (
        "dropuot: there is no such setting; received dropuot=interval(0,1). Did you mean dropout?"
    ),
    "model=choice(mlp,depe)": "model: expected one of cnn, deep, linear, mlp, wide; received depe. Did you mean deep?",
    "l2=interval(1,0)": "l2: expected the lower end of the interval first; received l2=interval(1,0)",
    "l2=tag(log,interval(0,1))": (
        "l2: expected an interval above 0, because its logarithm is taken; received l2=tag(log,interval(0,1))"
    ),
    "batch_size=interval(8,64)": (
        "batch_size: expected whole numbers, as in batch_size=int(interval(1,5)); received batch_size=interval(8,64)"
    ),
    "epochs=range(1,4)": "epochs: expected a,b,c or interval(...) in a search; received epochs=range(1,4)",
    "dropout=0.1 l2=0 model=mlp": (
        "hydra/sweeper=optuna: expected something to search, as in dropout=interval(0,0.6); received none"
    ),
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_cannot_be_searched_is_refused_by_name(typed: str) -> None:
    with pytest.raises(SettingError) as error:
        check(*typed.split())
    assert error.value.problems == (WRONG[typed],)


def test_bounds_out_of_range_are_found_at_every_corner_of_the_space() -> None:
    with pytest.raises(SettingError) as error:
        check("dropout=interval(0,1)", "model=mlp", "l2=interval(-1,0)")
    assert error.value.problems == (
        "l2: expected a number >= 0; received -1.0  (cells: dropout=0.0 l2=-1.0; dropout=1.0 l2=-1.0)",
        "dropout: expected a number in [0, 1); received 1.0  (cells: dropout=1.0 l2=-1.0; dropout=1.0 l2=0.0)",
    )


def test_choices_that_do_not_go_together_are_found_before_anything_trains() -> None:
    with pytest.raises(SettingError, match=r"there is nothing to drop; received 0.6  \(cells: dropout=0.6 .*linear"):
        check("model=choice(mlp,linear)")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("data.validation_size=0", "data.validation_size: expected > 0 with hydra/sweeper=optuna"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs: expected an integer >= 1; received 0"),
        ("hydra.sweeper.storage=sqlite:///nowhere/search.db", "unable to open database file"),
    ],
)
def test_a_wrong_search_ends_with_2_and_leaves_nothing_behind(typed: str, said: str, folder: Folder) -> None:
    done = folder.search(typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 2 and done.stderr.endswith("Nothing was run.\n")
    assert list(folder.path.iterdir()) == []


def test_a_missing_plugin_is_named_with_what_installs_it(folder: Folder, tmp_path_factory: Any) -> None:
    missing = tmp_path_factory.mktemp("missing")
    (missing / "optuna.py").write_text("raise ModuleNotFoundError(__name__)")
    done = folder.search(path=missing)
    assert done.returncode == 2 and list(folder.path.iterdir()) == []
    assert done.stderr == (
        "nnexp: hydra/sweeper=optuna: expected the package hydra-optuna-sweeper, which is not installed; "
        'pip install "nnexp[search]" installs it\nNothing was run.\n'
    )


def test_the_shipped_study_is_a_search_with_a_validation_set() -> None:
    sweeper = COMPOSER.compose_hydra(COMPOSER.parse(["study=search"])).hydra.sweeper
    search = check_search(COMPOSER, ["study=search", *(f"{key}={value}" for key, value in sweeper.params.items())])
    assert search.varied and search.config.data.validation_size
    assert sweeper._target_.endswith("NnexpSearchSweeper")


# what is searched for


def test_the_best_is_the_trial_with_the_highest_validation_accuracy(searched: tuple[Folder, Any]) -> None:
    folder, done = searched
    assert done.returncode == 0, done.stderr
    table = folder.read_table()
    best = table.loc[table["validation_accuracy"].idxmax()]
    assert best["run_id"] in re.search(r"^best: .*", done.stdout, re.MULTILINE)[0]
    assert best["test_accuracy"] == table["test_accuracy"].min()  # the fake sees to it


def test_optuna_is_told_validation_accuracies_and_no_test_accuracy_is_shown(searched: tuple[Folder, Any]) -> None:
    folder, done = searched
    table = folder.read_table()
    assert sorted(folder.ask_optuna("select value from trial_values")) == sorted(table["validation_accuracy"])
    assert not any(f"{accuracy:.3f}" in done.stdout for accuracy in table["test_accuracy"])
    assert "Test accuracy had no part in the choice" in done.stdout


def test_trials_are_ordinary_rows_of_the_table(searched: tuple[Folder, Any]) -> None:
    folder, _ = searched
    table = folder.read_table()
    assert table["status"].tolist() == ["finished"] * 4
    assert table["dropout"].between(0, 0.6).all() and table["l2"].between(1e-6, 1e-2).all()
    assert set(table["model"]) <= {"mlp", "deep"}
    assert {path.name for path in (folder.outputs / "runs").iterdir()} == set(table["run_id"])


def test_the_command_at_the_end_runs_the_best_from_other_seeds(copied: Folder, searched: tuple[Folder, Any]) -> None:
    stdout = searched[1].stdout
    command = shlex.split(stdout.splitlines()[-1])
    assert command[:2] == ["nnexp", "-m"] and command[-1] == "seed=1,2,3,4,5"
    typed = [sys.executable, "-m", *command[:-1], "seed=0,1,2,3,4,5", "dry_run=true"]
    plan = subprocess.run(typed, cwd=copied.path, capture_output=True, text=True).stdout
    [run_id] = re.findall(r"^best: .*\((\S+)\)$", stdout, re.MULTILINE)
    assert re.findall(r"^  finished +(\S+)  seed=0$", plan, re.MULTILINE) == [run_id]
    assert plan.count("  to run ") == 5


# going on


def test_a_search_typed_again_is_answered_and_trains_nothing(copied: Folder, searched: tuple[Folder, Any]) -> None:
    done = copied.search()
    assert re.match(r"study search-[0-9a-f]{8}: 4 trials, 4 done, 0 to run\n4 finished, 0 failed", done.stdout)
    assert done.stdout.splitlines()[-4:] == searched[1].stdout.splitlines()[-4:]
    assert (done.returncode, copied.count_started()) == (0, 4)


def test_with_more_trials_a_search_goes_on_and_proposes_others(copied: Folder) -> None:
    done = copied.search("hydra/sweeper/sampler=random", trials=7)
    assert "7 trials, 4 done, 3 to run\n" in done.stdout and done.returncode == 0
    assert len(copied.read_table()[[*COLUMNS]].drop_duplicates()) == copied.count_started() == 7


def test_a_finished_cell_is_answered_from_the_table(copied: Folder) -> None:
    done = copied.search("hydra.sweeper.study_name=another")  # from the same seed come the same proposals
    assert done.stdout.startswith("study another: 4 trials, 0 done, 4 to run\n[1/4] ")
    assert (copied.count_started(), len(copied.read_table())) == (4, 4)
    assert len(copied.ask_optuna("select value from trial_values")) == 8


def test_a_study_of_another_search_is_not_mixed_up_with_this_one(copied: Folder) -> None:
    assert copied.search("hydra.sweeper.study_name=mine", trials=1).returncode == 0
    done = copied.search("hydra.sweeper.study_name=mine", "batch_size=64", trials=2)
    assert done.returncode == 2 and "mine is the study of another search space" in done.stderr
    assert copied.count_started() == 4


def test_a_stopped_search_goes_on_when_typed_again(folder: Folder) -> None:
    hold = folder.path / "hold"
    hold.touch()
    process = folder.start(*LOCAL, hold=hold)
    deadline = time.monotonic() + 110
    while folder.count_started() < 2:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    second = folder.search(*LOCAL)
    assert second.returncode == 1 and "another nnexp is running study search-" in second.stderr
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + err
    assert re.fullmatch(r"stopped after 0 of 4 trials; type the same command to go on\n", err)
    assert not list((folder.outputs / ".ledger" / "claims").iterdir())
    hold.unlink()
    again = folder.search(*LOCAL)
    assert again.returncode == 0 and "\n4 finished, 0 failed" in again.stdout
    assert len(folder.read_table()) == 4


# failures


def test_a_trial_that_fails_is_told_to_optuna_and_the_search_goes_on(folder: Folder) -> None:
    done = folder.search(trials=2, **{"raise": "0"})
    reason = "ValueError: seed 0 cannot be trained"
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        len(re.findall(rf"^\[\d/2\] dropout=\S+ l2=\S+ model=\w+  failed: {reason}$", done.stdout, re.MULTILINE)) == 2
    )
    assert "\n0 finished, 2 failed; all are in " in done.stdout and "best" not in done.stdout
    assert folder.ask_optuna("select state from trials") == ["FAIL", "FAIL"]
    assert folder.read_table()["status"].tolist() == ["failed", "failed"]


def test_a_trial_that_kills_its_process_is_recorded_and_the_search_ends_by_itself(folder: Folder) -> None:
    done = folder.search(*LOCAL, trials=1, die=0)
    assert done.returncode == 1 and "failed: Died: " in done.stdout
    assert folder.ask_optuna("select state from trials") == ["FAIL"]
    assert folder.read_table()["status"].tolist() == ["failed"]


# and once without the fake


def test_the_shipped_study_searches_among_real_runs(tmp_path: Path) -> None:
    small = ["data=sample", "data.train_size=200", "data.validation_size=100", "epochs=1", "model.units=[8]"]
    command = [
        sys.executable,
        "-m",
        "nnexp",
        "study=search",
        *small,
        "hydra/launcher=basic",
        "hydra.sweeper.n_trials=2",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_csv(tmp_path / "outputs" / "results.csv")
    assert f"validation {table['validation_accuracy'].max():.4f}  (" in done.stdout
    assert table["units"].tolist() == ["[8]", "[8]"]

"""What the tests on clusters share; `make test-cluster` installs what they need and runs them, `make test` does not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from machines import Ray, Slurm, find_what_slurm_lacks, kill_tree, list_descendants

FAKE = Path(__file__).parents[1] / "fake_training"
SWEEP = (
    "-m",
    "seed=range(4)",
    "dropout=0,0.2,0.5",
    "data=sample",
    "data.train_size=1500",
    "model.units=[24]",
    "epochs=60",
)
"""Twelve cells of about two seconds each."""


class Shell:
    """A directory to type nnexp in; with fake=True nothing is trained (tests/fake_training)."""

    def __init__(self, directory: Path, environment: Mapping[str, str], fake: bool) -> None:
        self.directory = directory
        self.outputs = directory / "outputs"
        self.log = directory / "started.log"
        self.environment = dict(environment)
        self._processes: list[subprocess.Popen[str]] = []
        directory.mkdir(exist_ok=True)
        if fake:
            self.environment |= {"PYTHONPATH": str(FAKE), "FAKE_LOG": str(self.log)}

    def start(self, *arguments: str, **fake: object) -> subprocess.Popen[str]:
        variables = {f"FAKE_{name.upper()}": str(value) for name, value in fake.items()}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-m", "nnexp", *arguments],
            cwd=self.directory,
            env=self.environment | variables,
            start_new_session=True,
            **pipes,
        )
        self._processes.append(process)
        return process

    def type(self, *arguments: str, **fake: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **fake)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def read_table(self) -> pd.DataFrame:
        return pd.read_csv(self.outputs / "results.csv").sort_values(["seed", "dropout"], ignore_index=True)

    def count_rows(self) -> int:
        table = self.outputs / "results.csv"
        return max(0, table.read_text().count("\n") - 1) if table.exists() else 0

    def list_started(self) -> list[int]:
        """The seeds of the faked runs that were started, in order."""
        return [int(line.split()[0]) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def list_claims(self) -> list[Path]:
        return list((self.outputs / ".ledger" / "claims").iterdir())

    def close(self) -> None:
        for process in self._processes:
            for pid in list_descendants(process.pid)[1:]:
                kill_tree(pid)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(ValueError):  # its output has been read
                process.communicate()


OpenShell = Callable[..., Shell]


@pytest.fixture
def open_shell(tmp_path: Path, plain_environment: dict[str, str]) -> Iterator[OpenShell]:
    """A function (name="shell", fake=True, **variables) that opens a Shell."""
    shells = []

    def open_one(name: str = "shell", fake: bool = True, **variables: str) -> Shell:
        shells.append(Shell(tmp_path / name, plain_environment | variables, fake))
        return shells[-1]

    yield open_one
    for shell in shells:
        shell.close()


@pytest.fixture(scope="session")
def serial_rows(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> pd.DataFrame:
    """The rows of the sweep, run here one after another."""
    shell = Shell(tmp_path_factory.mktemp("serial"), plain_environment, fake=False)
    done = shell.type(*SWEEP)
    assert done.returncode == 0, done.stderr
    return shell.read_table()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes of Slurm, up."""
    if problem := find_what_slurm_lacks():
        pytest.skip(problem)
    pytest.importorskip("submitit", reason='needs pip install "nnexp[slurm]"')
    machine = Slurm(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def ray(tmp_path: Path, plain_environment: dict[str, str]) -> Iterator[Ray]:
    """Two nodes of Ray, up."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason='needs pip install "nnexp[ray]"')
    machine = Ray(tmp_path / "ray", plain_environment)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


def assert_same_rows(rows: pd.DataFrame, serial: pd.DataFrame) -> None:
    """Each cell has one row, finished, equal to the serial sweep's but for time."""
    different = ["started_at", "seconds", "train_seconds", "git_commit"]  # the last where files are being edited
    pd.testing.assert_frame_equal(rows.drop(columns=different), serial.drop(columns=different), check_exact=True)
    assert set(rows["status"]) == {"finished"} and rows["weights_sha256"].is_unique

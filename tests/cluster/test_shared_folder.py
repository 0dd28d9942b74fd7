"""Machines that share nothing but the folder: processes in namespaces of their own, as in containers on two hosts.

Each has its own numbers of processes, host name, shared memory and temporary folder. What they cannot show is a network
file system's own locks: both are on one kernel (docs/scaling.md says how to try them).
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import FAKE, kill_tree
from machines import wait_until

pytestmark = pytest.mark.cluster
ALONE = ("unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc")
START = 'hostname "$1"; mount -t tmpfs tmpfs "$2" && shift 2 && exec "$@"'


class Machines:
    """Starts nnexp on machines that see the folder."""

    def __init__(self, folder: Path, private: Path) -> None:
        self.folder = folder
        self.log = folder / "started.log"
        self._private = private
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, name: str, *arguments: str, **fake: object) -> subprocess.Popen[str]:
        environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment |= {"PYTHONPATH": str(FAKE), "FAKE_LOG": str(self.log), "TMPDIR": str(self._private)}
        environment |= {f"FAKE_{key.upper()}": str(value) for key, value in fake.items()}
        nnexp = [sys.executable, "-m", "nnexp", *arguments, "data=sample", "epochs=1"]
        command = [*ALONE, "sh", "-c", START, "sh", name, str(self._private), *nnexp]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=environment, **pipes))
        return self.processes[-1]

    def list_started(self) -> list[tuple[int, int]]:
        """Seed and number of process of every run that was started."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(seed), int(process)) for seed, process in (line.split() for line in lines)]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    if os.geteuid() != 0 or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("machines of their own need root, and unshare")
    (tmp_path / "folder").mkdir()
    (tmp_path / "private").mkdir()
    machines = Machines(tmp_path / "folder", tmp_path / "private")
    yield machines
    for process in machines.processes:
        kill_tree(process.pid)
        process.communicate()


def test_machines_that_share_only_the_folder_divide_a_sweep_between_them(machines: Machines) -> None:
    sweeps = [machines.start(name, "-m", "seed=range(12)", seconds=0.2) for name in ("alpha", "beta", "gamma")]
    outputs = [sweep.communicate(timeout=120) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0, 0], outputs
    assert all("12 finished, 0 failed" in out for out, _ in outputs)
    started = machines.list_started()
    assert Counter(seed for seed, _ in started) == dict.fromkeys(range(12), 1)
    assert len({process for _, process in started}) == 1  # on each machine the first process: the numbers tell nothing
    table = pd.read_csv(machines.folder / "outputs" / "results.csv")
    assert sorted(table["seed"]) == list(range(12)) and set(table["status"]) == {"finished"}
    left = [*machines.folder.glob("outputs/.ledger/claims/*"), *machines.folder.rglob("*.tmp")]
    assert left == []


def test_a_machine_that_dies_gives_its_run_to_another(machines: Machines) -> None:
    dying = machines.start("alpha", "-m", "seed=0,1", seconds=60)
    wait_until(machines.list_started, "a run")
    other = machines.start("beta", "-m", "seed=0,1", seconds=0.1)
    wait_until(lambda: len(machines.list_started()) == 2, "the other run")  # seed=0 is being run, so seed=1
    kill_tree(dying.pid)
    out, err = other.communicate(timeout=60)
    assert other.returncode == 0, out + err
    assert [seed for seed, _ in machines.list_started()] == [0, 1, 0]
    assert sorted(pd.read_csv(machines.folder / "outputs" / "results.csv")["status"]) == ["finished", "finished"]

"""The promises of hydra/launcher=slurm, on a real Slurm of two nodes without accounting (conftest.py starts it)."""

import os
import re
import signal
from collections import Counter

import pandas as pd
import pytest
from conftest import SWEEP, OpenShell, Shell, assert_same_rows
from machines import MAX_ARRAY, Slurm, wait_until

from nnexp.ledger import DIED

pytestmark = pytest.mark.cluster
SLURM = (
    "data=sample",
    "epochs=1",
    "hydra/launcher=slurm",
    "hydra.launcher.mem_gb=2",
    f"hydra.launcher.max_jobs={MAX_ARRAY - 1}",
)


@pytest.fixture
def shell(open_shell: OpenShell, slurm: Slurm) -> Shell:
    """A login node of the cluster."""
    return open_shell(**slurm.variables)


def test_a_node_that_is_killed_costs_a_sweep_no_result(
    open_shell: OpenShell, slurm: Slurm, serial_rows: pd.DataFrame
) -> None:
    shell = open_shell(fake=False, **slurm.variables)
    process = shell.start(*SWEEP, *SLURM[2:], "hydra.launcher.cells=3")
    wait_until(lambda: shell.count_rows() >= 3, "three results", 120)
    slurm.kill_node("n2")
    wait_until(lambda: slurm.hurry() or process.poll() is not None, "the end of the sweep", 240)
    slurm.start_node("n2")
    out, err = process.communicate()
    assert shell.type(*SWEEP, *SLURM[2:]).returncode == 0, out + err
    assert_same_rows(shell.read_table(), serial_rows)
    assert not shell.list_claims()


def test_a_cell_that_dies_hard_costs_that_cell_only(shell: Shell) -> None:
    done = shell.type("-m", "seed=range(6)", *SLURM, "hydra.launcher.cells=3", die=1)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert shell.read_table()["error"].fillna("").tolist() == ["", DIED, "", "", "", ""]
    assert Counter(shell.list_started()) == {
        0: 1,
        1: 2,
        2: 1,
        3: 1,
        4: 1,
        5: 1,
    }  # the one that died: with others, alone
    assert f"failed: seed=1: {DIED}" in done.stdout and "5 finished, 1 failed" in done.stdout
    assert not shell.list_claims()


def test_a_sweep_of_more_cells_than_an_array_may_have_jobs_fits(shell: Shell) -> None:
    done = shell.type("-m", "seed=range(10)", *SLURM, "hydra.launcher.cells=1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [re.match(r"\[(\d+)/10\]", line)[1] for line in lines] == [str(number) for number in range(1, 11)]
    assert Counter(shell.list_started()) == dict.fromkeys(range(10), 1)
    processes = {line.split()[1] for line in shell.log.read_text().splitlines()}
    assert len(processes) == 3 == MAX_ARRAY - 1
    assert not (shell.outputs / ".slurm").exists()


def test_jobs_that_wait_write_their_rows_though_the_driver_was_killed(shell: Shell, slurm: Slurm) -> None:
    process = shell.start("-m", "seed=range(6)", *SLURM, "hydra.launcher.cells=2", seconds=1)
    wait_until(lambda: shell.list_started(), "a run")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not slurm.list_jobs(), "the end of the jobs")
    assert shell.read_table()["status"].tolist() == ["finished"] * 6
    again = shell.type("-m", "seed=range(6)", *SLURM)
    assert again.returncode == 0 and "6 cells, 6 finished, 0 failed before, 0 to run" in again.stdout


def test_a_stopped_sweep_takes_its_jobs_back_and_is_gone_on_with(shell: Shell, slurm: Slurm) -> None:
    process = shell.start("-m", "seed=range(6)", *SLURM, "hydra.launcher.cells=2", seconds=2)
    wait_until(lambda: shell.count_rows() >= 1, "a result")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + err
    assert re.search(r"stopped with [345] of 6 runs to do; type the same command to go on\n", err)
    assert not shell.list_claims() and set(shell.read_table()["status"]) == {"finished"}
    wait_until(lambda: not slurm.list_jobs(), "the end of the jobs")
    assert shell.type("-m", "seed=range(6)", *SLURM).returncode == 0
    assert shell.read_table()["seed"].tolist() == list(range(6))


def test_what_slurm_refuses_is_said_in_a_line(shell: Shell) -> None:
    done = shell.type("-m", "seed=0,1", *SLURM, "hydra.launcher.partition=nowhere")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "nnexp: the launcher broke down before a run began: "
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert "Traceback" not in done.stderr

"""The promises of hydra/launcher=ray, on a Ray that nnexp starts and on a cluster of two nodes (conftest.py)."""

import signal
from collections import Counter

import pandas as pd
import pytest
from conftest import SWEEP, OpenShell, Shell, assert_same_rows
from machines import RAY_VARIABLES, Ray, wait_until

from nnexp.ledger import DIED

pytestmark = pytest.mark.cluster
RAY = ("data=sample", "epochs=1", "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")


@pytest.fixture
def shell(open_shell: OpenShell) -> Shell:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason='needs pip install "nnexp[ray]"')
    return open_shell(**RAY_VARIABLES)


def test_a_node_that_is_killed_costs_a_sweep_no_result(
    open_shell: OpenShell, ray: Ray, serial_rows: pd.DataFrame
) -> None:
    shell = open_shell(fake=False)
    command = (*SWEEP, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray.address}", "hydra.launcher.cells=2")
    process = shell.start(*command)
    wait_until(lambda: shell.count_rows() >= 3, "three results", 240)
    ray.kill_node()
    out, err = process.communicate(timeout=240)
    assert shell.type(*command).returncode == 0, out + err
    assert_same_rows(shell.read_table(), serial_rows)
    assert not shell.list_claims()
    assert not list(ray.directory.glob("outputs"))  # where the nodes were started


def test_a_cell_that_dies_hard_costs_that_cell_only(shell: Shell) -> None:
    done = shell.type("-m", "seed=range(6)", *RAY, "hydra.launcher.cells=3", die=1)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert shell.read_table()["error"].fillna("").tolist() == ["", DIED, "", "", "", ""]
    assert Counter(shell.list_started()) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert f"failed: seed=1: {DIED}" in done.stdout and "5 finished, 1 failed" in done.stdout
    assert not shell.list_claims()


def test_a_stopped_sweep_leaves_nothing_half_done_and_is_gone_on_with(shell: Shell) -> None:
    process = shell.start("-m", "seed=range(6)", *RAY, seconds=2)
    wait_until(lambda: shell.count_rows() >= 1, "a result")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + err
    assert err.endswith("of 6 runs to do; type the same command to go on\n")
    assert not shell.list_claims() and set(shell.read_table()["status"]) == {"finished"}
    assert shell.type("-m", "seed=range(6)", *RAY).returncode == 0
    assert shell.read_table()["seed"].tolist() == list(range(6))


def test_a_job_that_no_node_can_take_ends_the_sweep_at_once(shell: Shell) -> None:
    done = shell.type("-m", "seed=0,1", *RAY, "threads=3")
    assert done.returncode == 1
    message = (
        "nnexp: the launcher broke down before a run began: a job needs 3 cores, and no node of Ray has more than 2\n"
    )
    assert done.stderr == message

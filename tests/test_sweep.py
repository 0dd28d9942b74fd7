"""The promises of a sweep, in processes of its own; what a run does is faked (tests/fake_training) in all but one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from nnexp.compose import Composer, build_config_loader, pack_cells, unpack_cells
from nnexp.ledger import DIED

FAKE = Path(__file__).parent / "fake_training"
LOCAL = ["hydra/launcher=local", "hydra.launcher.n_jobs=2"]
BOTH = pytest.mark.parametrize("launcher", [[], LOCAL], ids=["serial", "local"])


class Shell:
    """A directory to type nnexp in, with faked runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outputs = directory / "outputs"
        self.log = directory / "started.log"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **fake: object) -> subprocess.Popen[str]:
        variables = {f"FAKE_{name.upper()}": str(value) for name, value in fake.items()}
        environment = os.environ | {"PYTHONPATH": str(FAKE), "FAKE_LOG": str(self.log)} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", "nnexp", *arguments, "data=sample", "epochs=1"],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a session of its own: SIGINT is heard, and what is left of it can be counted
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            for left in list_session(process.pid):
                os.kill(left, signal.SIGKILL)
            with suppress(ValueError):  # its output has been read
                process.communicate()

    def type(self, *arguments: str, **fake: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **fake)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def list_started(self) -> list[int]:
        """The seeds of the runs that were started, in order."""
        return [int(line.split()[0]) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def read_table(self) -> pd.DataFrame:
        return pd.read_csv(self.outputs / "results.csv").sort_values("seed")

    def list_claims(self) -> list[Path]:
        return list((self.outputs / ".ledger" / "claims").iterdir())

    def read_record(self, seed: int) -> dict[str, object]:
        [path] = self.outputs.glob(f"runs/*-s{seed}-*/result.json")
        return json.loads(path.read_bytes())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def list_session(session: int) -> list[int]:
    """The processes that a command has started, as far as they live."""
    alive = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == session and state != "Z":
            alive.append(int(path.name))
    return alive


# the whole grid first


def test_all_wrong_cells_are_reported_at_once_and_nothing_is_run(shell: Shell) -> None:
    done = shell.type("-m", "seed=0,-1,-2", "dropout=0,1.5", "model=mlp,linear", "batch_size=16")
    assert done.returncode == 2
    assert "seed: expected an integer from 0 to 2147483647; received -1" in done.stderr
    assert "received -2" in done.stderr and "dropout: expected a number in [0, 1); received 1.5" in done.stderr
    assert "(cells: seed=-1 dropout=0 model=mlp; seed=-1 dropout=0 model=linear;" in done.stderr
    assert done.stderr.endswith("Nothing was run.\n") and "Traceback" not in done.stderr
    assert not shell.outputs.exists() and not shell.log.exists()


def test_settings_that_do_not_go_together_are_found_before_anything_runs(shell: Shell) -> None:
    done = shell.type("-m", "model=mlp,linear", "dropout=0,0.5", "seed=0,1")
    assert done.returncode == 2
    assert "there is nothing to drop" in done.stderr
    assert "(cells: model=linear dropout=0.5 seed=0; model=linear dropout=0.5 seed=1)" in done.stderr
    assert not shell.outputs.exists() and not shell.log.exists()


def test_what_a_sweep_cannot_vary_is_said(shell: Shell) -> None:
    done = shell.type("-m", "threads=1,2")
    assert (done.returncode, shell.outputs.exists()) == (2, False)
    assert "threads: expected one value for the whole sweep; received [1, 2]" in done.stderr


def test_the_plan_counts_cells_and_estimates_the_time(shell: Shell) -> None:
    first = shell.type("-m", "seed=0,1,2", **{"raise": "2"})
    assert first.stdout.startswith("3 cells, 0 finished, 0 failed before, 3 to run, no estimate of the time before")
    second = shell.type("-m", "seed=range(5)")
    assert re.match(r"5 cells, 2 finished, 1 failed before, 3 to run, about \d+ s\n", second.stdout)


def test_runs_on_other_data_are_no_estimate(shell: Shell) -> None:
    shell.type("seed=0")
    command = [sys.executable, "-m", "nnexp", "-m", "seed=0,1", "dry_run=true"]
    planned = subprocess.run(command, cwd=shell.directory, capture_output=True, text=True)
    assert "2 to run, no estimate of the time before the first run" in planned.stdout, planned.stderr


def test_a_dry_run_lists_the_cells_and_leaves_nothing(shell: Shell) -> None:
    fresh = shell.type("-m", "seed=0,1", "dry_run=true")
    assert fresh.returncode == 0 and "2 to run" in fresh.stdout
    assert not shell.outputs.exists()
    shell.type("-m", "seed=0,1", **{"raise": "1"})
    before = {path: path.stat().st_mtime_ns for path in shell.outputs.rglob("*")}
    planned = shell.type("-m", "seed=0,1,2", "dry_run=true")
    assert {path: path.stat().st_mtime_ns for path in shell.outputs.rglob("*")} == before
    states = [line.split("  ")[1].strip() for line in planned.stdout.splitlines()[1:]]
    assert states == ["finished", "failed before", "to run"]
    assert shell.list_started() == [0, 1]


def test_cells_that_are_the_same_run_are_run_once(shell: Shell) -> None:
    done = shell.type("-m", "seed=0,1,0", "l2=0.001,1e-3", "model=mlp,deep", "model.units=[128]")
    assert done.stdout.startswith("2 cells, ")
    assert Counter(shell.list_started()) == {0: 1, 1: 1}
    assert done.returncode == 0


# only what is missing


@BOTH
def test_the_same_command_again_runs_only_what_is_missing(shell: Shell, launcher: list[str]) -> None:
    assert shell.type("-m", "seed=0,1", *launcher).returncode == 0
    assert shell.type("-m", "seed=range(4)", *launcher).returncode == 0
    finished = shell.type("-m", "seed=range(4)", *launcher)
    assert finished.stdout.startswith("4 cells, 4 finished, 0 failed before, 0 to run\n")
    assert Counter(shell.list_started()) == dict.fromkeys(range(4), 1)
    assert shell.read_table()["seed"].tolist() == [0, 1, 2, 3]


def test_a_single_run_and_a_sweep_share_a_cell(shell: Shell) -> None:
    shell.type("seed=1")
    shell.type("-m", "seed=0,1")
    again = shell.type("seed=0")
    assert "already finished; force=true runs it again" in again.stdout
    assert shell.list_started() == [1, 0]


def test_force_runs_finished_cells_again(shell: Shell) -> None:
    shell.type("-m", "seed=0,1")
    first = shell.read_record(0)["started_at"]
    assert shell.type("-m", "seed=0,1", "force=true").returncode == 0
    assert Counter(shell.list_started()) == {0: 2, 1: 2}
    assert shell.read_record(0)["started_at"] > first
    assert shell.read_table()["seed"].tolist() == [0, 1]


def test_a_run_again_that_comes_to_other_weights_says_so(shell: Shell) -> None:
    shell.type("seed=1")
    assert not shell.type("seed=1", "force=true").stderr
    [path] = shell.outputs.glob("runs/*/result.json")
    for file in (path, shell.outputs / "results.csv"):
        file.write_text(file.read_text().replace(f"{1:064x}", "f" * 64))
    again = shell.type("seed=1", "force=true")
    assert again.returncode == 0
    assert re.fullmatch(
        rf"{path.parent.name}: run again, .* nnexp-results reproduce {path.parent.name}\n", again.stderr
    )
    assert "run again, it came to other weights" in (path.parent / "run.log").read_text()


@pytest.mark.parametrize(
    ("launcher", "how"),
    [([], "raise"), ([], "die"), (LOCAL, "raise"), (LOCAL, "die")],
    ids=["serial", "serial-die", "local", "local-die"],
)
def test_a_forced_cell_that_fails_is_said_to_fail_and_keeps_its_result(
    shell: Shell, launcher: list[str], how: str
) -> None:
    shell.type("-m", "seed=0,1")
    done = shell.type("-m", "seed=0,1", "force=true", *launcher, **{how: 1})
    assert done.returncode == 1
    assert "1 finished, 1 failed" in done.stdout and "failed: seed=1" in done.stdout
    assert shell.read_table()["status"].tolist() == ["finished", "finished"]
    assert shell.type("-m", "seed=0,1").stdout.endswith(
        f"2 finished, 0 failed; all are in {shell.outputs}/results.csv\n"
    )


def test_failed_cells_are_tried_again(shell: Shell) -> None:
    assert shell.type("-m", "seed=0,1", **{"raise": "0"}).returncode == 1
    again = shell.type("-m", "seed=0,1")
    assert again.returncode == 0
    assert "2 cells, 1 finished, 1 failed before, 1 to run" in again.stdout
    assert shell.list_started() == [0, 1, 0]
    assert shell.read_table()["status"].tolist() == ["finished", "finished"]


# several cells a job, as on clusters (tests/cluster runs them there)


def test_a_job_runs_the_cells_that_it_carries_beside_its_first(shell: Shell) -> None:
    _, word = pack_cells([["seed=0"], ["seed=1", "data=sample", "epochs=1"], ["seed=2", "data=sample", "epochs=1"]])
    assert shell.type("-m", "seed=0", word, **{"raise": 1}).returncode == 0  # the sweep knows of seed=0 alone
    assert shell.list_started() == [0, 1, 2]
    assert shell.read_table()["status"].tolist() == ["finished", "failed", "finished"]
    assert shell.read_record(2)["command"] == "nnexp seed=2 data=sample epochs=1"


def test_a_job_carries_any_cell_unchanged() -> None:
    cells = [
        ["seed=0"],
        ["outputs='a b'", "model.units=[64, 8]", "+x=\"'${y}\\\\'\""],
        ["experiment=größer", "l2=1e-3"],
    ]
    *first, word = pack_cells(cells)
    [override] = Composer(build_config_loader(None)).parse([word])
    assert first == cells[0] and unpack_cells(override.value()) == cells[1:]
    assert pack_cells(cells[:1]) == cells[0] and unpack_cells(None) == []


# failures


@BOTH
def test_a_cell_that_raises_is_reported_and_the_others_go_on(shell: Shell, launcher: list[str]) -> None:
    done = shell.type("-m", "seed=range(4)", *launcher, **{"raise": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    reason = "ValueError: seed 1 cannot be trained"
    assert re.search(rf"^\[\d/4\] seed=1  failed: {reason}$", done.stdout, re.M)
    account = done.stdout[done.stdout.index("3 finished, 1 failed") :]
    assert f"failed: seed=1: {reason}  (log: " in account
    log = Path(re.search(r"\(log: (.*)\)", account)[1]).read_text()
    assert "Traceback" in log and reason in log
    assert shell.read_table()["status"].tolist() == ["finished", "failed", "finished", "finished"]


def test_a_failure_is_reported_when_it_happens(shell: Shell) -> None:
    process = shell.start("-m", "seed=0,1", seconds=3, **{"raise": "0"})
    lines = [process.stdout.readline() for _ in range(2)]
    assert "seed=0  failed: ValueError" in lines[1]
    assert not list(shell.outputs.glob("runs/*-s1-*/result.json"))
    process.communicate()
    assert process.returncode == 1


@BOTH
def test_fail_fast_stops_at_the_first_failure(shell: Shell, launcher: list[str]) -> None:
    done = shell.type("-m", "seed=range(8)", "fail_fast=true", *launcher, seconds=1, **{"raise": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert len(shell.list_started()) <= 4
    assert "type the same command to go on" in done.stderr and "failed: seed=1" in done.stdout
    assert not shell.list_claims()
    assert shell.type("-m", "seed=range(8)").returncode == 0


@BOTH
def test_a_cell_that_kills_its_process_costs_a_sweep_that_cell_only(shell: Shell, launcher: list[str]) -> None:
    done = shell.type("-m", "seed=range(5)", *launcher, die=2)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert shell.read_table()["error"].fillna("").tolist() == ["", "", DIED, "", ""]
    assert f"failed: seed=2: {DIED}" in done.stdout and "4 finished, 1 failed" in done.stdout
    assert Counter(shell.list_started())[2] == 2  # with the others, and alone
    assert not shell.list_claims()


def test_a_worker_that_is_killed_as_it_answers_does_not_hang_the_sweep(shell: Shell) -> None:
    done = shell.type("-m", "seed=range(4)", *LOCAL, cut=1)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    assert shell.read_table()["status"].tolist() == ["finished"] * 4
    assert Counter(shell.list_started())[1] == 1


def test_two_cells_that_kill_their_processes_are_both_found(shell: Shell) -> None:
    done = shell.type("-m", "seed=range(6)", *LOCAL, die="0,3", seconds=0.3)
    assert done.returncode == 1
    assert shell.read_table()["status"].tolist() == ["failed" if seed in (0, 3) else "finished" for seed in range(6)]


def test_a_serial_sweep_trains_in_one_other_process_which_ends_with_it(shell: Shell, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    process = shell.start("-m", "seed=range(4)", hold=hold)
    wait_until(lambda: shell.list_started() == [0])
    [pid] = {line.split()[1] for line in shell.log.read_text().splitlines()}
    assert pid != str(process.pid)
    process.kill()
    wait_until(lambda: not Path("/proc", pid).exists())
    again = shell.type("-m", "seed=range(4)")
    assert again.returncode == 0 and "0 finished, 1 failed before, 4 to run" in again.stdout
    assert shell.list_started() == [0, 1, 2, 3, 0]  # the one that was cut off may be what kills, and comes last
    assert len({line.split()[1] for line in shell.log.read_text().splitlines()[1:4]}) == 1


# stopping


@BOTH
@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "Ctrl-C"])
def test_a_stopped_sweep_says_how_to_go_on_and_leaves_nothing_half_done(
    shell: Shell, launcher: list[str], stop: str
) -> None:
    process = shell.start("-m", "seed=range(8)", *launcher, seconds=0.5)
    wait_until(lambda: len(shell.list_started()) >= 4)
    if stop == "Ctrl-C":  # a terminal sends it to every process of the command
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.Signals[stop])
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert re.fullmatch(r"stopped with \d of 8 runs to do; type the same command to go on\n", err)
    wait_until(lambda: not list_session(process.pid), 10)
    assert not shell.list_claims() and not list(shell.outputs.rglob("*.tmp"))
    table = shell.read_table()
    assert 2 <= len(table) < 8 and set(table["status"]) == {"finished"}
    again = shell.type("-m", "seed=range(8)", *launcher)
    assert again.returncode == 0 and f"8 cells, {len(table)} finished, 0 failed before" in again.stdout


@BOTH
def test_ctrl_c_pressed_twice_is_as_good_as_once(shell: Shell, launcher: list[str]) -> None:
    process = shell.start("-m", "seed=range(8)", *launcher, seconds=1)
    wait_until(lambda: len(shell.list_started()) >= 2)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.03)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the last one may find Python on its way out
    assert re.fullmatch(r"stopped with \d of 8 runs to do; type the same command to go on\n", err), err
    wait_until(lambda: not list_session(process.pid), 10)
    assert not shell.list_claims()


def test_a_terminal_that_closes_stops_a_sweep_in_order(shell: Shell) -> None:
    process = shell.start("-m", "seed=range(8)", *LOCAL, seconds=1)
    wait_until(lambda: len(shell.list_started()) >= 2)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not shell.list_claims()


# several at once


@pytest.mark.parametrize("launcher", [[], LOCAL], ids=["serial", "local"])
def test_two_sweeps_at_once_share_the_cells_they_have_in_common(shell: Shell, launcher: list[str]) -> None:
    sweeps = [shell.start("-m", f"seed={seeds}", *launcher, seconds=0.3) for seeds in ("range(0,8)", "range(11,3,-1)")]
    outputs = [sweep.communicate(timeout=120) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    assert Counter(shell.list_started()) == dict.fromkeys(range(12), 1)
    assert all("8 finished, 0 failed" in out for out, _ in outputs)
    assert shell.read_table()["seed"].tolist() == list(range(12))


def test_a_sweep_waits_for_a_run_that_another_is_doing(shell: Shell, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    single = shell.start("seed=0", hold=hold)
    wait_until(lambda: bool(shell.list_started()))
    sweep = shell.start("-m", "seed=0,1")
    assert sweep.stderr.readline() == "waiting for 1 runs that another nnexp is doing\n"
    hold.unlink()
    sweep.communicate()
    single.communicate()
    assert (sweep.returncode, single.returncode) == (0, 0)
    assert Counter(shell.list_started()) == {0: 1, 1: 1}


def test_a_run_that_another_process_is_doing_is_not_done_twice(shell: Shell, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    first = shell.start("seed=0", hold=hold)
    wait_until(lambda: bool(shell.list_started()))
    second = shell.type("seed=0")
    assert second.returncode == 1 and "another process is running" in second.stderr
    hold.unlink()
    assert first.communicate() and first.returncode == 0
    assert shell.list_started() == [0]


@BOTH
def test_a_claim_that_kill_9_left_behind_does_not_block(shell: Shell, launcher: list[str]) -> None:
    process = shell.start("-m", "seed=0,1,2", *launcher, seconds=60)
    wait_until(lambda: bool(shell.list_started()))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert shell.list_claims()
    again = shell.type("-m", "seed=0,1,2", *launcher)
    assert again.returncode == 0 and not shell.list_claims()
    assert shell.read_table()["status"].tolist() == ["finished"] * 3


def test_an_edited_table_does_not_stop_a_sweep(shell: Shell) -> None:
    shell.type("-m", "seed=0,1")
    table = shell.outputs / "results.csv"
    rows = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join([rows[0], rows[1].replace(b",0.5,0.1.0", b",0;5 \xe9,0.1.0"), rows[2]]))
    done = shell.type("-m", "seed=0,1,2")
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
@pytest.mark.parametrize("launcher", [[], LOCAL, None], ids=["serial", "local", "alone"])
def test_a_full_disk_ends_with_a_clear_error_and_is_healed_by_the_next_command(
    shell: Shell, launcher: list[str] | None
) -> None:
    shell.outputs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(shell.outputs)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be made here")
    command = ["seed=1"] if launcher is None else ["-m", "seed=0,1", *launcher]
    try:
        assert shell.type("seed=0").returncode == 0
        table = (shell.outputs / "results.csv").read_bytes()
        filler = shell.outputs / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        full = shell.type(*command)
        assert full.returncode == 1 and "Traceback" not in full.stdout + full.stderr
        assert "No space left on device" in full.stderr and "was recorded before is intact" in full.stderr
        assert (shell.outputs / "results.csv").read_bytes() == table
        filler.unlink()
        assert shell.type(*command).returncode == 0
        assert shell.read_table()["seed"].tolist() == [0, 1]
        assert not shell.list_claims()
    finally:
        subprocess.run(["umount", "-l", str(shell.outputs)], check=True)


# and once without the fake


def test_a_real_sweep_records_a_cell_that_diverges_and_the_one_that_does_not(tmp_path: Path) -> None:
    arguments = ["data=sample", "data.train_size=200", "epochs=1", "optimizer=sgd"]
    command = [sys.executable, "-m", "nnexp", "-m", *arguments, "optimizer.learning_rate=1e30,0.1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "optimizer.learning_rate=1e+30  failed: DivergedError: " in done.stdout.replace("1e30", "1e+30")
    table = pd.read_csv(tmp_path / "outputs" / "results.csv").sort_values("learning_rate")
    assert table["status"].tolist() == ["finished", "failed"]
    assert table["train_accuracy"].iloc[0] > 0.1

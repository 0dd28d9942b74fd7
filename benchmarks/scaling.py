"""What a run costs beside its training on each launcher, and what thousands of runs come to.  make bench-scaling

Prints the tables of docs/scaling.md. The first part starts a Slurm and a Ray of two nodes here (tests/cluster) where it
can; its runs train nothing (tests/fake_training), or the lesson's network on the sample. The second writes ledgers of
many synthetic runs and times on them what a sweep and its readers do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest import mock

import pandas as pd
from bench_ledger import add_runs

from nnexp.ledger import Ledger

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS), str(TESTS / "cluster")]
from ledgers import make_config, make_result, write_many  # noqa: E402  (the tests' own, from the path above)
from machines import Ray, Slurm, find_what_slurm_lacks  # noqa: E402

SAMPLE = ("data=sample", "epochs=1")
REAL = ("data=sample", "epochs=100")  # of the lesson's network
TIMED = 12  # real runs that are timed
FEW, MANY = 4, 44  # runs of two sweeps; what the second takes longer is the cost of the runs in between
SEEDS = 10  # of each setting in a synthetic ledger
ADDED = 50  # runs that are added to one


@dataclass
class Place:
    """Where a sweep runs: its name in the table, what is typed for it, and the environment that it needs."""

    name: str
    arguments: Sequence[str]
    variables: dict[str, str]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["launchers", "throughput", "ledger", "all"], default="all")
    parser.add_argument("--runs", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="sizes of ledgers")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "launchers": measure_overheads,
        "throughput": measure_throughput,
        "ledger": lambda: measure_ledgers(arguments.runs),
    }
    for name, measure in parts.items():
        if arguments.part in (name, "all"):
            measure()


def sweep(place: Place, directory: Path, *arguments: str) -> float:
    """Type a sweep; returns its seconds."""
    command = [sys.executable, "-m", "nnexp", "-m", *arguments, *place.arguments, f"outputs={directory}"]
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | place.variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{place.name}: expected every run to finish; received\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


# --- launchers --------------------------------------------------------------------------------------------------------


def measure_overheads() -> None:
    """Sweeps of runs that do nothing: what the first takes, and each further one, also in time of this processor.

    The jobs of a cluster are not the command's own processes: of them the processor time is not known.
    """
    print("| launcher | one run takes | each further run | of it, processor |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        fake = {"PYTHONPATH": str(TESTS / "fake_training"), "FAKE_SECONDS": "0", "FAKE_LOG": f"{directory}/log"}
        for number, place in enumerate(open_places(Path(directory), fake)):
            walls, processors = [], []
            for runs in (1, FEW, MANY):
                before = sum(os.times()[:4])
                walls.append(sweep(place, Path(directory, f"{number}-{runs}"), f"seed=range({runs})", *SAMPLE))
                processors.append(sum(os.times()[:4]) - before)
            wall, processor = (1e3 * (times[2] - times[1]) / (MANY - FEW) for times in (walls, processors))
            used = f"{processor:.0f} ms" if number <= 2 else "-"
            print(f"| {place.name} | {walls[0]:.1f} s | {wall:.0f} ms | {used} |", flush=True)


def open_places(directory: Path, variables: dict[str, str]) -> Iterator[Place]:
    """Every launcher, with what it runs on."""
    yield Place("one after another", (), variables)
    for processes in (1, 2):
        yield Place(f"local, {processes}", ("hydra/launcher=local", f"hydra.launcher.n_jobs={processes}"), variables)
    if problem := find_what_slurm_lacks():
        print(f"(no Slurm: {problem})")
    else:
        with running(Slurm(directory / "slurm", max_array=1001)) as slurm:
            for cells in (1, 10):
                typed = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=2", f"hydra.launcher.cells={cells}")
                yield Place(f"slurm, 2 nodes, cells={cells}", typed, variables | slurm.variables)
    yield Place("ray, started here", ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"), variables)
    with running(Ray(directory / "ray", os.environ | variables)) as ray:
        address = f"hydra.launcher.ray.init.address={ray.address}"
        yield Place("ray, a cluster of 2 nodes", ("hydra/launcher=ray", address), variables)


@contextmanager
def running(machine: Slurm | Ray) -> Iterator[Slurm | Ray]:
    """Start a cluster, and end it."""
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


def measure_throughput() -> None:
    """The same real sweep on one process and on two, after one that fills XLA's cache."""
    with tempfile.TemporaryDirectory() as directory:
        rates = []
        for processes in (1, 2):
            place = Place("local", ("hydra/launcher=local", f"hydra.launcher.n_jobs={processes}"), {})
            sizes = (2, 2, 2 + TIMED)  # the first is not counted
            times = [
                sweep(place, Path(directory, f"{processes}-{turn}"), f"seed=range({size})", *REAL)
                for turn, size in enumerate(sizes)
            ]
            rates.append(60 * TIMED / (times[2] - times[1]))
        print(f"runs a minute: {rates[0]:.1f} on one process, {rates[1]:.1f} on two: {rates[1] / rates[0]:.2f} times")


# --- the ledger -------------------------------------------------------------------------------------------------------


def measure_ledgers(sizes: Sequence[int]) -> None:
    """Ledgers of synthetic runs, ten seeds a setting; times are those of a processor."""
    print("| runs | files | table | a run is added in | plan | table healed | rebuilt | pandas | nnexp-results table |")
    print("| --- " * 9 + "|", flush=True)
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            print(f"| {size:,} | {' | '.join(measure_ledger(Path(directory, 'outputs'), size))} |", flush=True)


def measure_ledger(outputs: Path, size: int) -> list[str]:
    """What one ledger comes to, as cells of the table."""
    dropouts, l2s = list_values(size // SEEDS)
    configs = (
        make_config(dropout=dropout, l2=l2, seed=seed) for dropout, l2, seed in product(dropouts, l2s, range(SEEDS))
    )
    write_many(outputs, ((config, make_result(config)) for config in configs))
    ledger = Ledger(outputs)
    files = sum(len(names) for _, _, names in os.walk(outputs))
    with mock.patch.object(os, "fsync"):  # a disk's own time is not the ledger's
        added = count_seconds(lambda: add_runs(ledger, make_config(epochs=5), range(ADDED))) / ADDED
    grid = [f"dropout={','.join(map(repr, dropouts))}", f"l2={','.join(map(repr, l2s))}", f"seed=range({SEEDS})"]
    here = Place("plan", ("dry_run=true",), {})
    typed = (*grid, "data=sample", "model.units=[32]", "epochs=4")
    results = [sys.executable, "-c", "from nnexp.results import main; main()", "table", "--outputs", str(outputs)]
    return [
        f"{files:,}",
        f"{ledger.table.stat().st_size / 1e6:.1f} MB",
        f"{1e3 * added:.1f} ms",
        f"{count_seconds(lambda: sweep(here, outputs, *typed)):.1f} s",
        f"{count_seconds(ledger.heal):.2f} s",
        f"{count_seconds(ledger.rebuild):.1f} s",
        f"{count_seconds(lambda: pd.read_csv(ledger.table)):.2f} s",
        f"{count_seconds(lambda: subprocess.run(results, check=True, capture_output=True)):.1f} s",
    ]


def count_seconds(call: Callable[[], object]) -> float:
    """Seconds of processor time of a call and of what it starts: the machine may be busy with other things."""
    before = sum(os.times()[:4])
    call()
    return sum(os.times()[:4]) - before


def list_values(settings: int) -> tuple[list[float], list[float]]:
    """Values of dropout and l2 that make so many settings, a multiple of 10."""
    return [index / 1024 for index in range(settings // 10)], [index / 1024 for index in range(10)]


if __name__ == "__main__":
    main()

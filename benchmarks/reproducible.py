"""Do the same settings give the same bits, whatever else the machine does?  make reproducible

Thirty random cells of the whole space of settings, on a part of the sample, run under eight conditions; the tables go
into docs/reproducible.md. Some ten minutes on two quiet cores.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml

from nnexp.ledger import Ledger, Record
from nnexp.provenance import read_provenance
from nnexp.reproduce import TOLERANCE, TOLERANCE_STEPS, find_tolerances

PAGE = Path(__file__).parents[1] / "docs" / "reproducible.md"
BEGIN, END = "<!-- written by benchmarks/reproducible.py: begin -->\n", "<!-- end -->\n"
DRAW_SEED = 8
SCORES = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")

Hashes = dict[str, str]


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=30, help="how many (30)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write the tables into")
    arguments = parser.parse_args()
    started, tables = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), arguments.cells)
        for make_table in (compare_conditions, compare_threads, compare_orders, list_cells):
            tables.append(make_table(bench))
            minutes = (time.perf_counter() - started) / 60
            write_tables(arguments.page, "\n".join([describe_machine(arguments.cells, minutes), *tables]))
            print(tables[-1], flush=True)


def write_tables(page: Path, text: str) -> None:
    """Put the tables in the place of those that the page has."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


# --- the cells --------------------------------------------------------------------------------------------------------


def draw_cell(generator: random.Random) -> dict[str, object]:
    """Draw one legal cell, as the content of an option of `experiment`."""
    choose = generator.choice
    model = choose(["linear", "mlp", "mlp", "deep", "wide", "cnn", "own", "own"])
    optimizer = choose(["adam", "adamw", "sgd", "rmsprop"])
    rate = 10 ** generator.uniform(-3.5, -2.3) * (20 if optimizer == "sgd" else 1)
    validation_size = choose([0, 200])
    own = {"filters": choose([[], [4], [8, 6], [5]]), "units": choose([[20], [33, 17]])} if model == "own" else {}
    return {
        "defaults": [{"override /model": "mlp" if own else model}, {"override /optimizer": optimizer}, *SAMPLE],
        "model": own | {"activation": choose(["relu", "relu", "tanh", "sigmoid", "elu", "gelu"])},
        "optimizer": {"learning_rate": float(f"{rate:.3g}")} | choose(MORE[optimizer]),
        "data": {
            "train_size": choose([200, 300, 333]),
            "validation_size": validation_size,
            "split_seed": generator.randrange(3),
        },
        "dropout": 0.0 if model == "linear" else choose([0.0, 0.2, 0.5]),
        "l2": choose([0.0, 0.0, 0.0001, 0.01]),
        "epochs": choose([2, 3, 4]),
        "batch_size": choose([20, 32, 32, 100]),
        "early_stopping": choose([None, 1, 2]) if validation_size else None,
        "seed": generator.randrange(1000),
        "engine": choose(["compiled", "compiled", "keras"]),
        "xla": choose(["auto", "true", "false"]),
    }


SAMPLE = ({"override /data": "sample"},)
MORE: dict[str, list[dict[str, object]]] = {
    "adam": [{}, {"beta_1": 0.8}],
    "adamw": [{}, {"weight_decay": 0.1}],
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "rmsprop": [{}, {"momentum": 0.5}],
}


class Bench:
    """The cells, and what has been run of them so far."""

    def __init__(self, directory: Path, size: int) -> None:
        generator = random.Random(DRAW_SEED)
        self.names = [f"cell{index:02}" for index in range(size)]
        self._directory = directory
        (directory / "conf" / "experiment").mkdir(parents=True)
        for name in self.names:
            text = f"# @package _global_\n# A cell.\n{yaml.safe_dump(draw_cell(generator), sort_keys=False)}"
            (directory / "conf" / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
        self.runs: dict[str, list[Record]] = {}

    def run(
        self, condition: str, *overrides: str, names: Sequence[str] = (), prefix: Sequence[str] = (), **env: str
    ) -> list[Record]:
        """Run every cell as a sweep into a directory of its own; gives the records in the order of `self.names`."""
        names = names or self.names
        outputs = self._directory / condition.replace(" ", "-")
        command = [*prefix, sys.executable, "-m", "nnexp", "--config-dir", str(self._directory / "conf"), "-m"]
        command += [f"experiment={','.join(names)}", f"outputs={outputs}", *overrides]
        print(f"{condition} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{condition}: expected every cell to finish; received\n{done.stdout}")
        ledger = Ledger(outputs)
        records = [ledger.read_record(path.name) for path in sorted(ledger.runs.iterdir())]
        by_name = {find_name(record): record for record in records if record}
        self.runs[condition] = [by_name[name] | {"outputs": str(outputs)} for name in self.names]
        return self.runs[condition]


def find_name(record: Record) -> str:
    """The cell that a record is of, from its command."""
    [name] = [word.removeprefix("experiment=") for word in record["command"].split() if "experiment=" in word]
    return name


def hashes(records: list[Record]) -> list[str]:
    """The weights of each record."""
    return [record["provenance"]["weights_sha256"] for record in records]


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """A busy loop on every core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


# --- the tables -------------------------------------------------------------------------------------------------------


def compare_conditions(bench: Bench) -> str:
    """Table 1: one thread, as much else as possible different."""
    first = bench.run("basic", "threads=1")
    rows = [("one process, one run after another (`basic`)", first)]
    rows += [
        ("`hydra/launcher=local`, 2 processes", bench.run("local", "hydra/launcher=local", "hydra.launcher.n_jobs=2"))
    ]
    shuffled = random.Random(1).sample(bench.names, len(bench.names))
    rows += [("in another order", bench.run("order", names=shuffled))]
    with busy_cores():
        rows += [("a busy loop on every core beside it", bench.run("busy"))]
    pinned = bench.run("pinned", prefix=("taskset", "-c", "0"), NNEXP_XLA_CACHE="off")
    rows += [("only one core to run on, everything compiled anew", pinned)]
    lines = ["### One thread, the default", "", "| condition | same `weights_sha256` as the first | same scores |"]
    lines += ["| --- | --- | --- |"]
    for name, records in rows:
        same = sum(a == b for a, b in zip(hashes(records), hashes(first), strict=True))
        scores = sum(drop_times(a) == drop_times(b) for a, b in zip(records, first, strict=True))
        lines.append(f"| {name} | {same} of {len(first)} | {scores} of {len(first)} |")
    return "\n".join([*lines, ""])


def drop_times(record: Record) -> dict[str, float]:
    """The scores without the seconds they took."""
    return {key: value for key, value in record["scores"].items() if not key.endswith("seconds")}


def compare_threads(bench: Bench) -> str:
    """Table 2: two threads, by what may matter to them."""
    one, two = bench.runs["basic"], bench.run("two threads", "threads=2")
    with busy_cores():
        again = bench.run("two threads busy", "threads=2")
    frame = pd.DataFrame(
        {
            "kind": [describe_kind(record) for record in one],
            "repeat": [a == b for a, b in zip(hashes(two), hashes(again), strict=True)],
            "one": [a == b for a, b in zip(hashes(one), hashes(two), strict=True)],
        }
    )
    lines = ["### Two threads", "", "| network, engine | run twice, once under load: same | same as with one thread |"]
    lines += ["| --- | --- | --- |"]
    for kind, group in frame.groupby("kind"):
        count = len(group)
        lines.append(f"| {kind} | {group.repeat.sum()} of {count} | {group.one.sum()} of {count} |")
    return "\n".join([*lines, ""])


def describe_kind(record: Record) -> str:
    """The network and the engine of a record, as far as threads may matter."""
    settings = record["settings"]
    network = "convolutions" if settings["model"]["filters"] else "Dense layers only"
    return f"{network}, {settings['engine']}, {'XLA' if settings['xla'] else 'no XLA'}"


def compare_orders(bench: Bench) -> str:
    """Table 3: how far apart scores are when sums are taken in another order."""
    base = bench.runs["basic"]
    flipped = {True: bench.run("xla true", "xla=true"), False: bench.run("xla false", "xla=false")}
    other = [flipped[not record["settings"]["xla"]][index] for index, record in enumerate(base)]
    lines = ["### Sums in another order: where the tolerance comes from", ""]
    lines += ["| compared | pairs | " + " | ".join(f"largest difference in {score}" for score in SCORES)]
    lines[-1] += " | scores beyond the tolerance |"
    lines += ["| --- " * (len(SCORES) + 3) + "|"]
    for name, records in (("with and without XLA", other), ("1 and 2 threads", bench.runs["two threads"])):
        gaps = [{s: abs(a["scores"][s] - b["scores"][s]) for s in SCORES} for a, b in zip(base, records, strict=True)]
        bounds = [find_tolerances(Ledger(record["outputs"]), record, same_weights=False) for record in base]
        beyond = sum(gap[s] > bound[s] for gap, bound in zip(gaps, bounds, strict=True) for s in SCORES)
        largest = " | ".join(f"{max(gap[s] for gap in gaps):.2g}" for s in SCORES)
        lines.append(f"| {name} | {len(base)} | {largest} | {beyond} of {len(base) * len(SCORES)} |")
    rule = f"{TOLERANCE} + {TOLERANCE_STEPS} * the largest change of the score between neighbouring epochs"
    return "\n".join([*lines, "", f"Tolerance: {rule} of the second half of training.", ""])


def list_cells(bench: Bench) -> str:
    """Table 4: what was run."""
    lines = ["### The cells", "", "| run_id | optimizer | batch | l2 | early stopping | engine | XLA | test accuracy |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for record in bench.runs["basic"]:
        settings, accuracy = record["settings"], record["scores"]["test_accuracy"]
        optimizer = f"{settings['optimizer']['name']} {settings['optimizer']['learning_rate']:g}"
        values = (
            record["run_id"],
            optimizer,
            settings["batch_size"],
            f"{settings['l2']:g}",
            settings["early_stopping"],
        )
        values += (settings["engine"], settings["xla"], accuracy)
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join([*lines, ""])


def describe_machine(cells: int, minutes: float) -> str:
    """What the tables were measured on."""
    facts = read_provenance()
    versions = ", ".join(f"{name} {facts[name]}" for name in ("nnexp", "tensorflow", "keras", "numpy", "python"))
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d}: {cells} cells drawn by seed {DRAW_SEED}, {minutes:.0f} minutes, on "
        f"{facts['cores']} cores of {facts['processor']} ({facts['processor_features']}; "
        f"{facts['processor_sha256'][:12]}); {versions}; training version {facts['training_version']}.\n"
    )


if __name__ == "__main__":
    main()

"""Kill a parallel sweep at random moments, type it again until it ends, and see that nothing is lost.  make chaos

A trial is a sweep of twelve small runs on two processes. At a random moment the driver, a worker or every process of
the command is killed with SIGKILL; the same command is typed again, may be killed again, and in the end is let through.
Half of the moments are any second of a sweep (in most of them TensorFlow is being imported), half are within 50 ms of a
row's appearance, where records, rows and claims are being written. Meanwhile a reader watches every CSV file, and reads
with pandas each that has changed. A trial has passed when every read saw whole rows only, every cell has one row,
finished, with the weights of an undisturbed sweep, and no temporary file or claim is left.
"""

import argparse
import csv
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd

SWEEP = ["-m", "seed=range(6)", "dropout=0.2,0.5", "data=sample", "data.train_size=256", "epochs=2", "batch_size=64"]
SWEEP += ["optimizer=sgd", "xla=false"]  # what compiles fastest: a trial is made of processes that start
SWEEP += ["hydra/launcher=local", "hydra.launcher.n_jobs=2"]
CELLS = 12
KINDS = ("driver", "worker", "all")
MAX_KILLS = 3  # a trial's kills; after them the command is let through
SOON = 0.05  # seconds after a row has appeared; a run takes about as long
TIMEOUT = 600  # seconds for one command that is not killed


@dataclass
class Trial:
    """What happened in one trial.

    Attributes:
        kills: of each kill, its kind and the seconds since the command was typed.
        aimed: how many of them waited for a row.
        sessions: the process groups of the killed commands.
        finished: of each kill, how many rows there were by then.
        reads: how often a CSV file was read meanwhile.
        problems: what was not as promised, a line each.
    """

    kills: list[tuple[str, float]] = field(default_factory=list)
    aimed: int = 0
    finished: list[int] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    commands: int = 0
    reads: int = 0
    problems: list[str] = field(default_factory=list)


class Reader:
    """Reads every CSV file below a directory whenever it has changed, in a thread of its own."""

    def __init__(self, outputs: Path) -> None:
        self.reads = 0
        self.problems: list[str] = []
        self._outputs = outputs
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(0.003):
            for path in [self._outputs / "results.csv", *self._outputs.glob("runs/*/history.csv")]:
                if self._has_changed(path):
                    self.problems += read_strictly(path)
                    self.reads += 1

    def _has_changed(self, path: Path) -> bool:
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        changed = self._seen.get(path) != stamp
        self._seen[path] = stamp
        return changed


def read_strictly(path: Path) -> list[str]:
    """Read a CSV file with pandas; returns what is wrong with it, a line each: nothing but whole rows is right."""
    try:
        table = pd.read_csv(path)
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except Exception as error:  # whatever a reader runs into is what is looked for
        return [f"{path.name} could not be read: {error!r}"]
    problems = [f"{path.name} has a torn row: {row}" for row in rows if len(row) != len(header)]
    if path.name == "results.csv" and not set(table["status"]) <= {"finished", "failed"}:
        problems.append(f"{path.name} has a strange status: {sorted(set(table['status']))}")
    return problems


def run_reference(outputs: Path) -> dict[str, str]:
    """Run the sweep undisturbed; returns the weights_sha256 of each run_id."""
    subprocess.run(build_command(outputs), check=True, capture_output=True, timeout=TIMEOUT)
    table = pd.read_csv(outputs / "results.csv")
    assert len(table) == CELLS
    return dict(zip(table["run_id"], table["weights_sha256"], strict=True))


def make_starts_cheap(directory: Path) -> None:
    """Let every process that starts from here on import TensorFlow in three quarters of the time; trains the same.

    Keras imports matplotlib and pandas where it can, for what no run uses; Python collects garbage as it imports.
    """
    directory.mkdir()
    for name in ("matplotlib", "pandas"):
        (directory / f"{name}.py").write_text("raise ImportError('a trial has no use for it')\n")
    (directory / "sitecustomize.py").write_text("import gc\ngc.set_threshold(100_000)\n")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(directory)]))


def build_command(outputs: Path) -> list[str]:
    """The command line of the sweep."""
    return [sys.executable, "-m", "nnexp", *SWEEP, f"outputs={outputs}"]


def run_trial(outputs: Path, reference: dict[str, str], seed: int, longest: float) -> Trial:
    """Kill the sweep one to three times, each within `longest` seconds, then let it end, and look at what is there."""
    draw = random.Random(seed)
    trial = Trial()
    with Reader(outputs) as reader:
        for _ in range(draw.randint(1, MAX_KILLS)):
            kind, moment = draw.choice(KINDS), draw.uniform(0.3, longest)
            more_rows, pause = draw.choice((0, draw.randint(1, CELLS // 2))), draw.uniform(0, SOON)
            if not kill_once(outputs, trial, kind, moment, more_rows, pause):
                break
        end_sweep(outputs, trial)
    for session in trial.sessions:  # workers that have lost their driver wait some minutes for another
        kill(session, "all")
    trial.reads, trial.problems = reader.reads, trial.problems + reader.problems
    trial.problems += list(find_problems(outputs, reference))
    return trial


def kill_once(outputs: Path, trial: Trial, kind: str, moment: float, more_rows: int, pause: float) -> bool:
    """Type the command and kill part of it; returns False where it had ended before.

    Args:
        moment: seconds after it was typed, where `more_rows` is 0.
        more_rows: else the kill waits for so many new rows, and then for `pause` seconds.
    """
    trial.commands += 1
    goal = count_rows(outputs) + more_rows
    process = subprocess.Popen(
        build_command(outputs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    started = time.monotonic()
    while time.monotonic() - started < (TIMEOUT if more_rows else moment):
        if process.poll() is not None:
            return False
        if more_rows and count_rows(outputs) >= goal:
            time.sleep(pause)
            break
        time.sleep(0.002)
    trial.kills.append((kind, round(time.monotonic() - started, 1)))
    trial.aimed += more_rows > 0
    trial.finished.append(count_rows(outputs))
    kill(process.pid, kind)
    trial.sessions.append(process.pid)
    process.wait(TIMEOUT)  # a sweep that has lost a worker has to end by itself
    return True


def kill(session: int, kind: str) -> None:
    """Send SIGKILL to the driver, to one of its workers, or to all; a sweep without a worker yet loses its driver."""
    living = list_session(session)
    workers = [pid for pid, command in living.items() if "popen_loky" in command]
    victims = {"driver": [session], "worker": workers[:1] or [session], "all": list(living)}[kind]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


def list_session(session: int) -> dict[int, str]:
    """The living processes that a command has started, and the command line of each."""
    alive = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == session and state != "Z":
                alive[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return alive


def end_sweep(outputs: Path, trial: Trial) -> None:
    """Type the command until it ends with 0, as a person would."""
    for _ in range(3):
        trial.commands += 1
        done = subprocess.run(build_command(outputs), capture_output=True, text=True, timeout=TIMEOUT)
        if "Traceback" in done.stdout + done.stderr:
            trial.problems.append(f"a traceback: {done.stderr[-500:]}")
        if not done.returncode:
            return
    trial.problems.append(f"typed three times, the sweep still ends with {done.returncode}: {done.stderr[-500:]}")


def count_rows(outputs: Path) -> int:
    """How many rows the table has."""
    table = outputs / "results.csv"
    return table.read_bytes().count(b"\n") - 1 if table.exists() else 0


def find_problems(outputs: Path, reference: dict[str, str]) -> list[str]:
    """What is not as it is after an undisturbed sweep, a line each."""
    table = pd.read_csv(outputs / "results.csv")
    problems = []
    if sorted(table["run_id"]) != sorted(reference):
        problems.append(f"the rows are {sorted(table['run_id'])}")
    if set(table["status"]) != {"finished"}:
        problems.append(f"not all finished: {table['status'].tolist()} {table['error'].tolist()}")
    different = [row.run_id for row in table.itertuples() if row.weights_sha256 != reference.get(row.run_id)]
    if different:
        problems.append(f"other weights than undisturbed: {different}")
    left = [*outputs.rglob("*.tmp"), *(outputs / ".ledger" / "claims").iterdir(), *outputs.glob("results-kept-*")]
    if left:
        problems.append(f"left behind: {[path.name for path in left]}")
    return problems


def format_report(trials: list[Trial], seed: int, longest: float, seconds: float) -> str:
    """The trials as a page of docs/."""
    kills = [kill for trial in trials for kill in trial.kills]
    kinds = Counter(kind for kind, _ in kills)
    moments = Counter(int(10 * moment / longest) * 10 for _, moment in kills)
    states = Counter(count for trial in trials for count in trial.finished)
    versions = ", ".join(f"{name} {version(name)}" for name in ("nnexp", "tensorflow", "keras", "hydra-core", "joblib"))
    failed = [(number, trial) for number, trial in enumerate(trials, start=1) if trial.problems]
    return "\n".join(
        [
            "# Killed at random moments",
            "",
            "Written by `make chaos`; benchmarks/chaos.py says what a trial is.",
            "",
            f"- **{len(trials) - len(failed)} of {len(trials)} trials passed**; they took {seconds / 60:.0f} minutes.",
            f"- Seed {seed}: the kinds and moments of the kills are drawn from it.",
            f"- Machine: {platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
            f"Python {platform.python_version()}; {versions}.",
            f"- The sweep: `nnexp {' '.join(SWEEP)}`",
            f"- {sum(trial.commands for trial in trials)} commands, {len(kills)} of them killed: "
            + ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS)
            + f"; {sum(trial.aimed for trial in trials)} of the kills within {1000 * SOON:.0f} ms of a new row.",
            f"- {sum(trial.reads for trial in trials)} reads of CSV files meanwhile.",
            "",
            f"| moment, % of an undisturbed sweep's {longest:.0f} s | kills |",
            "| --- | --- |",
            *(f"| {start} to {start + 10} | {moments[start]} |" for start in sorted(moments)),
            "",
            f"| rows of {CELLS} when killed | kills |",
            "| --- | --- |",
            *(f"| {count} | {states[count]} |" for count in sorted(states)),
            "",
            *(f"- trial {number}: {problem}" for number, trial in failed for problem in trial.problems),
            "",
        ]
    )


def main() -> None:
    """Run the trials and write the report; ends with 1 if one has not passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("docs/chaos.md"))
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        make_starts_cheap(Path(directory, "start"))
        reference = run_reference(Path(directory, "reference"))
        longest = time.monotonic() - started  # kills fall on every part of a sweep, however fast the machine is
        trials = []
        for number in range(1, args.trials + 1):
            trials.append(run_trial(Path(directory, f"trial{number}"), reference, args.seed + number, longest))
            killed = ", ".join(f"{kind} after {moment} s" for kind, moment in trials[-1].kills) or "nothing"
            outcome = "; ".join(trials[-1].problems) or "passed"
            print(f"trial {number}/{args.trials}: killed {killed}: {outcome}", flush=True)
    args.report.parent.mkdir(exist_ok=True)
    args.report.write_text(format_report(trials, args.seed, longest, time.monotonic() - started), encoding="utf-8")
    print(f"the report is {args.report}")
    sys.exit(any(trial.problems for trial in trials))


if __name__ == "__main__":
    main()

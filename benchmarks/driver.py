"""The contest: each contestant in a process that stays alive, asked in turn, round after round.

On a machine whose speed drifts only what is measured side by side can be compared: so nothing here is timed on its own,
one piece of work runs at a time, and every ratio is one of medians over the same rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from worker import PRODUCT_SIZE, PRODUCTS
from works import Work, list_works

HERE = Path(__file__).parent
CONTESTANTS = {
    "nnexp": ("1", "2"),
    "fit": ("default", "1", "2"),
    "pytorch": ("1", "2"),
    "jax": ("1", "2"),
    "sklearn": ("1", "2"),
}
"""Each with the threads that it is tried with; TensorFlow, JAX and OpenBLAS fix theirs once a process."""
TRIAL = {"nnexp": ("1", "2"), "fit": ("default", "1"), "pytorch": ("1", "2"), "jax": ("1",), "sklearn": ("1",)}
CLOSE = 1.1  # after the first round a rival goes on with its best number of threads, and with one this close to it
SETTLE_SECONDS = 0.05  # for the threads of the last one to stop spinning
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Key = tuple[str, str, str]  # work, contestant, threads


@dataclass
class Contest:
    """What was measured.

    Attributes:
        seconds: of each epoch; `cores`: processors used meanwhile, on average.
        scoring: seconds of the scoring that follows each epoch of nnexp.
        accuracy: on the images trained on, after the first timed epoch (nnexp and JAX trained one more, to compile).
        rates: floating-point operations a second of large matrix products, by library and threads.
        together: epochs a second of two one-thread processes of nnexp at once, on the first work.
    """

    seconds: dict[Key, list[float]] = field(default_factory=dict)
    cores: dict[Key, list[float]] = field(default_factory=dict)
    scoring: dict[Key, list[float]] = field(default_factory=dict)
    accuracy: dict[Key, float] = field(default_factory=dict)
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    together: list[float] = field(default_factory=list)

    def median(self, work: str, name: str, threads: str) -> float:
        """Median seconds an epoch."""
        return statistics.median(self.seconds[work, name, threads])

    def list_threads(self, work: str, name: str) -> list[str]:
        """The numbers of threads that a contestant was measured with in every round."""
        rounds = max(len(values) for (w, n, _), values in self.seconds.items() if (w, n) == (work, name))
        return [t for (w, n, t), values in self.seconds.items() if (w, n) == (work, name) and len(values) == rounds]

    def best(self, work: str, name: str) -> str:
        """The threads that suit a contestant best."""
        return min(self.list_threads(work, name), key=lambda threads: self.median(work, name, threads))

    def takes_part(self, work: str, name: str) -> bool:
        """Whether a contestant was measured on a work."""
        return any((w, n) == (work, name) for w, n, _ in self.seconds)

    def rate(self, threads: str) -> float:
        """The machine's own rate: of the library that multiplies fastest."""
        return max(statistics.median(rates) for (_, t), rates in self.rates.items() if t == threads)


class Contestant:
    """The driver's end of a worker process."""

    def __init__(self, name: str, threads: str, quick: bool) -> None:
        self.name, self.threads = name, threads
        command = [sys.executable, str(HERE / "worker.py"), name, threads, *(["quick"] if quick else [])]
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process; TensorFlow is chatty
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=make_environment(threads),
        )

    def send(self, do: str, work: str, times: int = 1) -> None:
        """Ask for a piece of work, without waiting."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, "work": work, "times": times}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, float]:
        """Wait for the answer."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._stderr.seek(0)
            raise RuntimeError(f"{self.name} ({self.threads}) ended without an answer:\n{self._stderr.read()}")
        return dict(json.loads(line))

    def ask(self, do: str, work: str, times: int = 1) -> dict[str, float]:
        """Ask, once the last contestant has come to rest, and wait."""
        time.sleep(SETTLE_SECONDS)
        self.send(do, work, times)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def make_environment(threads: str) -> dict[str, str]:
    """The environment of a contestant: quiet, and for the libraries that read it there, with its threads."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    for variable in THREAD_VARIABLES:
        environment.pop(variable, None)
    return environment if threads == "default" else environment | dict.fromkeys(THREAD_VARIABLES, threads)


def run_contest(rounds: int, quick: bool, say: Callable[[str], None]) -> Contest:
    """Start all contestants, let each prepare every work, then time them in turn; say how it goes."""
    contest = Contest()
    tried = TRIAL if quick else CONTESTANTS
    contestants = [Contestant(name, threads, quick) for name, all_of in tried.items() for threads in all_of]
    try:
        entries = [(w, c) for w in list_works(quick) for c in contestants if c.name in w.only]
        warm_up(entries)
        say(f"{len(contestants)} processes are warm")
        for number in range(1, rounds + 1):
            measure_rates(contest, contestants, entries[0][0])
            for work, contestant in entries:
                measure(contest, work, contestant)
            if number == 1:
                entries = drop_slow(contest, entries)
            measure_together(contest, contestants, entries[0][0], quick)
            say(f"round {number} of {rounds}")
    finally:
        for contestant in contestants:
            contestant.close()
    return contest


def warm_up(entries: list[tuple[Work, Contestant]]) -> None:
    """Let every contestant prepare all of its works, two contestants at a time: this is not timed."""

    def prepare(contestant: Contestant) -> None:
        for work, other in entries:
            if other is contestant:
                contestant.ask("warm_up", work.name)

    contestants = dict.fromkeys(contestant for _, contestant in entries)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(prepare, contestants))


def measure(contest: Contest, work: Work, contestant: Contestant) -> None:
    """Time one epoch of one contestant."""
    key = (work.name, contestant.name, contestant.threads)
    answer = contestant.ask("epoch", work.name)
    contest.seconds.setdefault(key, []).append(answer["seconds"])
    contest.cores.setdefault(key, []).append(answer["cpu"] / answer["seconds"])
    if key not in contest.accuracy:
        contest.accuracy[key] = contestant.ask("accuracy", work.name)["accuracy"]
    if contestant.name == "nnexp":
        contest.scoring.setdefault(key, []).append(contestant.ask("score", work.name)["seconds"])


def measure_rates(contest: Contest, contestants: list[Contestant], work: Work) -> None:
    """Time large matrix products with each library that offers them."""
    for contestant in contestants:
        if contestant.name in ("pytorch", "sklearn"):
            seconds = contestant.ask("multiply", work.name)["seconds"]
            rates = contest.rates.setdefault((contestant.name, contestant.threads), [])
            rates.append(2 * PRODUCT_SIZE**3 * PRODUCTS / seconds)


def measure_together(contest: Contest, contestants: list[Contestant], work: Work, quick: bool) -> None:
    """Time two one-thread processes of nnexp at once; the second is started for it the first time."""
    pair = [contestant for contestant in contestants if (contestant.name, contestant.threads) == ("nnexp", "1")]
    if len(pair) == 1:
        pair.append(Contestant("nnexp", "1", quick))
        contestants.append(pair[1])
        pair[1].ask("warm_up", work.name)
    time.sleep(SETTLE_SECONDS)
    times = 3
    started = time.perf_counter()
    for contestant in pair:
        contestant.send("epoch", work.name, times)
    for contestant in pair:
        contestant.receive()
    contest.together.append(len(pair) * times / (time.perf_counter() - started))


def drop_slow(contest: Contest, entries: list[tuple[Work, Contestant]]) -> list[tuple[Work, Contestant]]:
    """Those who go on after the first round: nnexp, stock fit at its defaults, everyone at their best threads."""
    kept = []
    for work, contestant in entries:
        name, threads = contestant.name, contestant.threads
        tried = {t: seconds[0] for (w, n, t), seconds in contest.seconds.items() if (w, n) == (work.name, name)}
        best = min(seconds for t, seconds in tried.items() if t != "default")
        close = contest.seconds[work.name, name, threads][0] <= best * (1 if name == "fit" else CLOSE)
        if name == "nnexp" or threads == "default" or close:
            kept.append((work, contestant))
    return kept

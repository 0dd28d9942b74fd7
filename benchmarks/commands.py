"""Whole commands: from the first byte of Python to the last byte of the results."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driver import HERE, make_environment

EPOCHS = 5  # of a run of the lesson
SEEDS = 5
SETTINGS = 3
Say = Callable[[str], None]


@contextmanager
def fresh_place() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty directory for outputs, and an environment whose cache of compiled code is empty too."""
    with tempfile.TemporaryDirectory(prefix="nnexp-bench-") as directory:
        place = Path(directory)
        yield place, make_environment("default") | {"NNEXP_XLA_CACHE": str(place / "cache")}


def run(command: list[str], environment: dict[str, str], code: int = 0) -> tuple[float, str]:
    """Run a Python command; returns its seconds and what it printed, or raises if it did not end with `code`."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=HERE)
    seconds = time.perf_counter() - started
    if done.returncode != code:
        raise RuntimeError(f"{command} ended with {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def shrink(quick: bool) -> list[str]:
    """What makes a run of nnexp short when only the benchmark is tried."""
    return ["data.train_size=6000"] if quick else []


def measure_from_nothing(threads: dict[str, str], rounds: int, quick: bool, say: Say) -> dict[str, list[float]]:
    """Five epochs by nnexp and by JAX, in turn, each from the start of a process, with nothing compiled before."""
    seconds: dict[str, list[float]] = {"nnexp": [], "jax": []}
    for number in range(1, rounds + 1):
        for name, measured in seconds.items():
            with fresh_place() as (_, environment):
                started = time.time()
                command = ["worker.py", name, threads[name], "once", *(["quick"] if quick else [])]
                _, output = run(command, environment)
                measured.append(float(output.split()[0]) - started)
        latest = ", ".join(f"{name} {measured[-1]:.1f} s" for name, measured in seconds.items())
        say(f"five epochs from nothing, round {number} of {rounds}: {latest}")
    return seconds


def measure_cold_runs(rounds: int, quick: bool, say: Say) -> dict[str, dict[str, float]]:
    """Median stages of the baseline by the command line: with an empty cache of compiled code, then a filled one."""
    stages: dict[str, list[dict[str, float]]] = {"empty cache": [], "code in cache": []}
    for number in range(1, rounds + 1):
        with fresh_place() as (place, environment):
            for kind, measured in stages.items():
                command = ["cold.py", str(time.time()), f"outputs={place / kind.replace(' ', '-')}", *shrink(quick)]
                measured.append(json.loads(run(command, environment)[1].splitlines()[-1]))
        say(f"cold run, round {number} of {rounds}: {stages['empty cache'][-1]['total']:.1f} s")
    return {
        kind: {stage: statistics.median(one[stage] for one in measured) for stage in measured[0]}
        for kind, measured in stages.items()
    }


def measure_lesson(quick: bool, say: Say) -> dict[str, Any]:
    """The lesson's sweep as a command, between stock fits, one of each setting; then again, and a wrong setting."""
    images = 6_000 if quick else 60_000
    with fresh_place() as (place, environment):
        command = [sys.executable, "lesson_fits.py", str(time.time()), str(EPOCHS), str(images)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, cwd=HERE, **pipes) as fits:
            start = json.loads(fits.stdout.readline())["start"]
            fit_seconds = [_fit(fits)]
            say(f"one stock fit: {fit_seconds[0]:.1f} s")
            seeds = 1 if quick else SEEDS
            study = [
                "-m",
                "nnexp",
                "study=lesson",
                f"seed=range({seeds})",
                f"outputs={place / 'outputs'}",
                *shrink(quick),
            ]
            sweep, printed = run(study, environment)
            say(f"the lesson's sweep: {sweep:.1f} s")
            fit_seconds += [_fit(fits), _fit(fits)]
            fits.stdin.close()
        if f"{SETTINGS * seeds} finished, 0 failed" not in printed:
            raise RuntimeError(f"the sweep did not finish:\n{printed}")
        again, _ = run(study, environment)
        wrong, _ = run(["-m", "nnexp", "dropout=2", f"outputs={place / 'outputs'}"], environment, code=2)
    say(f"three stock fits: {', '.join(f'{seconds:.1f}' for seconds in fit_seconds)} s")
    stock = start + seeds * sum(fit_seconds)
    return {"sweep": sweep, "start": start, "fits": fit_seconds, "stock": stock, "again": again, "wrong": wrong}


def _fit(process: Any) -> float:
    process.stdin.write("\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline())["seconds"])


def measure_memory(runs: int, say: Say) -> list[dict[str, Any]]:
    """Many runs in one process, with equal and with different settings, side by side."""
    started = time.perf_counter()
    with fresh_place() as (place, environment):
        processes = []
        for kind in ("equal", "different"):
            command = [sys.executable, "memory.py", kind, str(runs), str(place / kind)]
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=HERE))
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("the runs for the memory's sake did not finish; see above")
    say(f"2 x {runs} runs for their memory: {time.perf_counter() - started:.0f} s")
    return [json.loads(output.splitlines()[-1]) for output in outputs]

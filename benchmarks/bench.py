"""How fast nnexp is: python benchmarks/bench.py [--quick]

Prints what it finds, writes it to benchmarks/RESULTS.md, and ends with 1 if a mark is missed. `--quick` tries the
benchmark itself: a tenth of the images, nothing written, no mark held against it.
"""

import argparse
import os
import sys
import time

from commands import measure_cold_runs, measure_from_nothing, measure_lesson, measure_memory
from driver import HERE, Contest, run_contest
from marks import list_marks
from results import Measured, write_page
from works import list_works

ROUNDS = 5
COLD_ROUNDS = 3
MEMORY_RUNS = 200
LEAST_ACCURACY = 0.15  # below nnexp's after one or two epochs: whoever is further off does not train what it should


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="try the benchmark itself")
    quick = parser.parse_args().quick
    measured = measure(quick)
    page = write_page(measured)
    print("\n" + page)
    check_learning(measured.contest)
    if quick:
        print("A trial: nothing was written, and the marks mean nothing.")
        return
    (HERE / "RESULTS.md").write_text(page, encoding="utf-8")
    missed = [mark.name for mark in measured.marks if not mark.is_met]
    sys.exit(f"missed: {'; '.join(missed)}" if missed else 0)


def measure(quick: bool) -> Measured:
    """All parts, one after another."""
    started = time.perf_counter()
    loads = [os.getloadavg()[0]]

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {text}", flush=True)

    contest = run_contest(1 if quick else ROUNDS, quick, say)
    loads.append(os.getloadavg()[0])
    threads = {name: contest.best("mlp", name) for name in ("nnexp", "jax")}
    from_nothing = measure_from_nothing(threads, 1 if quick else ROUNDS, quick, say)
    loads.append(os.getloadavg()[0])
    cold = measure_cold_runs(1 if quick else COLD_ROUNDS, quick, say)
    loads.append(os.getloadavg()[0])
    lesson = measure_lesson(quick, say)
    loads.append(os.getloadavg()[0])
    memory = measure_memory(12 if quick else MEMORY_RUNS, say)
    works = list_works(quick)
    marks = list_marks(contest, works, from_nothing, lesson, memory)
    seconds = time.perf_counter() - started
    return Measured(works, contest, from_nothing, cold, lesson, memory, marks, loads, seconds)


def check_learning(contest: Contest) -> None:
    """End with an error if a contestant has not learned about as much as nnexp: its time would mean nothing."""
    for (work, name, threads), accuracy in contest.accuracy.items():
        ours = contest.accuracy[work, "nnexp", "1"]
        if accuracy < ours - LEAST_ACCURACY:
            sys.exit(f"{name} ({threads}) has not learned {work}: train accuracy {accuracy:.3f}, nnexp's {ours:.3f}")


if __name__ == "__main__":
    main()

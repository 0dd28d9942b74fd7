"""A contestant's process: does one timed piece of work for each line that it is sent.

python worker.py CONTESTANT THREADS [quick]      answers {"do": ..., "work": ...}, a JSON line each
python worker.py CONTESTANT THREADS [quick] once     five epochs of the first work, from nothing, and ends
"""

import json
import os
import sys
import time
from typing import Any

from contestants import find_contestant, load_work
from works import list_works

PRODUCT_SIZE = 2048  # of the square matrices whose product measures the machine's rate
PRODUCTS = 8
FROM_NOTHING_EPOCHS = 5


def main() -> None:
    """Take the answers' channel away from the libraries, which like to print; then serve."""
    name, threads, *flags = sys.argv[1:]
    works = {work.name: work for work in list_works("quick" in flags)}
    if "once" in flags:
        train_from_nothing(name, threads, next(iter(works.values())))
        return
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    made: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        work = works[request["work"]]
        if work.name not in made:
            made[work.name] = find_contestant(name)(work, threads)
        answers.write(json.dumps(do(request, made[work.name], load_work(work))) + "\n")
    os._exit(0)  # a fit still stands between two epochs


def do(request: dict[str, Any], contestant: Any, dataset: Any) -> dict[str, float]:
    """One piece of work: wall-clock seconds, and the seconds of processors it took; or the accuracy."""
    if request["do"] == "accuracy":
        right = contestant.predict(dataset.train_images) == dataset.train_labels
        return {"accuracy": float(right.mean())}
    if request["do"] == "score":
        contestant.prepare_scoring()
    pieces = {"warm_up": "warm_up", "epoch": "train_epoch", "score": "score"}
    started, started_cpu = time.perf_counter(), time.process_time()
    if request["do"] == "multiply":
        contestant.multiply(PRODUCT_SIZE, PRODUCTS)
    else:
        for _ in range(request.get("times", 1)):
            getattr(contestant, pieces[request["do"]])()
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}


def train_from_nothing(name: str, threads: str, work: Any) -> None:
    """Import, data, compilation and five epochs; prints the accuracy that they came to, outside of the time."""
    contestant = find_contestant(name)(work, threads)
    for _ in range(FROM_NOTHING_EPOCHS):
        contestant.train_epoch()
    print(time.time(), flush=True)
    dataset = load_work(work)
    print(float((contestant.predict(dataset.train_images) == dataset.train_labels).mean()), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

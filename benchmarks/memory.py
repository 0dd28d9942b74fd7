"""Memory over many runs, one after another as in a serial sweep: python memory.py equal|different RUNS OUTPUTS

Every run goes the whole way from settings to row. `equal`: one setting, a seed each. `different`: no two settings
alike, and a new shape of program every fourth run, 50 in all. Prints, as JSON, the memory in use (resident, in MB, of
this process and the one that trains for it) in the first few runs, the most there was after them, and at the end.
"""

import json
import sys

import psutil
from contestants import compose

from nnexp.experiment import run_once
from nnexp.training_process import TrainingProcess

FEW = 10  # runs after which memory may no longer grow
RUNS_A_SHAPE = 4


def list_overrides(kind: str, run: int) -> list[str]:
    """The settings of a run."""
    if kind == "equal":
        return [f"seed={run}", "dropout=0.2"]
    shape = run // RUNS_A_SHAPE
    units = f"model.units=[{32 + shape}]" if shape % 2 else f"model.units=[{64 + shape},32]"
    optimizer = ("adam", "sgd", "rmsprop", "adamw")[shape % 4]
    numbers = [f"optimizer.learning_rate={1e-3 * (1 + run / 1000)}", f"l2={run * 1e-6 * (shape % 3)}"]
    return [units, f"optimizer={optimizer}", *numbers, f"dropout={0.2 * (shape % 2)}", f"seed={run}"]


def measure_memory() -> float:
    """The resident memory of this process and its children, in MB."""
    process = psutil.Process()
    return sum(each.memory_info().rss for each in [process, *process.children()]) / 1e6


def main() -> None:
    """Run, and look at the memory after every run."""
    kind, runs, outputs = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    training, memory = TrainingProcess(), []
    for run in range(runs):
        settings = ["data=sample", "epochs=1", f"outputs={outputs}", *list_overrides(kind, run)]
        record, _ = run_once(compose(*settings), "benchmarks/memory.py", lambda epoch, accuracy: None, training.attempt)
        if record is None or record["status"] != "finished":
            raise SystemExit(f"run {run} did not finish: {record}")
        memory.append(measure_memory())
    few = min(FEW, runs // 2)
    print(
        json.dumps({"kind": kind, "runs": runs, "few": max(memory[:few]), "most": max(memory[few:]), "end": memory[-1]})
    )


if __name__ == "__main__":
    main()

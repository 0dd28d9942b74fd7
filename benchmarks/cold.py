"""One cold run of the command `nnexp`, split by stages: python cold.py STARTED [nnexp's own arguments]

STARTED is `time.time()` just before this process was made. It calls nnexp's own command line, with a stopwatch around
the functions that it goes through; prints the stages in seconds as JSON on its last line.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

seconds: dict[str, list[float]] = {}


def watch(owner: Any, name: str, stage: str, before: Callable[[], Any] = lambda: None) -> None:
    """Add the time of every call of a function to a stage; `before` is a part of it."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        before()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.setdefault(stage, []).append(time.perf_counter() - started)

    setattr(owner, name, timed)


def watch_everything() -> None:
    """Put the stopwatches where a run passes."""
    import nnexp.experiment
    import nnexp.ledger
    import nnexp.training

    start, make = nnexp.experiment.start_tensorflow, nnexp.training.make_engine

    def start_all(threads: int) -> None:
        start(threads)
        import keras  # noqa: F401  # build_model would; here it counts as what it is

        import nnexp.compiled  # noqa: F401  # and so it is with the engine

    def make_watched(*args: Any) -> Any:
        engine = make(*args)
        watch(engine, "train_epoch", "epoch")
        return engine

    nnexp.experiment.start_tensorflow = start_all  # type: ignore[assignment]
    watch(nnexp.experiment, "start_tensorflow", "import")
    watch(nnexp.experiment, "load_data", "data")
    watch(nnexp.experiment, "build_model", "model")
    nnexp.training.make_engine = make_watched
    watch(nnexp.training, "make_engine", "model")
    watch(nnexp.training, "score_splits", "score")
    watch(nnexp.ledger.Ledger, "record", "writing")
    watch(nnexp.ledger.Ledger, "claim", "writing")
    watch(nnexp.experiment, "hash_weights", "writing")


def split_stages(total: float) -> dict[str, float]:
    """The stages of the whole; compiling is what the first epoch and the first scoring took beyond the others."""
    epochs, scores = seconds["epoch"], seconds["score"]
    epoch, score = statistics.median(epochs[1:]), statistics.median(scores[1:])
    stages = {stage: sum(seconds[stage]) for stage in ("import", "data", "model", "writing")}
    stages["compile"] = max(epochs[0] - epoch, 0) + max(scores[0] - score, 0)
    stages["epochs"] = sum(epochs[1:]) + min(epochs[0], epoch)
    stages["scoring"] = sum(scores[1:]) + min(scores[0], score)
    stages["python, hydra and the rest"] = total - sum(stages.values())
    return stages | {"total": total}


def main() -> None:
    """Run nnexp with the arguments that follow, and print the stages."""
    from nnexp import cli

    watch_everything()
    started = float(sys.argv.pop(1))
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps(split_stages(time.time() - started)))


if __name__ == "__main__":
    main()

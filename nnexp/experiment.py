"""One run: settings in, result out."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nnexp.config import Config
from nnexp.data import load_data
from nnexp.ledger import Ledger, Record, Result
from nnexp.model import build_model
from nnexp.provenance import list_packages, read_provenance
from nnexp.tensorflow_start import start_tensorflow, stderr_held_back
from nnexp.training import hash_weights, train

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.keras"

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, float], None]  # called after each epoch with its number and its test accuracy
Attempt = Callable[[Config, OnEpoch, Path], Result]


def run_once(
    config: Config, command: str, on_epoch: OnEpoch, attempt: Attempt | None = None
) -> tuple[Record | None, bool]:
    """Run `config`, or return what is recorded of it; a run that raises is recorded as failed.

    Args:
        attempt: what runs it; None for this process, or `TrainingProcess().attempt` for one of its own.

    Returns:
        the record, or None while another process is running it, and whether this call made it.

    Raises:
        LedgerError: if it could not be recorded.
    """
    ledger = Ledger(config.outputs)
    record = ledger.read_settled(config)
    if record is not None and is_done(record, config):
        return record, False
    claim = ledger.claim(config, command, read_provenance())
    if claim is None:
        return None, False
    try:
        ledger.keep_environment(list_packages())
        record = ledger.read_settled(config)
        if record is not None and is_done(record, config):  # another process finished it just before the claim
            return record, False
        directory = ledger.runs / config.run_id
        result = (attempt or attempt_here)(config, on_epoch, directory)
        with _log_to(directory / "run.log"):
            _warn_of_other_weights(record, result)
        return ledger.record(claim, result), True
    finally:
        ledger.release(claim)


def is_done(record: Record | None, config: Config) -> bool:
    """Whether a record answers a request for these settings, so that nothing has to be run."""
    if record is None or record["status"] != "finished" or config.force:
        return False
    return not config.save_model or (Path(config.outputs) / "runs" / config.run_id / MODEL_FILE).exists()


def load_model(run_id: str, outputs: str | Path = "outputs") -> "keras.Sequential":
    """The Keras model that a run with `save_model=true` ended with.

    Raises:
        FileNotFoundError: if the run is not there, or has no model.
    """
    path = Path(outputs) / "runs" / run_id / MODEL_FILE
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{run_id}: there is no such run in {outputs}; results.csv there names the runs")
    if not path.exists():
        raise FileNotFoundError(f"{run_id} has no saved model; run its command again with save_model=true to get one")
    import keras

    model: keras.Sequential = keras.saving.load_model(path)
    return model


def attempt_here(config: Config, on_epoch: OnEpoch, directory: Path) -> Result:
    """Run an experiment in this process and log it in `directory`; what it raises becomes the result's error."""
    with _log_to(directory / "run.log"), stderr_held_back(directory / "stderr.log"):
        try:
            log.info("started: %s", config.run_id)
            result = run_experiment(config, on_epoch, directory)
            log.info("finished: %s", result.scores)
        except Exception as error:  # whatever goes wrong in a run is that run's result
            log.info("failed", exc_info=True)  # info: on the console the reason is enough
            return Result(error=f"{type(error).__name__}: {error}")
        return result


def count_programs() -> int:
    """How many programs for training this process has compiled; it keeps their memory to its end."""
    compiled = sys.modules.get("nnexp.compiled")
    return compiled.build_trainer.cache_info().misses if compiled else 0


def _warn_of_other_weights(record: Record | None, result: Result) -> None:
    """Say so where a run that had finished was run again and did not come out the same."""
    before = record["provenance"].get("weights_sha256") if record and record["status"] == "finished" else None
    after = result.provenance.get("weights_sha256")
    if record and before and after and before != after:
        log.warning(
            "%s: run again, it came to other weights than on %s; see whether they come out the next time: "
            "nnexp-results reproduce %s",
            *(record["run_id"], record["started_at"][:16].replace("T", " "), record["run_id"]),
        )


def run_experiment(config: Config, on_epoch: OnEpoch, directory: Path) -> Result:
    """Train and score the network that `config` describes.

    Args:
        directory: where the trained model goes under `save_model`.
    """
    started = time.perf_counter()
    start_tensorflow(config.threads)
    dataset = load_data(config.data)
    model = build_model(config)
    training = train(model, dataset, config, on_epoch)
    if config.save_model:
        temporary = directory / f".tmp.{MODEL_FILE}"  # Keras wants the ending
        model.save(temporary)
        os.replace(temporary, directory / MODEL_FILE)
    best = training.history[training.best_epoch - 1]
    scores = {key: value for key, value in best.items() if key.startswith(("train_", "test_", "validation_"))}
    scores |= {
        "accuracy_gap": best["train_accuracy"] - best["test_accuracy"],
        "epochs_run": len(training.history),
        "best_epoch": training.best_epoch,
        "parameters": model.count_params(),
        "train_seconds": round(training.seconds, 3),
        "seconds": round(time.perf_counter() - started, 3),
    }
    provenance = read_provenance() | {"data_sha256": dataset.sha256, "weights_sha256": hash_weights(model)}
    return Result(scores, provenance, training.history, training.predictions)


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write what nnexp, and Python's warnings, log to a run's own file, beside wherever else it goes."""
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("nnexp", "py.warnings")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # as in _RunLog
            handler.close()


class _RunLog(logging.FileHandler):
    """On a full disk it loses lines without a word: that the disk is full is said when the result is written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on."""

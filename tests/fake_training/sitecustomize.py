"""With this folder on PYTHONPATH a run of nnexp trains nothing: it takes a moment, and fails or dies as a test asks.

Python imports it as it starts, in every process of a sweep; nnexp itself knows nothing of it. Beside it lies a
tensorflow.py that cannot be imported. The environment says what happens:

    FAKE_LOG       file that gets a line for every run that starts: its seed, the process
    FAKE_SECONDS   how long a run takes
    FAKE_HOLD      file; a run goes on for as long as it is there
    FAKE_RAISE     seeds whose runs raise, e.g. 1,3
    FAKE_DIE       seeds whose runs take their process down
    FAKE_CUT       seeds after whose runs a worker dies as it answers its driver: what is more than one write is cut off
"""

import importlib.abc
import importlib.util
import os
import sys
import time


def run_fake(config, on_epoch, directory):
    from nnexp.ledger import Result

    with open(os.environ["FAKE_LOG"], "a") as log:
        log.write(f"{config.seed} {os.getpid()}\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0.05")))
    while os.path.exists(os.environ.get("FAKE_HOLD", "")):
        time.sleep(0.05)
    if str(config.seed) in os.environ.get("FAKE_RAISE", "").split(","):
        raise ValueError(f"seed {config.seed} cannot be trained")
    if str(config.seed) in os.environ.get("FAKE_DIE", "").split(","):
        os._exit(9)
    if str(config.seed) in os.environ.get("FAKE_CUT", "").split(","):
        cut_off_the_next_message()
    on_epoch(1, 0.75)
    names = ("train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss", "train_seconds", "seconds")
    scores = dict.fromkeys(names, 0.5) | {"epochs_run": 1, "best_epoch": 1, "parameters": 10}
    if config.data.validation_size:  # best at dropout 0.2, where the test accuracy is worst
        distance = abs(config.dropout - 0.2)
        scores |= {"validation_accuracy": 0.9 - distance, "validation_loss": 0.5, "test_accuracy": 0.1 + distance}
    return Result(scores, {"weights_sha256": f"{config.seed:064x}"}, [{"epoch": 1, "test_loss": 0.5}])


def cut_off_the_next_message():
    from multiprocessing.connection import Connection

    def send_and_die(self, buffer):
        os.write(self._handle, bytes(buffer[:4096]))  # PIPE_BUF, what Linux writes whole or not at all
        os._exit(9)

    Connection._send = send_and_die


class Patcher(importlib.abc.MetaPathFinder):
    """Puts run_fake into nnexp.experiment as that is imported."""

    def find_spec(self, name, path, target=None):
        if name != "nnexp.experiment":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            module.run_experiment = run_fake

        spec.loader.exec_module = execute_and_patch
        return spec


sys.meta_path.insert(0, Patcher())

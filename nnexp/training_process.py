"""A process that trains for another one, which stays small, outlives it and can be interrupted.

TensorFlow keeps what XLA compiles, 10 to 20 MB a program, to the end of its process. A crash in it, or the system's
out-of-memory killer, ends the process, and Ctrl-C is heard only between two epochs. So the driver of a sweep, where the
launcher starts no processes, has its runs trained in one of its own, kept from run to run and replaced when it is full.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nnexp.config import Config
from nnexp.console import show_warnings
from nnexp.experiment import OnEpoch, attempt_here, count_programs
from nnexp.ledger import DIED, Result

MAX_PROGRAMS = 4  # compiled by one process: 60 MB and 4 s or more; another process takes 3 s to start
POLL_SECONDS = 0.1  # in which an interruption of the waiting is heeded


class TrainingProcess:
    """Attempts runs in another process: `attempt` stands for `experiment.attempt_here`."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None

    def attempt(self, config: Config, on_epoch: OnEpoch, directory: Path) -> Result:
        """As `experiment.attempt_here`; if the process dies, the result is the error DIED."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((config, directory))
            while True:
                while not self._connection.poll(POLL_SECONDS):
                    pass
                message = self._connection.recv()
                if isinstance(message, Result):
                    break
                on_epoch(*message)
            if self._connection.recv():  # full
                self.stop()
            return message
        except (EOFError, ConnectionError):
            self.stop()
            return Result(error=DIED)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, whatever it is doing; the next attempt starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end,), daemon=True)
        self._process.start()
        other_end.close()


def _serve(connection: Connection) -> None:
    """Attempt runs as they are asked for; after each result says whether this process is full."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the driver ends this process
    threading.Thread(target=_end_with_driver, daemon=True).start()
    show_warnings()
    with contextlib.suppress(EOFError):
        while True:
            config, directory = connection.recv()
            connection.send(attempt_here(config, lambda *epoch: connection.send(epoch), directory))
            connection.send(count_programs() >= MAX_PROGRAMS)


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)

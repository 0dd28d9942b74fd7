"""What a person reads while nnexp works: lines in a log, and on a terminal a bar below them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nnexp.config import SettingError
from nnexp.ledger import Record

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_warnings() -> None:
    """Send the warnings of nnexp and of Python to stderr, each whole on its line."""
    handler = _WarningLines(logging.WARNING)
    logging.captureWarnings(True)
    for name in ("nnexp", "py.warnings"):
        logging.getLogger(name).handlers[:] = [handler]
        logging.getLogger(name).setLevel(logging.INFO)


class _WarningLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage().rstrip(), markup=False)


def report_wrong_settings(error: SettingError) -> None:
    """Say what is wrong with the settings, a line each."""
    for problem in error.problems:
        err.print(f"nnexp: {problem}", markup=False)
    err.print("Nothing was run.")


def format_run(record: Record, name: str = "") -> str:
    """One run in one line: `mlp dropout=0.2 seed=0  train 0.888  test 0.865  gap 0.023  (3.9 s)`."""
    name = name or f"{record['description']} seed={record['settings']['seed']}"
    if record["status"] == "failed":
        return f"{name}  failed: {record['error']}"
    scores = record["scores"]
    return (
        f"{name}  train {scores['train_accuracy']:.3f}  test {scores['test_accuracy']:.3f}  "
        f"gap {scores['accuracy_gap']:.3f}  ({scores['seconds']:.1f} s)"
    )


@contextmanager
def show_epochs(epochs: int) -> Iterator[Callable[[int, float], None]]:
    """Show the epochs of one run; gives the function to call after each with its number and test accuracy."""
    if not out.is_terminal:
        yield lambda epoch, accuracy: out.print(f"epoch {epoch}/{epochs}  test {accuracy:.3f}")
        return
    with _bar("epoch", "test {task.fields[accuracy]}") as bar:
        task = bar.add_task("", total=epochs, accuracy="")
        yield lambda epoch, accuracy: bar.update(task, completed=epoch, accuracy=f"{accuracy:.3f}", refresh=True)


@contextmanager
def show_runs(total: int) -> Iterator[Callable[[str, bool], None]]:
    """Show the runs of a sweep; gives the function to call after each with its line and whether it failed."""
    counts = {"done": 0, "failed": 0}

    def count(line: str, failed: bool) -> None:
        counts["done"] += 1
        counts["failed"] += failed
        out.print(f"[{counts['done']}/{total}] {line}", markup=False)

    if not out.is_terminal:
        yield count
        return
    with _bar("run", "{task.fields[failed]} failed  {task.fields[rate]}") as bar:
        task = bar.add_task("", total=total, failed=0, rate="")

        def count_and_draw(line: str, failed: bool) -> None:
            count(line, failed)
            speed = bar.tasks[0].speed or 0.0
            rate = f"{60 * speed:.0f} a minute" if speed else ""
            bar.update(task, completed=counts["done"], failed=counts["failed"], rate=rate, refresh=True)

        yield count_and_draw


def _bar(unit: str, text: str) -> Progress:
    columns: tuple[Any, ...] = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn(text))
    return Progress(*columns, TimeRemainingColumn(), console=out, transient=True)


def format_seconds(seconds: float) -> str:
    """A duration as it is said: 8 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

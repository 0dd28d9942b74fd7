"""A sweep: the whole grid is composed and checked first, then only what is missing is run, then an account is given."""

import math
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from nnexp.compose import Composer, pack_cells
from nnexp.config import Config, SettingError
from nnexp.console import err, format_run, format_seconds, out, report_wrong_settings, show_runs
from nnexp.experiment import is_done
from nnexp.launchers import ClusterLauncher, explain_launcher_error
from nnexp.ledger import DIED, Ledger, LedgerError, Record, Stamp

POLL_SECONDS = 0.2
POLL_SHARE = 0.05  # of its time that a sweep spends looking for new results at most, however many runs it has
STOP_SECONDS = 60  # that jobs on a cluster have for giving their runs back
ALIKE_IN_A_SWEEP = ("threads", "save_model", "outputs", "force", "dry_run", "fail_fast")


class SweepError(RuntimeError):
    """The sweep cannot go on; the message says why."""


@dataclass(eq=False)  # a cell is equal to itself alone, so that sets of thousands are quick
class Cell:
    """One run of a grid: the overrides it is written as, those of them that vary, and what they come to."""

    overrides: list[str]
    name: str
    config: Config


class GridSweeper(Sweeper):
    """Runs every combination of the swept values that has not finished yet."""

    def __init__(self, params: dict[str, str] | None, more: None) -> None:
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every sweeper."""
        self._composer = Composer(hydra_context.config_loader)  # type: ignore[arg-type]
        self._hydra_config = config
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, run and account for a grid; ends the program with 0 all finished, 1 some failed, 2 wrong settings."""
        params = [f"{key}={value}" for key, value in self._params.items()]
        try:
            cells = build_cells(self._composer, [*params, *arguments])
            sweep = Sweep(cells, self._launcher, self._hydra_config)
        except SettingError as error:
            report_wrong_settings(error)
            raise SystemExit(2) from None
        try:
            raise SystemExit(sweep.run())
        except (LedgerError, SweepError) as error:
            err.print(f"nnexp: {error}", markup=False)
            raise SystemExit(1) from None


def build_cells(composer: Composer, arguments: Sequence[str]) -> list[Cell]:
    """Compose and check every combination of the swept values; cells that come to the same run are one.

    Raises:
        SettingError: with all that is wrong anywhere in the grid.
    """
    overrides = composer.parse(arguments)
    if problems := composer.find_problems(overrides):
        raise SettingError(*problems)
    if intervals := [override for override in overrides if override.is_interval_sweep()]:
        expected = "expected a,b,c or range(...), unless it is searched with hydra/sweeper=optuna"
        raise SettingError(*(f"{each.key_or_group}: {expected}; received {each.input_line}" for each in intervals))
    varied = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    cells: dict[str, Cell] = {}
    wrong: dict[str, list[str]] = {}
    for lines in _list_combinations(overrides):
        name = " ".join(line for line in lines if line.partition("=")[0] in varied)
        try:
            config = composer.compose(composer.parse(lines))
            cells.setdefault(config.identity_sha256, Cell(lines, name or config.describe(), config))
        except SettingError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(name)
    if wrong:
        raise SettingError(*(f"{problem}{_format_names(names)}" for problem, names in wrong.items()))
    for key in ALIKE_IN_A_SWEEP:
        if len(values := {getattr(cell.config, key) for cell in cells.values()}) > 1:
            raise SettingError(f"{key}: expected one value for the whole sweep; received {sorted(values)}")
    return list(cells.values())


def _split(cells: list[Cell], size: int) -> list[list[Cell]]:
    return [cells[first : first + size] for first in range(0, len(cells), size)]


def _list_combinations(overrides: list[Override]) -> list[list[str]]:
    try:
        [combinations] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except HydraException as error:
        raise SettingError(f"{error} (a sweep takes lists, a,b,c, and range(...))") from error
    return [list(lines) for lines in combinations]


def _format_names(names: list[str]) -> str:
    shown = "; ".join(filter(None, names[:5]))
    more = f"; and {len(names) - 5} more" if len(names) > 5 else ""
    return f"  (cells: {shown}{more})" if shown else ""


class Sweep:
    """The cells of one grid on their way from the plan to the account."""

    def __init__(self, cells: list[Cell], launcher: Launcher, hydra_config: DictConfig) -> None:
        self._cells = cells
        self._launcher = launcher
        self._cluster = launcher if isinstance(launcher, ClusterLauncher) else None
        self._hydra_config = hydra_config
        self._config = cells[0].config
        self._ledger = Ledger(self._config.outputs)
        self._stamps: dict[str, Stamp] = {}

    def run(self) -> int:
        """Print the plan, run what is missing, print the account; returns the exit code."""
        self._ledger.heal()
        self._stamps = {cell.config.run_id: self._ledger.stamp(cell.config.run_id) for cell in self._cells}
        records = {id(cell): self._ledger.read_settled(cell.config) for cell in self._cells}
        to_run = [cell for cell in self._cells if not is_done(records[id(cell)], cell.config)]
        failed = [cell for cell in to_run if (record := records[id(cell)]) and record["status"] == "failed"]
        last = {id(cell): self._ledger.read_last(cell.config.run_id) for cell in to_run}
        died = dict.fromkeys(cell for cell in to_run if (record := last[id(cell)]) and record["error"] == DIED)
        self._print_plan(to_run, failed)
        if self._config.dry_run:
            return 0
        try:
            if to_run:
                with self._watch(to_run):
                    self._run_together([cell for cell in to_run if cell not in died], list(died))
        except KeyboardInterrupt:
            self._stop_jobs(to_run)
            self._ledger.forget_claims(cell.config.run_id for cell in to_run)
            self._ledger.heal()
            rest = sum(not self._is_settled(cell) for cell in to_run)
            err.print(f"stopped with {rest} of {len(self._cells)} runs to do; type the same command to go on")
            if not self._config.fail_fast:
                return 130
        return self._print_account()

    def run_quietly(self) -> list[Record | None]:
        """Run what is missing, without plan and account; returns what each cell came to, None where it is not known."""
        self._stamps = {cell.config.run_id: self._ledger.stamp(cell.config.run_id) for cell in self._cells}
        to_run = [cell for cell in self._cells if not self._is_settled(cell)]
        try:
            self._run_together(to_run, [])
        except KeyboardInterrupt:
            self._ledger.forget_claims(cell.config.run_id for cell in to_run)
            self._ledger.heal()
            raise
        return [self._read_outcome(cell) for cell in self._cells]

    def _print_plan(self, to_run: list[Cell], failed: list[Cell]) -> None:
        finished = len(self._cells) - len(to_run)
        words = [f"{len(self._cells)} cells", f"{finished} finished", f"{len(failed)} failed before"]
        jobs = f" in {len(self._share_out(to_run, self._cluster.cells))} jobs" if self._cluster and to_run else ""
        out.print(", ".join([*words, f"{len(to_run)} to run{jobs}", *self._estimate(to_run)]))
        if self._config.dry_run:
            states = dict.fromkeys(to_run, "to run") | dict.fromkeys(failed, "failed before")
            for cell in self._cells:
                state = states.get(cell, "finished")
                out.print(f"  {state:13}  {cell.config.run_id}  {cell.name}", markup=False)

    def _estimate(self, to_run: list[Cell]) -> list[str]:
        """How long the runs may take: seconds an image of the same model (else any) on the same data in the ledger.

        Other data do not count: a run of the sample is little but its start.
        """
        if not to_run:
            return []
        speeds: dict[tuple[str, str], list[float]] = {}
        for row in self._ledger.read_finished_rows():
            with suppress(ValueError, TypeError, ZeroDivisionError):  # a row that a person has edited
                seen = float(row["seconds"]) / (int(row["epochs_run"]) * int(row["train_size"]))
                for model in (row["model"], ""):
                    speeds.setdefault((row["data"], model), []).append(seen)
        usual = {key: median(values) for key, values in speeds.items()}
        seconds = 0.0
        for config in (cell.config for cell in to_run):
            speed = usual.get((config.data.name, config.model_name)) or usual.get((config.data.name, ""))
            if speed is None:
                return ["no estimate of the time before the first run"]
            seconds += config.epochs * config.train_size * speed
        if self._cluster:  # how many run at once, the cluster decides
            return [f"about {format_seconds(seconds)} of computing"]
        processes = int(OmegaConf.select(self._hydra_config, "hydra.launcher.n_jobs") or 1)
        return [f"about {format_seconds(seconds / min(processes, len(to_run)))}"]

    def _run_together(self, cells: list[Cell], alone: list[Cell]) -> None:
        """Run cells through the launcher; those whose process died are run again at the end, each by itself."""
        died = self._run_rounds(cells, self._cluster.cells if self._cluster else 1)
        for cell in died:
            err.print(f"{cell.name}: its process died; it is tried again alone, after the others", markup=False)
        alone = [*alone, *died]
        if self._cluster:  # each is a process of its own there, and this machine is not the one to run it
            self._stamps |= {cell.config.run_id: self._ledger.stamp(cell.config.run_id) for cell in alone}
            self._run_rounds(alone, 1)
            return
        for cell in alone:
            self._launch_alone(cell)
            self._ledger.heal()

    def _run_rounds(self, cells: list[Cell], size: int) -> list[Cell]:
        """Hand cells to the launcher, so many a job, until each has been tried; returns those whose process died."""
        died: list[Cell] = []
        while cells:
            crash = self._launch(cells, size)
            self._ledger.heal()
            suspects = [cell for cell in cells if self._has_died(cell)]
            rest = [cell for cell in cells if not self._is_settled(cell)]
            if crash and not suspects and len(rest) == len(cells):
                reason = explain_launcher_error(crash)
                raise SweepError(f"the launcher broke down before a run began: {reason}") from crash
            died += suspects
            self._wait_for_others(rest)
            cells = [cell for cell in rest if not self._is_settled(cell)]
        return died

    def _share_out(self, cells: list[Cell], size: int) -> list[list[str]]:
        """The overrides of jobs that run up to `size` cells each, or more where there may not be so many jobs."""
        jobs = math.ceil(len(cells) / size)
        if self._cluster:
            jobs = min(jobs, self._cluster.max_jobs)
        size = math.ceil(len(cells) / jobs)
        return [pack_cells([cell.overrides for cell in group]) for group in _split(cells, size)]

    def _launch(self, cells: list[Cell], size: int) -> Exception | None:
        """Hand cells to Hydra's launcher, so many a job; returns its error if it broke down, as when a process dies."""
        jobs = self._share_out(cells, size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A worker stopped")  # joblib replaces one that is 300 MB larger
            try:
                returns = self._launcher.launch(jobs, initial_job_idx=0)
            except Exception as error:
                return error
        for job in returns:
            if job.status is JobStatus.FAILED:
                raise job._return_value
        return None

    def _launch_alone(self, cell: Cell) -> None:
        sources = self._hydra_config.hydra.runtime.config_sources
        flags = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
        command = [sys.executable, "-m", "nnexp", *flags, *cell.overrides, "hydra.mode=RUN"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _stop_jobs(self, cells: list[Cell]) -> None:
        """End what runs elsewhere, and wait until it has ended."""
        if self._cluster is None:
            return
        self._cluster.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(self._ledger.is_running(cell.config.run_id) for cell in cells):
            time.sleep(POLL_SECONDS)

    def _wait_for_others(self, cells: list[Cell]) -> None:
        """Wait while every one of these cells is being run by another sweep."""
        if cells and self._all_running(cells):
            err.print(f"waiting for {len(cells)} runs that another nnexp is doing")
        while cells and self._all_running(cells):
            time.sleep(POLL_SECONDS)

    def _all_running(self, cells: list[Cell]) -> bool:
        return all(self._ledger.is_running(cell.config.run_id) for cell in cells)

    def _is_settled(self, cell: Cell) -> bool:
        """Whether a cell needs no more running: finished, or tried since the sweep began."""
        return self._was_tried(cell) or is_done(self._ledger.read_settled(cell.config), cell.config)

    def _was_tried(self, cell: Cell) -> bool:
        return self._ledger.stamp(cell.config.run_id) != self._stamps[cell.config.run_id]

    def _read_outcome(self, cell: Cell) -> Record | None:
        """What the sweep comes to for a cell: its last attempt in this sweep, else what was recorded before."""
        return (
            self._ledger.read_last(cell.config.run_id)
            if self._was_tried(cell)
            else self._ledger.read_settled(cell.config)
        )

    def _has_died(self, cell: Cell) -> bool:
        record = self._read_outcome(cell)
        return record is not None and record["error"] == DIED and self._was_tried(cell)

    @contextmanager
    def _watch(self, cells: list[Cell]) -> Iterator[None]:
        """Show each run as its record appears, whoever writes it; under fail_fast the first failure stops the sweep."""
        pending = dict.fromkeys(cells)
        ended = threading.Event()

        def show(last: bool) -> None:
            for cell in [cell for cell in pending if self._was_tried(cell)]:
                record = self._read_outcome(cell)
                if record is None or (record["error"] == DIED and not last):
                    continue
                del pending[cell]
                failed = record["status"] == "failed"
                count(format_run(record, cell.name), failed)
                if failed and self._config.fail_fast and not last:
                    _interrupt_main_thread()

        def follow() -> None:
            seconds = 0.0
            while not ended.wait(max(POLL_SECONDS, seconds / POLL_SHARE)):
                started = time.monotonic()
                show(last=False)
                seconds = time.monotonic() - started

        with show_runs(len(cells)) as count:
            thread = threading.Thread(target=follow, daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                show(last=True)

    def _print_account(self) -> int:
        records = [(cell, self._read_outcome(cell)) for cell in self._cells]
        failed = [(cell, record) for cell, record in records if record and record["status"] == "failed"]
        finished = sum(record is not None and record["status"] == "finished" for _, record in records)
        out.print(f"{finished} finished, {len(failed)} failed; all are in {self._ledger.table}", markup=False)
        for cell, record in failed:
            log = self._ledger.runs / cell.config.run_id / "run.log"
            out.print(f"  failed: {cell.name}: {record['error']}  (log: {log})", markup=False)
        return 0 if finished == len(self._cells) else 1


def _interrupt_main_thread() -> None:
    import _thread

    _thread.interrupt_main()

"""The command `nnexp`: one run, a sweep, a study."""

import argparse
import copyreg
import os
import re
import shlex
import signal
import sys
import threading
import time
import warnings
from importlib.resources import files
from typing import Any

from nnexp.config import Config, SettingError, read_options
from nnexp.console import err, format_run, out, report_wrong_settings, show_epochs, show_warnings
from nnexp.experiment import is_done, run_once
from nnexp.ledger import Ledger, LedgerError
from nnexp.training_process import TrainingProcess

EXAMPLES = """\
  nnexp                                              one run of the lesson's network
  nnexp model=wide dropout=0.3 epochs=20 seed=3      one run with other settings
  nnexp -m dropout=0,0.2,0.5 seed=0,1,2              a sweep; typed again, it runs only what is missing
  nnexp study=lesson                                 a ready sweep
  nnexp -m l2=0,0.001 hydra/launcher=local dry_run=true      what a sweep on every core would run
"""


_training: TrainingProcess | None = None  # the driver's, for a launcher that starts no processes

STOPPING_SECONDS = 3  # in which another Ctrl-C changes nothing: a sweep takes back what its workers had begun


def main() -> None:
    """Run the command line: 0 done, 1 a run failed, 2 a wrong setting."""
    global _training
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(format_help(), end="")
        return
    show_warnings()
    listen_for_stop()
    register_plugins()
    if args.run or args.multirun or not (args.cfg or args.info or args.hydra_help or args.shell_completion):
        check_command_line(args)
    _training = TrainingProcess()
    try:
        run_hydra()
    except KeyboardInterrupt:
        err.print("stopped; nothing was recorded of the run that was going on")
        sys.exit(130)


def register_plugins() -> None:
    """Make nnexp's sweepers and launchers known to Hydra, from which an editable install hides them."""
    from hydra.core.plugins import Plugins
    from hydra_plugins.nnexp import NnexpRayLauncher, NnexpSearchSweeper, NnexpSlurmLauncher, NnexpSweeper

    for plugin in (NnexpSweeper, NnexpSearchSweeper, NnexpSlurmLauncher, NnexpRayLauncher):
        Plugins.instance().register(plugin)


def check_command_line(args: argparse.Namespace) -> None:
    """Compose and check the command line before Hydra makes a directory; exits with 2 and one message if it is wrong.

    Of a sweep only what holds for every cell is checked here; the sweeper checks each cell.
    """
    from hydra.types import RunMode

    from nnexp.compose import Composer, build_config_loader
    from nnexp.launchers import find_launcher_problem

    try:
        if args.config_dir is not None and not os.path.isdir(args.config_dir):
            raise SettingError(f"--config-dir: expected an existing directory; received {args.config_dir}")
        composer = Composer(build_config_loader(args.config_dir and os.path.abspath(args.config_dir)))
        overrides = composer.parse(args.overrides)
        if problems := composer.find_problems(overrides):
            raise SettingError(*problems)
        hydra_config = composer.compose_hydra(overrides)
        if args.multirun or hydra_config.hydra.mode is RunMode.MULTIRUN:
            if problem := find_launcher_problem(hydra_config.hydra.launcher._target_):
                raise SettingError(problem)
            return
        if swept := [override.input_line for override in overrides if override.is_sweep_override()]:
            raise SettingError(f"{swept[0]}: several values are a sweep, which needs -m: nnexp -m {swept[0]}")
        composer.compose(overrides)
    except SettingError as error:
        report_wrong_settings(error)
        sys.exit(2)


def run_hydra() -> None:
    """Let Hydra compose the command line anew and run it, alone or through the sweeper and a launcher."""
    import hydra

    from nnexp import compose

    hydra.main(config_path=compose.CONFIG_PACKAGE, config_name=compose.CONFIG_NAME, version_base="1.3")(run_cell)()


def run_cell(settings: Any) -> None:
    """Run one cell, unless it has been run, then those that its job has beside it.

    It is what every launcher calls.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nnexp.compose import Composer, build_config_loader, unpack_cells

    hydra = HydraConfig.get()
    own_options = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    flags = [f"--config-dir={directory}" for directory in own_options]
    lines = [line for line in hydra.overrides.task if line != "hydra.mode=RUN"]
    if hydra.mode is not RunMode.MULTIRUN:
        sys.exit(run_alone(_to_config(settings), shlex.join(["nnexp", *flags, *lines])))
    _behave_as_worker()
    os.chdir(hydra.runtime.cwd)
    _run_in_sweep(_to_config(settings), shlex.join(["nnexp", *flags, *lines]))
    if cells := unpack_cells(hydra.sweeper.get("more")):
        composer = Composer(build_config_loader(own_options[0] if own_options else None))
        for lines in cells:
            config = composer.compose(composer.parse(lines))
            _run_in_sweep(config, shlex.join(["nnexp", *flags, *lines]))


def _run_in_sweep(config: Config, command: str) -> None:
    attempt = _training.attempt if _training else None
    run_once(config, command, lambda epoch, accuracy: None, attempt)


def _to_config(settings: Any) -> Config:
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


def run_alone(config: Config, command: str) -> int:
    """Run one cell and show it; returns the exit code."""
    ledger = Ledger(config.outputs)
    try:
        ledger.heal()
        if config.dry_run:
            record = ledger.read_settled(config)
            state = "finished" if is_done(record, config) else "to run"
            before = " (failed before)" if record and record["status"] == "failed" else ""
            out.print(f"1 cell, {state}{before}: {config.run_id}", markup=False)
            return 0
        with show_epochs(config.epochs) as on_epoch:
            record, is_new = run_once(config, command, on_epoch)
    except LedgerError as error:
        err.print(f"nnexp: {error}", markup=False)
        return 1
    if record is None:
        err.print(f"nnexp: another process is running {config.run_id}; its result will be in {ledger.table}")
        return 1
    if record["status"] == "failed":
        log = ledger.runs / config.run_id / "run.log"
        err.print(f"nnexp: {format_run(record)}\nThe whole story is in {log}", markup=False)
        return 1
    out.print(format_run(record), markup=False)
    if not is_new:
        out.print("already finished; force=true runs it again")
    return 0


def format_help() -> str:
    """The page of --help, from the comments of the YAML files."""
    lines = ["nnexp [-m] [setting=value ...]", "", "Trains a Keras network on Fashion-MNIST, scores train and test"]
    lines[-1] += " the same way, and adds a row to outputs/results.csv."
    lines += ["", "settings (default, meaning):"]
    for line in (files("nnexp.conf") / "config.yaml").read_text(encoding="utf-8").splitlines():
        if knob := re.fullmatch(r"(\w+): (\S+) +# (.+)", line):
            lines.append(f"  {knob[1]}={knob[2]}".ljust(24) + knob[3])
    lines += ["", "options of each group, and what they ask or set:"]
    for group in ("model", "optimizer", "data", "experiment", "study", "hydra/launcher", "hydra/sweeper"):
        for name, text in read_options(group).items():
            about = text.replace("# @package _global_\n", "").splitlines()[0]
            lines.append(f"  {group}={name}".ljust(28) + about.removeprefix("# "))
    lines += ["", "settings of the options in use, e.g. model.units=[64] or optimizer.learning_rate=0.01:"]
    lines.append("  nnexp --cfg job          all settings as they would be used")
    lines += ["", "examples:", EXAMPLES.rstrip(), ""]
    lines.append("flags: -m (sweep), --config-dir DIR (your own options), --cfg job, --hydra-help (Hydra's own).")
    lines.append("results: nnexp-results --help")
    return "\n".join(lines) + "\n"


def listen_for_stop() -> None:
    """Let Ctrl-C, SIGTERM and a terminal that closes (unless under nohup) end the program in an orderly way."""
    stop = _Stop()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stop)


class _Stop:
    """What a signal to stop does: a KeyboardInterrupt, and no second one while the first is being heeded."""

    def __init__(self) -> None:
        self._last = -float(STOPPING_SECONDS)

    def __call__(self, signal_number: int, frame: Any) -> None:
        threading.excepthook = lambda args: None  # what a launcher says while it is being stopped is not news
        warnings.simplefilter("ignore")
        if time.monotonic() - self._last >= STOPPING_SECONDS:
            self._last = time.monotonic()
            raise KeyboardInterrupt


def _behave_as_worker() -> None:
    """Prepare the process of a sweep's runs, which a launcher may have started.

    It sends its driver no more than the driver needs. joblib waits forever for the rest of a message whose sender was
    killed half-way; the system writes up to 4,096 bytes (PIPE_BUF) whole or not at all, and Hydra's answer is longer.
    """
    from hydra.core.utils import JobReturn

    copyreg.pickle(
        JobReturn,
        lambda job: (JobReturn, (job.overrides, None, None, None, None, job.status, job._return_value)),
    )
    show_warnings()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not the driver's process: end without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not isinstance(signal.getsignal(signal.SIGTERM), _Stop):  # nor here: a cluster ends a job so, which gives its
        signal.signal(signal.SIGTERM, _Stop())  # run back

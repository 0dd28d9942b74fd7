"""The command `nnexp`: one run, a sweep, a study."""

import argparse
import os
import re
import shlex
import signal
import sys
import threading
from importlib.resources import files
from typing import Any

from nnexp.config import Config, SettingError, read_options
from nnexp.console import err, format_run, out, report_wrong_settings, show_epochs, show_warnings
from nnexp.experiment import is_done, run_once
from nnexp.ledger import Ledger, LedgerError

EXAMPLES = """\
  nnexp                                              one run of the lesson's network
  nnexp model=wide dropout=0.3 epochs=20 seed=3      one run with other settings
  nnexp -m dropout=0,0.2,0.5 seed=0,1,2              a sweep; typed again, it runs only what is missing
  nnexp study=lesson                                 a ready sweep
  nnexp -m l2=0,0.001 hydra/launcher=local dry_run=true      what a sweep on every core would run
"""


def main() -> None:
    """Run the command line: 0 done, 1 a run failed, 2 a wrong setting."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(format_help(), end="")
        return
    show_warnings()
    signal.signal(signal.SIGINT, _stop_quietly)
    signal.signal(signal.SIGTERM, _stop_quietly)
    register_plugins()
    if args.run or args.multirun or not (args.cfg or args.info or args.hydra_help or args.shell_completion):
        check_command_line(args)
    try:
        run_hydra()
    except KeyboardInterrupt:
        err.print("stopped; nothing was recorded of the run that was going on")
        sys.exit(130)


def register_plugins() -> None:
    """Make nnexp's sweeper and launchers known to Hydra, from which an editable install hides them."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra_plugins.nnexp import NnexpRayLauncher, NnexpSlurmLauncher, NnexpSweeper

    for plugin in (NnexpSweeper, NnexpSlurmLauncher, NnexpRayLauncher):
        Plugins.instance().register(plugin)
    # Hydra would hold conf/hydra/launcher/ray.yaml to the plugin's own option of that name, which lacks its keys
    ConfigStore.instance().repo["hydra"]["launcher"].pop("ray.yaml", None)


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
    """Run one cell in this process, unless it has been run, then those that its job has beside it.

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
    show_warnings()  # a launcher may have started this process, and where it pleased
    signal.signal(signal.SIGTERM, _stop_quietly)
    os.chdir(hydra.runtime.cwd)
    run_once(_to_config(settings), shlex.join(["nnexp", *flags, *lines]), lambda epoch, accuracy: None)
    if cells := unpack_cells(hydra.sweeper.get("more")):
        composer = Composer(build_config_loader(own_options[0] if own_options else None))
        for lines in cells:
            config = composer.compose(composer.parse(lines))
            run_once(config, shlex.join(["nnexp", *flags, *lines]), lambda epoch, accuracy: None)


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
    for group in ("model", "optimizer", "data", "experiment", "study", "hydra/launcher"):
        for name, text in read_options(group).items():
            about = text.replace("# @package _global_\n", "").splitlines()[0]
            lines.append(f"  {group}={name}".ljust(28) + about.removeprefix("# "))
    lines += ["", "settings of the options in use, e.g. model.units=[64] or optimizer.learning_rate=0.01:"]
    lines.append("  nnexp --cfg job          all settings as they would be used")
    lines += ["", "examples:", EXAMPLES.rstrip(), ""]
    lines.append("flags: -m (sweep), --config-dir DIR (your own options), --cfg job, --hydra-help (Hydra's own).")
    lines.append("results: nnexp-results --help")
    return "\n".join(lines) + "\n"


def _stop_quietly(signal_number: int, frame: Any) -> None:
    threading.excepthook = lambda args: None  # what a launcher's threads say while they are being stopped is not news
    raise KeyboardInterrupt

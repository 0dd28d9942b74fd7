"""A search: Optuna proposes settings for the best validation accuracy, and nnexp's sweep runs them.

Hydra's plugin hydra-optuna-sweeper asks Optuna for trials, hands them to a launcher and tells Optuna what they came to.
It is used as it is. Here is what it leaves open: what is wrong is refused beforehand, the trials of earlier commands
count, a finished cell is answered from the ledger, and an account is given.
"""

import importlib
import logging
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

from nnexp.compose import Composer
from nnexp.config import Config, SettingError, format_value, hash_identity, nearest, walk_settings
from nnexp.console import err, out, report_wrong_settings, show_runs
from nnexp.ledger import Ledger, LedgerError, Record
from nnexp.sweeper import Cell, Sweep, SweepError, build_cells

ALIKE_IN_A_SEARCH = {
    "seed": "the best of several seeds is luck",
    "data.name": "trials are compared on the same validation images",
    "data.validation_size": "trials are compared on the same validation images",
    "data.split_seed": "trials are compared on the same validation images",
}
OFF_IN_A_SEARCH = {
    "dry_run": "a trial is proposed only when those before it have ended",
    "force": "a search takes finished runs as they are",
    "fail_fast": "a trial that fails shows the search where not to look",
}
FURTHER_SEEDS = 5  # in the command that is recommended at the end
FINGERPRINT = "nnexp_search"  # what a study keeps the identity of its search under


@dataclass
class Search:
    """What is searched, in which study.

    Attributes:
        lines: every override, by its key.
        varied: the keys of those that are searched.
        config: the settings at one corner of the space; what is not searched is the same in every trial.
        identity_sha256: equal for two searches exactly if their trials can be compared.
    """

    lines: dict[str, str]
    varied: list[str]
    config: Config
    identity_sha256: str


@dataclass
class Options:
    """The settings `hydra.sweeper.*` of a search, which conf/hydra/sweeper/optuna.yaml explains.

    Raises:
        SettingError: for every wrong one.
    """

    n_trials: int
    n_jobs: int
    seed: int
    storage: str
    study_name: str | None
    sampler: Any = None

    def __post_init__(self) -> None:
        problems = []
        for key, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            if not isinstance(value := getattr(self, key), int) or value < least:
                problems.append(f"hydra.sweeper.{key}: expected an integer >= {least}; received {format_value(value)}")
        if self.storage is None:
            problems.append("hydra.sweeper.storage: expected a URL such as sqlite:///search.db; received null")
        if self.sampler and self.sampler.get("seed") is not None:
            problems.append("hydra.sweeper.sampler.seed: expected null, because hydra.sweeper.seed is it")
        if self.sampler and self.sampler.get("_partial_"):
            problems.append("hydra/sweeper/sampler: expected another than grid; nnexp's own sweeper runs whole grids")
        if problems:
            raise SettingError(*problems)


class SearchSweeper(Sweeper):
    """Searches for the settings with the best validation accuracy."""

    def __init__(self, params: dict[str, str] | None, **options: Any) -> None:
        self._params = params or {}
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every sweeper."""
        self._given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self._composer = Composer(hydra_context.config_loader)  # type: ignore[arg-type]
        self._hydra_config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Search and give an account; ends the program with 0 done, 1 a trial failed, 2 wrong settings."""
        params = [f"{key}={value}" for key, value in self._params.items()]
        try:
            require_plugin()
            options = build_options(self._options)
            search = check_search(self._composer, [*params, *arguments])
            study = open_study(search, options)
        except SettingError as error:
            report_wrong_settings(error)
            raise SystemExit(2) from None
        from optuna.exceptions import StorageInternalError

        try:
            with _make_lock(search.config.outputs, f"search-{search.identity_sha256[:8]}").acquire(timeout=0):
                raise SystemExit(self._run(search, study, options))
        except Timeout:
            err.print(f"nnexp: another nnexp is running study {study.study_name}; type this again when it has ended")
            raise SystemExit(1) from None
        except StorageInternalError as error:
            reason = str(error.__cause__).splitlines()[0]
            err.print(f"nnexp: {options.storage}: {reason}; mend it and type the command again", markup=False)
            raise SystemExit(1) from None
        except (LedgerError, SweepError) as error:
            err.print(f"nnexp: {error}", markup=False)
            raise SystemExit(1) from None

    def _run(self, search: Search, study: Any, options: Options) -> int:
        Ledger(search.config.outputs).heal()
        before = list_ended(study)
        left = max(options.n_trials - len(before), 0)
        out.print(f"study {study.study_name}: {options.n_trials} trials, {len(before)} done, {left} to run")
        plugin = self._build_plugin(study, options, left)
        with show_runs(left) as count:
            launcher = TrialLauncher(search, plugin.sweeper.launcher, self._composer, self._hydra_config, count)
            plugin.sweeper.launcher = launcher
            try:
                plugin.sweep(list(search.lines.values()))
            except ValueError:  # the plugin's own, at its end, if there is no best trial
                if launcher.returned < left:
                    raise
            except KeyboardInterrupt:
                done = len(before) + launcher.returned
                err.print(f"stopped after {done} of {options.n_trials} trials; type the same command to go on")
                return 130
        trials = list_ended(study)
        self._print_account(search, study, trials)
        failed_before, failed = (sum(trial.value is None for trial in ended) for ended in (before, trials))
        return 1 if failed > failed_before or failed == len(trials) else 0

    def _build_plugin(self, study: Any, options: Options, trials: int) -> Any:
        """The plugin over an open study; each command has a sampling seed of its own, or it would repeat the first."""
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        sampler = dict(options.sampler)
        if "seed" in sampler:
            sampler["seed"] = options.seed + len(study.trials)
        plugin = OptunaSweeper(
            sampler=instantiate(sampler),
            direction="maximize",
            storage=options.storage,
            study_name=study.study_name,
            n_trials=trials,
            n_jobs=options.n_jobs,
            max_failure_rate=1.0,  # a failed trial is told to Optuna, and the search goes on
            search_space=None,
            custom_search_space=None,
            params=None,
        )
        plugin.setup(**self._given)
        return plugin

    def _print_account(self, search: Search, study: Any, trials: list[Any]) -> None:
        finished = [trial for trial in trials if trial.value is not None]
        table = Ledger(search.config.outputs).table
        out.print(f"{len(finished)} finished, {len(trials) - len(finished)} failed; all are in {table}", markup=False)
        if not finished:
            return
        best = study.best_trial
        lines = search.lines | {key: f"{key}={value}" for key, value in best.params.items()}
        config = self._composer.compose(self._composer.parse(list(lines.values())))
        command = self._format_command(lines, config)
        out.print(f"best: {name_trial(best.params)}  validation {best.value:.4f}  ({config.run_id})", markup=False)
        out.print(
            f"It is the best of {len(finished)} trials on the same validation images, and so looks better than it is. "
            f"Test accuracy had no part in the choice.\nTo see what it is worth, run it from other seeds:\n  {command}",
            markup=False,
        )

    def _format_command(self, lines: dict[str, str], config: Config) -> str:
        runtime = self._hydra_config.hydra.runtime
        sources = [source.path for source in runtime.config_sources if source.provider == "command-line"]
        seeds = ",".join(str(config.seed + step) for step in range(1, FURTHER_SEEDS + 1))
        words = [*(f"--config-dir={path}" for path in sources), *list_changes(self._composer, lines, config)]
        if (launcher := runtime.choices["hydra/launcher"]) != "basic":
            words.append(f"hydra/launcher={launcher}")
        return shlex.join(["nnexp", "-m", *words, f"seed={seeds}"])


class TrialLauncher:
    """In the launcher's place: runs what the plugin proposes as a sweep does, and returns validation accuracies."""

    def __init__(
        self, search: Search, launcher: Launcher, composer: Composer, hydra_config: DictConfig, count: Any
    ) -> None:
        self._search = search
        self._launcher = launcher
        self._composer = composer
        self._hydra_config = hydra_config
        self._count = count
        self.returned = 0  # trials

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run trials that have not finished yet; a failed one returns None, which the plugin tells Optuna as failed."""
        cells = [self._build_cell(list(lines)) for lines in job_overrides]
        distinct = {cell.config.run_id: cell for cell in cells}
        outcomes = Sweep(list(distinct.values()), self._launcher, self._hydra_config).run_quietly()
        records = dict(zip(distinct, outcomes, strict=True))
        jobs = []
        for cell in cells:
            record = records[cell.config.run_id]
            value = record["scores"]["validation_accuracy"] if record and record["status"] == "finished" else None
            self._count(format_trial(record, cell.name), value is None)
            self.returned += 1
            jobs.append(JobReturn(overrides=cell.overrides, status=JobStatus.COMPLETED, _return_value=value))
        return jobs

    def _build_cell(self, lines: list[str]) -> Cell:
        values = dict(line.split("=", 1) for line in lines)
        name = name_trial({key: values[key] for key in self._search.varied})
        return Cell(lines, name, self._composer.compose(self._composer.parse(lines)))


def require_plugin() -> None:
    """See that Hydra's plugin for Optuna is installed.

    Raises:
        SettingError: if it is not.
    """
    try:
        for package in ("hydra_plugins.hydra_optuna_sweeper", "optuna"):
            importlib.import_module(package)
    except ImportError:
        raise SettingError(
            "hydra/sweeper=optuna: expected the package hydra-optuna-sweeper, which is not installed; "
            'pip install "nnexp[search]" installs it'
        ) from None


def build_options(given: dict[str, Any]) -> Options:
    """The options of a search from the settings `hydra.sweeper.*`.

    Raises:
        SettingError: for every one that is wrong or unknown.
    """
    names = [spec.name for spec in fields(Options)]
    if unknown := [name for name in given if name not in names]:
        raise SettingError(
            *(f"hydra.sweeper.{name}: there is no such setting{nearest(name, names)}" for name in unknown)
        )
    return Options(**given)


def check_search(composer: Composer, arguments: Sequence[str]) -> Search:
    """Check a search space, at every corner of it, and what is the same in all trials.

    Raises:
        SettingError: with all that is wrong.
    """
    overrides = {override.get_key_element(): override for override in composer.parse(arguments)}  # the last one counts
    varied = [key for key, override in overrides.items() if override.is_sweep_override()]
    problems = composer.find_problems(list(overrides.values()))
    if problems := [*problems, *(problem for key in varied for problem in _find_space_problems(overrides[key]))]:
        raise SettingError(*problems)
    corners = build_cells(composer, [_list_ends(override) for override in overrides.values()])
    if problems := list(_find_search_problems([cell.config for cell in corners], varied)):
        raise SettingError(*problems)
    lines = {key: override.input_line or "" for key, override in overrides.items()}
    space = sorted(lines[key] for key in varied)
    identity = hash_identity({"space": space, "corner": corners[0].config.identity})
    return Search(lines, varied, corners[0].config, identity)


def _find_space_problems(override: Override) -> Iterable[str]:
    value, key, line = override.value(), override.key_or_group, override.input_line
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        if value.start > value.end:
            yield f"{key}: expected the lower end of the interval first; received {line}"
        elif "log" in value.tags and value.start <= 0:
            yield f"{key}: expected an interval above 0, because its logarithm is taken; received {line}"
    elif not isinstance(value, ChoiceSweep) or value.shuffle:
        yield f"{key}: expected a,b,c or interval(...) in a search; received {line}"


def _list_ends(override: Override) -> str:
    """An override with the two ends of an interval in its place; any other as it is."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return override.input_line or ""
    return f"{override.get_key_element()}={value.start},{value.end}"


def _find_search_problems(corners: list[Config], varied: list[str]) -> Iterable[str]:
    if not varied:
        yield "hydra/sweeper=optuna: expected something to search, as in dropout=interval(0,0.6); received none"
    for key, reason in ALIKE_IN_A_SEARCH.items():
        if len(values := {attrgetter(key)(config) for config in corners}) > 1:
            yield f"{key}: expected one value for the whole search, because {reason}; received {sorted(values)}"
    for key, reason in OFF_IN_A_SEARCH.items():
        if getattr(corners[0], key):
            yield f"{key}: expected false with hydra/sweeper=optuna, because {reason}; received true"
    if not corners[0].data.validation_size:
        yield (
            "data.validation_size: expected > 0 with hydra/sweeper=optuna, because a search goes by validation "
            "accuracy, never by test accuracy (try data.validation_size=5000); received 0"
        )


def open_study(search: Search, options: Options) -> Any:
    """Open the study of a search, or begin it.

    Raises:
        SettingError: if the storage cannot be opened, or holds another search under that name.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.CRITICAL)  # nnexp says what failed
    name = options.study_name or f"search-{search.identity_sha256[:8]}"
    lock = _make_lock(search.config.outputs, "search")
    try:
        with lock:  # two commands may make the database at the same time
            storage = open_storage(options.storage)
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    except Exception as error:  # of SQLAlchemy, a driver or Optuna
        _remove_lock(lock)
        reason = str(error).strip().splitlines()[0]
        raise SettingError(
            f"hydra.sweeper.storage: expected a database that can be opened, such as sqlite:///search.db; "
            f"received {options.storage}: {reason}"
        ) from error
    if not study.trials:
        study.set_user_attr(FINGERPRINT, search.identity_sha256)
    if study.user_attrs.get(FINGERPRINT) != search.identity_sha256:
        raise SettingError(
            f"hydra.sweeper.study_name: expected a name that is free; {name} is the study of another search space or "
            "of other fixed settings. Leave it out, or choose another"
        )
    return study


def _make_lock(outputs: str, name: str) -> FileLock:
    path = Path(outputs) / ".ledger" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def _remove_lock(lock: FileLock) -> None:
    """Remove a lock and the folders that were made for it, where nothing else is in them."""
    path = Path(lock.lock_file)
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()


def open_storage(url: str) -> Any:
    """Open a database of Optuna's, or make it."""
    from optuna.storages import RDBStorage

    # The first time keeps the version of a new database, which Optuna 2 does not commit; SQLAlchemy did before its 2.0.
    RDBStorage(url, engine_kwargs={"isolation_level": "AUTOCOMMIT"})
    return RDBStorage(url)


def list_ended(study: Any) -> list[Any]:
    """The trials that finished or failed: not those that were cut off, which stay as running in the study."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def name_trial(values: dict[str, Any]) -> str:
    """The searched settings of a trial with four digits each, for a line on the console."""
    return " ".join(f"{key}={_shorten(value)}" for key, value in values.items())


def _shorten(value: Any) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return str(value)


def format_trial(record: Record | None, name: str) -> str:
    """One trial in one line, without its test accuracy: `dropout=0.21 l2=1.3e-05  validation 0.861  (3.9 s)`."""
    if record is None or record["status"] == "failed":
        return f"{name}  failed: {record['error'] if record else 'nothing was recorded'}"
    scores = record["scores"]
    return f"{name}  validation {scores['validation_accuracy']:.3f}  ({scores['seconds']:.1f} s)"


def list_changes(composer: Composer, lines: dict[str, str], config: Config) -> list[str]:
    """The settings of `config`, but for its seed, as they are typed: without a study that may search other values."""
    options = [line for key, line in lines.items() if key in ("model", "optimizer", "data")]
    base = {key: value for key, value, _ in walk_settings(composer.compose(composer.parse(options)))}
    changed = {key: value for key, value, _ in walk_settings(config) if value != base[key] and key != "seed"}
    return [*options, *(lines.get(key, f"{key}={format_value(value)}") for key, value in changed.items())]

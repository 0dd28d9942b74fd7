"""From the command line to checked settings: Hydra composes, `Config` checks, all that is wrong is said at once."""

import base64
import dataclasses
import json
import pickle
import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nnexp.config import Config, SettingError, format_value, nearest

CONFIG_PACKAGE = "pkg://nnexp.conf"
CONFIG_NAME = "config"
GROUPS = ("model", "optimizer", "data", "experiment", "study")

ConfigStore.instance().store(name="schema", node=Config, provider="nnexp")


def count_processes(threads: int) -> int:
    """How many runs of so many threads this machine's cores take at once: what the local launcher starts."""
    import joblib

    return max(1, int(joblib.cpu_count()) // threads)


OmegaConf.register_new_resolver("nnexp.processes", count_processes)


def load_plugins() -> None:
    """Let Hydra find its plugins, and take their options out of the way of those of the same name in conf/.

    Hydra would take an entry of the same name as the schema of our file, and then refuse it.
    """
    Plugins.instance()
    options = ConfigStore.instance().repo["hydra"]
    options["sweeper"].pop("optuna.yaml", None)
    options["launcher"].pop("ray.yaml", None)


def build_config_loader(config_dir: str | None) -> ConfigLoaderImpl:
    """Build Hydra's loader over the shipped configuration and, before it, a user's own directory."""
    setup_globals()
    load_plugins()
    search_path = create_automatic_config_search_path(None, None, CONFIG_PACKAGE)
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{config_dir}", SearchPathQuery("schema"))
    return ConfigLoaderImpl(search_path)


class Composer:
    """Composes the settings of many cells quickly: each choice of options once, then the values on a copy of it."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], bytes] = {}
        self._is_a_group: dict[str, bool] = {}
        self._problems: dict[tuple[str, str], str | None] = {}
        self._owners = _list_owners(Config)

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """Parse command-line overrides, in Hydra's grammar.

        Raises:
            SettingError: for what is not of the form key=value.
        """
        new = [argument for argument in arguments if argument not in self._parsed]
        try:
            self._parsed |= zip(new, self._parser.parse_overrides(new), strict=True)
        except HydraException as error:
            raise SettingError(f"{_first_line(error)} (expected key=value, as in dropout=0.2)") from error
        return [self._parsed[argument] for argument in arguments]

    def find_problems(self, overrides: Sequence[Override]) -> list[str]:
        """Say which overrides name no setting or option, or have a value of the wrong type; a line each, none twice."""
        problems: list[str] = []
        for override in overrides:
            key, line = override.key_or_group, override.input_line
            if override.is_sweep_override() and (override.is_hydra_override() or key == "study"):
                problems.append(f"{key}: expected one value for the whole sweep; received {line}")
            elif self._is_group(override) or key in self._owners:
                problems += self._find_value_problems(override)
            elif not override.is_hydra_override():
                hint = nearest(key, [*self._owners, *GROUPS]) or ". `nnexp --help` lists the settings"
                problems.append(f"{key}: there is no such setting; received {line}{hint}")
        return list(dict.fromkeys(problems))

    def compose_hydra(self, overrides: Sequence[Override]) -> DictConfig:
        """Compose the configuration, with Hydra's own, from those overrides that are not swept.

        Raises:
            SettingError: where Hydra refuses it.
        """
        return self._load([override.input_line or "" for override in overrides if not override.is_sweep_override()])

    def compose(self, overrides: Sequence[Override]) -> Config:
        """Compose and check the settings of one cell.

        Raises:
            SettingError: with a line for every wrong setting.
        """
        if problems := self.find_problems(overrides):
            raise SettingError(*problems)
        choices = tuple(o.input_line or "" for o in overrides if self._is_group(o) and not o.is_hydra_override())
        if choices not in self._composed:
            composed = self._load(list(choices))
            with open_dict(composed):
                del composed["hydra"]
            self._composed[choices] = pickle.dumps(composed)  # a copy by pickle takes a quarter of deepcopy's time
        settings = pickle.loads(self._composed[choices])
        values = [o for o in overrides if not self._is_group(o) and not o.is_hydra_override()]
        try:
            ConfigLoaderImpl._apply_overrides_to_config(values, settings)
            config = OmegaConf.to_object(settings)
        except (HydraException, OmegaConfBaseException) as error:
            raise SettingError(_first_line(error)) from error
        assert isinstance(config, Config)
        return config

    def _load(self, lines: list[str]) -> DictConfig:
        try:
            return self._loader.load_configuration(CONFIG_NAME, lines, RunMode.RUN)
        except (HydraException, OmegaConfBaseException) as error:
            raise SettingError(_first_line(error.__cause__ or error)) from error

    def _is_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._is_a_group:
            self._is_a_group[key] = bool(self._loader.repository.group_exists(key))
        return self._is_a_group[key]

    def _find_value_problems(self, override: Override) -> list[str]:
        key, line = override.key_or_group, override.input_line
        if not override.is_sweep_override():
            values = [override.value()]
        elif isinstance(interval := override.value(), IntervalSweep):
            values = [interval.start, interval.end]
            if self._find_problem(override, interval.start) and not self._find_problem(
                override, int(interval.start or 0)
            ):
                return [f"{key}: expected whole numbers, as in {key}=int(interval(1,5)); received {line}"]
        elif not (values := list(override.sweep_iterator())):
            return [f"{key}: expected at least one value; received {line}, which comes to none"]
        return [problem for value in values if (problem := self._find_problem(override, value))]

    def _find_problem(self, override: Override, value: Any) -> str | None:
        key = override.key_or_group
        seen = (key, repr(value))
        if seen not in self._problems:
            check = self._find_option_problem if self._is_group(override) else self._find_setting_problem
            self._problems[seen] = check(key, value)
        return self._problems[seen]

    def _find_option_problem(self, group: str, value: Any) -> str | None:
        options = self._loader.get_group_options(group, ObjectType.CONFIG)
        if value in options:
            return None
        expected = f"one of {', '.join(options)}"
        return f"{group}: expected {expected}; received {format_value(value)}{nearest(str(value), options)}"

    def _find_setting_problem(self, key: str, value: Any) -> str | None:
        owner, name = self._owners[key], key.rpartition(".")[2]
        try:
            OmegaConf.update(OmegaConf.structured(owner), name, value)
        except OmegaConfBaseException:
            [expected] = [spec.metadata["expected"] for spec in dataclasses.fields(owner) if spec.name == name]
            return f"{key}: expected {expected}; received {format_value(value)}"
        return None


def pack_cells(cells: Sequence[list[str]]) -> list[str]:
    """The overrides of one job that runs some cells: those of the first, and one with all the others.

    That one is base64, which Hydra's grammar takes as it is, and quickly; `unpack_cells` reads its value.
    """
    first, *others = cells
    if not others:
        return first
    word = base64.urlsafe_b64encode(json.dumps(others).encode()).decode()
    return [*first, f"hydra.sweeper.more='{word}'"]


def unpack_cells(word: str | None) -> list[list[str]]:
    """The overrides of each cell that a job runs after its first."""
    cells: list[list[str]] = json.loads(base64.urlsafe_b64decode(word)) if word else []
    return cells


def _list_owners(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting's dotted key, and the dataclass that declares it."""
    owners: dict[str, Any] = {}
    for spec in dataclasses.fields(schema):
        if dataclasses.is_dataclass(spec.type):
            owners |= _list_owners(spec.type, f"{prefix}{spec.name}.")
        else:
            owners[prefix + spec.name] = schema
    return owners


def _first_line(error: BaseException) -> str:
    """The line of Hydra's or OmegaConf's message that says what is wrong, with the file or the setting it is in."""
    line, *more = (str(error).strip() or type(error).__name__).splitlines()
    if more and (place := re.fullmatch(r"(In .+:) \w+ raised while composing config:", line)):
        return f"{place[1]} {more[0]}"
    key = getattr(error, "full_key", None)  # named in a later line
    return f"{key}: {line}" if key else line

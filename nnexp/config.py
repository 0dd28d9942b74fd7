"""The settings of one run: their types, their ranges, and the identity that follows from them.

Every value comes from YAML (conf/) or the command line; nothing here has a default. `Config` is checked
as it is made, so that whoever holds one holds a legal one.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

TRAINING_VERSION = 1
"""Part of every run's identity: raised by hand when a change of the code changes the numbers of a run."""

ACTIVATIONS = ("relu", "tanh", "sigmoid", "linear", "elu", "gelu")
ENGINES = ("compiled", "keras")
OPTIMIZER_NUMBERS = {
    "adam": ("beta_1", "beta_2", "epsilon"),
    "adamw": ("beta_1", "beta_2", "epsilon", "weight_decay"),
    "sgd": ("momentum", "nesterov"),
    "rmsprop": ("rho", "momentum", "epsilon"),
}
"""What an optimizer takes beside its learning rate."""
MAX_LABEL = 90  # characters; with seed and digits a run_id has at most 110
MAX_POOLINGS = 4  # 28 pixels halve to 14, 7, 3 and 1


class SettingError(ValueError):
    """One or more wrong settings; `problems` has a line for each: key, expected, received."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before it is read.

    Attributes:
        train_images, test_images: how many there are.
        sha256: of the data, part of a run's identity.
    """

    train_images: int
    test_images: int
    sha256: str


DATASETS = {
    "fashion_mnist": DatasetFacts(60_000, 10_000, "14410854cf7a289477dcfc7df3f8ec24741e281cdcc425ede0d9a748ca630214"),
    "sample": DatasetFacts(2_000, 1_000, "bf2b68f567739f31381deb9b924c74b42ce13eedb7dcbeb1f54c6115f0af7bbf"),
}


def setting(
    expected: str,
    valid: Callable[[Any], bool],
    *,
    names: Sequence[str] = (),
    identity: bool = True,
    default: Any = dataclasses.MISSING,
) -> Any:
    """Declare a setting: what a legal value is in words and as a test, and whether it is part of a run's identity.

    Args:
        names: the legal values where they are words, of which the nearest to a typo is shown.
    """
    metadata = {"expected": expected, "valid": valid, "names": names, "identity": identity}
    return field(default=default, metadata=metadata)


def choice(names: Sequence[str]) -> Any:
    """Declare a setting that is one of some words."""
    return setting("one of " + ", ".join(names), lambda value: value in names, names=names)


def _optional(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or valid(value)


def _is_list_of_positive(values: Any) -> bool:
    return all(value >= 1 for value in values)


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _is_not_negative(value: float) -> bool:
    return 0 <= value < math.inf


@functools.cache
def is_writable(directory: Path) -> bool:
    """Try it, because permission bits do not tell of read-only file systems; leaves nothing behind."""
    try:
        if directory.exists():
            with tempfile.TemporaryFile(dir=directory):
                return True
        if directory.is_symlink():  # to what is not there
            return False
        ancestor = next(parent for parent in directory.absolute().parents if parent.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
            return False
        probe = tempfile.mkdtemp(dir=ancestor)
        os.rmdir(probe)
    except OSError:
        return False
    return True


@dataclass
class ModelConfig:
    """The architecture, as two lists."""

    filters: list[int] = setting("a list of integers >= 1, such as [32, 64]", _is_list_of_positive)
    units: list[int] = setting("a list of integers >= 1, such as [128]", _is_list_of_positive)
    activation: str = choice(ACTIVATIONS)


@dataclass
class OptimizerConfig:
    """A Keras optimizer and its numbers; those that it does not take are null."""

    name: str = choice(tuple(OPTIMIZER_NUMBERS))
    learning_rate: float = setting("a number > 0", _is_positive)
    momentum: float | None = setting("a number in [0, 1)", _optional(_is_share), default=None)
    nesterov: bool | None = setting("true or false", lambda value: True, default=None)
    beta_1: float | None = setting("a number in [0, 1)", _optional(_is_share), default=None)
    beta_2: float | None = setting("a number in [0, 1)", _optional(_is_share), default=None)
    rho: float | None = setting("a number in [0, 1)", _optional(_is_share), default=None)
    epsilon: float | None = setting("a number > 0", _optional(_is_positive), default=None)
    weight_decay: float | None = setting("a number >= 0", _optional(_is_not_negative), default=None)


@dataclass
class DataConfig:
    """The data set and how it is split."""

    name: str = choice(tuple(DATASETS))
    directory: str | None = setting(
        "an existing directory with the data set's four files, or null",
        _optional(lambda value: Path(value).is_dir()),
        identity=False,
    )
    train_size: int | None = setting("an integer >= 1, or null for all", _optional(lambda value: value >= 1))
    validation_size: int = setting("an integer >= 0", lambda value: value >= 0)
    split_seed: int = setting("an integer >= 0", lambda value: value >= 0)


@dataclass
class Config:
    """One run, complete and legal.

    Raises:
        SettingError: with a line for every setting that is out of its range or does not go with the others.
    """

    model: ModelConfig
    optimizer: OptimizerConfig
    data: DataConfig
    dropout: float = setting("a number in [0, 1)", _is_share)
    l2: float = setting("a number >= 0", _is_not_negative)
    epochs: int = setting("an integer >= 1", lambda value: value >= 1)
    batch_size: int = setting("an integer >= 1", lambda value: value >= 1)
    early_stopping: int | None = setting("an integer >= 1, or null", _optional(lambda value: value >= 1))
    seed: int = setting("an integer from 0 to 2147483647", lambda value: 0 <= value < 2**31)
    threads: int = setting("an integer >= 1", lambda value: value >= 1)
    engine: str = choice(ENGINES)
    xla: str = setting("auto, true or false", lambda value: value.lower() in ("auto", "true", "false"))
    save_model: bool = setting("true or false", lambda value: True, identity=False)
    outputs: str = setting("a directory that can be written", lambda value: is_writable(Path(value)), identity=False)
    force: bool = setting("true or false", lambda value: True, identity=False)
    dry_run: bool = setting("true or false", lambda value: True, identity=False)
    fail_fast: bool = setting("true or false", lambda value: True, identity=False)

    def __post_init__(self) -> None:
        problems = [*_range_problems(self), *_optimizer_problems(self.optimizer)]
        if not problems:
            problems = list(_cross_problems(self))
        if problems:
            raise SettingError(*problems)
        self.outputs = os.path.abspath(self.outputs)
        if self.data.directory is not None:
            self.data.directory = os.path.abspath(self.data.directory)
        self.xla = self.xla.lower()
        if not self.model.filters and not self.model.units:
            self.model.activation = "linear"  # there is nothing to activate: however it is typed, it is one network

    @property
    def train_size(self) -> int:
        """Number of images trained on."""
        if self.data.train_size is not None:
            return self.data.train_size
        return DATASETS[self.data.name].train_images - self.data.validation_size

    @property
    def use_xla(self) -> bool:
        """Whether XLA compiles whole epochs: the value of `xla`, or for auto, what is fastest.

        Measured on CPUs (docs/performance.md): XLA is 2 to 5 times as fast on Dense layers, TensorFlow's own kernels
        are faster on convolutions, and `fit` spends its time elsewhere.
        """
        if self.xla == "auto":
            return self.engine == "compiled" and not self.model.filters
        return self.xla == "true"

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that can change a number, resolved, by its dotted key; with the data and the training code."""
        settings = {key: _canonical(value) for key, value, spec in walk_settings(self) if spec.metadata["identity"]}
        settings |= {"data.train_size": self.train_size, "xla": self.use_xla}
        return settings | {"data_sha256": DATASETS[self.data.name].sha256, "training_version": TRAINING_VERSION}

    @property
    def identity_sha256(self) -> str:
        """SHA-256 of the identity: equal for two runs exactly if they must give the same numbers."""
        return hash_identity(self.identity)

    @property
    def run_id(self) -> str:
        """A label and 8 hexadecimal digits of the identity, e.g. `mlp-dropout0.2-adam-e5-s0-3f2a9c1e`."""
        return f"{self._label()}-s{self.seed}-{self.identity_sha256[:8]}"

    @property
    def setting_id(self) -> str:
        """The same without the seed: what a comparison groups by."""
        identity = {key: value for key, value in self.identity.items() if key != "seed"}
        return f"{self._label()}-{hash_identity(identity)[:8]}"

    @property
    def model_name(self) -> str:
        """The shipped model option with these filters and units, else `mlp` or `cnn`: a name for tables."""
        return self._shipped_option() or ("cnn" if self.model.filters else "mlp")

    def _shipped_option(self) -> str | None:
        for name, option in _model_options().items():
            if (option["filters"], option["units"]) == (self.model.filters, self.model.units):
                return name
        return None

    def describe(self) -> str:
        """The run in a few words, as in its line on the console: `mlp dropout=0.2`."""
        words = [self.model_name]
        words += [f"{key}={value:g}" for key, value in (("dropout", self.dropout), ("l2", self.l2)) if value]
        return " ".join(words)

    def _label(self) -> str:
        parts = [self.model_name]
        if not self._shipped_option():
            parts.append("x".join(map(str, self.model.filters + self.model.units))[:24].rstrip("x"))
        if self.dropout:
            parts.append(f"dropout{self.dropout:g}")
        if self.l2:
            parts.append(f"l2-{self.l2:g}")
        if self.data.name != "fashion_mnist":
            parts.append(self.data.name)
        return "-".join([*parts, self.optimizer.name, f"e{self.epochs}"])[:MAX_LABEL]


def walk_settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield (dotted key, value, field) of every setting, groups first to last."""
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            yield from walk_settings(value, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name, value, spec


def _range_problems(config: Config) -> Iterator[str]:
    for key, value, spec in walk_settings(config):
        is_nan = isinstance(value, float) and math.isnan(value)
        if is_nan or not spec.metadata["valid"](value):
            hint = nearest(str(value), spec.metadata["names"])
            yield f"{key}: expected {spec.metadata['expected']}; received {format_value(value)}{hint}"


def _optimizer_problems(optimizer: OptimizerConfig) -> Iterator[str]:
    takes = OPTIMIZER_NUMBERS.get(optimizer.name, ())
    for key in sorted(set().union(*OPTIMIZER_NUMBERS.values())):
        value = getattr(optimizer, key)
        if optimizer.name in OPTIMIZER_NUMBERS and (value is None) == (key in takes):
            expected = "a number" if key in takes else f"null, because {optimizer.name} has no {key}"
            numbers = ", ".join(("learning_rate", *takes))
            expected += f" ({optimizer.name} takes {numbers})"
            yield f"optimizer.{key}: expected {expected}; received {format_value(value)}"


def _cross_problems(config: Config) -> Iterator[str]:
    available = DATASETS[config.data.name].train_images
    model, data = config.model, config.data
    if len(model.filters) > MAX_POOLINGS:
        yield (
            f"model.filters: expected at most {MAX_POOLINGS} numbers, because each halves the 28 x 28 pixels; "
            f"received {model.filters}"
        )
    if config.dropout and not model.units:
        yield (
            "dropout: expected 0 for a model without a hidden Dense layer (model.units is []), "
            f"there is nothing to drop; received {config.dropout}"
        )
    if data.validation_size >= available:
        yield (
            f"data.validation_size: expected at most {available - 1} of {data.name}'s {available} images; "
            f"received {data.validation_size}"
        )
    elif config.train_size > available - data.validation_size:
        rest = f" minus data.validation_size={data.validation_size}" if data.validation_size else ""
        yield (
            f"data.train_size: expected at most {available - data.validation_size} "
            f"({data.name} has {available} training images{rest}); received {data.train_size}"
        )
    elif config.batch_size > config.train_size:
        yield (
            f"batch_size: expected at most {config.train_size}, the number of training images; "
            f"received {config.batch_size}"
        )
    if data.name == "sample" and data.directory is not None:
        yield f"data.directory: expected null, because the sample ships with nnexp; received {data.directory}"
    if config.early_stopping is not None and not data.validation_size:
        yield (
            "early_stopping: expected data.validation_size > 0, because the epoch to stop at is chosen on "
            f"validation images (try data.validation_size=5000); received early_stopping={config.early_stopping} "
            "without a validation set"
        )


def nearest(name: str, names: Sequence[str]) -> str:
    """Ask whether the most similar of `names` was meant; empty where none is similar."""
    near = difflib.get_close_matches(name, names, n=1)
    return f". Did you mean {near[0]}?" if near else ""


def format_value(value: Any) -> str:
    """A value as it is typed in YAML: null, true, 0.2, abc."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _canonical(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value  # -0.0 and 0.0 are one setting


def hash_identity(identity: dict[str, Any]) -> str:
    """SHA-256 of an identity, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@functools.cache
def _model_options() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load(text) for name, text in read_options("model").items()}


def read_options(group: str) -> dict[str, str]:
    """The shipped options of a group: the YAML text of each, by name, in the order of the names."""
    options = {path.name: path for path in (files("nnexp.conf") / group).iterdir() if path.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): options[name].read_text(encoding="utf-8") for name in sorted(options)}

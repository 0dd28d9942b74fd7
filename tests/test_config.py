"""The promises of conf/ and the schema: whatever is in the folder composes, is legal, builds, and says what it is."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL, RunNnexp

from nnexp.compose import Composer, build_config_loader
from nnexp.config import OPTIMIZER_NUMBERS, Config, DataConfig, ModelConfig, OptimizerConfig, SettingError
from nnexp.sweeper import Cell, build_cells

CONF = Path(__file__).parents[1] / "conf"
YAML_FILES = {str(path.relative_to(CONF)): path for path in sorted(CONF.rglob("*.yaml"))}
TINY = "# A tiny one, of my own.\nfilters: []\nunits: [4]\nactivation: relu\n"


def list_options(group: str) -> list[str]:
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


def read_numbers(optimizer: str) -> dict[str, float]:
    option = yaml.safe_load((CONF / "optimizer" / f"{optimizer}.yaml").read_text())
    return {key: value for key, value in option.items() if key != "name"}


@functools.cache
def make_composer(config_dir: str | None = None) -> Composer:
    return Composer(build_config_loader(config_dir))


def compose(*arguments: str) -> Config:
    composer = make_composer()
    return composer.compose(composer.parse(arguments))


def expand_study(name: str) -> list[Cell]:
    composer = make_composer()
    params = composer.compose_hydra(composer.parse([f"study={name}"])).hydra.sweeper.params
    return build_cells(composer, [f"study={name}", *(f"{key}={value}" for key, value in params.items())])


@pytest.fixture
def own_options(tmp_path: Path) -> Path:
    """A user's directory with one option in it: model=tiny."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(TINY)
    return tmp_path / "mine"


@pytest.mark.parametrize("file", YAML_FILES)
def test_every_yaml_file_composes_to_legal_settings(file: str) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    arguments = [f"{group}={name}"] if group else []
    make_composer().compose_hydra(make_composer().parse(arguments))
    compose(*arguments)


def test_an_option_sets_what_its_file_says() -> None:
    option = yaml.safe_load((CONF / "model" / "deep.yaml").read_text())
    assert dataclasses.asdict(compose("model=deep").model) == option


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("model", "experiment") for name in list_options(group)]
)
def test_every_model_and_experiment_builds_its_network(choice: str) -> None:
    from nnexp.model import build_model

    config = compose(choice)
    layers = [type(layer).__name__ for layer in build_model(config).layers]
    assert layers.count("Conv2D") == len(config.model.filters)
    assert layers.count("Dense") == len(config.model.units) + 1


@pytest.mark.parametrize("name", list_options("optimizer"))
def test_every_optimizer_is_built_with_its_numbers(name: str) -> None:
    from nnexp.model import build_optimizer

    changed = {key: True if key == "nesterov" else 0.75 for key in read_numbers(name)}  # none of them Keras's default
    config = compose(f"optimizer={name}", *(f"optimizer.{key}={value}" for key, value in changed.items()))
    built = build_optimizer(config)
    assert type(built).__name__.lower() == name
    assert {key: built.get_config()[key] for key in changed} == changed


@pytest.mark.parametrize("name", list_options("optimizer"))
def test_the_numbers_of_an_optimizer_are_those_of_keras(name: str) -> None:
    import keras

    ours = read_numbers(name)
    stock = keras.optimizers.get(name).get_config()
    assert {key: stock[key] for key in ours} == pytest.approx(ours)


@pytest.mark.parametrize("name", [name for name in list_options("study") if name != "search"])  # see test_search.py
def test_every_study_expands_to_legal_cells(name: str) -> None:
    assert len(expand_study(name)) > 1


def test_the_lesson_is_three_networks_from_the_same_seeds() -> None:
    cells = [cell.config for cell in expand_study("lesson")]
    pairs = {(config.dropout, config.l2) for config in cells}
    assert pairs == {(0.0, 0.0), (0.2, 0.0), (0.0, 0.01)}
    assert len(cells) == len(pairs) * len({config.seed for config in cells})


@pytest.mark.parametrize("file", YAML_FILES)
def test_every_yaml_file_begins_with_what_it_is_for(file: str) -> None:
    lines = YAML_FILES[file].read_text().splitlines()
    [about] = [line for line in lines if line != "# @package _global_"][:1]
    assert re.fullmatch(r"# \S.+", about)


@pytest.mark.parametrize("file", [file for file in YAML_FILES if file.startswith(("experiment/", "study/"))])
def test_every_experiment_and_study_says_how_to_run_it(file: str) -> None:
    choice = file.removesuffix(".yaml").replace("/", "=")
    about = YAML_FILES[file].read_text().splitlines()[1]
    assert about.endswith("  nnexp" if choice == "experiment=baseline" else f"  nnexp {choice}")


@pytest.mark.parametrize("file", YAML_FILES)
def test_every_number_has_its_meaning_beside_it(file: str) -> None:
    text = YAML_FILES[file].read_text()
    lines = text.splitlines()
    numbers = {node.start_mark.line for node in walk_scalars(yaml.compose(text)) if is_number(node)}
    assert [lines[number] for number in numbers if not re.search(r" # \S", lines[number])] == []


def walk_scalars(node: Any) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from walk_scalars(child)
    elif isinstance(node, yaml.MappingNode):
        for _, child in node.value:
            yield from walk_scalars(child)


def is_number(node: yaml.ScalarNode) -> bool:
    return node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@pytest.mark.parametrize("schema", [Config, ModelConfig, OptimizerConfig, DataConfig])
def test_no_setting_has_a_default_outside_yaml(schema: type) -> None:
    with_default = {field.name for field in dataclasses.fields(schema) if field.default is not dataclasses.MISSING}
    optional = set().union(*OPTIMIZER_NUMBERS.values()) if schema is OptimizerConfig else set()
    assert with_default == optional
    assert all(field.default_factory is dataclasses.MISSING for field in dataclasses.fields(schema))


def test_a_number_that_an_optimizer_does_not_take_is_null() -> None:
    assert compose("optimizer=sgd").optimizer.beta_1 is None


def test_a_config_that_is_wrong_in_several_ways_says_each() -> None:
    with pytest.raises(SettingError) as error:
        compose("dropout=1.5", "l2=-1", "epochs=0")
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["dropout", "l2", "epochs"]


def test_a_users_own_option_is_taken_from_config_dir(own_options: Path, run_nnexp: RunNnexp) -> None:
    run = run_nnexp("--config-dir", "mine", "model=tiny", "dry_run=true", tensorflow=False)
    assert run.stdout.startswith("1 cell, to run: mlp-4-adam-e5-s0-"), run.stderr


def test_a_users_own_option_is_offered_where_the_name_is_misspelt(own_options: Path, run_nnexp: RunNnexp) -> None:
    run = run_nnexp("--config-dir", "mine", "model=tinny", tensorflow=False)
    message = "nnexp: model: expected one of cnn, deep, linear, mlp, tiny, wide; received tinny. Did you mean tiny?"
    assert run.stderr.splitlines()[0] == message


def test_a_users_own_option_with_an_unknown_setting_is_refused(own_options: Path, run_nnexp: RunNnexp) -> None:
    (own_options / "model" / "tiny.yaml").write_text(TINY + "layers: 3\n")
    run = run_nnexp("--config-dir", "mine", "model=tiny", tensorflow=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 2)
    assert "model/tiny" in run.stderr
    assert "layers" in run.stderr


def test_a_users_own_option_is_swept_in_other_processes(own_options: Path, run_nnexp: RunNnexp) -> None:
    arguments = ["-m", "hydra/launcher=local", "model=tiny,linear", *SMALL[:-1]]
    run = run_nnexp("--config-dir", "mine", *arguments)
    assert run.returncode == 0, run.stderr
    assert "2 finished, 0 failed" in run.stdout
    records = [json.loads(path.read_text()) for path in (own_options.parent / "outputs").glob("runs/*/result.json")]
    assert {record["run_id"].rpartition("-")[0] for record in records} == {
        "mlp-4-sample-adam-e1-s0",
        "linear-sample-adam-e1-s0",
    }
    assert all(record["command"].startswith(f"nnexp --config-dir={own_options} ") for record in records)

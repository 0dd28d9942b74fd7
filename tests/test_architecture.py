"""The promises of the house: who may import what. A new file is a new line of HOUSE."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "nnexp"
FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}

HOUSE = {  # file: what of nnexp it may import, a module or one name of it
    "__init__": ("compare", "experiment.load_model", "report"),
    "__main__": ("cli",),
    "_hydra_plugin/__init__": ("launchers", "search", "sweeper"),
    "cli": ("compose", "config", "console", "data", "experiment", "launchers", "ledger", "training_process"),
    "compare": ("questions", "statistics", "verdicts"),
    "compiled": ("config", "data.Dataset"),
    "compose": ("config",),
    "config": (),
    "drawing": ("plots",),
    "export": ("config", "experiment", "ledger", "report"),
    "page": ("compare", "config", "data", "drawing", "ledger", "plots", "questions", "report"),
    "plots": ("report", "statistics"),
    "console": ("config", "ledger"),
    "data": ("config",),
    "experiment": ("config", "data", "ledger", "model", "provenance", "tensorflow_start", "training"),
    "fetch_data": ("config", "data", "tensorflow_start"),
    "launchers": (),
    "ledger": ("config",),
    "lesson": ("statistics", "config", "data", "plots", "reference"),
    "model": ("config",),
    "provenance": ("config", "tensorflow_start"),
    "questions": ("statistics",),
    "reference": (),
    "report": ("compare", "config", "data", "ledger"),
    "reproduce": ("config", "experiment", "ledger", "provenance", "training_process"),
    "results": ("config", "console", "export", "ledger", "page", "report", "reproduce"),
    "search": ("compose", "config", "console", "ledger", "sweeper"),
    "statistics": (),
    "sweeper": ("compose", "config", "console", "experiment", "launchers", "ledger"),
    "tensorflow_start": (),
    "training": ("compiled", "config", "data.Dataset", "model.build_optimizer"),
    "training_process": ("config", "console", "experiment", "ledger"),
    "verdicts": ("questions", "statistics"),
}
HYDRA_FILES = ("cli", "compose", "launchers", "search", "sweeper")  # compose is there for the others
TENSORFLOW_FILES = ("compiled", "data", "experiment", "model", "tensorflow_start", "training")
LATE_FILES = ("compiled",)  # import TensorFlow as they are imported themselves, and so inside functions alone
STATISTICS_FILES = ("compare", "questions", "statistics", "verdicts")
HEAVY = ("tensorflow", "keras", "pandas", "matplotlib", "scipy")


class Import(NamedTuple):
    """`import module`, or for each name of `from module import names` module and name."""

    module: str
    name: str
    is_at_top: bool  # runs when the file is imported: not in a function, not for the type checker alone

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def read_imports(file: str) -> list[Import]:
    return list(_walk(ast.parse(FILES[file].read_text(encoding="utf-8")), is_at_top=True))


def _walk(node: ast.AST, is_at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", is_at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports are written in full"
            yield from (Import(child.module or "", alias.name, is_at_top) for alias in child.names)
        else:
            is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, is_at_top and not is_for_types and not is_function)


def name_parts_of_nnexp(imports: list[Import]) -> set[str]:
    """Each import of nnexp as `module.name`, such as data.Dataset."""
    parts = (f"{each.module}.{each.name}" for each in imports if each.package == "nnexp")
    return {part.removeprefix("nnexp.").removesuffix(".") for part in parts}


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_of_nnexp_only_what_the_house_allows_it(file: str) -> None:
    parts = name_parts_of_nnexp(read_imports(file))
    allowed = HOUSE[file]
    assert {part for part in parts if part not in allowed and part.partition(".")[0] not in allowed} == set()


@pytest.mark.parametrize("file", [file for file in FILES if file not in HYDRA_FILES])
def test_only_the_command_line_and_the_sweeper_know_hydra(file: str) -> None:
    packages = {each.package for each in read_imports(file)}
    assert packages.isdisjoint({"hydra", "hydra_plugins"})


@pytest.mark.parametrize("file", [file for file in FILES if file not in TENSORFLOW_FILES])
def test_only_data_model_training_and_experiment_touch_tensorflow(file: str) -> None:
    packages = {each.package for each in read_imports(file)}
    assert packages.isdisjoint({"tensorflow", "keras"})


@pytest.mark.parametrize("file", [file for file in FILES if file not in LATE_FILES])
def test_tensorflow_is_imported_only_when_a_function_is_called(file: str) -> None:
    at_top = [each for each in read_imports(file) if each.is_at_top]
    parts = {each.package for each in at_top} | {part.partition(".")[0] for part in name_parts_of_nnexp(at_top)}
    assert parts.isdisjoint({"tensorflow", "keras", *LATE_FILES})


@pytest.mark.parametrize("file", STATISTICS_FILES)
def test_the_statistics_need_only_numpy_pandas_and_scipy(file: str) -> None:
    packages = {each.package for each in read_imports(file)} - set(sys.stdlib_module_names)
    assert packages <= {"nnexp", "numpy", "pandas", "scipy"}


def test_to_import_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, nnexp.cli; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_tensorflow_starts_without_what_keras_only_uses_where_it_is_there() -> None:
    code = (
        "import sys; from nnexp.tensorflow_start import EXTRAS, start_tensorflow; start_tensorflow(1);"
        "import nnexp.compiled; print([name for name in EXTRAS if name in sys.modules]); import pandas, matplotlib"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr

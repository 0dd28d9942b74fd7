"""The promises of the package: what is built from the sources works where there are no sources."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
YAML_FILES = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it; needs no network."""
    sources = tmp_path_factory.mktemp("sources") / "nnexp"
    shutil.copytree(ROOT, sources, ignore=NOT_SOURCES)
    run(sources, sys.executable, "-m", "build", "--no-isolation", "--outdir", "../built")
    return sources.parent / "built"


@pytest.fixture(scope="module")
def installed(built: Path, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs a command of an environment that has the wheel, and of this one only what nnexp needs."""
    directory = tmp_path_factory.mktemp("installed")
    venv.create(directory / "venv", with_pip=False, symlinks=True)
    python = directory / "venv" / "bin" / "python"
    [wheel] = built.glob("*.whl")
    run(
        directory,
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    [packages] = (directory / "venv").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    (directory / "work").mkdir()
    return lambda command, *args: run(directory / "work", str(python.with_name(command)), *args, env=plain_environment)


def run(directory: Path, *command: str, env: dict[str, str] | None = None) -> str:
    """What a command writes; fails with its messages where it does."""
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def list_wheel(built: Path) -> set[str]:
    [wheel] = built.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_yaml_file_and_the_sample(built: Path) -> None:
    names = list_wheel(built)
    assert {name.removeprefix("nnexp/conf/") for name in names if name.endswith(".yaml")} == YAML_FILES
    assert "nnexp/sample.npz" in names


def test_the_wheel_has_every_module_and_nothing_else(built: Path) -> None:
    names = {name for name in list_wheel(built) if name.endswith(".py")}
    modules = {f"nnexp/{path.name}" for path in (ROOT / "nnexp").glob("*.py")}
    assert names == modules | {"nnexp/conf/__init__.py", "hydra_plugins/nnexp/__init__.py"}


def test_the_sdist_has_what_the_wheel_is_built_from(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"conf/{name}" for name in YAML_FILES} | {"nnexp/sample.npz", "LICENSE", "README.md"} <= names


def test_the_command_of_the_wheel_trains(installed: Any) -> None:
    output = installed("nnexp", "data=sample", "epochs=1", "data.train_size=200")
    assert re.search(r"^mlp seed=0  train 0\.\d{3}  test 0\.\d{3}", output, re.MULTILINE)


def test_hydra_finds_the_configuration_in_the_package(installed: Any) -> None:
    assert "pkg://nnexp.conf" in installed("nnexp", "--info", "searchpath")


def test_the_code_that_runs_is_that_of_the_wheel(installed: Any) -> None:
    code = "import nnexp, nnexp.conf, hydra_plugins.nnexp as plugin; print(nnexp, nnexp.conf, plugin)"
    assert installed("python", "-c", code).count("/venv/lib/") == 3


def test_python_m_nnexp_is_the_command(installed: Any) -> None:
    assert installed("python", "-m", "nnexp", "--help") == installed("nnexp", "--help")


def test_a_sweep_runs_in_the_processes_of_the_wheel(installed: Any) -> None:
    output = installed(
        "nnexp", "-m", "hydra/launcher=local", "seed=0,1", "data=sample", "epochs=1", "data.train_size=200"
    )
    assert "2 finished, 0 failed" in output

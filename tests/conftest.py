"""How the tests type nnexp: in a process of its own, in an empty directory, with nothing of this shell's settings."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnexp.tensorflow_start import start_tensorflow

start_tensorflow(threads=1)  # before a test imports it in some other way: its threads are fixed once a process

SMALL = ("data=sample", "data.train_size=200", "epochs=1", "model.units=[8]")
"""The real configuration, shrunk to a run of a second (and TensorFlow's start of some)."""

FORBIDDEN = "import os\nos.write(2, b'%s was imported\\n')\nos._exit(97)\n"
LEFT_OUT = ("PYTHON", "TF_", "KERAS_BACKEND", "NNEXP", "HYDRA", "XLA_", "OMP_")
TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TERM")

CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

RunNnexp = Callable[..., subprocess.CompletedProcess[str]]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/cluster to `make test-cluster`, which asks for it with -m cluster."""
    is_asked_for = config.getoption("markexpr") == "cluster"
    return True if collection_path.name == "cluster" and not is_asked_for else None


@pytest.fixture(scope="session")
def plain_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment less what could change how nnexp, Python or TensorFlow behave; compiled code is kept apart."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT) and key not in TERMINAL}
    return plain | {"NNEXP_XLA_CACHE": str(tmp_path_factory.mktemp("xla"))}


@pytest.fixture(scope="session")
def no_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables under which a process ends with exit code 97 where it imports TensorFlow or Keras."""
    directory = tmp_path_factory.mktemp("no_tensorflow")
    for name in ("tensorflow", "keras"):
        (directory / f"{name}.py").write_text(FORBIDDEN % name)
    return {"PYTHONPATH": str(directory)}


@pytest.fixture(scope="session")
def run_nnexp_in(plain_environment: dict[str, str], no_tensorflow: dict[str, str]) -> RunNnexp:
    """A function (directory, *args, tensorflow=True) that types `nnexp *args` there and waits for it."""

    def run(directory: Path, *args: str, tensorflow: bool = True) -> subprocess.CompletedProcess[str]:
        environment = plain_environment | ({} if tensorflow else no_tensorflow)
        command = [str(Path(sys.executable).with_name("nnexp")), *args]
        settings = {"cwd": directory, "env": environment, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(command, stdin=subprocess.DEVNULL, **settings)

    return run


@pytest.fixture
def run_nnexp(run_nnexp_in: RunNnexp, tmp_path: Path) -> RunNnexp:
    """A function (*args, tensorflow=True) that types `nnexp *args` in `tmp_path` and waits for it."""
    return functools.partial(run_nnexp_in, tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium without a network, driven by selenium; skipped where there is none, except in CI."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        message = "no Chromium: `make browser` installs it (Debian packages chromium and chromium-driver)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, Service(driver)) as started:
        yield started

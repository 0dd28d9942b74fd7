"""What the numbers of a run depend on beside its settings: code, packages, Python and processor."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from nnexp.config import TRAINING_VERSION
from nnexp.tensorflow_start import describe_processor, read_cpuinfo

PACKAGES = ("nnexp", "tensorflow", "keras", "numpy")
SOURCE = Path(__file__).parent
VARIABLES = (
    *("KERAS_BACKEND", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TF_DETERMINISTIC_OPS"),
    *("TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "XLA_FLAGS"),
)
"""Environment variables that change how TensorFlow computes. By name: others (TF_VAR_...) may hold secrets."""
FEATURES = ("amx", "asimd", "avx", "bf16", "f16c", "fma", "i8mm", "sse4", "sve")
"""Beginnings of those of the instruction set's names that matter to sums and products."""
CACHE_FLAG = "--tf_xla_persistent_cache_directory="  # set by start_tensorflow, changes nothing


@functools.cache
def read_provenance() -> dict[str, Any]:
    """Everything about this process that belongs into a record; docs/reproducible.md says what each is.

    `source_sha256` tells a wheel, a checkout and an edited copy apart, `environment_sha256` names a list of every
    installed package (`list_packages`).
    """
    processor, processor_sha256 = describe_processor()
    flags = read_cpuinfo().get("flags", "").split()
    return {package: version(package) for package in PACKAGES} | {
        "python": platform.python_version(),
        "training_version": TRAINING_VERSION,
        "source_sha256": hash_source(SOURCE),
        **read_git(SOURCE),
        "processor": processor,
        "processor_features": " ".join(flag for flag in sorted(flags) if flag.startswith(FEATURES)),
        "processor_sha256": processor_sha256,
        "cores": os.cpu_count() or 0,
        "memory_bytes": read_memory(),
        "platform": platform.platform(),
        "variables": read_variables(),
        "environment_sha256": hashlib.sha256(list_packages().encode()).hexdigest(),
    }


def hash_source(directory: Path) -> str:
    """SHA-256 over the names and bytes of nnexp's own modules; the same for a checkout and the wheel made from it."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def read_git(directory: Path) -> dict[str, Any]:
    """The commit of nnexp's own checkout, `+changed` where files differ from it, or `none` outside of one.

    `git_changed_lines` counts the lines added and removed since the commit, `git_new_files` what git does not know.
    """
    commit = _ask_git(directory, "rev-parse", "HEAD")
    if commit is None or _ask_git(directory, "ls-files", "--error-unmatch", "config.py") is None:
        return {"git_commit": "none", "git_changed_lines": 0, "git_new_files": 0}  # or in some other project's checkout
    status = (_ask_git(directory, "status", "--porcelain") or "").splitlines()
    counts = [line.split("\t")[:2] for line in (_ask_git(directory, "diff", "HEAD", "--numstat") or "").splitlines()]
    return {
        "git_commit": commit.strip() + ("+changed" if status else ""),
        "git_changed_lines": sum(int(number) for pair in counts for number in pair if number != "-"),  # "-": binary
        "git_new_files": sum(line.startswith("??") for line in status),
    }


def _ask_git(directory: Path, *arguments: str) -> str | None:
    """What git says, or None where there is no git, no checkout, or no answer."""
    try:
        answer = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout


def read_variables() -> dict[str, str]:
    """Those of VARIABLES that are set, by name."""
    words = {name: os.environ.get(name, "").split() for name in VARIABLES}
    values = {name: " ".join(word for word in words[name] if not word.startswith(CACHE_FLAG)) for name in VARIABLES}
    return {name: value for name, value in values.items() if value}


def read_memory() -> int:
    """The host's memory in bytes, 0 where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


@functools.cache
def list_packages() -> str:
    """Every installed package as `name==version`, a line each, sorted."""
    installed = {f"{package.metadata['Name']}=={package.version}" for package in distributions()}
    return "".join(f"{line}\n" for line in sorted(installed, key=str.lower))

"""TensorFlow as a run finds it: quiet, with its threads fixed, and with XLA's compiled code kept between processes."""

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

CACHE_BYTES = 200_000_000  # of XLA's compiled code; a program takes about 0.3 MB
EXTRAS = ("pandas", "matplotlib", "sklearn", "jax", "IPython")
"""TensorFlow and Keras load them where they are, for what nnexp does not do with them: up to half of the start."""
NOISE = (
    b"cpu_aot_loader.cc",  # takes two tuning options of XLA for features that the processor lacks
    b"text_format.cc",  # tries the entry of the cache as text before it reads it as what it is
)


def start_tensorflow(threads: int) -> None:
    """Import TensorFlow without its start-up noise and fix its threads; cheap when it has been done.

    Raises:
        RuntimeError: if this process has already started TensorFlow with another number of threads.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        if cache := prepare_compile_cache():
            flags = f"--tf_xla_persistent_cache_directory={cache} {os.environ.get('TF_XLA_FLAGS', '')}"
            os.environ["TF_XLA_FLAGS"] = flags
        with (
            tempfile.TemporaryDirectory() as directory,
            stderr_held_back(Path(directory, "stderr"), drop_all=True),
            hidden(*EXTRAS),
        ):
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.list_logical_devices()  # looks for a GPU now, rather than audibly later
    import tensorflow as tf

    started_with = tf.config.threading.get_intra_op_parallelism_threads()
    if started_with != threads:
        raise RuntimeError(
            f"threads={threads} is not possible in a process that has started TensorFlow with {started_with}; "
            "give every cell of a sweep the same threads"
        )


def prepare_compile_cache() -> Path | None:
    """The directory of XLA's compiled code for this processor and TensorFlow, made and kept below CACHE_BYTES.

    NNEXP_XLA_CACHE names another place than the user's cache folder, or `off`. None where it is off or not possible.
    """
    place = os.environ.get("NNEXP_XLA_CACHE") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/nnexp/xla"
    if place == "off":
        return None
    directory = Path(place).expanduser().absolute() / f"{version('tensorflow')}-{describe_processor()[1][:12]}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files = sorted(directory.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for file, size in zip(files, itertools.accumulate(file.stat().st_size for file in files), strict=True):
            if size > CACHE_BYTES:
                file.unlink(missing_ok=True)
    except OSError:
        return None
    return directory if os.access(directory, os.W_OK) else None


@functools.cache
def describe_processor() -> tuple[str, str]:
    """The processor's name, and a SHA-256 over it and its instruction set: compiled code runs where they are equal."""
    facts = read_cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, hashlib.sha256(f"{name} {facts.get('flags', '')} {platform.machine()}".encode()).hexdigest()


def read_cpuinfo() -> dict[str, str]:
    """What Linux says of the last processor; `flags` (also on ARM) are its instruction set. Empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {"flags": facts.get("Features", "")} | facts


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Let these modules seem not to be installed, unless they are loaded already."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules |= dict.fromkeys(absent)  # type: ignore[arg-type]  # None is Python's own sign for it
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def stderr_held_back(path: Path, drop_all: bool = False) -> Iterator[None]:
    """Hold back what C++ code writes to stderr, which Python cannot filter; then let all but the known noise through.

    Args:
        path: the file that holds it meanwhile, and still does if the process dies.
        drop_all: let nothing through, unless the block raises.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(path, "w+b") as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            drop_all = False
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            path.unlink(missing_ok=True)
            held_back.seek(0)
            if not drop_all:
                for line in held_back:
                    if not any(word in line for word in NOISE):
                        sys.stderr.write(line.decode("utf-8", "replace"))

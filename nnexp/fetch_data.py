"""`python -m nnexp.fetch_data`: make sure that Fashion-MNIST is on this machine, whole and correct.

Where it is not and Keras cannot download it, the package of Debian and Ubuntu is unpacked into the Keras cache,
which needs no root.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nnexp.config import DataConfig
from nnexp.data import DataError, keras_cache, load_data, locate_data
from nnexp.tensorflow_start import start_tensorflow

PACKAGE = "dataset-fashion-mnist"
FULL = DataConfig("fashion_mnist", directory=None, train_size=None, validation_size=0, split_seed=0)


def main() -> None:
    """Fetch and check the data; exits with 1 and the remedies where that is impossible."""
    try:
        if locate_data(FULL).kind == "download":
            start_tensorflow(threads=1)  # Keras is what downloads; imported so, it is quiet
        try:
            load_data(FULL)
        except DataError:
            if locate_data(FULL).kind != "download":  # there, but broken: say so
                raise
            unpack_package()
            load_data(FULL)
    except DataError as error:
        sys.exit(f"{error}")
    print(f"Fashion-MNIST: checked, in {locate_data(FULL).folder}")


def unpack_package() -> None:
    """Unpack the distribution's package into the Keras cache; does nothing where there is no such package."""
    with tempfile.TemporaryDirectory() as temporary:
        download = ["apt-get", "download", PACKAGE]
        if not _succeeds(download, temporary):
            _succeeds(["apt-get", "update"], temporary)  # a new machine has no list of packages; needs root
            if not _succeeds(download, temporary):
                return
        [archive] = Path(temporary).glob("*.deb")
        if _succeeds(["dpkg-deb", "-x", str(archive), temporary], temporary):
            keras_cache().mkdir(parents=True, exist_ok=True)
            for file in Path(temporary).glob("usr/share/datasets/fashion-mnist/*.gz"):
                shutil.move(file, keras_cache() / file.name)


def _succeeds(command: list[str], directory: str) -> bool:
    try:
        return not subprocess.run(command, cwd=directory, capture_output=True).returncode
    except OSError:
        return False


if __name__ == "__main__":
    main()

"""Where the images come from, and the split: load_data(config) -> Dataset.

`data=sample` ships with the package. Fashion-MNIST is looked for in `data.directory`, and only there, where it is set;
otherwise in the Keras cache, then in the Debian package's folder, then it is downloaded through Keras. A folder is a
source when it has all four files, packed (.gz) or not. One without a file, as after an interrupted download, is passed
over: every source holds the same bytes. One with a broken file is refused and not passed over, since Keras itself would
train on it. Nothing is ever deleted but what was downloaded just now.
"""

import gzip
import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnexp.config import DATASETS, DataConfig, SettingError

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
DOWNLOAD_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"  # Keras's own
PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's and Ubuntu's dataset-fashion-mnist
REMEDIES = {  # what to do about a broken file, for each kind of Source
    "data.directory": "Put the right file there, or name another folder (data.directory=FOLDER).",
    "Keras cache": "Delete it: the next run takes the data from the package dataset-fashion-mnist or downloads it.",
    "package": "Install the package again: apt-get install --reinstall dataset-fashion-mnist",
    "download": f"It came from {DOWNLOAD_URL} and was not kept. Try again, or see data.directory and data=sample.",
}


class IdxFile(NamedTuple):
    """A file of Fashion-MNIST, uncompressed: the .gz wrappers differ between the sources, the bytes inside do not."""

    name: str
    size: int  # bytes
    sha256: str


FILES = (  # in the order of Arrays
    IdxFile("train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    IdxFile("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    IdxFile("t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    IdxFile("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
)


class DataError(ValueError):
    """The data set is missing, cannot be read, or is not the one it should be."""


class Source(NamedTuple):
    """Where the data set is taken from. kind: "sample", "download" (folder: where it goes to), or as in REMEDIES."""

    kind: str
    folder: Path


class Arrays(NamedTuple):
    """A data set as it is stored: images uint8 [n, 28, 28] in 0..255, labels uint8 [n] in 0..9; all read-only."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images float32 [n, 28, 28, 1] in [0, 1], labels int32 [n] in 0..9; all read-only, `validation_*` may be empty.

    The images of each part are in the order of the files: the split decides which they are, not their order.
    sha256: of the whole data set (config.DATASETS), the same for every split.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    validation_images: NDArray[np.float32]
    validation_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]
    sha256: str


def load_data(config: DataConfig) -> Dataset:
    """Finds, checks, reads and splits a data set. The last one asked for is kept, for the next run of the process.

    Raises DataError where there is no data set or a broken one, SettingError where the sizes do not fit it.
    """
    source = locate_data(config)
    if source.kind == "download":
        download_data(source.folder)
        source = Source("Keras cache", source.folder)
    return _load_split(source, config.name, config.train_size, config.validation_size, config.split_seed)


@lru_cache(maxsize=1)
def _load_split(source: Source, name: str, train_size: int | None, validation_size: int, split_seed: int) -> Dataset:
    arrays = read_sample() if source.kind == "sample" else read_folder(source)
    train, validation = split_indices(arrays.train_labels, train_size, validation_size, split_seed)
    return Dataset(
        *_convert(arrays.train_images[train], arrays.train_labels[train]),
        *_convert(arrays.train_images[validation], arrays.train_labels[validation]),
        *_convert(arrays.test_images, arrays.test_labels),
        sha256=DATASETS[name].sha256,
    )


def locate_data(config: DataConfig) -> Source:
    """Says which source load_data would use, from the names of files alone: fast, and without Keras.

    Raises DataError where `data.directory` is set and lacks a file, SettingError where it is set for the sample.
    """
    directory = config.directory
    if config.name == "sample":
        if directory is not None:
            raise SettingError(f"data.directory: expected null with the sample. Received: {directory!r}. Leave it out.")
        return Source("sample", Path())
    if directory is not None:
        folder = Path(directory).expanduser().absolute()
        if missing := list_missing(folder):
            received = f"a folder without {', '.join(missing)}" if folder.is_dir() else "not a folder"
            raise DataError(
                f"data.directory: expected a folder with {', '.join(file.name for file in FILES)}, each as it is or as "
                f".gz. Received: {directory!r}, {received}. Correct it, or leave it out to look in the usual places."
            )
        return Source("data.directory", folder)
    for source in (Source("Keras cache", keras_cache()), Source("package", PACKAGE_FOLDER)):
        if not list_missing(source.folder):
            return source
    return Source("download", keras_cache())


def keras_cache() -> Path:
    """Returns where Keras keeps Fashion-MNIST, by Keras's own rule but without importing it."""
    home = os.path.expanduser("~")
    default = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return Path(os.environ.get("KERAS_HOME", default)).expanduser().absolute() / "datasets" / "fashion-mnist"


def list_missing(folder: Path) -> list[str]:
    """Lists those of the four files that are in `folder` neither as they are nor as .gz."""
    return [file.name for file in FILES if not os.path.exists(_find_file(folder, file))]


def _find_file(folder: Path, file: IdxFile) -> Path:
    packed = folder / f"{file.name}.gz"
    return packed if os.path.exists(packed) else folder / file.name


@lru_cache(maxsize=2)
def read_folder(source: Source) -> Arrays:
    """Reads the four files; raises DataError where one is not exactly Fashion-MNIST's."""
    return Arrays(*(read_file(_find_file(source.folder, file), file, REMEDIES[source.kind]) for file in FILES))


def read_file(path: Path, file: IdxFile, remedy: str) -> NDArray[np.uint8]:
    """Reads, unpacks and checks one file. Raises DataError, which ends with `remedy`, for any byte that is wrong."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        received = f"{len(content)} bytes, SHA-256 {sha256}"
    except (OSError, EOFError, zlib.error) as error:  # unreadable, a directory, not gzip, truncated, damaged
        sha256, received = "", str(error)
    if sha256 != file.sha256:
        raise DataError(
            f"{path} is not Fashion-MNIST's {file.name}. Expected: {file.size} bytes, SHA-256 {file.sha256}, "
            f"uncompressed. Received: {received}. {remedy}"
        )
    dimensions = content[3]  # IDX: 0, 0, type, number of dimensions; each as 4 bytes, big-endian; the data
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def download_data(folder: Path) -> None:
    """Downloads the four files through Keras into `folder`: all of them, checked, or none.

    Any number of processes may do so at once: each fills a folder of its own beside `folder`, then moves the files.
    Raises DataError where there is no network, the download is broken, or `folder` cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".nnexp-download-", dir=folder.parent) as temporary:
            paths = [fetch_file(f"{file.name}.gz", temporary) for file in FILES]
            for path, file in zip(paths, FILES, strict=True):
                read_file(path, file, REMEDIES["download"])
            folder.mkdir(exist_ok=True)
            for path in paths:
                path.replace(folder / path.name)
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST cannot be kept. Expected: a folder that can be written, {folder}. Received: {error}. "
            "Set KERAS_HOME to one, install the package dataset-fashion-mnist, or begin with data=sample."
        ) from error


def fetch_file(name: str, folder: str) -> Path:
    """Downloads one file through Keras into `folder`, unchecked; raises DataError where that fails."""
    from keras.utils import get_file  # brings TensorFlow, seconds: only where there is something to fetch

    try:
        return Path(get_file(name, origin=DOWNLOAD_URL + name, cache_dir=folder, cache_subdir=""))
    except Exception as error:  # Keras raises bare Exception; a connection that breaks off, other kinds
        places = (f"{place} (has {4 - len(list_missing(place))} of 4)" for place in (keras_cache(), PACKAGE_FOLDER))
        raise DataError(
            f"Fashion-MNIST was not found. Expected: its four files in {' or '.join(places)}, or a network. "
            f"Received: {error}. Any one of these helps: the Debian or Ubuntu package (apt-get install "
            "dataset-fashion-mnist); a folder that has the files (data.directory=FOLDER); a network; "
            "or begin without them (data=sample)."
        ) from error


@lru_cache(maxsize=1)
def read_sample() -> Arrays:
    """Reads the sample that benchmarks/make_sample.py made; raises DataError where it is not the one that shipped."""
    path = resources.files("nnexp") / "sample.npz"
    expected = DATASETS["sample"].sha256
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            arrays = Arrays(*(stored[name] for name in Arrays._fields))
        received = hash_arrays(arrays)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        received = str(error)
    if received != expected:
        raise DataError(
            f"{path} is not the sample that ships with nnexp. Expected: SHA-256 {expected} over its arrays. "
            f"Received: {received}. Install nnexp again, or use data=fashion_mnist."
        )
    for array in arrays:
        array.setflags(write=False)
    return arrays


def hash_arrays(arrays: Arrays) -> str:
    """Returns the SHA-256 of the four arrays' bytes, one after another, in hexadecimal."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def split_indices(
    labels: NDArray[np.uint8], train_size: int | None, validation_size: int, split_seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Says which images to train on and which to validate with: two ascending lists that never overlap.

    Training images come from the start of draw_order, validation images from its end: so a smaller training set is part
    of a larger one, and the validation set is the same for every train_size. Raises SettingError for impossible sizes.
    """
    available = len(labels) - validation_size
    size = available if train_size is None else train_size
    if validation_size < 0 or not 1 <= size <= available:
        raise SettingError(
            "data.train_size, data.validation_size: expected at least 1 (null: all the rest) and at least 0, together "
            f"at most {len(labels)}. Received: {train_size} and {validation_size}. Lower one of them."
        )
    order = draw_order(labels, split_seed)
    return np.sort(order[:size]), np.sort(order[available:])


def draw_order(labels: NDArray[np.uint8], seed: int) -> NDArray[np.intp]:
    """Shuffles the images so that any number of them from the start has every class equally often, to within one.

    Round k holds the k-th image of each class, in the order of one permutation; with classes of equal size, as here,
    the same holds from the end. The permutation sorts PCG64's raw numbers, which NumPy promises never to change (what
    Generator.permutation makes of them may change: NEP 19).
    """
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rounds = np.empty(len(labels), np.intp)
    for label in np.unique(labels):
        members = labels[shuffled] == label
        rounds[members] = np.arange(np.count_nonzero(members))
    return shuffled[np.argsort(rounds, kind="stable")]


def _convert(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    scaled, numbers = np.divide(images[..., np.newaxis], 255, dtype=np.float32), labels.astype(np.int32)
    scaled.setflags(write=False)
    numbers.setflags(write=False)
    return scaled, numbers

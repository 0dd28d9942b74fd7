"""The promises of nnexp.data. Files that are broken on purpose are small ones, with a FILES table of their own."""

import gzip
import hashlib
import inspect
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from nnexp import data
from nnexp.config import DATASETS, DataConfig, SettingError
from nnexp.data import DataError, Source, load_data, locate_data

FULL = DataConfig(name="fashion_mnist", directory=None, train_size=None, validation_size=0, split_seed=0)
SAMPLE = replace(FULL, name="sample")
REAL_FILES = data.FILES
PARTS = ("train_images", "train_labels", "validation_images", "validation_labels", "test_images", "test_labels")


def make_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def make_small_contents() -> dict[str, bytes]:
    """Four small IDX files: 100 training and 50 test images of noise, the classes equally often, in mixed order."""
    random = np.random.default_rng(0)
    contents = []
    for count in (100, 50):
        contents.append(make_idx(random.integers(0, 256, (count, 28, 28), np.uint8)))
        contents.append(make_idx(random.permutation(np.arange(count, dtype=np.uint8) % 10)))
    return dict(zip((file.name for file in REAL_FILES), contents, strict=True))


SMALL = make_small_contents()
FIRST = "train-images-idx3-ubyte"  # the file that the tests break


def write_files(folder: Path, packed: bool = True, contents: dict[str, bytes] = SMALL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content)) if packed else (folder / name).write_bytes(content)
    return folder


def refuse_to_fetch(name: str, folder: str) -> Path:
    raise AssertionError(f"a test wanted to download {name}")


@pytest.fixture(autouse=True)
def small_world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty machine: no cache, no package, no network, and the small files are the right ones."""
    if "full" in request.fixturenames:
        return
    files = [data.IdxFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in SMALL.items()]
    monkeypatch.setattr(data, "FILES", tuple(files))
    monkeypatch.setattr(data, "PACKAGE_FOLDER", tmp_path / "package")
    monkeypatch.setattr(data, "fetch_file", refuse_to_fetch)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "keras" / "datasets" / "fashion-mnist"


@pytest.fixture(scope="session")
def full() -> Source:
    """Where the real Fashion-MNIST is on this machine; its absence is a failure, not a reason to skip."""
    source = locate_data(FULL)
    if source.kind == "download":
        pytest.fail("This test needs the full Fashion-MNIST, and it is not on this machine: run `make setup`.")
    return source


# Where the data comes from


def test_a_named_folder_comes_before_all_others(tmp_path: Path, cache: Path) -> None:
    write_files(cache)
    folder = write_files(tmp_path / "mine")
    assert locate_data(replace(FULL, directory=str(folder))) == Source("data.directory", folder)


@pytest.mark.parametrize("directory", ["nowhere", "empty"])
def test_where_a_folder_is_named_no_other_is_used(
    directory: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(cache)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"data.directory: expected a folder with.*Received: '{directory}'"):
        load_data(replace(FULL, directory=directory))


def test_a_named_folder_without_one_of_the_files_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"Received: '.*mine', a folder without t10k-labels-idx1-ubyte\. Correct it"):
        locate_data(replace(FULL, directory=str(folder)))


def test_the_keras_cache_comes_before_the_package(cache: Path) -> None:
    write_files(cache)
    write_files(data.PACKAGE_FOLDER)
    assert locate_data(FULL) == Source("Keras cache", cache)


def test_the_package_comes_before_a_download() -> None:
    write_files(data.PACKAGE_FOLDER)
    assert locate_data(FULL) == Source("package", data.PACKAGE_FOLDER)
    assert len(load_data(FULL).train_images) == 100


def test_a_download_comes_last(cache: Path) -> None:
    assert locate_data(FULL) == Source("download", cache)


def test_a_cache_without_one_of_the_files_is_passed_over(cache: Path) -> None:
    write_files(cache)
    (cache / f"{FIRST}.gz").unlink()
    write_files(data.PACKAGE_FOLDER)
    assert locate_data(FULL).kind == "package"


@pytest.mark.parametrize("home", ["set", "unset"])
def test_the_cache_is_where_keras_itself_would_look(home: str, tmp_path: Path) -> None:
    setting = f"KERAS_HOME={tmp_path}" if home == "set" else f"HOME={tmp_path}"
    code = (
        "from nnexp.data import keras_cache; ours = keras_cache(); import sys; assert 'keras' not in sys.modules\n"
        "import pathlib, keras.src.backend.config as config\n"
        "assert ours == pathlib.Path(config.keras_home()) / 'datasets' / 'fashion-mnist', ours; print(ours)"
    )
    command = ["env", "-u", "KERAS_HOME", setting, sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(data.__file__).parents[1])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path))


def test_the_cache_is_in_tmp_where_there_is_no_home_as_keras_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert data.keras_cache() == Path("/tmp/.keras/datasets/fashion-mnist")


def test_files_may_be_unpacked(tmp_path: Path) -> None:
    packed = load_data(replace(FULL, directory=str(write_files(tmp_path / "packed"))))
    unpacked = load_data(replace(FULL, directory=str(write_files(tmp_path / "unpacked", packed=False))))
    assert np.array_equal(packed.train_images, unpacked.train_images)


def test_a_folder_is_read_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(FULL, directory=str(write_files(tmp_path / "mine")))
    load_data(config)
    monkeypatch.setattr(data, "read_file", lambda *_: pytest.fail("read again"))
    load_data(replace(config, train_size=10))


def test_a_folder_named_from_here_is_not_taken_for_one_of_the_same_name_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "here" / "mine")
    (write_files(tmp_path / "there" / "mine") / f"{FIRST}.gz").write_bytes(HTML)
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_data(replace(FULL, directory="mine")).train_images) == 100
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(DataError, match=f"^{tmp_path}/there/mine/{FIRST}.gz is not"):
        load_data(replace(FULL, directory="mine"))


def test_locating_does_not_read_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    assert locate_data(replace(FULL, directory=str(write_files(tmp_path / "mine")))).kind == "data.directory"


def test_data_that_is_on_the_machine_needs_neither_keras_nor_tensorflow() -> None:
    code = (
        "import sys; from nnexp.config import DataConfig; from nnexp.data import load_data, locate_data\n"
        "load_data(DataConfig('sample', None, None, 0, 0))\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(data.__file__).parents[1]
    )
    assert (result.returncode, result.stderr.strip()) == (0, "")


# Broken files

PACKED = gzip.compress(SMALL[FIRST])
EDITED = SMALL[FIRST][:-1] + bytes([SMALL[FIRST][-1] ^ 1])
HTML = b"<!DOCTYPE html><title>Sign in to the network</title>"
BROKEN = {  # name: (what is in the .gz, what the message says came)
    "truncated gzip": (PACKED[:-100], "Compressed file ended before the end-of-stream marker was reached"),
    "gzip without its last byte": (PACKED[:-1], "Compressed file ended before"),
    "gzip with a wrong checksum": (PACKED[:-8] + bytes(4) + PACKED[-4:], "CRC check failed"),
    "gzip with a damaged middle": (PACKED[:500] + bytes([255]) * 60_000 + PACKED[60_500:], "Error -3|CRC check failed"),
    "gzip of a truncated file": (gzip.compress(SMALL[FIRST][:-1]), f"{len(SMALL[FIRST]) - 1} bytes, SHA-256 "),
    "one bit changed": (gzip.compress(EDITED), hashlib.sha256(EDITED).hexdigest()),
    "another data set": (gzip.compress(make_idx(np.zeros((100, 28, 28), np.uint8))), f"{len(SMALL[FIRST])} bytes, SHA"),
    "labels for images": (gzip.compress(SMALL["train-labels-idx1-ubyte"]), "108 bytes, SHA-256 "),
    "a page of a proxy": (HTML, r"Not a gzipped file \(b'<!'\)"),
    "nothing": (b"", "0 bytes, SHA-256 e3b0c442"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_with_its_name_what_was_expected_what_came_and_what_to_do(
    kind: str, tmp_path: Path
) -> None:
    content, received = BROKEN[kind]
    path = write_files(tmp_path / "mine") / f"{FIRST}.gz"
    path.write_bytes(content)
    sha256 = hashlib.sha256(SMALL[FIRST]).hexdigest()
    expected = f"{path} is not Fashion-MNIST's {FIRST}. Expected: {len(SMALL[FIRST])} bytes, SHA-256 {sha256}, uncompre"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}ssed. Received: .*({received}).*data.directory=FOLDER"):
        load_data(replace(FULL, directory=str(path.parent)))


@pytest.mark.parametrize("content", [SMALL[FIRST][:-1], SMALL[FIRST] + b"\0", EDITED, HTML, b""])
def test_a_broken_unpacked_file_is_refused_too(content: bytes, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine", packed=False)
    (folder / FIRST).write_bytes(content)
    with pytest.raises(DataError, match=f"{FIRST} is not.*Received: {len(content)} bytes, SHA-256"):
        load_data(replace(FULL, directory=str(folder)))


@pytest.mark.parametrize("name", SMALL)
def test_each_of_the_four_files_is_checked(name: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine")
    (folder / f"{name}.gz").write_bytes(gzip.compress(SMALL[name][:-1] + bytes([SMALL[name][-1] ^ 1])))
    with pytest.raises(DataError, match=rf"{name}\.gz is not Fashion-MNIST's {name}\."):
        load_data(replace(FULL, directory=str(folder)))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path / "mine") / f"{FIRST}.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{FIRST}.gz is not.*Received:.*Is a directory"):
        load_data(replace(FULL, directory=str(path.parent)))


def test_a_broken_file_in_the_cache_is_refused_and_kept_though_the_package_is_there(cache: Path) -> None:
    path = write_files(cache) / f"{FIRST}.gz"
    path.write_bytes(PACKED[:-100])
    write_files(data.PACKAGE_FOLDER)
    with pytest.raises(DataError, match=rf"{FIRST}\.gz is not.*Delete it: the next run takes the data from the pack"):
        load_data(FULL)
    assert path.read_bytes() == PACKED[:-100]
    path.unlink()
    assert len(load_data(FULL).train_images) == 100  # what the message promises


def test_a_broken_file_of_the_package_is_refused_with_how_to_install_it_again() -> None:
    (write_files(data.PACKAGE_FOLDER) / f"{FIRST}.gz").write_bytes(HTML)
    with pytest.raises(DataError, match="apt-get install --reinstall dataset-fashion-mnist"):
        load_data(FULL)


# The download


def fetch_from(contents: dict[str, bytes]) -> Callable[[str, str], Path]:
    """Makes a downloader that takes `contents`, by .gz name, from nowhere."""

    def fetch(name: str, folder: str) -> Path:
        path = Path(folder) / name
        path.write_bytes(contents[name])
        return path

    return fetch


GOOD = {f"{name}.gz": gzip.compress(content) for name, content in SMALL.items()}


def test_a_good_download_lands_whole_in_the_cache_and_nothing_beside_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "fetch_file", fetch_from(GOOD))
    assert len(load_data(FULL).train_images) == 100
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == GOOD
    assert list(cache.parent.iterdir()) == [cache]
    assert locate_data(FULL) == Source("Keras cache", cache)
    monkeypatch.setattr(data, "read_file", lambda *_: pytest.fail("read again"))
    assert len(load_data(FULL).train_images) == 100


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    "content", [PACKED[:-100], HTML, b"", gzip.compress(b"another")], ids=["truncated", "a page", "empty", "another"]
)
def test_nothing_of_a_broken_download_is_kept(
    name: str, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "fetch_file", fetch_from({**GOOD, name: content}))
    with pytest.raises(DataError, match=rf"{name} is not.*It came from https://\S+ and was not kept\. Try again"):
        load_data(FULL)
    assert list(cache.parent.iterdir()) == []


def test_nothing_of_an_interrupted_download_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, folder: str) -> Path:
        if name.startswith("t10k"):
            raise KeyboardInterrupt
        return fetch_from(GOOD)(name, folder)

    monkeypatch.setattr(data, "fetch_file", fetch)
    with pytest.raises(KeyboardInterrupt):
        load_data(FULL)
    assert list(cache.parent.iterdir()) == []


def test_a_broken_download_leaves_the_files_that_were_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_files(cache) / f"{FIRST}.gz").unlink()
    monkeypatch.setattr(data, "fetch_file", fetch_from({**GOOD, f"{FIRST}.gz": HTML}))
    with pytest.raises(DataError, match="was not kept"):
        load_data(FULL)
    assert len(list(cache.iterdir())) == 3


def test_a_download_completes_a_cache_that_lacks_a_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_files(cache) / f"{FIRST}.gz").unlink()
    monkeypatch.setattr(data, "fetch_file", fetch_from(GOOD))
    assert len(load_data(FULL).train_images) == 100
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == GOOD


def test_several_may_download_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)

    def fetch(name: str, folder: str) -> Path:
        path = fetch_from({name: GOOD[name][:50]})(name, folder)  # a file half written, in the sight of the others
        together.wait(timeout=30)
        path.write_bytes(GOOD[name])
        together.wait(timeout=30)
        return path

    errors: list[Exception] = []

    def download() -> None:
        try:
            data.download_data(cache)
        except Exception as error:
            errors.append(error)

    monkeypatch.setattr(data, "fetch_file", fetch)
    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == GOOD
    assert list(cache.parent.iterdir()) == [cache]


def test_no_file_is_in_the_cache_before_all_four_are_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, folder: str) -> Path:
        assert not cache.exists()
        return fetch_from(GOOD)(name, folder)

    monkeypatch.setattr(data, "fetch_file", fetch)
    data.download_data(cache)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"can be written, .*file/datasets/fashion-mnist\. .*Set KERAS_HOME to one"):
        load_data(FULL)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Keras itself downloads from."""
    monkeypatch.undo()  # the real fetch_file, which the empty machine does without
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(data, "DOWNLOAD_URL", f"{folder.as_uri()}/")
    monkeypatch.setattr(data, "PACKAGE_FOLDER", tmp_path / "package")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return folder


def test_keras_downloads_into_the_folder_that_it_is_given(server: Path, tmp_path: Path) -> None:
    (server / "a.gz").write_bytes(b"content")
    target = tmp_path / "target"
    target.mkdir()
    assert data.fetch_file("a.gz", str(target)) == target / "a.gz"
    assert (target / "a.gz").read_bytes() == b"content"


def test_where_there_is_no_source_at_all_one_message_says_what_helps(server: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FIRST}.gz").touch()
    with pytest.raises(DataError) as caught:
        load_data(FULL)
    message = str(caught.value)
    assert f"{cache} (has 1 of 4) or {data.PACKAGE_FOLDER} (has 0 of 4), or a network. Received: URL fetch" in message
    for remedy in ("apt-get install dataset-fashion-mnist", "data.directory=FOLDER", "a network;", "data=sample"):
        assert remedy in message
    assert "\n" not in message
    assert [path.name for path in cache.iterdir()] == [f"{FIRST}.gz"]
    assert list(cache.parent.iterdir()) == [cache]


def test_the_classes_are_named_as_keras_names_them() -> None:
    import keras

    table = re.findall(r"\|\s+(\d)\s+\| (.*?) +\|", keras.datasets.fashion_mnist.load_data.__doc__)
    assert table == [(str(label), name) for label, name in enumerate(data.CLASS_NAMES)]


def test_the_address_is_the_one_that_keras_uses() -> None:
    import keras

    source = inspect.getsource(keras.datasets.fashion_mnist.load_data)
    assert f'"{data.DOWNLOAD_URL}"' in source
    assert all(f'"{file.name}.gz"' in source for file in REAL_FILES)


# The arrays


@pytest.fixture
def small(tmp_path: Path) -> DataConfig:
    return replace(FULL, directory=str(write_files(tmp_path / "small")))


def test_images_are_float32_between_0_and_1_with_a_channel_and_labels_are_int32(small: DataConfig) -> None:
    dataset = load_data(replace(small, validation_size=20))
    for part, count in (("train", 80), ("validation", 20), ("test", 50)):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert (images.shape, images.dtype) == ((count, 28, 28, 1), np.float32)
        assert (labels.shape, labels.dtype) == ((count,), np.int32)
        assert (images.min(), images.max()) == (0, 1)


def test_images_are_the_lessons_bit_for_bit(small: DataConfig) -> None:
    stored = np.frombuffer(SMALL[FIRST], np.uint8, offset=16).reshape(100, 28, 28)
    assert len(np.unique(stored)) == 256
    assert np.array_equal(load_data(small).train_images[..., 0], (stored / 255.0).astype(np.float32))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["fashion_mnist", "sample"])
def test_no_array_can_be_written_to(part: str, name: str, small: DataConfig) -> None:
    config = small if name == "fashion_mnist" else SAMPLE
    array = getattr(load_data(replace(config, validation_size=20)), part)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_the_arrays_that_are_kept_cannot_be_written_to(small: DataConfig) -> None:
    for array in (*data.read_folder(locate_data(small)), *data.read_sample()):
        assert not array.flags.writeable


def test_the_data_set_has_the_same_sha256_for_every_split(small: DataConfig) -> None:
    for config in (small, replace(small, train_size=30), replace(small, validation_size=20, split_seed=3)):
        assert load_data(config).sha256 == DATASETS["fashion_mnist"].sha256


# The split


def count_classes(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels, minlength=10)


def find(images: np.ndarray, among: np.ndarray) -> list[int]:
    """Returns where each of `images` is `among` others; every small image is different."""
    places = {image.tobytes(): place for place, image in enumerate(among)}
    assert len(places) == len(among)
    return [places[image.tobytes()] for image in images]


@pytest.mark.parametrize("split_seed", [0, 7])
def test_by_default_the_training_images_are_all_in_the_order_of_the_files(split_seed: int, small: DataConfig) -> None:
    dataset = load_data(replace(small, split_seed=split_seed))
    assert find(dataset.train_images, load_data(small).train_images) == list(range(100))
    assert np.array_equal(dataset.train_labels, np.frombuffer(SMALL["train-labels-idx1-ubyte"], np.uint8, offset=8))
    assert np.array_equal(dataset.test_labels, np.frombuffer(SMALL["t10k-labels-idx1-ubyte"], np.uint8, offset=8))
    assert dataset.validation_images.shape == (0, 28, 28, 1)


def test_every_part_is_in_the_order_of_the_files_with_its_own_labels(small: DataConfig) -> None:
    whole = load_data(small)
    dataset = load_data(replace(small, train_size=35, validation_size=25))
    for part in ("train", "validation"):
        places = find(getattr(dataset, f"{part}_images"), whole.train_images)
        assert places == sorted(places)
        assert np.array_equal(whole.train_labels[places], getattr(dataset, f"{part}_labels"))


@pytest.mark.parametrize(("train_size", "validation_size"), [(1, 99), (35, 25), (75, 25), (None, 25), (None, 99)])
def test_no_image_is_both_trained_on_and_validated_with(
    train_size: int | None, validation_size: int, small: DataConfig
) -> None:
    whole = load_data(small)
    dataset = load_data(replace(small, train_size=train_size, validation_size=validation_size))
    train = find(dataset.train_images, whole.train_images)
    validation = find(dataset.validation_images, whole.train_images)
    assert len(validation) == validation_size
    assert len(train) == (100 - validation_size if train_size is None else train_size)
    assert len({*train, *validation}) == len(train) + len(validation)


def test_every_size_is_class_balanced_to_within_one_image(small: DataConfig) -> None:
    for size in range(1, 100):
        alone = load_data(replace(small, train_size=size))
        both = load_data(replace(small, train_size=size, validation_size=100 - size))
        for labels in (alone.train_labels, both.train_labels, both.validation_labels):
            assert np.ptp(count_classes(labels)) <= 1, size


def test_the_validation_images_are_the_same_for_every_train_size(small: DataConfig) -> None:
    expected = load_data(replace(small, validation_size=25)).validation_images
    for train_size in (1, 20, 33, 75):
        dataset = load_data(replace(small, train_size=train_size, validation_size=25))
        assert np.array_equal(dataset.validation_images, expected)


def test_a_smaller_training_set_is_part_of_a_larger_one(small: DataConfig) -> None:
    whole = load_data(small).train_images
    sets = [set(find(load_data(replace(small, train_size=size)).train_images, whole)) for size in (10, 33, 75)]
    assert sets[0] < sets[1] < sets[2]


def test_another_split_seed_draws_other_images(small: DataConfig) -> None:
    first, other = (load_data(replace(small, train_size=50, validation_size=20, split_seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first.train_images, other.train_images)
    assert not np.array_equal(first.validation_images, other.validation_images)


def test_the_draw_does_not_change_from_version_to_version() -> None:
    labels = np.arange(100, dtype=np.uint8) % 10
    assert data.draw_order(labels, 0)[:12].tolist() == [11, 92, 3, 20, 59, 48, 96, 55, 64, 17, 13, 2]


@pytest.mark.parametrize(
    ("train_size", "validation_size"), [(101, 0), (81, 20), (0, 0), (-1, 0), (None, 100), (None, 101), (10, -1)]
)
def test_sizes_that_do_not_fit_are_refused(train_size: int | None, validation_size: int, small: DataConfig) -> None:
    received = rf"data.validation_size: expected.* at most 100\. Received: {train_size} and {validation_size}\."
    with pytest.raises(SettingError, match=received):
        load_data(replace(small, train_size=train_size, validation_size=validation_size))


# The sample


def test_the_sample_is_small_balanced_and_scaled() -> None:
    dataset = load_data(SAMPLE)
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((2000, 28, 28, 1), (1000, 28, 28, 1))
    assert (dataset.train_images.dtype.name, dataset.train_labels.dtype.name) == ("float32", "int32")
    assert count_classes(dataset.train_labels).tolist() == [200] * 10
    assert count_classes(dataset.test_labels).tolist() == [100] * 10
    assert (dataset.train_images.min(), dataset.train_images.max()) == (0, 1)
    assert dataset.sha256 == DATASETS["sample"].sha256
    with resources.as_file(resources.files("nnexp") / "sample.npz") as path:
        assert path.stat().st_size <= 2_000_000


def test_the_sample_has_the_numbers_and_the_sha256_that_are_stated() -> None:
    facts, arrays = DATASETS["sample"], data.read_sample()
    assert (len(arrays.train_labels), len(arrays.test_labels)) == (facts.train_images, facts.test_images)
    parts = [array.tobytes() for array in arrays]
    assert hashlib.sha256(b"".join(parts)).hexdigest() == facts.sha256


def write_sample(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    arrays = {name: array.copy() for name, array in data.read_sample()._asdict().items()}
    change(arrays)
    np.savez_compressed(folder / "sample.npz", **arrays)


def edit_pixel(arrays: dict[str, np.ndarray]) -> None:
    arrays["test_images"][0, 14, 14] ^= 1


@pytest.mark.parametrize(
    ("spoil", "received"),
    [
        (lambda folder: write_sample(folder, edit_pixel), "[0-9a-f]{64}"),
        (lambda folder: write_sample(folder, lambda arrays: arrays.pop("test_labels")), "'test_labels.*not a file"),
        (lambda folder: (folder / "sample.npz").write_bytes(b""), "No data left in file"),
        (lambda folder: (folder / "sample.npz").write_bytes(HTML), ".*pickled"),
        (lambda folder: (folder / "sample.npz").write_bytes(b"PK\3\4" + HTML), "File is not a zip file"),
        (lambda folder: None, ".*No such file"),
    ],
    ids=["edited", "an array missing", "empty", "a page", "no zip", "missing"],
)
def test_a_sample_that_is_not_the_one_that_shipped_is_refused(
    spoil: Callable[[Path], None], received: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tmp_path)
    monkeypatch.setattr("nnexp.data.resources.files", lambda _: tmp_path)
    data.read_sample.cache_clear()
    data._load_split.cache_clear()
    with pytest.raises(DataError, match=f"sample.npz is not the sample.*Received: {received}.*Install nnexp again"):
        load_data(SAMPLE)


def test_the_sample_has_no_folder() -> None:
    with pytest.raises(SettingError, match=r"data.directory: expected null with the sample\. Received: 'here'"):
        locate_data(replace(SAMPLE, directory="here"))


# The full data set


def test_the_full_data_set_is_the_lessons(full: Source) -> None:
    dataset = load_data(FULL)
    facts = DATASETS["fashion_mnist"]
    assert dataset.train_images.shape == (facts.train_images, 28, 28, 1) == (60_000, 28, 28, 1)
    assert dataset.test_images.shape == (facts.test_images, 28, 28, 1) == (10_000, 28, 28, 1)
    assert dataset.train_labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # as the lesson prints them
    assert [data.CLASS_NAMES[label] for label in dataset.test_labels[:3]] == ["Ankle boot", "Pullover", "Trouser"]
    assert dataset.train_images.mean(dtype=float) == pytest.approx(0.2860, abs=1e-4)  # often published
    assert dataset.train_images.std(dtype=float) == pytest.approx(0.3530, abs=1e-4)


def test_the_sha256_of_the_full_data_set_is_that_of_its_four_files_one_after_another(full: Source) -> None:
    digest = hashlib.sha256()
    for array in data.read_folder(full):
        digest.update(make_idx(array))
    assert digest.hexdigest() == DATASETS["fashion_mnist"].sha256


def test_the_full_split_is_balanced_whole_and_apart(full: Source) -> None:
    labels = data.read_folder(full).train_labels
    order = data.draw_order(labels, 0)
    assert np.array_equal(np.sort(order), np.arange(60_000))
    counts = np.cumsum(np.eye(10, dtype=np.int32)[labels[order]], axis=0)
    assert np.ptp(counts, axis=1).max() == 1  # of every number of images from the start
    assert np.ptp(counts[-1] - counts, axis=1).max() == 1  # and from the end
    train, validation = data.split_indices(labels, None, 6_000, 0)
    assert (len(train), len(validation), len(np.intersect1d(train, validation))) == (54_000, 6_000, 0)


def test_the_script_makes_the_sample_that_ships_and_the_same_file_every_time(
    full: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "make_sample.py"))
    outputs = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for output in outputs:
        monkeypatch.setattr(sys, "argv", ["make_sample.py", str(full.folder), "--output", str(output)])
        script["main"]()
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with np.load(outputs[0]) as made:
        assert data.hash_arrays(data.Arrays(**made)) == DATASETS["sample"].sha256


def test_the_sample_trains_on_what_the_full_set_would_with_2000_images(full: Source) -> None:
    sample, whole = load_data(SAMPLE), load_data(replace(FULL, train_size=2_000))
    assert np.array_equal(sample.train_images, whole.train_images)
    assert np.array_equal(sample.train_labels, whole.train_labels)

"""nnexp and the stock `fit`, as the benchmark asks for them: an epoch at a time, by processes of their own.

Every contestant has `__init__(work, threads)`, `warm_up()` for what is compiled or traced once, `train_epoch()`, which
shuffles and trains on every image once, and `predict(images) -> labels` for the check that it has learned.
"""

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from works import CLASSES, LEARNING_RATE, SIDE, Work

from nnexp.config import Config, DataConfig
from nnexp.data import Dataset, load_data
from nnexp.tensorflow_start import start_tensorflow

MANY = 10_000  # epochs: more than are ever asked for


def compose(*overrides: str) -> Config:
    """Settings as nnexp would make them of these words of a command line."""
    from nnexp.compose import Composer, build_config_loader  # brings Hydra, which the rivals can do without

    composer = Composer(build_config_loader(None))
    return composer.compose(composer.parse(overrides))


def load_work(work: Work) -> Dataset:
    """The images of a work: the same for every contestant, read by nnexp's own loader (NumPy alone)."""
    return _load_images(work.images)


@cache
def _load_images(count: int) -> Dataset:
    return load_data(DataConfig("fashion_mnist", None, count, validation_size=0, split_seed=0))


def is_exact(work: Work) -> bool:
    """Whether the batches of a work come out even."""
    return work.images % work.batch_size == 0


class Nnexp:
    """The compiled engine, called as `nnexp.training.train` calls it."""

    def __init__(self, work: Work, threads: str) -> None:
        from nnexp.training import draw_orders

        self._config = compose(*work.overrides, f"threads={threads}", f"epochs={MANY}")
        start_tensorflow(self._config.threads)
        from nnexp.compiled import CompiledEngine
        from nnexp.model import build_model

        self._dataset = load_work(work)
        self._engine = CompiledEngine(build_model(self._config), self._dataset, self._config)
        self._orders = draw_orders(self._config, work.images)

    def warm_up(self) -> None:
        """Compile: only an epoch of this many images does."""
        self.train_epoch()
        self.prepare_scoring()

    def train_epoch(self) -> None:
        """One epoch, with the drawing of its order."""
        self._engine.train_epoch(next(self._orders))

    def prepare_scoring(self) -> None:
        """Score once: the tensors of one data set only are kept, so that another work's may be in their place."""
        self.score()

    def score(self) -> None:
        """What nnexp does after every epoch: all images trained on and all 10,000 test images."""
        from nnexp.training import score_splits

        score_splits(self._config, self._engine.weights, self._dataset)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels of images float32 [n, 28, 28, 1]."""
        import tensorflow as tf

        from nnexp.compiled import compute_logits, read_network

        network = read_network(self._config)
        chunks = [images[start : start + 1000] for start in range(0, len(images), 1000)]
        logits = [compute_logits(network, self._engine.weights, tf.constant(chunk), None) for chunk in chunks]
        return np.concatenate(logits).argmax(axis=1)


def start_stock_tensorflow(threads: str) -> None:
    """TensorFlow as it is, or with so many threads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    if threads != "default" and not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(int(threads))
        tf.config.threading.set_inter_op_parallelism_threads(1)


def build_stock(work: Work) -> Any:
    """The compiled Keras model as the lesson writes it, without a line of nnexp's."""
    import keras

    def penalty() -> Any:
        return keras.regularizers.L2(work.l2) if work.l2 else None

    model = keras.Sequential([keras.Input((SIDE, SIDE, 1))])
    for filters in work.filters:
        settings = {"padding": "same", "activation": "relu", "kernel_regularizer": penalty()}
        model.add(keras.layers.Conv2D(filters, 3, **settings))
        model.add(keras.layers.MaxPooling2D(2))
    model.add(keras.layers.Flatten())
    for units in work.units:
        model.add(keras.layers.Dense(units, activation="relu", kernel_regularizer=penalty()))
        if work.dropout:
            model.add(keras.layers.Dropout(work.dropout))
    model.add(keras.layers.Dense(CLASSES, activation="softmax", kernel_regularizer=penalty()))
    optimizer = keras.optimizers.Adam(learning_rate=LEARNING_RATE)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class StockFit:
    """One call of `model.fit` on NumPy arrays, for many epochs, held between them until the next is asked for."""

    def __init__(self, work: Work, threads: str) -> None:
        start_stock_tensorflow(threads)
        self._dataset = load_work(work)
        self._work = work
        self._model = build_stock(work)
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._fit, daemon=True)

    def warm_up(self) -> None:
        """Trace the step with two batches, one of them partial if the work has such."""
        size = 2 * self._work.batch_size - (not is_exact(self._work))
        images, labels = self._dataset.train_images[:size], self._dataset.train_labels[:size]
        self._model.fit(images, labels, batch_size=self._work.batch_size, verbose=0)
        self._thread.start()
        self._done.acquire()  # the fit stands before its first epoch

    def train_epoch(self) -> None:
        """Let the fit go on for one epoch."""
        self._go.release()
        self._done.acquire()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels of images float32 [n, 28, 28, 1]."""
        chunks = [images[start : start + 1000] for start in range(0, len(images), 1000)]
        return np.concatenate([self._model(chunk) for chunk in chunks]).argmax(axis=1)

    def _fit(self) -> None:
        import keras

        def hold(epoch: int, logs: object) -> None:
            self._done.release()
            self._go.acquire()

        turnstile = keras.callbacks.LambdaCallback(on_epoch_begin=hold)
        images, labels = self._dataset.train_images, self._dataset.train_labels
        self._model.fit(images, labels, batch_size=self._work.batch_size, epochs=MANY, verbose=0, callbacks=[turnstile])


def find_contestant(name: str) -> Callable[[Work, str], Any]:
    """The class of a contestant; its library is imported when it is made."""
    if name in ("nnexp", "fit"):
        return {"nnexp": Nnexp, "fit": StockFit}[name]
    import rivals

    return {"pytorch": rivals.PyTorch, "jax": rivals.Jax, "sklearn": rivals.ScikitLearn}[name]

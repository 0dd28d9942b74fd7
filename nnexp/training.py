"""Training and scoring: an epoch at a time, then every image scored the same way.

An engine is a function that trains one epoch in the order it is given; all else is shared: the order of the images,
the scores after each epoch, early stopping.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnexp.config import Config
from nnexp.data import Dataset
from nnexp.model import build_optimizer

if TYPE_CHECKING:
    import keras

SCORE_BATCH = 10_000  # images scored at once: bounds the memory that convolutions take

TrainEpoch = Callable[[np.ndarray, int], tuple[float, float]]
"""Trains one epoch: (order int [n], epoch from 1) -> Keras's running loss and accuracy."""


class DivergedError(ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class Training:
    """What training came to.

    Attributes:
        history: one row an epoch: losses and accuracies of train, test and validation in inference mode, and Keras's
            running loss and accuracy, averaged over the epoch with dropout on and penalties in.
        best_epoch: the epoch, from 1, whose weights the run ends with.
        seconds: spent in training alone, without the scoring.
    """

    history: list[dict[str, float]]
    best_epoch: int
    seconds: float


def train(
    model: "keras.Sequential", dataset: Dataset, config: Config, on_epoch: Callable[[int, float], None]
) -> Training:
    """Train `model` in place, score it after each epoch, and leave it with the weights of the best epoch.

    The best epoch is the last one, or under early stopping the one with the lowest validation loss; training then ends
    `early_stopping` epochs after it (Prechelt 1998).

    Args:
        on_epoch: called after each epoch with its number and its test accuracy.
    """
    train_epoch = ENGINES[config.engine](model, dataset, config)
    score = build_scorer(model)
    training = Training([], 0, 0.0)
    best_loss, best_weights = np.inf, None
    for epoch, order in enumerate(draw_orders(config, len(dataset.train_labels)), start=1):
        started = time.perf_counter()
        running_loss, running_accuracy = train_epoch(order, epoch)
        training.seconds += time.perf_counter() - started
        if not np.isfinite(running_loss):
            raise DivergedError(f"the training loss is {running_loss} in epoch {epoch}; try a smaller learning rate")
        row = {"epoch": epoch, **score_all(score, dataset)}
        training.history.append(row | {"running_loss": running_loss, "running_accuracy": running_accuracy})
        on_epoch(epoch, row["test_accuracy"])
        if config.early_stopping is None or row["validation_loss"] < best_loss:
            training.best_epoch = epoch
        if config.early_stopping is None:
            continue
        if training.best_epoch == epoch:
            best_loss, best_weights = row["validation_loss"], model.get_weights()
        elif epoch - training.best_epoch >= config.early_stopping:
            break
    if best_weights is not None:
        model.set_weights(best_weights)
    return training


def draw_orders(config: Config, num_images: int) -> Iterator[np.ndarray]:
    """Draw the order of the images for every epoch from the run's seed: int32 [num_images] each."""
    generator = np.random.default_rng([config.seed, 1])  # 1: not the stream of the initial weights
    for _ in range(config.epochs):
        yield generator.permutation(num_images).astype(np.int32)


def train_epoch_with_fit(model: "keras.Sequential", dataset: Dataset, config: Config) -> TrainEpoch:
    """Prepare the reference engine: the stock `model.fit`, one call an epoch."""
    import keras

    model.compile(
        optimizer=build_optimizer(config),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=config.use_xla,
    )
    keras.utils.set_random_seed(config.seed)

    def train_epoch(order: np.ndarray, epoch: int) -> tuple[float, float]:
        images, labels = dataset.train_images[order], dataset.train_labels[order]
        settings: dict[str, Any] = {"batch_size": config.batch_size, "shuffle": False, "verbose": 0}
        history = model.fit(images, labels, **settings).history
        return history["loss"][0], history["accuracy"][0]

    return train_epoch


ENGINES = {"keras": train_epoch_with_fit}


def build_scorer(model: "keras.Sequential") -> Callable[[np.ndarray], np.ndarray]:
    """Make a function from images float32 [n, 28, 28, 1] to log-probabilities float32 [n, 10], in inference mode."""
    import tensorflow as tf

    @tf.function  # type: ignore[untyped-decorator]
    def predict(images: tf.Tensor) -> tf.Tensor:
        return tf.math.log(model(images, training=False))

    return lambda images: np.concatenate(
        [predict(images[start : start + SCORE_BATCH]).numpy() for start in range(0, len(images), SCORE_BATCH)]
    )


def score_all(score: Callable[[np.ndarray], np.ndarray], dataset: Dataset) -> dict[str, float]:
    """Score train, test and validation images (where there are any) the same way: every image, inference mode."""
    scores = {}
    for split in ("train", "test", "validation"):
        labels = getattr(dataset, f"{split}_labels")
        if len(labels):
            log_probabilities = score(getattr(dataset, f"{split}_images"))
            chosen = log_probabilities[np.arange(len(labels)), labels]
            scores[f"{split}_loss"] = float(-chosen.mean(dtype=np.float64))
            scores[f"{split}_accuracy"] = float((log_probabilities.argmax(axis=1) == labels).mean())
    return scores


def predict_test(model: "keras.Sequential", dataset: Dataset) -> dict[str, np.ndarray]:
    """Predict every test image: `label` uint8 [n], `confidence` float16 [n], its probability in [0, 1]."""
    log_probabilities = build_scorer(model)(dataset.test_images)
    label, confidence = log_probabilities.argmax(axis=1), np.exp(log_probabilities.max(axis=1))
    return {"label": label.astype(np.uint8), "confidence": confidence.astype(np.float16)}


def hash_weights(model: "keras.Sequential") -> str:
    """SHA-256 over every weight in the model's order: its shape, type and bytes."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(f"{weights.shape} {weights.dtype}".encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()

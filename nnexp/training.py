"""Training and scoring: an epoch at a time, then every image scored the same way.

An engine trains one epoch in the order that it is given. All else is shared by the engines: the initial weights, the
order of the images, the scores after each epoch, early stopping.
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


class DivergedError(ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class Training:
    """What training came to.

    Attributes:
        history: one row an epoch: losses and accuracies of train, test and validation in inference mode, and Keras's
            running loss and accuracy, averaged over the epoch with dropout on and penalties in.
        best_epoch: the epoch, from 1, whose weights the run ends with.
        predictions: of every test image with those weights: `label` uint8 [n], `confidence` float16 [n].
        seconds: spent in training alone, without the scoring.
    """

    history: list[dict[str, float]]
    best_epoch: int
    predictions: dict[str, np.ndarray]
    seconds: float


def train(
    model: "keras.Sequential", dataset: Dataset, config: Config, on_epoch: Callable[[int, float], None]
) -> Training:
    """Train `model` in place, score it after each epoch, and leave it with the weights of the best epoch.

    The best epoch is the last one, or under early stopping the one with the lowest validation loss; training then ends
    `early_stopping` epochs after it (Prechelt 1998).

    Args:
        on_epoch: called after each epoch with its number and its test accuracy.
    Raises:
        DivergedError: if a loss is not a number.
    """
    engine = make_engine(model, dataset, config)
    training = Training([], 0, {}, 0.0)
    lowest_loss, best_weights = np.inf, engine.weights
    for epoch, order in enumerate(draw_orders(config, len(dataset.train_labels)), start=1):
        started = time.perf_counter()
        running_loss, running_accuracy = engine.train_epoch(order)
        training.seconds += time.perf_counter() - started
        scores, predictions = score_splits(config, engine.weights, dataset)
        scores |= {"running_loss": running_loss, "running_accuracy": running_accuracy}
        check_losses(scores, epoch)
        training.history.append({"epoch": epoch} | scores)
        on_epoch(epoch, scores["test_accuracy"])
        loss = scores["validation_loss"] if config.early_stopping else -epoch  # the last epoch is the best
        if loss < lowest_loss:
            lowest_loss, best_weights = loss, engine.weights
            training.best_epoch, training.predictions = epoch, predictions
        elif epoch - training.best_epoch >= (config.early_stopping or config.epochs):
            break
    for variable, weight in zip(model.trainable_weights, best_weights, strict=True):
        variable.assign(weight)
    return training


def draw_orders(config: Config, num_images: int) -> Iterator[np.ndarray]:
    """Draw the order of the images for every epoch from the run's seed: int32 [num_images] each."""
    generator = np.random.PCG64([config.seed, 1])  # 1: not the stream of the initial weights
    for _ in range(config.epochs):
        yield np.argsort(generator.random_raw(num_images), kind="stable").astype(np.int32)


def check_losses(scores: dict[str, float], epoch: int) -> None:
    """Raise DivergedError if a loss of this epoch is not a number."""
    for name, value in scores.items():
        if not np.isfinite(value):
            raise DivergedError(f"{name} is {value} in epoch {epoch}; try a smaller optimizer.learning_rate")


def make_engine(model: "keras.Sequential", dataset: Dataset, config: Config) -> Any:
    """The engine that `config` names: with `train_epoch(order) -> (loss, accuracy)` and `weights`."""
    from nnexp.compiled import CompiledEngine

    engines = {"compiled": CompiledEngine, "keras": KerasEngine}
    return engines[config.engine](model, dataset, config)


class KerasEngine:
    """The reference: the stock `model.fit`, one call an epoch."""

    def __init__(self, model: "keras.Sequential", dataset: Dataset, config: Config) -> None:
        self._model = model
        self._dataset = dataset
        self._batch_size = config.batch_size
        model.compile(
            optimizer=build_optimizer(config),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=config.use_xla,
        )

    @property
    def weights(self) -> list[Any]:
        """A copy of the weights as they are now, in the order of `model.trainable_weights`."""
        return [variable.numpy() for variable in self._model.trainable_weights]

    def train_epoch(self, order: np.ndarray) -> tuple[float, float]:
        """Train on every image once, in `order` int32 [n]; returns Keras's running loss and accuracy."""
        images, labels = self._dataset.train_images[order], self._dataset.train_labels[order]
        history = self._model.fit(images, labels, batch_size=self._batch_size, shuffle=False, verbose=0).history
        return history["loss"][0], history["accuracy"][0]


def score_splits(
    config: Config, weights: list[Any], dataset: Dataset
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Score train, test and (where there are any) validation images, all the same way: every image, inference mode.

    Returns:
        `<split>_loss` and `<split>_accuracy`, and what is predicted of the test images.
    """
    from nnexp.compiled import load_tensors, score

    scores: dict[str, float] = {}
    predictions: dict[str, np.ndarray] = {}
    for split, (images, labels) in load_tensors(dataset).items():
        result = score(config, weights, images, labels)
        scores |= {f"{split}_loss": result.loss, f"{split}_accuracy": result.accuracy}
        if split == "test":
            predictions = {"label": result.label, "confidence": result.confidence.astype(np.float16)}
    return scores, predictions


def hash_weights(model: "keras.Sequential") -> str:
    """SHA-256 over every weight in the model's order: its shape, type and bytes."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(f"{weights.shape} {weights.dtype}".encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()

"""The network of a run, built from its settings."""

from typing import TYPE_CHECKING

import numpy as np

from nnexp.config import Config

if TYPE_CHECKING:
    import keras

NUM_CLASSES = 10
IMAGE_SHAPE = (28, 28, 1)  # height, width, channels


def build_model(config: Config) -> "keras.Sequential":
    """Build the Keras network that `config` describes, with initial weights drawn from its seed.

    For each of `filters` a 3x3 convolution that keeps the size and a 2x2 max-pooling, for each of `units` a Dense layer
    followed by dropout, then a Dense softmax layer over the ten classes. Kernels: Glorot uniform (Glorot & Bengio 2010)
    with the penalty `l2 * sum(w^2)`; biases: zeros.

    Returns:
        a model from images float32 [n, 28, 28, 1] to probabilities float32 [n, 10].
    """
    import keras

    num_kernels = len(config.model.filters) + len(config.model.units) + 1
    seeds = np.random.SeedSequence(config.seed).generate_state(num_kernels + len(config.model.units)).tolist()
    kernel_seeds, dropout_seeds = iter(seeds[:num_kernels]), iter(seeds[num_kernels:])

    def kernel_settings() -> dict[str, object]:
        regularizer = keras.regularizers.L2(config.l2) if config.l2 else None
        initializer = keras.initializers.GlorotUniform(seed=next(kernel_seeds))
        return {"kernel_initializer": initializer, "kernel_regularizer": regularizer}

    model = keras.Sequential([keras.Input(IMAGE_SHAPE)])
    activation = config.model.activation
    for filters in config.model.filters:
        model.add(keras.layers.Conv2D(filters, 3, padding="same", activation=activation, **kernel_settings()))
        model.add(keras.layers.MaxPooling2D(2))
    model.add(keras.layers.Flatten())
    for units in config.model.units:
        model.add(keras.layers.Dense(units, activation=activation, **kernel_settings()))
        if config.dropout:
            model.add(keras.layers.Dropout(config.dropout, seed=next(dropout_seeds)))
    model.add(keras.layers.Dense(NUM_CLASSES, activation="softmax", **kernel_settings()))
    return model


def build_optimizer(config: Config) -> "keras.optimizers.Optimizer":
    """Build the Keras optimizer that `config` names, with its numbers."""
    import keras

    optimizers = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop,
    }
    settings = {key: value for key, value in vars(config.optimizer).items() if key != "name" and value is not None}
    return optimizers[config.optimizer.name](**settings)

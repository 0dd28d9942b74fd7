"""The promises of build_model: which network the settings describe, and what it begins with."""

import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

from nnexp.compose import Composer, build_config_loader
from nnexp.config import ACTIVATIONS
from nnexp.model import build_model

COMPOSER = Composer(build_config_loader(None))
NETWORKS = {  # settings: layers as the types of Keras and what they are made with
    "": ["Flatten", "Dense 128 relu", "Dense 10 softmax"],
    "model=linear": ["Flatten", "Dense 10 softmax"],
    "model=deep dropout=0.2": [
        *("Flatten", "Dense 256 relu", "Dropout 0.2", "Dense 128 relu", "Dropout 0.2", "Dense 64 relu", "Dropout 0.2"),
        "Dense 10 softmax",
    ],
    "model.units=[7,5] model.activation=tanh l2=0.1": ["Flatten", "Dense 7 tanh", "Dense 5 tanh", "Dense 10 softmax"],
    "model=cnn dropout=0.5 l2=0.1": [
        *("Conv2D 32 relu", "MaxPooling2D", "Conv2D 64 relu", "MaxPooling2D"),
        *("Flatten", "Dense 128 relu", "Dropout 0.5", "Dense 10 softmax"),
    ],
    "model=linear model.filters=[3] model.activation=gelu": [
        *("Conv2D 3 gelu", "MaxPooling2D", "Flatten", "Dense 10 softmax"),
    ],
    "model.filters=[2,2,2,2] model.units=[]": [*("Conv2D 2 relu", "MaxPooling2D") * 4, "Flatten", "Dense 10 softmax"],
}


def build(settings: str = "") -> Any:
    return build_model(COMPOSER.compose(COMPOSER.parse(settings.split())))


def describe(layer: Any) -> str:
    """A layer's stock Keras type, and what it is made with: `Dense 128 relu`."""
    stock = (keras.layers.Dense, keras.layers.Conv2D, keras.layers.Dropout, keras.layers.MaxPooling2D)
    [kind] = [each.__name__ for each in (*stock, keras.layers.Flatten) if isinstance(layer, each)]
    settings = layer.get_config()
    values = [settings.get(key) for key in ("units", "filters", "rate", "activation")]
    return " ".join([kind, *(str(value) for value in values if value is not None)])


def list_kernels(model: Any) -> list[np.ndarray]:
    return [np.asarray(layer.kernel) for layer in model.layers if layer.weights]


def are_equal(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("settings", NETWORKS)
def test_the_layers_are_those_that_the_settings_describe(settings: str) -> None:
    assert [describe(layer) for layer in build(settings).layers] == NETWORKS[settings]


def test_the_default_has_the_lessons_number_of_parameters() -> None:
    assert build().count_params() == 101_770  # 784 * 128 + 128 + 128 * 10 + 10


def test_a_network_takes_images_and_gives_probabilities() -> None:
    model = build("model=cnn")
    probabilities = np.asarray(model(np.zeros((3, 28, 28, 1), np.float32)))
    assert model.input_shape == (None, 28, 28, 1)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)


def test_a_convolution_keeps_the_size_and_a_pooling_halves_it() -> None:
    shapes = [layer.output.shape[1:] for layer in build("model=cnn").layers[:4]]
    assert shapes == [(28, 28, 32), (14, 14, 32), (14, 14, 64), (7, 7, 64)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_keras_own(activation: str) -> None:
    hidden = build(f"model.units=[4] model.activation={activation}").layers[1]
    assert hidden.activation is keras.activations.get(activation)


def test_l2_is_the_sum_of_the_squares_of_every_kernel_and_of_no_bias() -> None:
    model = build("model=cnn l2=0.01")
    for layer in model.layers:
        if layer.weights:
            layer.bias.assign(np.ones(layer.bias.shape))
    expected = [0.01 * np.square(kernel, dtype=np.float64).sum() for kernel in list_kernels(model)]
    assert [float(loss) for loss in model.losses] == pytest.approx(expected, rel=1e-5)
    assert len(expected) == 4


def test_without_l2_there_is_no_penalty() -> None:
    assert build("l2=0").losses == []


def test_dropout_drops_its_share_when_training_and_nothing_when_scoring() -> None:
    dropout = build("dropout=0.25").layers[2]
    ones = np.ones((100, 128), np.float32)
    trained = np.asarray(dropout(ones, training=True))
    assert (trained == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert trained.max() == pytest.approx(1 / 0.75)
    assert np.array_equal(dropout(ones, training=False), ones)


@pytest.mark.parametrize("settings", ["model.units=[512]", "model=cnn"])
def test_kernels_begin_glorot_uniform(settings: str) -> None:
    for kernel in list_kernels(build(settings)):
        field = np.prod(kernel.shape[:-2], dtype=int)  # 9 for a 3x3 convolution, else 1
        limit = np.sqrt(6 / (field * (kernel.shape[-2] + kernel.shape[-1])))
        deciles = np.quantile(kernel, np.linspace(0, 1, 11))
        assert deciles == pytest.approx(np.linspace(-limit, limit, 11), abs=0.2 * limit)
        assert np.abs(kernel).max() <= limit


def test_biases_begin_at_zero() -> None:
    assert not any(np.any(layer.bias) for layer in build("model=cnn").layers if layer.weights)


def test_layers_of_one_shape_begin_with_different_weights() -> None:
    _, second, third, _ = list_kernels(build("model.units=[9,9,9]"))
    assert not np.array_equal(second, third)


@pytest.mark.parametrize("more", ["dropout=0.2", "l2=0.01", "optimizer=sgd", "epochs=9 batch_size=8", "data=sample"])
def test_no_setting_but_the_seed_changes_the_initial_weights(more: str) -> None:
    assert are_equal(build("model=deep").get_weights(), build(f"model=deep {more}").get_weights())


def test_another_seed_changes_every_kernel() -> None:
    pairs = zip(list_kernels(build("model=deep")), list_kernels(build("model=deep seed=1")), strict=True)
    assert not any(np.array_equal(one, other) for one, other in pairs)


def test_a_seed_gives_the_same_weights_whatever_the_process_did_before() -> None:
    first = build("seed=3").get_weights()
    build("model=cnn seed=5")
    keras.utils.set_random_seed(11)
    random.random(), np.random.default_rng().random(), keras.random.uniform((3,))
    assert are_equal(first, build("seed=3").get_weights())


def test_a_seed_gives_the_weights_that_it_gave_before() -> None:
    """Raise config.TRAINING_VERSION where this changes: the numbers of every run do."""
    assert build("seed=0").get_weights()[0][0, :2] == pytest.approx([0.018361196, 0.040030725], abs=1e-9)

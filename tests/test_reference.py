"""The reference in NumPy, and Keras, TensorFlow and finite differences held against it."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from nnexp.compose import Composer, build_config_loader
from nnexp.config import read_options
from nnexp.data import read_sample
from nnexp.model import build_model
from nnexp.reference import (
    Layer,
    backpropagate,
    compute_gradient,
    compute_loss,
    cross_entropy,
    estimate_gradient,
    forward,
    penalty,
    relu,
    softmax,
    step_sgd,
)

RELATIVE = 1e-6
AWAY = 1e-3  # how far from zero, a kink of ReLU, every number that goes into one is in the random networks
STEP = 1e-5  # of the finite differences
LESSON = [
    Layer(np.array([[4, 2, -1], [5, -2, -2]]), np.array([0, 1])),
    Layer(np.array([[0, 1], [-2, 2], [3, 4], [-2, 0]]), np.array([-1, -7, -14, -5])),
    Layer(np.array([[-2, 3, -6, 4], [-1, 0, -1, 0]]), np.array([14, 4])),
]
X, TARGET = np.array([1, -2, 3]), np.array([3, 2])
DENSE_MODELS = [name for name, text in read_options("model").items() if not yaml.safe_load(text)["filters"]]


def flatten(gradients: list[Layer]) -> np.ndarray:
    return np.concatenate([array.ravel() for layer in gradients for array in layer])


# --- the lesson's numbers ---------------------------------------------------------------------------------------------


def lesson_error(layers: list[Layer]) -> float:
    return float(np.linalg.norm(forward(layers, X)[-1] - TARGET))


def lesson_gradient(layers: list[Layer]) -> list[Layer]:
    values = forward(layers, X)
    error = values[-1] - TARGET
    return backpropagate(layers, values, error / np.linalg.norm(error))


def test_the_lessons_network_gives_its_output_and_its_error() -> None:
    assert forward(LESSON, X)[-1].tolist() == [-1, -1]
    assert lesson_error(LESSON) == 5


def test_the_lessons_softmax_and_its_two_losses() -> None:
    a = softmax([1, 2, -3])
    assert a == pytest.approx(np.exp([1, 2, -3]) / np.sum(np.exp([1, 2, -3])), rel=1e-12)
    assert a.round(4).tolist() == [0.2676, 0.7275, 0.0049]
    assert cross_entropy(a, 1) == pytest.approx(0.3182, abs=5e-5)
    assert -np.log(0.727) == pytest.approx(0.319, abs=5e-4)  # the lesson rounds the probability first
    assert cross_entropy(a, 2) == pytest.approx(5.32, abs=5e-3)


def test_softmax_bears_large_numbers() -> None:
    assert softmax([1000.0, 1000.0, -1000.0]).tolist() == [0.5, 0.5, 0.0]


def test_the_lessons_top_left_weight_is_behind_a_unit_that_passes_nothing_on() -> None:
    assert (LESSON[0].W @ X + LESSON[0].b).tolist() == [-3, 4]
    assert lesson_gradient(LESSON)[0].W[0].tolist() == [0, 0, 0]
    assert estimate_gradient(lesson_error, LESSON)[0].W[0].tolist() == [0, 0, 0]


def test_every_other_derivative_of_the_lessons_network_is_the_estimated_one() -> None:
    exact, estimated = flatten(lesson_gradient(LESSON)), flatten(estimate_gradient(lesson_error, LESSON))
    assert np.abs(exact - estimated).max() <= RELATIVE * np.abs(exact).max()
    assert np.count_nonzero(exact) == 18  # of 30: the others are behind, or multiplied by, a zero


def test_at_a_kink_backpropagation_takes_the_left_derivative_and_finite_differences_the_mean_of_both() -> None:
    """At a top-left entry of 7 the first unit is exactly at zero: a step down changes nothing, a step up does."""
    kink = [Layer(LESSON[0].W + np.array([[3, 0, 0], [0, 0, 0]]), LESSON[0].b), *LESSON[1:]]
    with tf.GradientTape() as tape:
        variables = to_variables(kink)
        error = tf.norm(run_tensorflow(variables, X[None].astype(float)) - TARGET.astype(float))
    tape_gradient = tape.gradient(error, variables[0]).numpy()[0, 0]
    assert (lesson_gradient(kink)[0].W[0, 0], tape_gradient) == (0, 0)
    left, right = ((lesson_error(move(kink, step)) - lesson_error(kink)) / step for step in (-STEP, STEP))
    assert left == 0 and right == pytest.approx(21, abs=1e-3)  # (24 * 4 + 3 * 3) / 5
    assert estimate_gradient(lesson_error, kink)[0].W[0, 0] == pytest.approx(21 / 2, abs=1e-3)


def move(layers: list[Layer], step: float) -> list[Layer]:
    moved = layers[0].W.astype(float)
    moved[0, 0] += step
    return [Layer(moved, layers[0].b), *layers[1:]]


# --- random networks: NumPy, finite differences, TensorFlow -----------------------------------------------------------


def to_variables(layers: list[Layer]) -> list[tf.Variable]:
    return [tf.Variable(array.astype(float)) for layer in layers for array in layer]


def run_tensorflow(variables: list[tf.Variable], x: np.ndarray) -> tf.Tensor:
    for W, b in zip(variables[:-2:2], variables[1:-2:2], strict=True):
        x = tf.nn.relu(tf.linalg.matmul(x, W, transpose_b=True) + b)
    return tf.linalg.matmul(x, variables[-2], transpose_b=True) + variables[-1]


def draw_network(generator: np.random.Generator) -> tuple[list[Layer], np.ndarray, np.ndarray]:
    """A network of one to four layers with a batch of inputs and labels, no unit of which is near a kink."""
    while True:
        sizes = [*generator.integers(1, 9, size=generator.integers(1, 5)), generator.integers(2, 9)]
        layers = [
            Layer(generator.normal(size=(after, before)), generator.normal(size=after))
            for before, after in itertools.pairwise(sizes)
        ]
        x = generator.normal(size=(generator.integers(1, 6), sizes[0]))
        values = forward(layers, x)
        before_relu = [value @ layer.W.T + layer.b for value, layer in zip(values[:-2], layers[:-1], strict=True)]
        if all(np.abs(z).min() > AWAY for z in before_relu):
            return layers, x, generator.integers(0, sizes[-1], size=len(x))


@pytest.mark.parametrize("seed", range(100))
def test_backpropagation_finite_differences_and_tensorflow_agree(seed: int) -> None:
    generator = np.random.default_rng(seed)
    layers, x, labels = draw_network(generator)
    l2 = generator.choice([0.0, 0.01, 1.0])
    exact = flatten(compute_gradient(layers, x, labels, l2))
    variables = to_variables(layers)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, run_tensorflow(variables, x))
        loss = tf.reduce_mean(losses) + l2 * sum(tf.reduce_sum(W**2) for W in variables[::2])
    by_tape = np.concatenate([gradient.numpy().ravel() for gradient in tape.gradient(loss, variables)])
    by_steps = flatten(estimate_gradient(lambda moved: compute_loss(moved, x, labels, l2), layers, STEP))
    largest = np.abs(exact).max()
    assert compute_loss(layers, x, labels, l2) == pytest.approx(float(loss), rel=RELATIVE)
    assert exact == pytest.approx(by_tape, rel=RELATIVE, abs=1e-12 * largest)
    assert np.abs(exact - by_steps).max() <= RELATIVE * largest  # a step cannot see less of a small derivative


def test_a_batch_is_its_inputs_one_by_one() -> None:
    layers, x, labels = draw_network(np.random.default_rng(0))
    x, labels = np.vstack([x, x + 0.1]), np.concatenate([labels, labels])
    alone = [flatten(compute_gradient(layers, row, label)) for row, label in zip(x, labels, strict=True)]
    assert flatten(compute_gradient(layers, x, labels)) == pytest.approx(np.mean(alone, axis=0), rel=1e-12)
    assert forward(layers, x)[-1][1] == pytest.approx(forward(layers, x[1])[-1], rel=1e-12)


def test_a_step_lowers_the_loss_by_what_the_gradient_foretells() -> None:
    layers, x, labels = draw_network(np.random.default_rng(1))
    gradient = compute_gradient(layers, x, labels, 0.01)
    rate = 1e-7
    after = compute_loss(step_sgd(layers, gradient, rate), x, labels, 0.01)
    foretold = rate * np.sum(flatten(gradient) ** 2)
    assert compute_loss(layers, x, labels, 0.01) - after == pytest.approx(foretold, rel=1e-4)


def test_biases_are_not_penalised() -> None:
    layers, x, labels = draw_network(np.random.default_rng(2))
    plain, held = compute_gradient(layers, x, labels), compute_gradient(layers, x, labels, 0.5)
    for layer, one, other in zip(layers, plain, held, strict=True):
        assert np.allclose(other.W, one.W + 2 * 0.5 * layer.W) and other.b.tolist() == one.b.tolist()
    assert penalty(layers, 0.5) == pytest.approx(0.5 * sum((layer.W**2).sum() for layer in layers))


# --- the networks of nnexp --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double_precision():
    """Keras in float64: a comparison at 1e-6 needs more digits than float32 has."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module", params=[(name, l2) for name in DENSE_MODELS for l2 in (0.0, 0.01)], ids=str)
def network(request, double_precision):
    """A shipped network without convolutions as Keras and as the reference, 20 real images, their labels, and l2."""
    name, l2 = request.param
    composer = Composer(build_config_loader(None))
    model = build_model(composer.compose(composer.parse([f"model={name}", f"l2={l2}", "seed=3"])))
    layers = [Layer(np.array(each.kernel).T, np.array(each.bias)) for each in model.layers if each.weights]
    sample = read_sample()
    return model, layers, sample.test_images[:20] / 255, sample.test_labels[:20].astype(int), l2


def flatten_images(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def test_the_shipped_networks_without_convolutions_are_found() -> None:
    assert {"linear", "mlp", "deep", "wide"} <= set(DENSE_MODELS) and "cnn" not in DENSE_MODELS


def test_keras_gives_the_outputs_of_the_reference(network) -> None:
    model, layers, images, _, _ = network
    expected = softmax(forward(layers, flatten_images(images))[-1])
    assert np.array(model(images[..., None])) == pytest.approx(expected, rel=RELATIVE)


def test_keras_gives_the_loss_of_the_reference(network) -> None:
    model, layers, images, labels, l2 = network
    model.compile(loss="sparse_categorical_crossentropy")
    loss = model.evaluate(images[..., None], labels, verbose=0)
    assert loss == pytest.approx(compute_loss(layers, flatten_images(images), labels, l2), rel=RELATIVE)


def test_keras_gives_the_gradients_of_the_reference(network) -> None:
    model, layers, images, labels, l2 = network
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(labels, model(images[..., None], training=True))
        loss = tf.reduce_mean(losses) + sum(model.losses)
    gradients = [gradient.numpy() for gradient in tape.gradient(loss, [v.value for v in model.trainable_variables])]
    expected = compute_gradient(layers, flatten_images(images), labels, l2)
    for W, b, layer in zip(gradients[::2], gradients[1::2], expected, strict=True):
        for keras_gives, reference in ((W.T, layer.W), (b, layer.b)):
            assert np.abs(keras_gives - reference).max() <= RELATIVE * np.abs(reference).max()


def test_keras_takes_the_reference_step(network) -> None:
    model, layers, images, labels, l2 = network
    before = model.get_weights()
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(images[..., None], labels)
    expected = step_sgd(layers, compute_gradient(layers, flatten_images(images), labels, l2), 0.1)
    after = model.get_weights()
    model.set_weights(before)
    for layer, kernel, bias in zip(expected, after[::2], after[1::2], strict=True):
        assert np.allclose(kernel.T, layer.W, RELATIVE, 1e-9) and np.allclose(bias, layer.b, RELATIVE, 1e-9)


def test_relu_is_zero_below_zero_and_nothing_else() -> None:
    assert relu([-2.0, 0.0, 3.0]).tolist() == [0, 0, 3]

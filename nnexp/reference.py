"""The lesson's multilayer perceptron in NumPy alone, to be read and to be checked against.

A network is a list of layers. A layer computes `W @ x + b`, with `W` [units, inputs] and `b` [units]; after each but
the last comes ReLU. Every function takes one input, `x` [inputs], or a batch of them as rows, [n, inputs].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Layer(NamedTuple):
    """Weights `W` [units, inputs] and biases `b` [units]; or the derivatives with respect to them, in these shapes."""

    W: Array
    b: Array


def relu(z: ArrayLike) -> Array:
    """max(0, z), number by number."""
    return np.maximum(0.0, z)


def softmax(z: ArrayLike) -> Array:
    """exp(z) / sum(exp(z)) over the last axis: positive, and sums to 1. Less the largest z first: no overflow."""
    powers = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def cross_entropy(probabilities: Array, label: ArrayLike) -> float:
    """ln(1 / probability of the right class), natural logarithm; its mean over a batch. Classes count from 0."""
    right = np.take_along_axis(probabilities, np.expand_dims(label, -1), axis=-1)
    return float(np.mean(-np.log(right)))


def penalty(layers: list[Layer], l2: float) -> float:
    """l2 * sum(w^2) over the weights of every layer; biases are free."""
    return float(l2 * sum(np.sum(layer.W**2) for layer in layers))


def apply_layer(layer: Layer, x: Array) -> Array:
    """W @ x + b, for each row of a batch."""
    return x @ layer.W.T + layer.b


def forward(layers: list[Layer], x: ArrayLike) -> list[Array]:
    """What goes into each layer, and the output last: [x, ReLU(W1 @ x + b1), ..., Wk @ (...) + bk]."""
    values = [np.asarray(x, dtype=float)]
    for layer in layers[:-1]:
        values.append(relu(apply_layer(layer, values[-1])))
    return [*values, apply_layer(layers[-1], values[-1])]


def backpropagate(layers: list[Layer], values: list[Array], output_gradient: Array, l2: float = 0.0) -> list[Layer]:
    """The derivatives of the loss with respect to every weight and bias, by the chain rule from the last layer back.

    values: of `forward`; output_gradient: the derivative of the loss with respect to the output, in its shape. At a
    kink, z = 0, ReLU has no derivative: 0 is taken, the one from the left, as TensorFlow does.
    """
    gradients = []
    delta = np.atleast_2d(output_gradient)  # with respect to z = W @ x + b, a row for each input
    for layer, x in zip(reversed(layers), reversed(values[:-1]), strict=True):
        gradients.append(Layer(delta.T @ np.atleast_2d(x) + 2 * l2 * layer.W, delta.sum(axis=0)))
        delta = (delta @ layer.W) * (np.atleast_2d(x) > 0)  # x is a ReLU's value: it passes nothing on where it is 0
    return gradients[::-1]


def compute_loss(layers: list[Layer], x: ArrayLike, label: ArrayLike, l2: float = 0.0) -> float:
    """What training minimises: the mean cross-entropy of the softmax of the output, plus the penalty."""
    return cross_entropy(softmax(forward(layers, x)[-1]), label) + penalty(layers, l2)


def compute_gradient(layers: list[Layer], x: ArrayLike, label: ArrayLike, l2: float = 0.0) -> list[Layer]:
    """The derivatives of `compute_loss`: softmax with cross-entropy gives (probabilities - one-hot label) / n."""
    values = forward(layers, x)
    one_hot = np.eye(values[-1].shape[-1])[np.asarray(label, dtype=int)]
    return backpropagate(layers, values, (softmax(values[-1]) - one_hot) / np.size(label), l2)


def estimate_gradient(loss: Callable[[list[Layer]], float], layers: list[Layer], step: float = 1e-5) -> list[Layer]:
    """The same by trying: each weight and bias is moved a step up and a step down, (loss above - below) / (2 * step).

    Wrong by the order of step^2, and by rounding divided by the step; and wrong altogether where a kink of ReLU lies
    within a step.
    """
    copies = [Layer(layer.W.astype(float), layer.b.astype(float)) for layer in layers]
    gradients = [Layer(np.zeros_like(layer.W), np.zeros_like(layer.b)) for layer in copies]
    for layer, gradient in zip(copies, gradients, strict=True):
        for parameter, slope in zip(layer, gradient, strict=True):
            for place, value in np.ndenumerate(parameter):
                losses = []
                for moved in (value + step, value - step):
                    parameter[place] = moved
                    losses.append(loss(copies))
                parameter[place] = value
                slope[place] = (losses[0] - losses[1]) / (2 * step)
    return gradients


def step_sgd(layers: list[Layer], gradients: list[Layer], learning_rate: float) -> list[Layer]:
    """One step of gradient descent: learning_rate * gradient is taken from every weight and bias."""
    return [
        Layer(layer.W - learning_rate * gradient.W, layer.b - learning_rate * gradient.b)
        for layer, gradient in zip(layers, gradients, strict=True)
    ]

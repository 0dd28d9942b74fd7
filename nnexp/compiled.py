"""A whole epoch of Keras's training as one compiled call.

`keras.Model.fit` returns to Python between the steps; for a small network that costs nine tenths of the time. Here the
images stay in memory as tensors and one `tf.function` loops over the batches. The mathematics is Keras's, term by term
(keras 3.15: losses, regularizers and optimizers of the same name); tests hold the weights of both against each other.

Training is compiled once for a `Plan` and a number of images, scoring once for a `Network`. Weights, images,
order, rates and seed are arguments of their calls, so that the runs of a sweep that differ in numbers only share one
compilation, and nothing of a run stays behind in a program.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from nnexp.config import Config
from nnexp.data import Dataset

POOL = 2  # side of a max-pooling window, and its stride
SCORE_CHUNK = 2000  # images scored at once: more are no faster, and take 100 KB each in a network with convolutions
PROGRAMS = 16  # of each kind at hand in a process; the least recently used has to be built again

Tensors = list[tf.Tensor]
Numbers = dict[str, tf.Tensor]


class Network(NamedTuple):
    """The shape of a network. `xla`: whether XLA compiles it; else TensorFlow's own kernels run it."""

    filters: tuple[int, ...]
    units: tuple[int, ...]
    activation: str
    xla: bool


class Plan(NamedTuple):
    """What training is compiled for.

    `optimizer` is a key of `UPDATES`; `momentum`, `nesterov` and `weight_decay` say which of its terms there are,
    `dropout` and `l2` whether there is any; how much of each is a number given to every call. Where XLA does not
    compile the whole epoch, it compiles the optimizer's update (one pass over the weights instead of ten) and the
    dropout masks.
    """

    network: Network
    optimizer: str
    momentum: bool
    nesterov: bool
    weight_decay: bool
    dropout: bool
    l2: bool
    batch_size: int


class State(NamedTuple):
    """Where training stands: `weights` as in `model.trainable_weights`, `slots[k]` the optimizer's k-th average of each
    weight (same shapes), `step` the number of updates done (int32).
    """

    weights: Tensors
    slots: list[Tensors]
    step: tf.Tensor


# --- the network ------------------------------------------------------------------------------------------------------


def convolve(images: tf.Tensor, kernel: tf.Tensor, xla: bool) -> tf.Tensor:
    """3 x 3 convolution of float32 [b, h, w, c], zeros around it, with `kernel` [3, 3, c, f] -> [b, h, w, f].

    Under XLA as one matrix product over the nine shifted views side by side, the fastest form there on a CPU; else by
    TensorFlow's own kernel.
    """
    if not xla:
        return tf.nn.conv2d(images, kernel, strides=1, padding="SAME")
    height, width, channels = images.shape[1:]
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    views = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    columns = tf.reshape(tf.concat(views, axis=3), [-1, 9 * channels])
    product = tf.matmul(columns, tf.reshape(kernel, [9 * channels, -1]))
    return tf.reshape(product, [-1, height, width, kernel.shape[3]])


def pool(images: tf.Tensor, xla: bool) -> tf.Tensor:
    """2 x 2 max-pooling of [b, h, w, c] -> [b, h // 2, w // 2, c]; an odd last row or column is left out, as in Keras.

    Under XLA as nested maxima. Among equal values the first in reading order gets the gradient, as in TensorFlow's
    kernel: the gradient of `tf.maximum` goes to its first argument on a tie.
    """
    if not xla:
        return tf.nn.max_pool2d(images, POOL, POOL, "VALID")
    height, width = images.shape[1] // POOL, images.shape[2] // POOL
    images = images[:, : POOL * height, : POOL * width]
    top_left, top_right = images[:, ::2, ::2], images[:, ::2, 1::2]
    low_left, low_right = images[:, 1::2, ::2], images[:, 1::2, 1::2]
    return tf.maximum(tf.maximum(top_left, top_right), tf.maximum(low_left, low_right))


def draw_keep(shape: tf.Tensor, rate: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Which values a dropout layer keeps: bool of `shape`, each True with probability 1 - `rate`.

    The stream: Threefry (Salmon et al. 2011) keyed by `seed`, int32 [the layer's seed, number of the step from 0]; a
    value is kept where its uniform number in [0, 1) is at least `rate`.
    """
    return tf.random.stateless_uniform(shape, seed, alg="threefry") >= rate


def drop(inputs: tf.Tensor, rate: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Dropout (Srivastava et al. 2014): zero with probability `rate`, else scaled by 1 / (1 - rate).

    TensorFlow has Threefry on a CPU only under XLA, so the mask is compiled in either engine; Philox, Keras's choice,
    would cost a third of an epoch. Wrapped here and not globally, so that the graphs go with the program.
    """
    draw = tf.function(draw_keep, jit_compile=True, autograph=False)
    return tf.where(draw(tf.shape(inputs), rate, seed), inputs / (1 - rate), 0.0)


def compute_logits(
    network: Network, weights: Tensors, images: tf.Tensor, drop_units: Callable[[int, tf.Tensor], tf.Tensor] | None
) -> tf.Tensor:
    """The network of `model.build_model` on float32 [b, 28, 28, 1] -> logits [b, 10].

    Args:
        drop_units: the dropout after each hidden Dense layer, given its number from 0 and its outputs; None for none,
            as in inference.
    """
    activate = keras.activations.get(network.activation)
    remaining = iter(weights)
    outputs = images
    for _ in network.filters:
        kernel, bias = next(remaining), next(remaining)
        outputs = pool(activate(convolve(outputs, kernel, network.xla) + bias), network.xla)
    outputs = tf.reshape(outputs, [-1, np.prod(outputs.shape[1:])])
    for layer, _ in enumerate(network.units):
        kernel, bias = next(remaining), next(remaining)
        outputs = activate(tf.matmul(outputs, kernel) + bias)
        if drop_units:
            outputs = drop_units(layer, outputs)
    return tf.matmul(outputs, next(remaining)) + next(remaining)


# --- the optimizers, as keras.optimizers of the same names ------------------------------------------------------------


def update_adam(
    plan: Plan, weight: tf.Tensor, gradient: tf.Tensor, slots: Tensors, numbers: Numbers, step: tf.Tensor
) -> tuple[tf.Tensor, Tensors]:
    """Kingma & Ba 2015, in Keras's form; `step` counts from 1."""
    mean, variance = slots
    mean += (gradient - mean) * numbers["1-beta_1"]
    variance += (gradient * gradient - variance) * numbers["1-beta_2"]
    count = tf.cast(step, tf.float32)
    correction = tf.sqrt(1 - tf.pow(numbers["beta_2"], count)) / (1 - tf.pow(numbers["beta_1"], count))
    rate = numbers["learning_rate"] * correction
    return weight - mean * rate / (tf.sqrt(variance) + numbers["epsilon"]), [mean, variance]


def update_sgd(
    plan: Plan, weight: tf.Tensor, gradient: tf.Tensor, slots: Tensors, numbers: Numbers, step: tf.Tensor
) -> tuple[tf.Tensor, Tensors]:
    """Gradient descent with momentum (Polyak 1964), and Nesterov's look-ahead (Sutskever et al. 2013)."""
    change = -gradient * numbers["learning_rate"]
    if not plan.momentum:
        return weight + change, []
    velocity = slots[0] * numbers["momentum"] + change
    if plan.nesterov:
        return weight + (velocity * numbers["momentum"] + change), [velocity]
    return weight + velocity, [velocity]


def update_rmsprop(
    plan: Plan, weight: tf.Tensor, gradient: tf.Tensor, slots: Tensors, numbers: Numbers, step: tf.Tensor
) -> tuple[tf.Tensor, Tensors]:
    """Tieleman & Hinton 2012, lecture 6.5."""
    square = numbers["rho"] * slots[0] + numbers["1-rho"] * (gradient * gradient)
    change = numbers["learning_rate"] * gradient / tf.sqrt(square + numbers["epsilon"])
    if not plan.momentum:
        return weight - change, [square]
    velocity = numbers["momentum"] * slots[1] + change
    return weight - velocity, [square, velocity]


UPDATES = {"adam": update_adam, "adamw": update_adam, "sgd": update_sgd, "rmsprop": update_rmsprop}
SLOTS = {"adam": 2, "adamw": 2, "sgd": 0, "rmsprop": 1}  # averages per weight, without momentum's


def apply_gradients(plan: Plan, state: State, gradients: Tensors, numbers: Numbers) -> State:
    """One update of every weight; weight decay comes first and takes biases too, as in Keras."""
    step = state.step + 1
    weights, slots = [], []
    for index, (weight, gradient) in enumerate(zip(state.weights, gradients, strict=True)):
        if plan.weight_decay:
            weight -= weight * numbers["weight_decay"] * numbers["learning_rate"]
        old = [slot[index] for slot in state.slots]
        weight, new = UPDATES[plan.optimizer](plan, weight, gradient, old, numbers, step)
        weights.append(weight)
        slots.append(new)
    return State(weights, [list(slot) for slot in zip(*slots, strict=True)], step)


# --- a step, an epoch, a score ----------------------------------------------------------------------------------------


def square_sum(kernel: tf.Tensor) -> tf.Tensor:
    """sum(w^2) of a kernel. Folded 16 parts at a time, because XLA sums a whole array one number after another: that
    alone would make the epoch 1.5 times as long.
    """
    squares = tf.reshape(kernel * kernel, [-1])
    while squares.shape[0] >= 256:
        rest = squares.shape[0] % 16
        body, tail = squares[: squares.shape[0] - rest], squares[squares.shape[0] - rest :]
        squares = tf.concat([tf.add_n(tf.split(body, 16)), tail], axis=0) if rest else tf.add_n(tf.split(body, 16))
    return tf.reduce_sum(squares)


def train_step(
    plan: Plan, state: State, images: tf.Tensor, labels: tf.Tensor, numbers: Numbers
) -> tuple[State, tf.Tensor, tf.Tensor]:
    """One batch -> (state, loss with penalties and number of right answers before it, summed over the batch)."""

    def drop_units(layer: int, outputs: tf.Tensor) -> tf.Tensor:
        return drop(outputs, numbers["dropout"], tf.stack([numbers["seed"] + layer, state.step]))

    with tf.GradientTape() as tape:
        tape.watch(state.weights)
        logits = compute_logits(plan.network, state.weights, images, drop_units if plan.dropout else None)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, state.weights)
    if plan.l2:
        kernels = state.weights[::2]
        loss += numbers["l2"] * tf.add_n([square_sum(kernel) for kernel in kernels])
        gradients[::2] = [g + numbers["l2"] * (2 * k) for g, k in zip(gradients[::2], kernels, strict=True)]
    right = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
    count = tf.reduce_sum(tf.cast(right, tf.int32))
    update = tf.function(partial(apply_gradients, plan), jit_compile=True, autograph=False)
    return update(state, gradients, numbers), loss * images.shape[0], count


def train_epoch(
    plan: Plan, state: State, images: tf.Tensor, labels: tf.Tensor, order: tf.Tensor, numbers: Numbers
) -> tuple[State, tf.Tensor, tf.Tensor]:
    """All images once, in `order` (int32 [n], a permutation), the last, smaller batch too.

    images: float32 [n, 784]; labels: int32 [n]. Returns the state and Keras's running loss and accuracy.
    """
    steps, rest = divmod(order.shape[0], plan.batch_size)

    def train_batch(state: State, start: tf.Tensor, size: int) -> tuple[State, tf.Tensor, tf.Tensor]:
        chosen = tf.slice(order, [start], [size])
        batch = tf.reshape(tf.gather(images, chosen), [size, 28, 28, 1])
        return train_step(plan, state, batch, tf.gather(labels, chosen), numbers)

    def loop(index: tf.Tensor, state: State, loss_sum: tf.Tensor, right: tf.Tensor) -> tuple[Any, ...]:
        state, loss, count = train_batch(state, index * plan.batch_size, plan.batch_size)
        return index + 1, state, loss_sum + loss, right + count

    start = (tf.constant(0), state, tf.constant(0.0), tf.constant(0))
    _, state, loss_sum, right = tf.while_loop(lambda index, *_: index < steps, loop, start, parallel_iterations=1)
    if rest:
        state, loss, count = train_batch(state, tf.constant(steps * plan.batch_size), rest)
        loss_sum, right = loss_sum + loss, right + count
    size = tf.cast(order.shape[0], tf.float32)
    return state, loss_sum / size, tf.cast(right, tf.float32) / size


def score_chunk(
    network: Network, weights: Tensors, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Inference on float32 [b, 784], int32 [b] -> cross-entropy, predicted label and its probability, [b] each."""
    logits = compute_logits(network, weights, tf.reshape(images, [-1, 28, 28, 1]), None)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    confidence = tf.reduce_max(tf.nn.softmax(logits), axis=1)
    return losses, tf.argmax(logits, axis=1, output_type=tf.int32), confidence


@lru_cache(maxsize=PROGRAMS)
def build_trainer(plan: Plan, num_images: int) -> Any:
    """`train_epoch` of a plan on so many images, traced and compiled at its first call."""
    return tf.function(partial(train_epoch, plan), jit_compile=plan.network.xla, autograph=False)


@lru_cache(maxsize=PROGRAMS)
def build_scorer(network: Network) -> Any:
    """`score_chunk` of a network, traced and compiled at its first call."""
    return tf.function(partial(score_chunk, network), jit_compile=network.xla, autograph=False)


# --- a run ------------------------------------------------------------------------------------------------------------


class CompiledEngine:
    """Trains one run with the program of its plan; the Keras model gives the initial weights."""

    def __init__(self, model: keras.Sequential, dataset: Dataset, config: Config) -> None:
        plan = plan_run(config)
        self._train_epoch = build_trainer(plan, len(dataset.train_labels))
        self._state = start_state(plan, model)
        self._numbers = read_numbers(config)
        self._data = load_tensors(dataset)["train"]

    @property
    def weights(self) -> Tensors:
        """The weights as they are now, in the order of `model.trainable_weights`."""
        return self._state.weights

    def train_epoch(self, order: np.ndarray) -> tuple[float, float]:
        """Train on every image once, in `order` int32 [n]; returns Keras's running loss and accuracy."""
        self._state, loss, accuracy = self._train_epoch(self._state, *self._data, order, self._numbers)
        return float(loss), float(accuracy)


def read_network(config: Config) -> Network:
    """The network of a run."""
    model = config.model
    return Network(tuple(model.filters), tuple(model.units), model.activation, config.use_xla)


def plan_run(config: Config) -> Plan:
    """What has to be compiled to train a run."""
    optimizer = config.optimizer
    return Plan(
        network=read_network(config),
        optimizer=optimizer.name,
        momentum=bool(optimizer.momentum),
        nesterov=bool(optimizer.nesterov),
        weight_decay=bool(optimizer.weight_decay),
        dropout=config.dropout > 0,
        l2=config.l2 > 0,
        batch_size=config.batch_size,
    )


def read_numbers(config: Config) -> Numbers:
    """Every number of a run as a float32 scalar (seed: int32); 1 - x is taken in float64, as Keras does."""
    numbers = {key: value for key, value in vars(config.optimizer).items() if isinstance(value, float)}
    numbers |= {f"1-{name}": 1 - numbers[name] for name in ("beta_1", "beta_2", "rho") if name in numbers}
    numbers |= {"dropout": config.dropout, "l2": config.l2}
    tensors = {name: tf.constant(value, tf.float32) for name, value in numbers.items()}
    return tensors | {"seed": tf.constant(config.seed, tf.int32)}


def start_state(plan: Plan, model: keras.Sequential) -> State:
    """The state before the first step: the model's weights, averages of zero."""
    weights = [tf.identity(variable.value) for variable in model.trainable_weights]
    slots = SLOTS[plan.optimizer] + plan.momentum
    return State(weights, [[tf.zeros_like(w) for w in weights] for _ in range(slots)], tf.constant(0))


@lru_cache(maxsize=1)
def load_tensors(dataset: Dataset) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """The images float32 [n, 784] and labels int32 [n] of every split that has any, as tensors."""
    tensors = {}
    for split in ("train", "test", "validation"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        if len(labels):
            tensors[split] = tf.constant(images.reshape(len(labels), -1)), tf.constant(labels)
    return tensors


class Score(NamedTuple):
    """How a network does on some images: mean cross-entropy without penalties (natural logarithm), accuracy in [0, 1],
    and for every image the predicted label, uint8 [n], and its probability, float32 [n].
    """

    loss: float
    accuracy: float
    label: np.ndarray
    confidence: np.ndarray


def score(config: Config, weights: Tensors, images: tf.Tensor, labels: tf.Tensor) -> Score:
    """Score every image float32 [n, 784] with label int32 [n], in inference mode."""
    score_images = build_scorer(read_network(config))
    size = images.shape[0]
    parts = []
    for start in range(0, size, SCORE_CHUNK):
        chunk = images[start : start + SCORE_CHUNK], labels[start : start + SCORE_CHUNK]
        if missing := max(0, start + SCORE_CHUNK - size):  # filled up to keep to one compilation, cut off again below
            chunk = tf.pad(chunk[0], [[0, missing], [0, 0]]), tf.pad(chunk[1], [[0, missing]])
        parts.append(score_images(weights, *chunk))
    losses, predicted, confidence = (np.concatenate(part)[:size] for part in zip(*parts, strict=True))
    accuracy = np.mean(predicted == labels.numpy())
    return Score(float(np.mean(losses, dtype=np.float64)), float(accuracy), predicted.astype(np.uint8), confidence)

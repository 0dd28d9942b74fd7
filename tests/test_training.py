"""The promises of nnexp.training and nnexp.compiled: it is Keras's training, to the bit the same each time."""

import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from nnexp import compiled
from nnexp.compose import Composer, build_config_loader
from nnexp.config import Config
from nnexp.data import load_data
from nnexp.experiment import run_experiment
from nnexp.model import build_model
from nnexp.training import KerasEngine, draw_orders, hash_weights, score_splits, train
from nnexp.training_process import MAX_PROGRAMS, TrainingProcess

STEPS = 50
BATCH = 32
DENSE_BOUNDS = {"adam": 3e-6, "adamw": 3e-6, "sgd": 1e-6, "rmsprop": 3e-6}
"""Largest difference of a weight after 50 steps; measured: 5.6e-7, 1.0e-6, 1.2e-7, 1e-6."""
CONVOLUTION_BOUND = 3e-6
"""Median difference of a weight after 50 steps with convolutions; measured: 2.6e-7. Where a maximum changes hands by a
rounding, a few weights part by up to 1e-2, as two runs of Keras do that start one rounding apart; an error would move
them all."""

MODELS = {
    "linear": ["model=linear"],
    "mlp": ["model=mlp"],
    "deep": ["model=deep", "model.units=[64,48]", "model.activation=gelu"],
    "cnn": ["model=cnn", "model.filters=[8,16]", "model.units=[32]"],
}
OPTIMIZERS = {
    "adam": ["optimizer=adam"],
    "adamw": ["optimizer=adamw", "optimizer.weight_decay=0.01"],
    "sgd": ["optimizer=sgd", "optimizer.learning_rate=0.05"],
    "nesterov": ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"],
    "rmsprop": ["optimizer=rmsprop", "optimizer.momentum=0.5", "optimizer.learning_rate=0.0005"],
}
REGULARIZERS = {"plain": [], "dropout": ["dropout=0.3"], "l2": ["l2=0.01"]}
BATCHES = {"whole": STEPS * BATCH, "partial": (STEPS - 1) * BATCH + 13}

PAIRWISE = [  # every pair of model, optimizer, regularizer and last batch that is legal stands in one of these
    ("linear", "adam", "plain", "whole"),
    ("linear", "sgd", "l2", "partial"),
    ("linear", "rmsprop", "plain", "partial"),
    ("linear", "adamw", "l2", "whole"),
    ("linear", "nesterov", "plain", "partial"),
    ("mlp", "adam", "dropout", "partial"),
    ("mlp", "sgd", "plain", "whole"),
    ("mlp", "rmsprop", "l2", "whole"),
    ("mlp", "adamw", "dropout", "whole"),
    ("mlp", "nesterov", "l2", "partial"),
    ("deep", "adam", "l2", "whole"),
    ("deep", "sgd", "dropout", "partial"),
    ("deep", "rmsprop", "dropout", "whole"),
    ("deep", "adamw", "plain", "partial"),
    ("deep", "nesterov", "dropout", "whole"),
    ("cnn", "adam", "l2", "partial"),
    ("cnn", "sgd", "dropout", "whole"),
    ("cnn", "rmsprop", "plain", "partial"),
    ("cnn", "adamw", "dropout", "partial"),
    ("cnn", "nesterov", "plain", "whole"),
]


@pytest.fixture(scope="module")
def compose():
    """A function from overrides to the Config they come to, on the sample."""
    composer = Composer(build_config_loader(None))
    return lambda *overrides: composer.compose(composer.parse(["data=sample", *overrides]))


class SharedDropout(keras.layers.Layer):
    """Keras's dropout with the compiled engine's stream of masks: so both engines can drop the same units."""

    def __init__(self, rate: float, stream: int) -> None:
        super().__init__()
        self.rate, self.stream = rate, stream
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        seed = tf.stack([tf.constant(self.stream), tf.convert_to_tensor(self.step)])
        self.step.assign_add(1)
        return compiled.drop(inputs, tf.constant(self.rate), seed)


def train_both(config: Config, monkeypatch):
    """One epoch in the same order from the same weights: the weights and running scores of either engine."""
    dataset = load_data(config.data)
    order = next(draw_orders(config, len(dataset.train_labels)))
    engine = compiled.CompiledEngine(build_model(config), dataset, replace(config, xla="true"))
    ours = engine.train_epoch(order)
    streams = itertools.count(config.seed)
    with monkeypatch.context() as patch:
        patch.setattr(keras.layers, "Dropout", lambda rate, seed: SharedDropout(rate, next(streams)))
        model = build_model(config)
    reference = KerasEngine(model, dataset, config)
    theirs = reference.train_epoch(order)
    return [weight.numpy() for weight in engine.weights], ours, reference.weights, theirs


def largest_difference(ours, theirs) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def median_difference(ours, theirs) -> float:
    return float(np.median(np.concatenate([np.abs(a - b).ravel() for a, b in zip(ours, theirs, strict=True)])))


@pytest.mark.parametrize(("model", "optimizer", "regularizer", "batches"), PAIRWISE)
def test_the_compiled_engine_trains_as_keras_does_step_by_step(
    compose, monkeypatch, model, optimizer, regularizer, batches
):
    config = compose(
        *MODELS[model], *OPTIMIZERS[optimizer], *REGULARIZERS[regularizer], f"data.train_size={BATCHES[batches]}"
    )
    ours, our_running, theirs, their_running = train_both(config, monkeypatch)
    if model == "cnn":
        assert median_difference(ours, theirs) <= CONVOLUTION_BOUND
    else:
        assert largest_difference(ours, theirs) <= DENSE_BOUNDS[config.optimizer.name]
    assert our_running == pytest.approx(their_running, abs=2e-5)


def test_pairwise_covers_every_legal_pair():
    columns = (MODELS, OPTIMIZERS, REGULARIZERS, BATCHES)
    for a, b in itertools.combinations(range(4), 2):
        wanted = {pair for pair in itertools.product(columns[a], columns[b]) if pair != ("linear", "dropout")}
        assert wanted <= {(case[a], case[b]) for case in PAIRWISE}


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear", "elu"])
def test_every_activation_is_kerass(compose, monkeypatch, activation):
    config = compose("model.units=[16]", f"model.activation={activation}", "data.train_size=320")
    ours, _, theirs, _ = train_both(config, monkeypatch)
    assert largest_difference(ours, theirs) <= DENSE_BOUNDS["adam"]


@pytest.mark.parametrize("filters", ["[4]", "[3,5,2]"])
def test_without_xla_the_compiled_engine_trains_the_same(compose, filters):
    overrides = ("model=cnn", f"model.filters={filters}", "model.units=[8]", "dropout=0.2", "data.train_size=330")
    weights = []
    for xla in ("true", "false"):
        config = compose(*overrides, f"xla={xla}")
        dataset = load_data(config.data)
        engine = compiled.CompiledEngine(build_model(config), dataset, config)
        engine.train_epoch(np.arange(330, dtype=np.int32))
        weights.append([weight.numpy() for weight in engine.weights])
    assert largest_difference(*weights) < 1e-4


def test_an_order_has_every_image_once_and_differs_by_epoch_and_seed(compose):
    first, second = draw_orders(compose("epochs=2"), 1000)
    [other] = draw_orders(compose("epochs=1", "seed=1"), 1000)
    assert sorted(first) == sorted(second) == sorted(other) == list(range(1000))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_scores_count_every_image_in_inference_mode_without_penalties(compose):
    config = compose("dropout=0.5", "l2=0.1", "data.train_size=1357", "data.validation_size=11")
    dataset, model = load_data(config.data), build_model(config)
    scores, predictions = score_splits(config, [w.value for w in model.trainable_weights], dataset)
    for split in ("train", "test", "validation"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        probabilities = model.predict(images, verbose=0).astype(np.float64)
        loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        assert scores[f"{split}_loss"] == pytest.approx(loss, abs=1e-6)
        assert scores[f"{split}_accuracy"] == (probabilities.argmax(1) == labels).mean()
    assert np.array_equal(predictions["label"], model.predict(dataset.test_images, verbose=0).argmax(1))


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_early_stopping_ends_with_the_weights_of_the_epoch_of_lowest_validation_loss(compose, engine):
    config = compose(
        *("early_stopping=2", "data.validation_size=200", "data.train_size=400", "epochs=40", f"engine={engine}"),
        *("optimizer.learning_rate=0.01", "model.units=[32]"),
    )
    dataset, model = load_data(config.data), build_model(config)
    training = train(model, dataset, config, lambda epoch, accuracy: None)
    losses = [row["validation_loss"] for row in training.history]
    assert training.best_epoch == np.argmin(losses) + 1
    assert len(losses) == training.best_epoch + 2 < 40
    scores, _ = score_splits(config, [w.value for w in model.trainable_weights], dataset)
    assert scores["validation_loss"] == min(losses)


def test_trained_weights_are_those_of_the_plain_keras_model(compose):
    config = compose(
        "model=cnn", "model.filters=[4]", "model.units=[8]", "data.train_size=300", "epochs=2", "dropout=0.2"
    )
    dataset, model = load_data(config.data), build_model(config)
    training = train(model, dataset, config, lambda epoch, accuracy: None)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    _, accuracy = model.evaluate(dataset.test_images, dataset.test_labels, verbose=0)
    assert accuracy == pytest.approx(training.history[-1]["test_accuracy"], abs=1.1e-3)  # one image of 1,000 may flip


def train_and_hash(config: Config) -> str:
    model = build_model(config)
    train(model, load_data(config.data), config, lambda epoch, accuracy: None)
    return hash_weights(model)


REPEATED = ("data.train_size=500", "epochs=2", "dropout=0.2", "l2=0.001")


@pytest.mark.parametrize("more", [[], ["engine=keras"], ["model=cnn", "model.filters=[4]"]])
def test_a_run_gives_the_same_bits_whatever_ran_before_it_in_its_process_or_in_another(compose, more):
    config = compose(*REPEATED, *more)
    first = train_and_hash(config)
    train_and_hash(compose(*REPEATED, *more, "seed=1", "batch_size=50"))
    assert train_and_hash(config) == first
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from nnexp.tensorflow_start import start_tensorflow; start_tensorflow(1)\n"
        "from nnexp.compose import Composer, build_config_loader\n"
        "from test_training import train_and_hash\n"
        "composer = Composer(build_config_loader(None))\n"
        "print(train_and_hash(composer.compose(composer.parse(['data=sample', *sys.argv[2:]]))))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), *REPEATED, *more]
    environment = os.environ | {"NNEXP_XLA_CACHE": "off"}  # compiled afresh there
    other = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert other.stdout.split()[-1] == first


def test_runs_that_differ_in_numbers_only_share_one_compilation(compose):
    compiled.build_trainer.cache_clear()
    shape = ("data.train_size=100", "epochs=1", "model.units=[8]")
    for seed, (dropout, l2, rate) in enumerate([(0.1, 0.01, 0.001), (0.2, 0.1, 0.01), (0.3, 0.02, 0.1)]):
        numbers = (f"dropout={dropout}", f"l2={l2}", f"optimizer.learning_rate={rate}", f"seed={seed}")
        train_and_hash(compose(*shape, *numbers))
    assert compiled.build_trainer.cache_info().currsize == 1
    trainer = compiled.build_trainer(compiled.plan_run(compose(*shape, "dropout=0.1", "l2=0.1")), 100)
    assert trainer.experimental_get_tracing_count() == 1


def test_runs_of_one_network_share_one_compilation_of_the_scoring(compose):
    compiled.build_scorer.cache_clear()
    shape = ("data.train_size=100", "epochs=1", "model.units=[8]")
    for more in ((), ("dropout=0.1",), ("l2=0.1", "optimizer=sgd"), ("batch_size=7",)):
        train_and_hash(compose(*shape, *more))
    scorer = compiled.build_scorer(compiled.read_network(compose(*shape)))
    assert compiled.build_scorer.cache_info().currsize == scorer.experimental_get_tracing_count() == 1


def read_memory() -> float:
    """Resident memory of this process, in megabytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_memory_stays_flat_over_thirty_runs_of_equal_and_of_different_settings(compose, tmp_path):
    def run(index: int) -> None:
        numbers = (f"seed={index}", f"l2={index % 3 / 100}", f"optimizer.learning_rate={0.001 + index / 1e5}")
        more = (*numbers, f"model.units=[{8 + index % 4}]")
        run_experiment(compose("data.train_size=64", "epochs=1", *more), lambda epoch, accuracy: None, tmp_path)

    for index in range(6):
        run(index)
    before = read_memory()
    for index in range(6, 36):
        run(index)
    assert read_memory() - before < 100


def test_a_training_process_is_replaced_when_it_has_compiled_its_programs(compose, tmp_path):
    """However many shapes a sweep has, its memory is bounded; equal shapes count as one."""
    training, processes, errors = TrainingProcess(), [], []
    (tmp_path / "run.log").touch()
    for index in range(MAX_PROGRAMS + 4):
        shape = f"model.units=[{8 + max(0, index - 2)}]"  # the first three are of one shape
        config = compose("data.train_size=64", "epochs=1", f"seed={index}", "xla=false", shape)
        errors.append(training.attempt(config, lambda epoch, accuracy: None, tmp_path).error)
        processes.append([process.pid for process in multiprocessing.active_children()])
    training.stop()
    assert multiprocessing.active_children() == [] and not any(errors)
    first, last = processes[0], processes[-1]
    assert first != last
    assert processes == [first] * (MAX_PROGRAMS + 1) + [[]] + [last] * 2


def test_dropout_drops_its_share_and_another_mask_each_step():
    rate, seed = tf.constant(0.3), tf.constant([7, 0])
    keep = tf.function(compiled.draw_keep, jit_compile=True)
    masks = [keep(tf.constant([400, 500]), rate, tf.stack([seed[0], step])).numpy() for step in range(3)]
    assert masks[0].mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / 200_000))  # five standard errors
    assert (masks[0] == masks[1]).mean() == pytest.approx(0.58, abs=0.01)  # 0.7^2 + 0.3^2: independent

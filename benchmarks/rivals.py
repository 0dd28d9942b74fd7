"""The same training in PyTorch, JAX and scikit-learn, each written for speed with what its users have at hand.

They do less than nnexp: none counts right answers while it trains. Where there was a choice it went to the faster one.
See contestants.py for what a contestant has to have.
"""

import itertools
import os
import warnings
from typing import Any

import numpy as np
from contestants import load_work
from works import CLASSES, LEARNING_RATE, SIDE, Work


class PyTorch:
    """PyTorch: tensors in memory, gathered once an epoch, a hand-written loop over slices, fused Adam."""

    def __init__(self, work: Work, threads: str) -> None:
        import torch

        torch.set_num_threads(int(threads))
        torch.set_flush_denormal(True)  # as TensorFlow and JAX do; Adam's averages become denormal
        dataset = load_work(work)
        self._torch, self._work = torch, work
        images = np.moveaxis(dataset.train_images, 3, 1)  # channels first, as torch has it
        self._images = torch.from_numpy(np.array(images, order="C"))
        self._labels = torch.from_numpy(dataset.train_labels.astype(np.int64))
        self._model = self._build()
        self._optimizer = self._build_optimizer()

    def warm_up(self) -> None:
        """A few steps: the first ones allocate."""
        self._train(self._torch.arange(8 * self._work.batch_size))

    def train_epoch(self) -> None:
        """One epoch in a new order."""
        self._train(self._torch.randperm(self._work.images))

    def _train(self, order: Any) -> None:
        torch, size = self._torch, self._work.batch_size
        self._model.train()
        batches = zip(self._images[order].split(size), self._labels[order].split(size), strict=True)
        total = torch.zeros(())
        for images, labels in batches:
            self._optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(self._model(images), labels)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels of images float32 [n, 28, 28, 1]."""
        self._model.eval()
        with self._torch.no_grad():
            inputs = self._torch.from_numpy(np.array(np.moveaxis(images, 3, 1), order="C"))
            return np.concatenate([self._model(chunk).numpy() for chunk in inputs.split(1000)]).argmax(axis=1)

    def multiply(self, size: int, times: int) -> None:
        """Square matrix products, for the machine's own rate."""
        matrix = self._torch.ones(size, size)
        for _ in range(times):
            matrix @ matrix

    def _build(self) -> Any:
        nn, work = self._torch.nn, self._work
        layers, side, channels = [], SIDE, 1
        for filters in work.filters:
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            side, channels = side // 2, filters
        layers.append(nn.Flatten())
        width = side * side * channels
        for units in work.units:
            layers += [nn.Linear(width, units), nn.ReLU()]
            layers += [nn.Dropout(work.dropout)] if work.dropout else []
            width = units
        return nn.Sequential(*layers, nn.Linear(width, CLASSES))

    def _build_optimizer(self) -> Any:
        """Adam; the penalty l2 * sum(w^2) through its own weight decay, which adds 2 * l2 * w to the gradient."""
        named = list(self._model.named_parameters())
        groups = [
            {"params": [value for name, value in named if name.endswith("weight")], "weight_decay": 2 * self._work.l2},
            {"params": [value for name, value in named if name.endswith("bias")]},
        ]
        return self._torch.optim.Adam(groups, lr=LEARNING_RATE, fused=True)


class Jax:
    """JAX: `lax.scan` over the epoch under one `jit`, Adam by hand, the images in memory.

    Its threads are the cores it may run on. Convolutions are written as nnexp's are (matrix products over nine shifted
    views, nested maxima): with `lax.conv` an epoch on a CPU takes about ten times as long.
    """

    def __init__(self, work: Work, threads: str) -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
        import jax
        import jax.numpy as jnp

        self._jax, self._np, self._work = jax, jnp, work
        dataset = load_work(work)
        self._images = jnp.asarray(dataset.train_images.reshape(work.images, -1))
        self._labels = jnp.asarray(dataset.train_labels)
        self._random = np.random.default_rng(0)
        weights = self._draw_weights()
        zeros = [jnp.zeros_like(weight) for weight in weights]
        self._state = (weights, zeros, [zero.copy() for zero in zeros], jnp.int32(0))
        self._run = jax.jit(self._train, donate_argnums=0)

    def warm_up(self) -> None:
        """Compile."""
        self.train_epoch()

    def train_epoch(self) -> None:
        """One epoch in a new order."""
        order = self._random.permutation(self._work.images).astype(np.int32)
        self._state, loss = self._run(self._state, self._images, self._labels, order)
        self._jax.block_until_ready((self._state, loss))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels of images float32 [n, 28, 28, 1]."""
        flat = images.reshape(len(images), -1)
        logits = [self._apply(self._state[0], flat[start : start + 1000], None) for start in range(0, len(flat), 1000)]
        return np.concatenate(logits).argmax(axis=1)

    def _draw_weights(self) -> list[Any]:
        """Glorot uniform kernels and zero biases, in the order of the layers."""
        shapes, side, channels = [], SIDE, 1
        for filters in self._work.filters:
            shapes.append((9 * channels, filters))
            side, channels = side // 2, filters
        widths = [side * side * channels, *self._work.units, CLASSES]
        shapes += itertools.pairwise(widths)
        weights = []
        for index, (rows, columns) in enumerate(shapes):
            fan_out = 9 * columns if index < len(self._work.filters) else columns
            limit = np.sqrt(6 / (rows + fan_out))
            kernel = self._random.uniform(-limit, limit, (rows, columns)).astype(np.float32)
            weights += [self._np.asarray(kernel), self._np.zeros(columns)]
        return weights

    def _apply(self, weights: list[Any], images: Any, key: Any) -> Any:
        """Logits [b, 10] of flat images [b, 784]; with a key as in training."""
        relu, remaining = self._jax.nn.relu, iter(weights)
        outputs = images.reshape(-1, SIDE, SIDE, 1) if self._work.filters else images
        for _ in self._work.filters:
            outputs = self._pool(relu(self._convolve(outputs, next(remaining)) + next(remaining)))
        outputs = outputs.reshape(len(images), -1)
        for layer, _ in enumerate(self._work.units):
            outputs = relu(outputs @ next(remaining) + next(remaining))
            if self._work.dropout and key is not None:
                keep = 1 - self._work.dropout
                mask = self._jax.random.bernoulli(self._jax.random.fold_in(key, layer), keep, outputs.shape)
                outputs = self._np.where(mask, outputs / keep, 0.0)
        return outputs @ next(remaining) + next(remaining)

    def _convolve(self, images: Any, kernel: Any) -> Any:
        height, width = images.shape[1:3]
        padded = self._np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        views = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        columns = self._np.concatenate(views, axis=3)
        return (columns.reshape(-1, columns.shape[3]) @ kernel).reshape(-1, height, width, kernel.shape[1])

    def _pool(self, images: Any) -> Any:
        larger = self._np.maximum
        top = larger(images[:, ::2, ::2], images[:, ::2, 1::2])
        return larger(top, larger(images[:, 1::2, ::2], images[:, 1::2, 1::2]))

    def _compute_loss(self, weights: list[Any], images: Any, labels: Any, key: Any) -> Any:
        logits = self._apply(weights, images, key)
        right = self._np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return self._np.mean(self._jax.nn.logsumexp(logits, axis=1) - right)

    def _step(self, state: Any, images: Any, labels: Any) -> Any:
        """One update by Adam (Kingma & Ba 2015)."""
        weights, means, variances, step = state
        key = self._jax.random.key(step) if self._work.dropout else None
        loss, gradients = self._jax.value_and_grad(self._compute_loss)(weights, images, labels, key)
        if self._work.l2:  # the gradient of the penalty; the penalty itself would cost a slow sum, and is not asked for
            kernels = zip(gradients[::2], weights[::2], strict=True)
            gradients[::2] = [g + 2 * self._work.l2 * kernel for g, kernel in kernels]
        step += 1
        rate = LEARNING_RATE * self._np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        means = [m + (g - m) * 0.1 for m, g in zip(means, gradients, strict=True)]
        variances = [v + (g * g - v) * 0.001 for v, g in zip(variances, gradients, strict=True)]
        moments = zip(weights, means, variances, strict=True)
        weights = [w - m * rate / (self._np.sqrt(v) + 1e-7) for w, m, v in moments]
        return (weights, means, variances, step), loss

    def _train(self, state: Any, images: Any, labels: Any, order: Any) -> Any:
        """A whole epoch; the last, smaller batch too."""
        size = self._work.batch_size
        whole = len(order) // size * size

        def train_batch(state: Any, chosen: Any) -> Any:
            return self._step(state, images[chosen], labels[chosen])

        state, losses = self._jax.lax.scan(train_batch, state, order[:whole].reshape(-1, size))
        total = self._np.sum(losses)
        if whole < len(order):
            state, loss = train_batch(state, order[whole:])
            total += loss
        return state, total


class ScikitLearn:
    """scikit-learn's `MLPClassifier`, in single precision; `partial_fit` is one shuffled epoch."""

    def __init__(self, work: Work, threads: str) -> None:
        from sklearn.neural_network import MLPClassifier  # its threads were set by the environment: see driver.py

        warnings.simplefilter("ignore")
        dataset = load_work(work)
        self._images = dataset.train_images.reshape(work.images, -1)
        self._labels = dataset.train_labels
        self._model = MLPClassifier(
            hidden_layer_sizes=work.units,
            batch_size=work.batch_size,
            learning_rate_init=LEARNING_RATE,
            # Its penalty is alpha / 2 * sum(w^2) / batch size. Not 0: Adam's averages would become denormal, and slow.
            alpha=2 * max(work.l2, 1e-9) * work.batch_size,
            random_state=0,
        )

    def warm_up(self) -> None:
        """Draw the weights, with one batch."""
        size = self._model.batch_size
        self._model.partial_fit(self._images[:size], self._labels[:size], classes=range(CLASSES))

    def train_epoch(self) -> None:
        """One epoch in a new order."""
        self._model.partial_fit(self._images, self._labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Labels of images float32 [n, 28, 28, 1]."""
        return self._model.predict(images.reshape(len(images), -1))

    def multiply(self, size: int, times: int) -> None:
        """Square matrix products by NumPy, for the machine's own rate."""
        matrix = np.ones((size, size), np.float32)
        for _ in range(times):
            matrix @ matrix

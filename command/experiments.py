"""Networks trained to completion by hand, beside autodiff: `EXPERIMENTS`, each experiment(seed) -> a record line.

Both learn with momentum rather than with Adam, whose step does not depend on the gradient's size: a derivative that
is wrong by a factor would go unseen.  The seed decides where training starts and the order of the examples; which
ones are held out is the same in every run, because with 30 flowers another choice moves the accuracy by more than
training does (0.90 to 1 over 20 choices), and runs could not be compared.
"""

import contextlib

import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets, model_selection

from manual_backprop.architecture import build
from manual_backprop.reference.precision import float64
from manual_backprop.reference.twin import twin
from manual_backprop.rules import RULES
from manual_backprop.signature import Leaf

LOSS = RULES["softmax_cross_entropy_with_integer_labels"]
IRIS = build("serial(dense(5), relu, dense(3))")
DIGITS = build("serial(dense(32), layer_norm, gelu, dense(10))")


def iris(seed: int = 0, dtype: str = "float32") -> dict:
    """150 flowers, 4 measurements, 3 kinds: a network of 4, 5 and 3 units, all training examples at every step."""
    data, held_out = _halves(datasets.load_iris(return_X_y=True), held_out=1 / 5)
    return _train(
        "iris", IRIS, data, held_out, optax.sgd(0.1, momentum=0.9), steps=300, batch=None, seed=seed, dtype=dtype
    )


def digits(seed: int = 0, dtype: str = "float32") -> dict:
    """1797 digits of 8 by 8 pixels: a network of 64, 32 and 10 units, a random choice of examples at every step."""
    data, held_out = _halves(datasets.load_digits(return_X_y=True), held_out=1 / 5)
    return _train(
        "digits", DIGITS, data, held_out, optax.sgd(0.1, momentum=0.9), steps=300, batch=64, seed=seed, dtype=dtype
    )


EXPERIMENTS = (iris, digits)


def _halves(whole, held_out):
    """Examples to train on and examples held out, every kind in proportion, on the scale of those trained on."""
    x, labels = whole
    x, x_out, labels, labels_out = model_selection.train_test_split(
        x, labels, test_size=held_out, stratify=labels, random_state=0
    )
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1  # a pixel that is always white
    return ((x - mean) / spread, labels), ((x_out - mean) / spread, labels_out)


def _train(subject, network, data, held_out, optimiser, *, steps, batch, seed, dtype):
    rng = np.random.default_rng(seed)
    examples = len(data[1])
    order = np.stack([rng.choice(examples, batch or examples, replace=False) for _ in range(steps)]).astype(np.int32)
    with float64() if dtype == "float64" else contextlib.nullcontext():
        params = initial(network, data[0].shape[1], rng, dtype)
        data, held_out = ((jnp.asarray(x, dtype), jnp.asarray(n, jnp.int32)) for x, n in (data, held_out))
        return twin(subject, network, LOSS, optimiser, params, data, order, held_out).line()


def initial(network, width: int, rng: np.random.Generator, dtype: str) -> tuple:
    """Parameters to start from: matrices as He et al. (2015) draw them, scales 1, shifts 0."""
    layers, x = [], Leaf("float", (1, width))
    for layer in network.layers:
        own, x = layer.shapes(x)
        names = list(layer.signature.primals)[1:]
        layers.append(
            tuple(_initial(name, leaf.shape, rng).astype(dtype) for name, leaf in zip(names, own, strict=True))
        )
    return tuple(layers)


def _initial(name, shape, rng):
    if len(shape) == 2:
        return rng.normal(size=shape) * np.sqrt(2 / shape[0])
    return np.ones(shape) if name == "gamma" else np.zeros(shape)

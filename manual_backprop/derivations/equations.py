r"""Backpropagation through a network of dense layers, as the equations of the textbooks say it, in NumPy.

    forward     z^l = W^l a^{l−1} + b^l        a^l = f^l(z^l)        a^0 = x
    backward    δ^L = (f^L)'ᵀ ∇_{a^L} C        δ^{l−1} = (f^{l−1})'ᵀ (W^l)ᵀ δ^l
    gradients   ∇_{W^l} C = δ^l (a^{l−1})ᵀ     ∇_{b^l} C = δ^l, summed over samples

Samples are columns: a^l is n_l × m.  `by_rows` is the same once more for samples as rows, written out rather than
transposed.  Every derivative of an activation is taken from its output, so outputs are all that forward keeps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .jacobians import probabilities, softmax_jacobian
from .slopes import sigma


class Layer(NamedTuple):
    """W of n_l × n_{l−1}, b of n_l, and the name of an activation."""

    W: np.ndarray
    b: np.ndarray
    f: str = "identity"


class Gradients(NamedTuple):
    """∇ by every W, every b, and the input; `errors` are the δ^l, from the first layer to the last."""

    W: list[np.ndarray]
    b: list[np.ndarray]
    x: np.ndarray
    errors: list[np.ndarray]


# name: (value, slope from the output).  Softmax mixes the elements of a sample: it has a matrix where others have a
# slope.
ACTIVATIONS: dict[str, tuple[Callable, Callable | None]] = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (sigma, lambda a: a * (1 - a)),
    "tanh": (np.tanh, lambda a: 1 - a**2),
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(float)),
    "softmax": (probabilities, None),
}


def slope(f: str, a: np.ndarray) -> np.ndarray:
    """f'(z) of an elementwise activation from its output a = f(z).

    >>> print(slope("sigmoid", np.array([0.5])), slope("tanh", np.array([0.0])), slope("relu", np.array([0.0, 2.0])))
    [0.25] [1.] [0. 1.]
    """
    of_output = ACTIVATIONS[f][1]
    if of_output is None:
        raise ValueError(f"{f} does not act elementwise: it has a Jacobian, not a slope; call jacobian({f!r}, a)")
    return of_output(a)


def jacobian(f: str, a: np.ndarray) -> np.ndarray:
    """(f)' at one sample, from its output: the diagonal of the slopes, or diag(a) − a aᵀ for softmax."""
    return softmax_jacobian(a) if f == "softmax" else np.diag(slope(f, a))


def through(f: str, a: np.ndarray, a_bar: np.ndarray) -> np.ndarray:
    """f'ᵀ a̅ for samples as columns: elementwise a product with the slope, for softmax with its matrix.

    >>> through("softmax", np.array([[0.5], [0.5]]), np.array([[1.0], [0.0]]))
    array([[ 0.25],
           [-0.25]])
    """
    if f == "softmax":
        return np.stack([softmax_jacobian(p).T @ bar for p, bar in zip(a.T, a_bar.T, strict=True)], axis=1)
    return a_bar * slope(f, a)


def forward(layers: Sequence[Layer], x: np.ndarray) -> list[np.ndarray]:
    """a^0 … a^L, samples as columns."""
    kept = [x]
    for W, b, f in layers:
        z = W @ kept[-1] + b[:, None]
        # Softmax acts along the last axis, where rows have their elements and columns their samples.
        kept.append(probabilities(z.T).T if f == "softmax" else ACTIVATIONS[f][0](z))
    return kept


def by_columns(layers: Sequence[Layer], kept: Sequence[np.ndarray], a_bar: np.ndarray) -> Gradients:
    """All gradients from dA^L, the derivative of the cost by the last output; each δ^l is computed once."""
    d, Ws, bs, errors = a_bar, [], [], []
    for layer, a, before in zip(layers[::-1], kept[:0:-1], kept[-2::-1], strict=True):
        delta = through(layer.f, a, d)
        Ws.append(delta @ before.T)
        bs.append(delta.sum(axis=1))
        errors.append(delta)
        d = layer.W.T @ delta
    return Gradients(Ws[::-1], bs[::-1], d, errors[::-1])


def by_rows(layers: Sequence[Layer], x: np.ndarray, a_bar: Callable) -> Gradients:
    """The same for samples as rows and weights w = Wᵀ, n_{l−1} × n_l:  Z = A w + b,  dw = Aᵀ dZ,  dA = dZ wᵀ.

    `a_bar` gives dA^L from A^L.
    """
    kept = [x]
    for W, b, f in layers:
        kept.append(ACTIVATIONS[f][0](kept[-1] @ W.T + b))
    d, ws, bs, errors = a_bar(kept[-1]), [], [], []
    for layer, a, before in zip(layers[::-1], kept[:0:-1], kept[-2::-1], strict=True):
        if layer.f == "softmax":
            d = np.stack([bar @ softmax_jacobian(p) for p, bar in zip(a, d, strict=True)])
        else:
            d = d * slope(layer.f, a)
        ws.append(before.T @ d)
        bs.append(d.sum(axis=0))
        errors.append(d)
        d = d @ layer.W
    return Gradients(ws[::-1], bs[::-1], d, errors[::-1])


# --- what keeping the errors saves -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Tally:
    """Counts the multiplications of products of a matrix and a vector while it makes them."""

    multiplications: int = 0
    products: int = 0

    def __call__(self, matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
        self.multiplications += matrix.size
        self.products += 1
        return matrix @ vector


def cached(matrices: Sequence[np.ndarray], gradient: np.ndarray, tally: Tally) -> list[np.ndarray]:
    """The error at every layer from the one above it: one product a layer, linear in the depth."""
    errors = [gradient]
    for matrix in reversed(matrices):
        errors.append(tally(matrix.T, errors[-1]))
    return errors[::-1]


def uncached(matrices: Sequence[np.ndarray], gradient: np.ndarray, tally: Tally) -> list[np.ndarray]:
    """The error at every layer from the cost down, each anew: l products for the l-th from the top, quadratic."""
    errors = []
    for layer in range(len(matrices) + 1):
        error = gradient
        for matrix in reversed(matrices[layer:]):
            error = tally(matrix.T, error)
        errors.append(error)
    return errors


def descend(layers: Sequence[Layer], x: np.ndarray, labels: np.ndarray, *, rate: float, steps: int):
    """Train a network that ends in softmax by its equations alone: δ^L = (a^L − y) / m, for one-hot y as columns.

    Gives the trained layers and the cost before every step.
    """
    layers, costs, m = list(layers), [], x.shape[1]
    for _ in range(steps):
        kept = forward(layers, x)
        costs.append(float(-np.sum(labels * np.log(kept[-1])) / m))
        found = from_logits(layers, kept, (kept[-1] - labels) / m)
        layers = [Layer(W - rate * dW, b - rate * db, f) for (W, b, f), dW, db in zip(layers, *found[:2], strict=True)]
    return layers, costs


def from_logits(layers: Sequence[Layer], kept: Sequence[np.ndarray], delta: np.ndarray) -> Gradients:
    """All gradients from δ^L itself, where softmax and cross-entropy have been taken together."""
    last = layers[-1]._replace(f="identity")
    return by_columns([*layers[:-1], last], kept, delta)


__all__ = [
    "ACTIVATIONS",
    "Gradients",
    "Layer",
    "Tally",
    "by_columns",
    "by_rows",
    "cached",
    "descend",
    "forward",
    "from_logits",
    "jacobian",
    "slope",
    "through",
    "uncached",
]

"""Where claims are executed: random shapes and values, and random networks with their truth and allowance.

A network is an expression of the catalogue, so its truth and its allowance come from the same yardstick as those of
every rule; the textbook equations read their weights from it.
"""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np

from manual_backprop.architecture import build
from manual_backprop.combinators import serial
from manual_backprop.derivations import equations
from manual_backprop.derivations.chain import Chain, chain
from manual_backprop.rule import Rule

from ..allowance import Yardstick, yardsticks
from ..precision import compiled

KINDS = ("elementwise", "mixing", "classifier")


@dataclasses.dataclass(frozen=True)
class Case:
    """A source of random shapes and values; a small one keeps to lengths 2 and 3, for the eye."""

    seed: int = 0
    small: bool = False

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7])

    def lengths(self, count: int, least: int = 1) -> tuple[int, ...]:
        """Random lengths; 2 and 3 in turn where the case is small."""
        if self.small:
            return tuple(2 + i % 2 for i in range(count))
        return tuple(int(n) for n in self.rng.integers(least, 7, count))

    def times(self, many: int) -> range:
        """How often to try: once is enough to look at."""
        return range(1 if self.small else many)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape)

    @property
    def elementwise(self) -> "Specimen":
        """Dense layers with elementwise activations below a squared error, one sample."""
        return specimen(self.seed, self.small, "elementwise", False)

    @property
    def mixing(self) -> "Specimen":
        """The same with softmax as the last activation: its Jacobian is not diagonal."""
        return specimen(self.seed, self.small, "mixing", False)

    @property
    def classifier(self) -> "Specimen":
        """Dense layers below softmax cross-entropy, one sample."""
        return specimen(self.seed, self.small, "classifier", False)

    @property
    def samples(self) -> "Specimen":
        """As `elementwise`, for many samples at once."""
        return specimen(self.seed, self.small, "elementwise", True)

    @property
    def classified_samples(self) -> "Specimen":
        """As `classifier`, for many samples at once."""
        return specimen(self.seed, self.small, "classifier", True)


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A network of the catalogue at a point, and the same in the notation of the textbooks: samples as columns."""

    rule: Rule
    primals: tuple
    layers: tuple[equations.Layer, ...]
    kind: str

    @property
    def x(self) -> np.ndarray:
        """A^0, n_0 × m."""
        return np.atleast_2d(self.primals[0]).T

    @property
    def targets(self) -> np.ndarray:
        """Y, n_L × m."""
        return np.atleast_2d(self.primals[-1][0]).T

    @property
    def count(self) -> int:
        """m, the number of samples."""
        return self.x.shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        return (len(self.x), *(len(layer.W) for layer in self.layers))

    @functools.cached_property
    def kept(self) -> list[np.ndarray]:
        """A^0 … A^L; of a classifier the last one are the logits."""
        return equations.forward(self.layers, self.x)

    def z(self, layer: int) -> np.ndarray:
        """Z^l of layers counted from 1."""
        W, b, _ = self.layers[layer - 1]
        return W @ self.kept[layer - 1] + b[:, None]

    def a_bar(self, a: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
        """dA^L, with the 1/m in it: the elementwise derivatives of the loss, or those of softmax with cross-entropy."""
        y = self.targets if targets is None else targets
        if self.kind == "classifier":
            p = equations.ACTIVATIONS["softmax"][0](a.T).T
            return (y.sum(axis=0, keepdims=True) * p - y) / self.count
        return 2 * (a - y) / len(a) / self.count

    def gradients(self) -> equations.Gradients:
        """By the textbook equations."""
        return equations.by_columns(self.layers, self.kept, self.a_bar(self.kept[-1]))

    @functools.cached_property
    def yardstick(self) -> Yardstick:
        """The cost and all its cotangents by `jax.vjp` of the definitions, and what rounding allows."""
        return _measure(self.rule, self.primals)

    @property
    def weights(self) -> tuple[list, list]:
        """(truth, allowance) of every ∂C/∂W, transposed to n_l × n_{l−1}."""
        return self._of_dense(0)

    @property
    def biases(self) -> tuple[list, list]:
        """(truth, allowance) of every ∂C/∂b."""
        return self._of_dense(1)

    def _of_dense(self, which):
        trees = self.yardstick.truth[1], self.yardstick.allowance[1]
        return tuple([own[which].T for own in tree[1:-1] if own] for tree in trees)

    @property
    def input(self) -> tuple[np.ndarray, np.ndarray]:
        """(truth, allowance) of ∂C/∂A^0, as columns."""
        return tuple(np.atleast_2d(tree[1][0]).T for tree in (self.yardstick.truth, self.yardstick.allowance))

    def above(self, layer: int, part: str) -> tuple[np.ndarray, np.ndarray]:
        """(truth, allowance) of the derivative by Z^l or A^l, from the network that begins there."""
        position = [i for i, each in enumerate(self.rule.layers) if str(each).startswith("dense")][layer - 1] + 1
        value = self.z(layer) if part == "z" else self.kept[layer]
        position += part == "a" and self.layers[layer - 1].f != "identity"
        value = value.T if self.primals[0].ndim == 2 else value[:, 0]
        found = _measure(serial(*self.rule.layers[position:]), (value, *self.primals[1 + position :]))
        return tuple(np.atleast_2d(tree[1][0]).T for tree in (found.truth, found.allowance))

    @functools.cached_property
    def chain(self) -> Chain:
        """The chain of its explicit Jacobians."""
        return chain(self.rule, self.primals[0], self.primals[1:])


def _measure(rule, primals) -> Yardstick:
    return yardsticks(rule, primals, np.float64(1.0), ("float64",))["float64"]


@functools.lru_cache(32)
def specimen(seed: int, small: bool, kind: str, batch: bool) -> Specimen:
    """A random network of two or three dense layers, the same for every claim of a seed.

    Drawn again where a rectifier lets nothing through: of such a network nothing could be seen to be off.
    """
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, KINDS.index(kind), batch, attempt])
        drawn = _drawn(rng, small, kind, batch)
        if all(np.any(delta) for delta in drawn.gradients().errors):
            return drawn


def _drawn(rng, small, kind, batch):
    depth = 2 if small else int(rng.integers(2, 4))
    widths = [3, 2, 3] if small else [int(n) for n in rng.integers(2, 6, depth + 1)]
    last = {"elementwise": "tanh", "mixing": "softmax", "classifier": "identity"}[kind]
    activations = [*("tanh", "relu")[: depth - 1], last]
    parts: list[str] = []
    params: list[tuple] = []
    layers = []
    for k, n, f in zip(widths, widths[1:], activations, strict=False):
        layer = equations.Layer(rng.normal(size=(n, k)) / math.sqrt(k), rng.normal(size=n), f)
        layers.append(layer)
        parts += [f"dense({n})", *([f] if f != "identity" else [])]
        params += [(layer.W.T, layer.b), *([()] if f != "identity" else [])]
    loss = "softmax_cross_entropy" if kind == "classifier" else "squared_error"
    rule = build(f"serial({', '.join(parts)}, {loss})")
    m = ((2 if small else int(rng.integers(2, 6))),) if batch else ()
    targets = rng.normal(size=(*m, widths[-1]))
    if kind == "classifier":
        targets = np.eye(widths[-1])[rng.integers(widths[-1], size=m)]
    return Specimen(rule, (rng.normal(size=(*m, widths[0])), *params, (targets,)), tuple(layers), kind)


@functools.lru_cache(16)
def derivative_of(function, kind: str = "jacrev"):
    """A derivative by autodiff, compiled: the oracle of claims about plain functions."""
    transform = {"jacrev": jax.jacrev, "grad": jax.grad}[kind]
    return compiled(transform(function, argnums=tuple(range(function.__code__.co_argcount))))


__all__ = ["Case", "Specimen", "derivative_of", "specimen"]

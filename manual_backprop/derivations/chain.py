r"""A serial network as the chain of its Jacobians, every factor a full matrix.

    ∂C/∂x = ∂C/∂a^L · ∂a^L/∂z^L · ∂z^L/∂a^{L−1} ··· ∂z^1/∂x

A parameter leaves the chain where its layer stands:  ∂C/∂W^l = ∂C/∂z^l · ∂z^l/∂W^l, where the second factor is the
tensor n × (n × m), read as the matrix n × nm.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from ..combinators import Network, serial
from ..rule import Rule
from . import association
from .jacobians import jacobians, vector
from .layouts import Jacobian, unflatten


@dataclasses.dataclass(frozen=True)
class Link:
    """One layer at its point: what it read, what it gave, and the derivative by each of its primals."""

    layer: Rule
    primals: tuple
    output: Any
    jacobians: tuple[Jacobian | None, ...]

    @property
    def by_input(self) -> Jacobian | None:
        return self.jacobians[0]


@dataclasses.dataclass(frozen=True)
class Chain:
    """The links of a serial network from the input to the output."""

    links: tuple[Link, ...]

    @property
    def output(self) -> Any:
        return self.links[-1].output

    @property
    def factors(self) -> list[Jacobian]:
        """∂C/∂a^L, …, ∂z^1/∂x: from the output to the input, as the chain rule writes them.

        Where the input is made of integers, which have no derivative, the chain ends one layer above it.
        """
        return [link.by_input for link in reversed(self.links) if link.by_input is not None]

    @property
    def matrices(self) -> list[np.ndarray]:
        return [factor.matrix for factor in self.factors]

    def by_input(self, order: association.Order | None = None) -> np.ndarray:
        """∂C/∂x, multiplied out in an order; from the left by default."""
        matrices = self.matrices
        return association.product(matrices, association.from_the_left(len(matrices)) if order is None else order)

    def path(self, layer: int, primal: int) -> list[Jacobian]:
        """The factors from the output to one primal of a layer; primal 0 is the layer's input."""
        after = [link.by_input for link in reversed(self.links[layer + 1 :])]
        return [*after, self.links[layer].jacobians[primal]]

    def by_primal(self, layer: int, primal: int) -> np.ndarray:
        """The derivative of the output by one primal of a layer, in the primal's own shape for a scalar output."""
        path = self.path(layer, primal)
        row = functools.reduce(np.matmul, [factor.matrix for factor in path])
        return unflatten(row, (*path[0].output_shape, *path[-1].input_shape))

    def errors(self) -> list[np.ndarray]:
        """∂C/∂(what link l gave), for every l: the prefixes of the product, kept.  The last is the identity."""
        kept = [np.eye(vector(self.output).size)]
        for link in reversed(self.links[1:]):
            kept.append(kept[-1] @ link.by_input.matrix)
        return kept[::-1]


def chain(network: Rule, x, params: tuple) -> Chain:
    """The chain of a network at a point; a rule that is no `serial` is a chain of one link.

    >>> from manual_backprop.architecture import build
    >>> c = chain(build("serial(linear(1), relu)"), np.array([1.0, 2.0]), ((np.array([[3.0], [4.0]]),), ()))
    >>> print(c.by_input(), *map(str, c.factors))
    [[3. 4.]] 1 by 1 1 by 2
    """
    links = []
    for layer, own in _layers(network, params):
        primals = (x, *own)
        x, derivatives = jacobians(layer, primals)
        links.append(Link(layer, primals, x, derivatives))
    return Chain(tuple(links))


def _layers(network, params):
    if isinstance(network, Network) and network.combinator is serial:
        for layer, own in zip(network.layers, params, strict=True):
            yield from _layers(layer, own)
    else:
        yield network, params


__all__ = ["Chain", "Link", "chain"]

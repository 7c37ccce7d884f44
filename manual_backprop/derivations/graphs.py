r"""The total derivative on graphs: a sum over all paths, and the sweep that finds it without listing them.

    df/dt = Σ over all paths t = u_0 → u_1 → … → u_k = f  of  ∂u_k/∂u_{k−1} ··· ∂u_1/∂u_0

Each node is a vector (a scalar is one of length 1) and a function of earlier nodes, with its partial derivatives
written by hand.  Paths can be exponentially many; the sweep visits every edge once:  ū_i = Σ_{j reads i} ū_j ∂u_j/∂u_i.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Node:
    """A function of earlier nodes: its kind, the numbers of the nodes it reads, and one matrix for each of them."""

    kind: str
    reads: tuple[int, ...]
    weights: tuple[np.ndarray, ...]

    def value(self, inputs: Sequence, xp: Any = np):
        """What the node gives; `xp` is NumPy or anything with its functions."""
        terms = [W @ u for W, u in zip(self.weights, inputs, strict=True)]
        return KINDS[self.kind][0](xp, terms)

    def partials(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[np.ndarray]:
        """∂(this node)/∂(each node it reads), with all others held fixed: one matrix each."""
        terms = [W @ u for W, u in zip(self.weights, inputs, strict=True)]
        return [slope[:, None] * W for slope, W in zip(KINDS[self.kind][1](terms, output), self.weights, strict=True)]


def _without(terms, i):
    return functools.reduce(np.multiply, [term for j, term in enumerate(terms) if j != i], np.ones_like(terms[i]))


# kind: (value of the terms W_i u_i, the slope along each of them from the terms and the value)
KINDS = {
    "sum": (lambda xp, terms: sum(terms), lambda terms, y: [np.ones_like(y) for _ in terms]),
    "product": (
        lambda xp, terms: functools.reduce(lambda a, b: a * b, terms),
        lambda terms, y: [_without(terms, i) for i in range(len(terms))],
    ),
    "tanh": (lambda xp, terms: xp.tanh(sum(terms)), lambda terms, y: [1 - y**2 for _ in terms]),
    "sin": (lambda xp, terms: xp.sin(sum(terms)), lambda terms, y: [np.cos(sum(terms)) for _ in terms]),
}


@dataclasses.dataclass(frozen=True)
class Graph:
    """A directed graph without cycles: node 0 is the input t, the last one the output f."""

    nodes: tuple[Node, ...]

    def values(self, t, xp: Any = np) -> list:
        """The value of every node, the input first."""
        values = [t]
        for node in self.nodes:
            values.append(node.value([values[i] for i in node.reads], xp))
        return values

    def edges(self, values: Sequence[np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
        """∂u_j/∂u_i for every edge (i, j), at these values of all nodes.

        Where a node reads another twice, both of its partial derivatives are one edge.
        """
        found: dict[tuple[int, int], np.ndarray] = {}
        for j, node in enumerate(self.nodes, 1):
            partials = node.partials([values[i] for i in node.reads], values[j])
            for i, partial in zip(node.reads, partials, strict=True):
                found[i, j] = found[i, j] + partial if (i, j) in found else partial
        return found

    def paths(self) -> Iterator[tuple[int, ...]]:
        """Every path from the input to the output."""
        followers = self._followers()
        last = len(self.nodes)

        def onwards(path):
            if path[-1] == last:
                yield path
            for j in followers.get(path[-1], ()):
                yield from onwards((*path, j))

        return onwards((0,))

    def count_paths(self) -> int:
        """How many paths there are, without listing them."""
        ways = [1] + [0] * len(self.nodes)
        for j, node in enumerate(self.nodes, 1):
            ways[j] = sum(ways[i] for i in set(node.reads))
        return ways[-1]

    def _followers(self):
        followers: dict[int, list[int]] = {}
        for j, node in enumerate(self.nodes, 1):
            for i in sorted(set(node.reads)):
                followers.setdefault(i, []).append(j)
        return followers


def along(path: Sequence[int], edges: dict) -> np.ndarray:
    """The product of the partial derivatives along one path: what the chain rule of one variable gives for it."""
    return functools.reduce(np.matmul, [edges[edge] for edge in itertools.pairwise(path)][::-1])


def over_all_paths(graph: Graph, edges: dict) -> tuple[np.ndarray, int]:
    """(df/dt as the sum over all paths, how many numbers were multiplied): exponential, for tiny graphs.

    >>> square = Graph((Node("product", (0, 0), (np.eye(1), np.eye(1))),))
    >>> print(over_all_paths(square, square.edges(square.values(np.array([3.0]))))[0])  # t², and dt²/dt = 2t
    [[6.]]
    """
    total, count = 0, 0
    for path in graph.paths():
        total = total + along(path, edges)
        steps = [edges[edge] for edge in itertools.pairwise(path)]
        count += sum(len(steps[-1]) * step.size for step in steps[:-1])
    return total, count


def sweep(graph: Graph, edges: dict) -> tuple[np.ndarray, int]:
    """(df/dt by one sweep from the output back, how many numbers were multiplied): every edge once.

    >>> square = Graph((Node("product", (0, 0), (np.eye(1), np.eye(1))),))
    >>> print(sweep(square, square.edges(square.values(np.array([3.0]))))[0])
    [[6.]]
    """
    last, count = len(graph.nodes), 0
    bars: dict[int, np.ndarray] = {}
    for j in range(last, 0, -1):
        for i in sorted(set(graph.nodes[j - 1].reads)):
            if j == last:
                step = edges[i, j]
            elif j in bars:
                step = bars[j] @ edges[i, j]
                count += len(step) * edges[i, j].size
            else:
                continue  # the output does not depend on it
            bars[i] = bars[i] + step if i in bars else step
    return bars[0], count


def random_graph(rng: np.random.Generator, nodes: int, lengths: Sequence[int] = (1, 2, 3)) -> Graph:
    """A graph in which every node reads one to three earlier ones and the last reads the one before it."""
    sizes = [int(rng.choice(lengths))]
    made = []
    for j in range(1, nodes + 1):
        size = int(rng.choice(lengths))
        reads = rng.choice(j, size=min(j, int(rng.integers(1, 4))), replace=False)
        reads = tuple(sorted({int(i) for i in reads} | {j - 1}))
        kind = str(rng.choice(list(KINDS)))
        made.append(Node(kind, reads, tuple(rng.normal(size=(size, sizes[i])) / np.sqrt(sizes[i]) for i in reads)))
        sizes.append(size)
    return Graph(tuple(made))


__all__ = ["Graph", "Node", "along", "over_all_paths", "random_graph", "sweep"]

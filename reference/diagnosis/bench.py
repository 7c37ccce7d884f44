"""A failure beside the graph of its definition: everything that several hypotheses ask for, computed once."""

import collections
import functools
import itertools
import math
from collections.abc import Iterable

import jax
import numpy as np

from . import places, words
from .failure import Failure, most, over
from .graph import Graph, Use

USES = 300  # beyond, a definition is not taken apart: the sentence would not be simple
NUMBERS = 2**22  # in all gradients of one hypothesis together, and in all that is injected
KEPT = 16  # graphs that are remembered

_KEPT: collections.OrderedDict = collections.OrderedDict()


class Leaves:
    """Some of the leaves of a failure in one row, in units of their allowances."""

    def __init__(self, failure: Failure, names: Iterable[str], alone: str = ""):
        self.failure, self.names, self.alone = failure, list(names), alone
        self.places = [list(failure.leaves).index(name) for name in self.names]
        own = [failure.leaves[name] for name in self.names]
        self._judged = [(np.isfinite(a) & np.isfinite(t) & (a > 0)).ravel() for _, t, a in own]
        self.allowance = self._row([a for *_, a in own])
        self.truth = self._row([t for _, t, _ in own]) / self.allowance
        self.off = self._row([g for g, *_ in own]) / self.allowance - self.truth

    def _row(self, leaves):
        return np.concatenate([np.ravel(a)[mask] for a, mask in zip(leaves, self._judged, strict=True)])

    def rows(self, stacks) -> np.ndarray:
        """Stacks of gradients, one for each float leaf, as rows in units of the allowance."""
        chosen = [stacks[i].reshape(len(stacks[i]), -1)[:, m] for i, m in zip(self.places, self._judged, strict=True)]
        return np.concatenate(chosen, axis=1) / self.allowance

    def explained(self, stacks) -> list[int]:
        """Which gradients of the stacks are what came."""
        with np.errstate(all="ignore"):
            left = np.max(np.abs(self.rows(stacks) - self.truth - self.off), axis=1, initial=0)
        likely = np.flatnonzero(left <= max(64.0, np.max(np.abs(self.off), initial=0) / 4))
        pairs = list(zip(self.names, self.places, strict=True))
        return [int(i) for i in likely if all(self._is(name, stacks[place][i]) for name, place in pairs)]

    def _is(self, name, candidate) -> bool:
        """A leaf that is wrong is explained; one that is right stays so."""
        if self.failure.explains(candidate, name):
            return True
        got, truth, allowance = self.failure.leaves[name]
        return name != self.failure.leaf and most(over(got, truth, allowance)) <= 1 >= most(
            over(got, candidate, 2 * allowance)
        )


class Bench:
    """A failure, the graph of its definition, and what both give together."""

    def __init__(self, failure: Failure, graph: Graph):
        self.failure, self.graph = failure, graph
        self.primals, self.cotangent = failure.primals, failure.cotangent
        self.until = math.inf  # when what takes long has to stop

    @functools.cached_property
    def sets(self) -> list[Leaves]:
        """All leaves together, then the failing one alone: a formula of its own may be wrong in it."""
        found = [Leaves(self.failure, self.failure.leaves)]
        if len(self.failure.leaves) > 1:
            found.append(Leaves(self.failure, [self.failure.leaf], f", in the cotangent of {self.failure.leaf} alone"))
        return found

    def reproduces(self, gradient) -> Leaves | None:
        """The leaves that one gradient explains."""
        stacks = [np.asarray(leaf)[None] for leaf in gradient]
        return next((leaves for leaves in self.sets if leaves.explained(stacks)), None)

    @functools.cached_property
    def truth(self) -> list[np.ndarray]:
        return self.graph.gradient(self.primals, self.cotangent)

    @functools.cached_property
    def values(self):
        return self.graph.values(self.primals, self.cotangent)

    @functools.cached_property
    def arrays(self) -> list[np.ndarray]:
        """All different floating values of the computation, the outputs first."""
        values, _, outs = self.values
        found, seen = [], set()
        for array in [*outs, *values.values()]:
            key = array.shape, array.tobytes()
            if array.dtype.kind == "f" and array.size and key not in seen and np.isfinite(array).all():
                seen.add(key)
                found.append(array)
        return found

    def told(self, array) -> str:
        """Words for one of them: an argument, the output, or the result of an equation."""
        values, _, outs = self.values

        def is_it(other):
            return np.shape(other) == array.shape and np.array_equal(other, array)

        names = (name for name, a in zip(self.failure.names, self.primals, strict=False) if is_it(a))
        several = len(outs) > 1
        output = (f"output {k}" if several else "the output" for k, out in enumerate(outs) if is_it(out))
        uses = (use for use in self.graph.uses if is_it(values.get((use.path, "y"), ())))
        results = (f"the result of {words.operation(use)}" for use in uses)
        return next(itertools.chain(names, output, results), "another value of its shape")

    @functools.cached_property
    def others(self) -> list["Bench"] | None:
        """The same at the same primals with other cotangents; None where the derivative cannot be asked."""
        found = [self._at(seed) for seed in (1, 2)] if self.failure.at else []
        return None if None in found else found

    @functools.cached_property
    def elsewhere(self) -> list["Bench"]:
        """The same at other primals at which it is wrong as well; none where the derivative cannot be asked."""
        asked = places.asked(self.failure)
        return [Bench(failure, self.graph) for failure, wrong in asked if wrong.any()]

    def _at(self, seed):
        failure, rng = self.failure, np.random.default_rng(seed)

        def drawn(a):
            a = np.asarray(a)
            return a if a.dtype == jax.dtypes.float0 else np.asarray(rng.standard_normal(a.shape), a.dtype)

        cotangent = jax.tree.map(drawn, failure.cotangent)
        try:
            leaves = failure.at(failure.primals, cotangent)
        except Exception:  # the derivative may raise elsewhere
            return None
        if leaves.keys() != failure.leaves.keys():
            return None
        return Bench(Failure(failure.leaf, leaves, failure.primals, cotangent, dtype=failure.dtype), self.graph)

    def scaled(self, rows) -> list[np.ndarray]:
        """The gradient for every row of scales, one for each use."""
        none = np.zeros(self.graph.width)
        return self.graph.changed([np.concatenate([row, none]) for row in rows], self.primals, self.cotangent)

    def injected(self, changes: list[tuple[Use, np.ndarray]]) -> list[np.ndarray]:
        """The gradient with another cotangent flowing back through a use: stacks, one row for each change."""
        return self.injected_together([[change] for change in changes])

    def injected_together(self, changes: list[list[tuple[Use, np.ndarray]]]) -> list[np.ndarray]:
        """The same with changes at several uses in each row."""
        bars, count = self.values[1], len(self.graph.uses)

        def row(together):
            numbers = np.zeros(count + self.graph.width)
            numbers[:count] = 1
            for use, other in together:
                numbers[count:][self.graph.parts[use.index]] = (other - bars[use.path, use.operand]).ravel()
            return numbers

        return self.graph.changed([row(together) for together in changes], self.primals, self.cotangent)

    def room(self, count: int) -> int:
        """How many rows of so many numbers, or of gradients, may be computed."""
        sizes = sum(a.size for a in self.truth)
        return max(0, NUMBERS // max(1, count, sizes))


def bench_of(failure: Failure) -> Bench | None:
    """With the graph of the definition, if there is one that gives the truth and is small enough."""
    if failure.definition is None or failure.cotangent is None:
        return None
    for opaque in (False, True):
        graph = _remembered(failure, opaque)
        if graph is None or not 0 < len(graph.uses) <= USES:
            continue
        bench = Bench(failure, graph)
        if _gives_the_truth(bench) and bench.room(graph.width) > len(graph.uses):
            return bench
    return None


def _remembered(failure, opaque) -> Graph | None:
    leaves, structure = jax.tree.flatten(failure.primals)
    kinds = ((a.shape, str(a.dtype)) if hasattr(a, "dtype") else repr(a) for a in leaves)
    key = (failure.definition, opaque, str(structure), *kinds)
    if key not in _KEPT:
        try:
            _KEPT[key] = Graph(failure.definition, failure.primals, failure.cotangent, opaque)
        except Exception:  # whatever a stranger's function does when it is traced, it must not end the diagnosis
            _KEPT[key] = None
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
    return _KEPT[key]


def _gives_the_truth(bench) -> bool:
    try:
        bars = bench.truth
    except Exception:
        return False
    leaves = list(bench.failure.leaves.values())
    return [a.shape for a in bars] == [np.shape(truth) for _, truth, _ in leaves] and all(
        most(over(bar, truth, 2 * allowance)) <= 1 for bar, (_, truth, allowance) in zip(bars, leaves, strict=True)
    )

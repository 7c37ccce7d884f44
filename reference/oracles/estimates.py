"""What every oracle shares: the form of its answer, how it abstains, and a function seen through its floats."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..precision import float64, widen

FUNCTIONS_KEPT = 256
DIGITS = 20  # of a direction's numbers, in binary: few, and not so few that they fit together by chance


class Abstains(Exception):  # noqa: N818 - not an error: the oracle has no opinion
    """An oracle that does not apply says why."""

    def __init__(self, oracle: str, reason: str):
        super().__init__(f"{oracle} abstains: {reason}")
        self.oracle, self.reason = oracle, reason


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Cotangents and how far each may be off; where differences were taken, the one-sided derivatives as well."""

    value: Any
    error: Any
    left: "Estimate | None" = None
    right: "Estimate | None" = None


@dataclasses.dataclass(frozen=True)
class Identity:
    """⟨J v, ȳ⟩ − ⟨v, x̄⟩ for each random direction v, and how far the left side and the sum may be off."""

    discrepancy: np.ndarray
    error: np.ndarray
    directions: np.ndarray  # one row for each v: its float elements, in the order of the primals


class View:
    """f at certain shapes and dtypes, as a function from its float leaves to its float outputs."""

    def __init__(self, f, name, structure, leaves):
        self.f, self.name, self.structure = f, name, structure
        kinds = [kind_of(leaf) for leaf in leaves]
        if "complex" in kinds:
            raise Abstains(name, "a primal is complex, and these cotangents are of real numbers")
        self.floats = [i for i, kind in enumerate(kinds) if kind == "float"]
        self.others = [i for i, kind in enumerate(kinds) if kind != "float"]
        self.shapes = [np.shape(leaves[i]) for i in self.floats]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.cuts = np.cumsum(self.sizes)[:-1]
        inputs = self.split(leaves)
        self.other_avals = [jax.typeof(leaf) for leaf in inputs[1]]
        outputs = jax.eval_shape(lambda floats, others: f(*self.merge(floats, others)), *inputs)
        self.outputs, self.output_structure = jax.tree.flatten(outputs)
        self.kept = [i for i, output in enumerate(self.outputs) if kind_of(output) == "float"]
        if any(kind_of(output) == "complex" for output in self.outputs):
            raise Abstains(name, "an output is complex, and these cotangents are of real numbers")
        self.output_sizes = [math.prod(self.outputs[i].shape) for i in self.kept]

    def split(self, leaves):
        return [widen(leaves[i]) for i in self.floats], [leaves[i] for i in self.others]

    def merge(self, floats, others):
        leaves = dict(zip([*self.floats, *self.others], [*floats, *others], strict=True))
        return jax.tree.unflatten(self.structure, [leaves[i] for i in range(len(leaves))])

    def __call__(self, floats, others):
        """The float outputs of f."""
        outputs = jax.tree.leaves(self.f(*self.merge(floats, others)))
        return [outputs[i] for i in self.kept]

    def cotangents(self, cotangent):
        """The leaves of a cotangent that belong to float outputs, in float64."""
        leaves = self.output_structure.flatten_up_to(cotangent)
        for i in self.kept:
            if np.shape(leaves[i]) != self.outputs[i].shape:
                raise ValueError(
                    f"cotangent leaf {i} has shape {np.shape(leaves[i])}, the output {self.outputs[i].shape}; "
                    "give one cotangent per output, of its shape"
                )
        return [widen(leaves[i]) for i in self.kept]

    def cut(self, flat):
        """One long vector as the float leaves."""
        split = jnp.split if isinstance(flat, jax.Array) else np.split
        return [part.reshape(shape) for part, shape in zip(split(flat, self.cuts), self.shapes, strict=True)]

    def trace(self, function, *more):
        """The equations of function(floats, others, …) at these shapes; what forbids them is a reason to abstain."""
        try:
            with warnings.catch_warnings():
                for category in (np.exceptions.ComplexWarning, DeprecationWarning):
                    warnings.filterwarnings("ignore", "Casting", category)  # the equations show where a cast happens
                return jax.make_jaxpr(function)(self.float_avals(), self.other_avals, *more)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise Abstains(self.name, str(error).split("\n")[0]) from error

    def float_avals(self):
        return [jax.ShapeDtypeStruct(shape, np.float64) for shape in self.shapes]

    def output_avals(self):
        return [jax.ShapeDtypeStruct(self.outputs[i].shape, np.float64) for i in self.kept]

    def scales(self, floats):
        """Every coordinate's order of magnitude: the root mean square of its row, of its leaf where that is zero, or 1.

        What is not finite has none, and does not move.
        """

        def one(a):
            told = np.isfinite(a)
            squares = np.square(np.where(told, a, 0.0))
            whole = np.sqrt(np.mean(squares, where=told)) if told.any() else 0.0
            rows = np.sqrt(np.mean(squares, axis=-1, keepdims=True)) if np.ndim(a) > 1 and a.shape[-1] > 1 else 0.0
            return np.where(told, np.where(rows > 0, rows, whole or 1.0), 0.0)

        return list(map(one, floats))

    def flat(self, floats):
        """The float leaves as one long vector."""
        return np.concatenate([np.ravel(a) for a in floats]) if floats else np.zeros(0)

    def bounds(self, domains):
        """The lowest and the highest value of every coordinate, as two long vectors."""
        pairs = [(-np.inf, np.inf)] * len(self.floats)
        if domains is not None:
            leaves = self.structure.flatten_up_to(tuple(domains))
            pairs = [leaves[i] for i in self.floats]
        filled = [[np.full(shape, bound) for bound in pair] for pair, shape in zip(pairs, self.shapes, strict=True)]
        return self.flat([low for low, _ in filled]), self.flat([high for _, high in filled])

    def directions(self, floats, count, seed):
        """Random directions, each leaf's part of that leaf's magnitude.

        Their numbers are short, so that a point moved by a power of two along one of them is not rounded.
        """
        normal = np.random.default_rng(seed).normal(size=(count, sum(self.sizes)))
        digits, exponent = np.frexp(normal * self.flat(self.scales(floats)))
        return np.ldexp(np.rint(digits * 2**DIGITS), exponent - DIGITS)

    def identity(self, pairs, primals_bar) -> Identity:
        """Hold (v, ⟨J v, ȳ⟩, its error) against ⟨v, x̄⟩ for the candidate x̄."""
        leaves = self.structure.flatten_up_to(tuple(primals_bar))
        bars = [leaves[i] for i in self.floats]
        for bar, shape in zip(bars, self.shapes, strict=True):
            if np.shape(bar) != shape or bar is None:
                raise ValueError(f"primals_bar has {np.shape(bar)} where a cotangent of shape {shape} was expected")
        x_bar = self.flat([widen(bar) for bar in bars])
        eps = np.finfo(np.float64).eps
        add = math.fsum if np.isfinite(x_bar).all() else np.sum
        sums = [(float(add(v * x_bar)), eps * float(np.abs(v * x_bar).sum())) for v, _, _ in pairs]
        return Identity(
            np.array([value - total for (_, value, _), (total, _) in zip(pairs, sums, strict=True)]),
            np.array([error + rounding for (_, _, error), (_, rounding) in zip(pairs, sums, strict=True)]),
            np.array([v for v, _, _ in pairs]),
        )

    def tree(self, floats):
        """A tree like the primals: these arrays, and None for everything that is no float."""
        return self.merge([np.asarray(a, np.float64) for a in floats], [None] * len(self.others))


def oracle(make: Callable) -> Callable:
    """Turn make(view) -> compute(floats, others, cotangents, **more) into oracle(f) -> call."""

    @functools.lru_cache(FUNCTIONS_KEPT)
    @functools.wraps(make)
    def of(f):
        known: dict = {}

        def call(primals, cotangent, **more):
            leaves, structure = jax.tree.flatten(tuple(primals))
            leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
            key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
            with float64():
                if key not in known:
                    known[key] = _prepare(f, make, structure, leaves)
                if isinstance(known[key], Abstains):
                    raise Abstains(known[key].oracle, known[key].reason)
                view, compute = known[key]
                return compute(*view.split(leaves), view.cotangents(cotangent), **more)

        return call

    return of


def _prepare(f, make, structure, leaves):
    try:
        view = View(f, make.__name__, structure, leaves)
        return view, make(view)
    except Abstains as abstention:
        return abstention

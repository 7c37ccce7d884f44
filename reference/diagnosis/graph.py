"""The definition as a graph whose backward pass can be changed wherever an equation uses a value.

What flows back through use e is the cotangent c_e.  Multiplied by s_e there, the gradient becomes g(s); outside of
loops it is linear in what flows through any one use,

    g(s) = truth + (s_e - 1) D_e,        D_e = truth - g(s_e = 0),

and where c_e is replaced by c_e + δ it is truth + P_e δ with the same linear P_e for every δ.  So a few programs,
each for many rows of s or of δ at a time, say what any mistake at any single use would give.

Short loops are unrolled.  Everything is computed in float64.
"""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..precision import compiled
from . import source
from .walk import Hooks, Walk

ROWS = 32  # that are computed at a time, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Use:
    """An equation takes a value: the place in the backward pass where a cotangent flows back into it."""

    index: int
    path: tuple  # the number of the equation, one for each level of calls and loops; "@2" is the round of a loop
    operand: int
    equation: object = dataclasses.field(repr=False)
    origin: object = dataclasses.field(repr=False)  # which value is used
    shape: tuple[int, ...]
    line: source.Line | None
    loop: bool  # inside of a loop that is not unrolled, or of a branch

    @property
    def primitive(self) -> str:
        return self.equation.primitive.name

    @property
    def real(self) -> bool:
        return not jnp.issubdtype(self.equation.invars[self.operand].aval.dtype, jnp.complexfloating)

    @property
    def body(self) -> tuple:
        """The same for every round of an unrolled loop."""
        return (*(step for step in self.path if not isinstance(step, str)), self.operand)

    @property
    def round(self) -> bool:
        return any(isinstance(step, str) for step in self.path)


@jax.custom_vjp
def _changed(value, scale, extra):
    return value


_changed.defvjp(
    lambda value, scale, extra: (value, (scale, extra)),
    lambda kept, y_bar: (
        (jnp.where(kept[0] == 0, 0, y_bar * kept[0]) + (0 if kept[1] is None else kept[1])).astype(y_bar.dtype),
        None,
        None,
    ),
)


@contextlib.contextmanager
def exactly():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def wide(array) -> np.ndarray:
    """A cotangent in double precision; what has none counts as zero."""
    array = np.asarray(array)
    if array.dtype == jax.dtypes.float0:
        return np.zeros(array.shape)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _is_float(value) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)


class _Meet(Hooks):
    """Numbers the uses, and finds the constants that equations hold, and those that only come of constants."""

    def __init__(self):
        self.uses, self.literals, self.seen, self.equations, self.lines = [], {}, set(), {}, {}
        self.fixed, self._constant = set(), {}

    def take(self, path, equation, values, line, loop):
        self.equations[path], self.lines[path] = equation, line
        self.fixed |= {(path, k) for k, value in enumerate(values) if self._is_fixed(value)}
        for operand, value in enumerate(values):
            if (path, operand) in self.seen:
                continue
            self.seen.add((path, operand))
            atom = equation.invars[operand]
            if hasattr(atom, "val"):
                if np.ndim(value) == 0 and jnp.issubdtype(jnp.result_type(value), jnp.floating):
                    self.literals[path, operand] = float(value)
            elif _is_float(value):
                origin = (path[:-1], atom)
                self.uses.append(Use(len(self.uses), path, operand, equation, origin, np.shape(value), line, loop))
        return values

    def give(self, path, equation, outs, loop):
        if all((path, k) in self.fixed for k in range(len(equation.invars))):
            self._constant |= {id(out): out for out in outs}  # held, so that nothing else has its id
        return outs

    def _is_fixed(self, value) -> bool:
        return id(value) in self._constant or not isinstance(value, jax.core.Tracer)


class _Change(Hooks):
    """Passes every use of a value through change(use, value)."""

    def __init__(self, graph, change):
        self.graph, self.change = graph, change

    def take(self, path, equation, values, line, loop):
        places = [self.graph.at.get((path, operand)) for operand in range(len(values))]
        return [v if use is None else self.change(use, v) for use, v in zip(places, values, strict=True)]


class _Values(Hooks):
    """Keeps every value outside of loops, and adds nothing to it: to what is added, its cotangent belongs."""

    def __init__(self, added=None):
        self.found, self.added = {}, added

    def _keep(self, key, value):
        if not hasattr(value, "dtype") or jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            return value
        self.found[key] = value
        return value + self.added[key] if self.added and key in self.added else value

    def take(self, path, equation, values, line, loop):
        return values if loop else [self._keep((path, k), value) for k, value in enumerate(values)]

    def give(self, path, equation, outs, loop):
        return outs if loop or len(outs) != 1 else [self._keep((path, "y"), outs[0])]


class Literals(Hooks):
    """Puts other numbers in the place of constants."""

    def __init__(self, order, literals):
        self.order, self.literals = order, literals

    def take(self, path, equation, values, line, loop):
        places = [self.order.get((path, operand)) for operand in range(len(values))]
        return [
            v if i is None else self.literals[i].astype(jnp.result_type(v)) for i, v in zip(places, values, strict=True)
        ]


def _pulled(function, at, cotangents):
    outs, pullback = jax.vjp(function, at)
    none = jax.dtypes.float0
    return pullback(
        [
            jnp.asarray(bar, out.dtype) if _is_float(out) else np.zeros(out.shape, none)
            for bar, out in zip(cotangents, outs, strict=True)
        ]
    )[0]


class Graph:
    """A definition at the shapes of a point."""

    def __init__(self, definition: Callable, primals: tuple, cotangent, opaque: bool = False):
        self.opaque = opaque  # whether functions with a custom derivative stay in one piece
        leaves, self._structure = jax.tree.flatten(primals)
        self._kinds = [kind_of(leaf) if hasattr(leaf, "dtype") else "static" for leaf in leaves]
        self._static = [leaf if kind == "static" else None for leaf, kind in zip(leaves, self._kinds, strict=True)]
        self.definition = definition
        floats, others = self.split(primals)
        meet = _Meet()
        with exactly():
            self.closed = jax.make_jaxpr(self._flat)(floats, others)
            jax.eval_shape(functools.partial(self._run, meet), floats, others)
        self.uses, self.literals, self.equations = meet.uses, meet.literals, meet.equations
        self.lines = meet.lines
        self.fixed = meet.fixed  # operands that do not depend on the primals
        self.at = {(use.path, use.operand): use for use in self.uses}
        self.fans = collections.Counter(use.origin for use in self.uses)  # how often each value is used
        self.free = [use for use in self.uses if not use.loop and use.real]
        ends = np.cumsum([0, *(math.prod(use.shape) for use in self.free)]).tolist()
        self.parts = {use.index: slice(ends[i], ends[i + 1]) for i, use in enumerate(self.free)}
        self.width = ends[-1]

    def split(self, primals):
        """The numbers that are differentiated, in float64, and the other arrays."""
        leaves = list(zip(jax.tree.leaves(primals), self._kinds, strict=True))
        wide = {"float": np.float64, "complex": np.complex128}
        floats = [np.asarray(leaf).astype(wide[kind]) for leaf, kind in leaves if kind in wide]
        return floats, [leaf for leaf, kind in leaves if kind not in (*wide, "static")]

    def _flat(self, floats, others):
        floats, others = iter(floats), iter(others)
        sources = {"float": floats, "complex": floats}
        leaves = [
            static if kind == "static" else next(sources.get(kind, others))
            for kind, static in zip(self._kinds, self._static, strict=True)
        ]
        return jax.tree.leaves(self.definition(*self._structure.unflatten(leaves)))

    def _run(self, hooks, floats, others):
        return Walk(self.closed, hooks, self.opaque)(*floats, *others)

    def pull(self, hooks: Hooks, floats, others, cotangents):
        return _pulled(lambda floats: self._run(hooks, floats, others), floats, cotangents)

    def point(self, primals, cotangent):
        return *self.split(primals), [wide(a) for a in jax.tree.leaves(cotangent)]

    def rows(self, row: Callable):
        """A program that runs row(numbers, *point) for many rows of numbers."""
        program = compiled(jax.vmap(row, in_axes=(0, None, None, None)))

        def run(rows: Iterable[np.ndarray], primals, cotangent) -> list[np.ndarray]:
            point, parts, rows = self.point(primals, cotangent), [], list(rows)
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                with exactly():
                    found = program(np.stack([*part, *part[-1:] * (ROWS - len(part))]), *point)
                parts.append([np.asarray(a)[: len(part)] for a in found])
            return [np.concatenate(leaf) for leaf in zip(*parts, strict=True)]

        return run

    # --- gradients: each takes rows, primals and a cotangent, and gives a stack for every float leaf -----------------

    @functools.cached_property
    def changed(self):
        """The gradient for rows of a scale for every use, then of what is added to what flows back, in `parts`."""
        count = len(self.uses)

        def row(numbers, *p):
            def at(use, value):
                part, scale = self.parts.get(use.index), numbers[use.index]
                return _changed(value, scale, None if part is None else numbers[count:][part].reshape(use.shape))

            return self.pull(_Change(self, at), *p)

        return self.rows(row)

    @functools.cached_property
    def multiplied(self):
        """The same with a multiplier for every element of every use outside of loops, in `parts` of a row."""

        def row(numbers, *p):
            def at(use, value):
                part = self.parts.get(use.index)
                return value if part is None else _changed(value, numbers[part].reshape(use.shape), None)

            return self.pull(_Change(self, at), *p)

        return self.rows(row)

    @functools.cached_property
    def with_literals(self):
        """The gradient of the definition with other constants, one column for each of `literals`."""
        order = {place: i for i, place in enumerate(self.literals)}
        return self.rows(lambda numbers, *p: self.pull(Literals(order, numbers), *p))

    @functools.cached_property
    def _gradient(self):
        return compiled(functools.partial(self.pull, Hooks()))

    def gradient(self, primals, cotangent) -> list[np.ndarray]:
        """The gradient itself, wherever."""
        return self.once(self._gradient, primals, cotangent)

    def push(self, primals, place: int, tangent) -> np.ndarray:
        """How the output moves along a tangent of one float leaf."""
        floats, others = self.split(primals)
        tangents = [tangent if i == place else np.zeros_like(a) for i, a in enumerate(floats)]

        def run(floats, tangents, others):
            return jax.jvp(lambda floats: self._run(Hooks(), floats, others), (floats,), (tangents,))[1]

        with exactly():
            return np.asarray(compiled(run)(floats, tangents, others)[0])

    def once(self, program, primals, cotangent) -> list[np.ndarray]:
        with exactly():
            return [np.asarray(a) for a in program(*self.point(primals, cotangent))]

    # --- values and cotangents ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _all(self):
        def run(floats, others, bars):
            watch = _Values()
            outs = self._run(watch, floats, others)
            keys = [key for key, value in watch.found.items() if _is_float(value)]
            self._keys = list(watch.found), keys

            def with_added(added):
                return self._run(_Values(dict(zip(keys, added, strict=True))), floats, others)

            zeros = [jnp.zeros_like(watch.found[key]) for key in keys]
            return list(watch.found.values()), _pulled(with_added, zeros, bars), outs

        return compiled(run)

    def values(self, primals, cotangent) -> tuple[dict, dict, list]:
        """Outside of loops: what every equation takes, by (path, operand), and gives, by (path, "y"); the same for
        the cotangents that flow back; the outputs."""
        with exactly():
            values, bars, outs = self._all(*self.point(primals, cotangent))
        keys, float_keys = self._keys
        values = dict(zip(keys, map(np.asarray, values), strict=True))
        return values, dict(zip(float_keys, map(np.asarray, bars), strict=True)), [np.asarray(a) for a in outs]

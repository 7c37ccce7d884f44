"""The definition as a graph whose backward pass can be changed: every use of a value by an equation can be scaled.

Where the cotangent that flows back through use e is multiplied by s_e, the gradient becomes g(s).  Outside of loops

    g(s) = truth + (s_e - 1) D_e        with        D_e = truth - g(s_e = 0),

so that one program, run for one row of s for every use, says what any mistake at any single use would give.
Everything is computed in float64.
"""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_backprop.signature import kind_of

from ..interpreter import bind, called, names, open_jaxpr
from ..precision import ELEMENTWISE, compiled
from . import source
from .failure import Failure, most, over

USES = 512  # beyond, a definition is not taken apart: the sentence would not be simple
NUMBERS = 2**21  # of all rows together: uses times the numbers in a gradient or in the largest value
KEPT = 16  # graphs that are remembered
POINTWISE = names(
    "abs max min select_n clamp neg copy stop_gradient custom_jvp_call"
)  # not rounding, but pointwise all the same
ROWS = 32  # that are computed at a time, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Use:
    """An equation takes a value: the place in the backward pass where a cotangent flows back into it."""

    index: int
    path: tuple  # the number of the equation, inside of calls and loops one for each level
    operand: int
    equation: object = dataclasses.field(repr=False)
    origin: object = dataclasses.field(repr=False)  # which value is used
    shape: tuple[int, ...]
    line: source.Line | None
    loop: bool

    @property
    def primitive(self) -> str:
        return self.equation.primitive.name


@functools.partial(jax.custom_vjp)
def _scaled(value, scale):
    return value


def _scaled_back(scale, y_bar):
    return jnp.where(scale == 0, 0, y_bar * scale).astype(y_bar.dtype), None


_scaled.defvjp(lambda value, scale: (value, scale), _scaled_back)


@contextlib.contextmanager
def exactly():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


class Graph:
    """A definition at the shapes of a point."""

    def __init__(self, definition: Callable, primals: tuple, cotangent, opaque: bool = False):
        self.opaque = opaque  # whether functions with a custom derivative stay in one piece
        leaves, self._structure = jax.tree.flatten(primals)
        self._kinds = [kind_of(leaf) if hasattr(leaf, "dtype") else "static" for leaf in leaves]
        self._static = [leaf if kind == "static" else None for leaf, kind in zip(leaves, self._kinds, strict=True)]
        self.definition = definition
        floats, others = self.split(primals)
        with exactly():
            self.closed = jax.make_jaxpr(self._flat)(floats, others)
            self.uses, self.literals, self._seen = [], {}, {}
            jax.eval_shape(functools.partial(self._run, self._meet), floats, others)
        self._seen = self._last = None

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

    # --- running it --------------------------------------------------------------------------------------------------

    def _run(self, hooks, floats, others):
        return self._evaluate(self.closed, jax.tree.leaves((floats, others)), hooks, (), None)

    def _evaluate(self, closed, arguments, hooks, path, around, loop=False):
        """`hooks(path, equation, values, outs, …)` may change what an equation takes, and sees what it gives."""
        jaxpr, constants = open_jaxpr(closed)
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
        library = bool(around) and source.of_library(closed)
        for number, equation in enumerate(jaxpr.eqns):
            here = (*path, number)
            line = around if library else source.line(equation, around)
            values = [_literal(atom) if hasattr(atom, "val") else known[atom] for atom in equation.invars]
            inner = self._called(equation)
            if inner is not None:
                outs = self._evaluate(inner, values, hooks, here, line, loop)
            else:
                values = hooks(here, equation, values, line, loop)
                outs = self._bind(equation, values, hooks, here, line)
                if hasattr(hooks, "gave"):
                    hooks.gave(here, outs, loop)
            known.update(zip(equation.outvars, outs, strict=True))
        return [_literal(atom) if hasattr(atom, "val") else known[atom] for atom in jaxpr.outvars]

    def _called(self, equation):
        """The function that an equation calls, if that is all it does."""
        name = equation.primitive.name
        if name in ("scan", "while", "cond") or (self.opaque and name.startswith("custom_")):
            return None
        return called(equation)

    def _bind(self, equation, values, hooks, path, line):
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._scan(params, values, hooks, path, line)
        if name == "cond":
            branches = [
                lambda *values, b=branch, i=i: self._evaluate(b, values, hooks, (*path, i), line, True)
                for i, branch in enumerate(params["branches"])
            ]
            return lax.switch(values[0], branches, *values[1:])
        return bind(equation, values)

    def _scan(self, params, values, hooks, path, line):
        if "num_consts" in params:
            consts, carried = params["num_consts"], params["num_carry"]
        else:
            consts, carried, _ = (len(part) for part in params["ft_in"].unpack())
        fixed, start, steps = values[:consts], values[consts : consts + carried], values[consts + carried :]

        def body(carry, now):
            outs = self._evaluate(params["jaxpr"], [*fixed, *carry, *now], hooks, path, line, True)
            return outs[:carried], outs[carried:]

        carry, outs = lax.scan(body, start, steps, length=params["length"], reverse=params["reverse"])
        return [*carry, *outs]

    # --- what there is to change -------------------------------------------------------------------------------------

    def _meet(self, path, equation, values, line, loop):
        """Number the uses, and the constants that an equation holds."""
        for operand, value in enumerate(values):
            if (path, operand) in self._seen:
                continue
            if hasattr(equation.invars[operand], "val"):
                if np.ndim(value) == 0 and jnp.issubdtype(jnp.result_type(value), jnp.floating):
                    self.literals[path, operand] = float(value)
            elif jnp.issubdtype(value.dtype, jnp.inexact):
                self._seen[path, operand] = len(self.uses)
                origin = (path[:-1], equation.invars[operand])
                where = (line, loop)
                self.uses.append(Use(len(self.uses), path, operand, equation, origin, np.shape(value), *where))
        return values

    @functools.cached_property
    def by_place(self) -> dict:
        return {(use.path, use.operand): use.index for use in self.uses}

    @functools.cached_property
    def fans(self) -> collections.Counter:
        """How often each value is used."""
        return collections.Counter(use.origin for use in self.uses)

    def _pull(self, hooks, floats, others, cotangents):
        outs, pullback = jax.vjp(lambda floats: self._run(hooks, floats, others), floats)
        bars = [jnp.asarray(bar, out.dtype) for bar, out in zip(cotangents, outs, strict=True)]
        return pullback(bars)[0]

    def _cotangents(self, cotangent):
        return [np.asarray(leaf).astype(np.result_type(leaf, np.float64)) for leaf in jax.tree.leaves(cotangent)]

    def _hooks(self, change):
        """Every use of a value passed through change(index, value)."""

        def hooks(path, equation, values, line, loop):
            places = [self.by_place.get((path, operand)) for operand in range(len(values))]
            return [v if i is None else change(i, v) for i, v in zip(places, values, strict=True)]

        return hooks

    # --- gradients ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _by_scale(self):
        def row(scales, *point):
            return self._pull(self._hooks(lambda i, value: _scaled(value, scales[i])), *point)

        return compiled(jax.vmap(row, in_axes=(0, None, None, None)))

    def scaled(self, rows: np.ndarray, primals, cotangent) -> list[np.ndarray]:
        """The gradient for every row of scales, one column for each use: a stack for each float leaf."""
        return self._in_parts(self._by_scale, rows, primals, cotangent)

    def gradient(self, primals, cotangent) -> list[np.ndarray]:
        """The gradient itself, elsewhere."""
        return [a[0] for a in self.scaled(np.ones((1, len(self.uses))), primals, cotangent)]

    def without(self, primals, cotangent) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The gradient, and a stack of those with each use held constant in turn."""
        if self._last is None or self._last[0] is not primals or self._last[1] is not cotangent:
            count = len(self.uses)
            rows = self.scaled(np.concatenate([np.ones((1, count)), 1 - np.eye(count)]), primals, cotangent)
            self._last = primals, cotangent, [a[0] for a in rows], [a[1:] for a in rows]
        return self._last[2:]

    def _in_parts(self, program, rows, primals, cotangent):
        floats, others = self.split(primals)
        point = floats, others, self._cotangents(cotangent)
        parts = []
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            full = np.concatenate([part, np.repeat(part[-1:], ROWS - len(part), axis=0)])
            with exactly():
                parts.append([np.asarray(a)[: len(part)] for a in program(full, *point)])
        return [np.concatenate(leaf) for leaf in zip(*parts, strict=True)]

    @functools.cached_property
    def _by_literal(self):
        order = {place: i for i, place in enumerate(self.literals)}

        def row(literals, *point):
            def hooks(path, equation, values, line, loop):
                places = [order.get((path, operand)) for operand in range(len(values))]
                return [
                    v if i is None else literals[i].astype(jnp.result_type(v))
                    for i, v in zip(places, values, strict=True)
                ]

            return self._pull(hooks, *point)

        return compiled(jax.vmap(row, in_axes=(0, None, None, None)))

    def with_literals(self, rows: np.ndarray, primals, cotangent) -> list[np.ndarray]:
        """The gradient of the definition with other constants, one column for each of `literals`."""
        return self._in_parts(self._by_literal, rows, primals, cotangent)

    # --- values ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def pointwise(self) -> list[Use]:
        """The uses, outside of loops, by equations that compute every element from those at its own place."""
        return [
            use
            for use in self.uses
            if not use.loop
            and use.primitive in ELEMENTWISE | POINTWISE
            and use.equation.outvars[0].aval.shape == use.shape
        ]

    @functools.cached_property
    def parts(self) -> dict[int, slice]:
        """Where the elements of each pointwise use stand in a row of multipliers."""
        ends = np.cumsum([0, *(math.prod(use.shape) for use in self.pointwise)]).tolist()
        return {use.index: slice(ends[i], ends[i + 1]) for i, use in enumerate(self.pointwise)}

    @functools.cached_property
    def _by_multiplier(self):
        def row(multipliers, *point):
            def change(i, value):
                return _scaled(value, multipliers[self.parts[i]].reshape(value.shape)) if i in self.parts else value

            return self._pull(self._hooks(change), *point)

        return compiled(jax.vmap(row, in_axes=(0, None, None, None)))

    def multiplied(self, rows: np.ndarray, primals, cotangent) -> list[np.ndarray]:
        """As `scaled`, with a multiplier for every element of every pointwise use: one row holds all `parts`."""
        return self._in_parts(self._by_multiplier, rows, primals, cotangent)

    @functools.cached_property
    def _all_values(self):
        def run(floats, others):
            watch = _Watch()
            outs = self._run(watch, floats, others)
            self._places = list(watch.found)
            return list(watch.found.values()), outs

        return compiled(run)

    def values(self, primals) -> tuple[dict, list]:
        """What every equation outside of loops takes, by (path, operand), and gives, by (path, "out"); the outputs."""
        with exactly():
            found, outs = self._all_values(*self.split(primals))
        return dict(zip(self._places, map(np.asarray, found), strict=True)), [np.asarray(a) for a in outs]


def _literal(atom):
    """A number written in the equations, in the dtype that it had when they were traced."""
    return np.asarray(atom.val, atom.aval.dtype) if np.ndim(atom.val) == 0 else atom.val


class _Watch:
    """Hooks that change nothing and keep every value."""

    def __init__(self):
        self.found = {}

    def __call__(self, path, equation, values, line, loop):
        if not loop:
            self.found.update({(path, k): v for k, v in enumerate(values) if hasattr(v, "dtype") and _number(v)})
        return values

    def gave(self, path, outs, loop):
        if not loop and len(outs) == 1 and _number(outs[0]):
            self.found[path, "out"] = outs[0]


def _number(value) -> bool:
    return not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


# --- the graph of a failure ------------------------------------------------------------------------------------------

_KEPT: collections.OrderedDict = collections.OrderedDict()


def graph_of(failure: Failure) -> Graph | None:
    """The graph of the definition, if there is one that gives the truth and is small enough."""
    if failure.definition is None or failure.cotangent is None:
        return None
    for opaque in (False, True):
        graph = _remembered(failure, opaque)
        if graph is not None and _gives_the_truth(graph, failure):
            return graph
    return None


def _remembered(failure, opaque):
    leaves, structure = jax.tree.flatten(failure.primals)
    key = (
        failure.definition,
        opaque,
        str(structure),
        *((a.shape, str(a.dtype)) if hasattr(a, "dtype") else repr(a) for a in leaves),
    )
    if key not in _KEPT:
        try:
            _KEPT[key] = Graph(failure.definition, failure.primals, failure.cotangent, opaque)
        except Exception:  # whatever a stranger's function does when it is traced, it must not end the diagnosis
            _KEPT[key] = None
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
    return _KEPT[key]


def _gives_the_truth(graph, failure) -> bool:
    sizes = [np.size(truth) for _, truth, _ in failure.leaves.values()]
    if not graph.uses or len(graph.uses) > USES or len(graph.uses) * sum(sizes) > NUMBERS:
        return False
    try:
        bars, _ = graph.without(failure.primals, failure.cotangent)
    except Exception:
        return False
    if [a.shape for a in bars] != [np.shape(truth) for _, truth, _ in failure.leaves.values()]:
        return False
    return all(
        most(over(bar, truth, 2 * allowance)) <= 1
        for bar, (_, truth, allowance) in zip(bars, failure.leaves.values(), strict=True)
    )

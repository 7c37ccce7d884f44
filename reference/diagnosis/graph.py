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
from jax import lax

from manual_backprop.signature import kind_of

from ..interpreter import bind, called, open_jaxpr
from ..precision import compiled
from . import source

UNROLLED = 12  # rounds: longer loops stay loops
BODY = 40  # equations in a round that is unrolled
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


class Hooks:
    """What is done at every equation that computes: nothing."""

    def take(self, path, equation, values, line, loop):
        return values

    def give(self, path, equation, outs, loop):
        return outs


def wide(array) -> np.ndarray:
    """A cotangent in double precision; what has none counts as zero."""
    array = np.asarray(array)
    if array.dtype == jax.dtypes.float0:
        return np.zeros(array.shape)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


class Walk:
    """A traced function run equation by equation, with calls entered and short loops unrolled."""

    def __init__(self, closed, hooks: Hooks, opaque: bool):
        self.closed, self.hooks, self.opaque = closed, hooks, opaque

    def __call__(self, *arguments):
        return self._run(self.closed, arguments, (), None, False)

    def _run(self, closed, arguments, path, around, loop):
        jaxpr, constants = open_jaxpr(closed)
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
        library = bool(around) and source.of_library(closed)

        def read(atom):
            return _literal(atom) if hasattr(atom, "val") else known[atom]

        for number, equation in enumerate(jaxpr.eqns):
            here = (*path, number)
            line = around if library else source.line(equation, around)
            outs = self._equation(equation, [read(atom) for atom in equation.invars], here, line, loop)
            known.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation, values, path, line, loop):
        name, params = equation.primitive.name, equation.params
        if name not in ("scan", "while", "cond") and not (self.opaque and name.startswith("custom_")):
            inner = called(equation)
            if inner is not None:
                return self._run(inner, values, path, line, loop)
        if name == "scan":
            return self._scan(params, values, path, line, loop)
        values = self.hooks.take(path, equation, values, line, loop)
        if name == "cond":
            branches = [
                lambda *values, b=branch, i=i: self._run(b, values, (*path, i), line, True)
                for i, branch in enumerate(params["branches"])
            ]
            return lax.switch(values[0], branches, *values[1:])
        return self.hooks.give(path, equation, bind(equation, values), loop)

    def _scan(self, params, values, path, line, loop):
        if "num_consts" in params:
            consts, carried = params["num_consts"], params["num_carry"]
        else:
            consts, carried, _ = (len(part) for part in params["ft_in"].unpack())
        fixed, carry, steps = values[:consts], values[consts : consts + carried], values[consts + carried :]
        length, body = params["length"], params["jaxpr"]

        def one_round(carry, now, path=path, loop=True):
            outs = self._run(body, [*fixed, *carry, *now], path, line, loop)
            return outs[:carried], outs[carried:]

        if loop or not 0 < length <= UNROLLED or len(open_jaxpr(body)[0].eqns) > BODY:
            carry, outs = lax.scan(one_round, carry, steps, length=length, reverse=params["reverse"])
            return [*carry, *outs]
        rows = {}
        for t in reversed(range(length)) if params["reverse"] else range(length):
            carry, rows[t] = one_round(carry, [step[t] for step in steps], (*path, f"@{t}"), False)
        return [*carry, *(jnp.stack(row) for row in zip(*(rows[t] for t in range(length)), strict=True))]


def _literal(atom):
    """A number written in the equations, in the dtype that it had when they were traced."""
    return np.asarray(atom.val, atom.aval.dtype) if np.ndim(atom.val) == 0 else atom.val


def _is_float(value) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)


class _Meet(Hooks):
    """Numbers the uses, and finds the constants that equations hold."""

    def __init__(self):
        self.uses, self.literals, self.seen, self.equations = [], {}, set(), {}

    def take(self, path, equation, values, line, loop):
        self.equations[path] = equation
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
        self.at = {(use.path, use.operand): use for use in self.uses}
        self.fans = collections.Counter(use.origin for use in self.uses)  # how often each value is used
        self.free = [use for use in self.uses if not use.loop]
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
    def scaled(self):
        """The gradient for every row of scales, one column for each use."""
        return self.rows(
            lambda scales, *p: self.pull(_Change(self, lambda use, v: _changed(v, scales[use.index], None)), *p)
        )

    @functools.cached_property
    def multiplied(self):
        """The same with a multiplier for every element of every use outside of loops, in `parts` of a row."""
        return self._elementwise(lambda value, part: _changed(value, part, None))

    @functools.cached_property
    def injected(self):
        """The gradient with something added to what flows back through the uses outside of loops, in `parts`."""
        return self._elementwise(lambda value, part: _changed(value, 1.0, part))

    def _elementwise(self, change):
        def row(numbers, *p):
            def at(use, value):
                part = self.parts.get(use.index)
                return value if part is None else change(value, numbers[part].reshape(use.shape))

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

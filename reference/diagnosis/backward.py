"""The backward pass as it is written: a program, what it uses where, what would come if a value in it were another."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..precision import compiled
from . import source, words
from .constants import SMALL
from .failure import Failure
from .graph import ROWS, exactly
from .walk import Hooks, Walk

USES = 400  # of values by a backward pass: a longer one is not taken apart
CHOICES = ("eq", "ne", "lt", "le", "gt", "ge", "max", "min", "reduce_max", "reduce_min", "argmax", "argmin", "sort")
BETWEEN = "optimization_barrier"  # the two halves
SUMS = ("add", "sub", "add_any")
REDUCTIONS = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_min": np.min, "reduce_prod": np.prod}
COMBINED = {"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
MOVES = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "copy", "transpose")


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a value is used: in one place, the same in all rounds of a loop, or wherever the backward pass does."""

    keys: tuple  # (path, operand) of every use
    primitive: str  # of the equation that uses it, or that gave it
    line: source.Line | None
    named: str


@dataclasses.dataclass(frozen=True)
class Change:
    """One value made another, by (values, key) -> array."""

    site: Site
    kind: str
    text: str
    to: Callable = dataclasses.field(repr=False)
    other: tuple | None = None  # the key of the value that stands in its place


class _Meet(Hooks):
    """Notes every floating value outside of loops, in the order of the program, and where it is used."""

    def __init__(self):
        self.values, self.equations, self.lines, self.origins, self.made = {}, {}, {}, {}, {}
        self.between = None

    def take(self, path, equation, values, line, loop):
        if equation.primitive.name == BETWEEN and len(path) == 1:
            self.between = path[0]
        return self.enter(path, equation, values, line, loop)

    def enter(self, path, equation, values, line, loop):
        self.equations[path], self.lines[path] = equation, line
        for k, value in enumerate(values):
            if is_float(value) and not loop and not hasattr(equation.invars[k], "val"):
                self.values[path, k] = value
                self.origins[path, k] = id(value)
        return values

    def give(self, path, equation, outs, loop):
        if equation.primitive.name == BETWEEN and len(path) == 1:
            self.made |= {id(out): ("cotangent", i) for i, out in enumerate(outs)}
            self.values |= {("cotangent", i): out for i, out in enumerate(outs) if is_float(out)}
        elif len(outs) == 1 and is_float(outs[0]) and not loop:
            self.values[path, "y"] = outs[0]
            self.made.setdefault(id(outs[0]), (path, "y"))
        return outs


class _Add(Hooks):
    """Adds to values where they are used."""

    def __init__(self, extra: dict):
        self.extra = extra

    def take(self, path, equation, values, line, loop):
        def added(key, value):
            return value + self.extra[key].astype(value.dtype) if key in self.extra else value

        return [added((path, k), value) for k, value in enumerate(values)]

    enter = take


def is_float(value) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating) and math.prod(np.shape(value)) > 0


class Written:
    """A derivative by hand as a program of the primals and of the cotangent."""

    def __init__(self, failure: Failure):
        self.failure = failure
        point = failure.primals, failure.cotangent
        self._structure = jax.tree.structure(point)
        with exactly(), source.own_lines():
            self._closed = jax.make_jaxpr(self._flat)(*self._leaves(failure))
        self._meet = _Meet()
        self._values = compiled(self._all)
        self.values = self.at(failure)
        self.order = {key: i for i, key in enumerate(self.values)}
        met = self._meet
        self._uses = [key for key in met.origins if met.between is not None and key[0][0] > met.between]
        ends = np.cumsum([0, *(self.values[key].size for key in self._uses)]).tolist()
        self._parts = {key: slice(a, b) for key, (a, b) in zip(self._uses, itertools.pairwise(ends), strict=True)}
        self.width = ends[-1]

    def _leaves(self, point):
        leaves = jax.tree.leaves((point.primals, point.cotangent))
        return [np.asarray(a, np.float64) if is_float(a) else a for a in leaves]

    def _flat(self, *leaves):
        return list(self.failure.halves(*self._structure.unflatten(leaves))[1])

    def _all(self, *leaves):
        meet = self._meet
        arguments = {("argument", i): a for i, a in enumerate(leaves) if is_float(a)}
        meet.made |= {id(a): key for key, a in arguments.items()}
        Walk(self._closed, meet, False)(*leaves)
        found = arguments | meet.values
        self._keys = list(found)
        return list(found.values())

    def at(self, point: Failure) -> dict:
        """Every value of the program by where it stands, in the order of the program."""
        with exactly():
            found = self._values(*self._leaves(point))
        return dict(zip(self._keys, map(np.asarray, found), strict=True))

    @functools.cached_property
    def sites(self) -> list[Site]:
        """Every use in the backward pass, then every value that it uses in several places."""
        bodies, origins = {}, {}
        for key in self._uses:
            path, operand = key
            bodies.setdefault((*(step for step in path if not isinstance(step, str)), operand), []).append(key)
            origins.setdefault(self._meet.origins[key], []).append(key)
        found = []
        for keys in bodies.values():
            (path, operand), primitive = keys[0], self._meet.equations[keys[0][0]].primitive.name
            line = self._meet.lines[path]
            if primitive not in (*MOVES, *CHOICES) and len({self.values[key].shape for key in keys}) == 1:
                which = words.place(primitive, operand)
                found.append(Site(tuple(keys), primitive, line, f"the {which} operand of {words.of(primitive, line)}"))
        for origin, keys in origins.items():
            made = self._meet.made.get(origin)
            if not made or (made[1] == "y" and self._meet.equations[made[0]].primitive.name in CHOICES):
                continue
            if len(keys) > 1 or self._meet.equations[keys[0][0]].primitive.name in MOVES:
                lines = [self._meet.lines.get(path) for path, _ in [made, *keys]]
                found.append(Site(tuple(keys), "", next(filter(None, lines), None), self.told(made)))
        return found

    def told(self, key) -> str:
        """Words for a value: an argument, or the result of an equation."""
        path, end = key
        if path in ("argument", "cotangent"):
            names = list(self.failure.names) if len(self.failure.names) == len(self.failure.primals) else []
            return names[end] if path == "argument" and end < len(names) else "the cotangent"
        of = words.of(self._meet.equations[path].primitive.name, self._meet.lines[path])
        return f"the result of {of}" if end == "y" else f"what {of} takes"

    def time(self, key) -> str:
        """Which time it is that an equation of this name gives a value."""
        told = self.told(key)
        times = [other for other in self.values if other[1] == "y" and self.told(other) == told]
        place = times.index(key)
        return words.PLACES[place] if place < len(words.PLACES) else f"{place + 1}th"

    def origin(self, site: Site) -> tuple | None:
        """Where the value was made."""
        return self._meet.made.get(self._meet.origins[site.keys[0]])

    def reduced(self, made, steps: int = 6):
        """The reduction that a value is spread from, with its axes, and a constant factor on the way."""
        factor = 1.0
        for _ in range(steps):
            equation = self._meet.equations.get(made[0]) if made else None
            if equation is None:
                return None
            name, by = equation.primitive.name, getattr(equation.invars[-1], "val", None)
            if name in REDUCTIONS:
                return made[0], tuple(equation.params["axes"]), factor
            if name == "div" and np.size(by) == 1 and by is not None:
                factor = factor / float(np.ravel(by)[0])
            elif name not in MOVES:
                return None
            made = self.maker((made[0], 0))
        return None

    def maker(self, use) -> tuple | None:
        """Where the value that is used there was made."""
        return self._meet.made.get(self._meet.origins.get(use))

    def combined(self, site: Site):
        """The equation of two operands that gave a value: its path, and what it does."""
        made = self.origin(site)
        equation = self._meet.equations.get(made[0]) if made else None
        known = equation is not None and equation.primitive.name in COMBINED
        return (made[0], COMBINED[equation.primitive.name]) if known else None

    def reduction(self, path) -> tuple[str, Callable]:
        """Words for a reduction, and what it does."""
        primitive = self._meet.equations[path].primitive.name
        return words.of(primitive, self._meet.lines[path]), REDUCTIONS[primitive]

    def guarded(self, made, steps: int = 4) -> bool:
        """Whether a value, or what it was made of in a few steps, is a sum with a small constant."""
        equation = self._meet.equations.get(made[0]) if made else None
        if equation is None:
            return False
        constants = [np.ravel(a.val) for a in equation.invars if hasattr(a, "val")]
        if equation.primitive.name in (*SUMS, "max") and any(a.size == 1 and 0 < abs(a[0]) < SMALL for a in constants):
            return True
        before = [self._meet.origins.get((made[0], k)) for k in range(len(equation.invars))]
        return steps > 0 and any(self.guarded(self._meet.made.get(origin), steps - 1) for origin in before if origin)

    def step(self, site: Site) -> str:
        """The kind of mistake that it is to take the step which gave a value."""
        made = self.origin(site)
        equation = self._meet.equations.get(made[0]) if made else None
        return "missing_term" if equation and equation.primitive.name in SUMS else "local_derivative"

    @functools.cached_property
    def _changed(self):
        def row(added, *leaves):
            extra = {key: added[part].reshape(self.values[key].shape) for key, part in self._parts.items()}
            return Walk(self._closed, _Add(extra), False)(*leaves)

        return compiled(jax.vmap(row, in_axes=(0, *[None] * len(self._leaves(self.failure)))))

    def bars(self, changes: list[Change], values, point: Failure) -> list[np.ndarray]:
        """The cotangents after each of the changes: stacks, one for every leaf."""
        parts, leaves = [], self._leaves(point)
        for start in range(0, len(changes), ROWS):
            some, rows = changes[start : start + ROWS], np.zeros((ROWS, self.width))
            for row, change in zip(rows, some, strict=False):
                for key in change.site.keys:
                    row[self._parts[key]] = np.ravel(change.to(values, key) - values[key])
            with exactly():
                found = self._changed(rows, *leaves)
            parts.append([np.asarray(a)[: len(some)] for a in found])
        return [np.concatenate(leaf) for leaf in zip(*parts, strict=True)]

    def before(self, site: Site):
        """Other values of the same shape that are there before, each once: words and key."""
        first, seen = site.keys[0], set()
        own = self.values[first]
        if np.all(own == own.flat[0]):
            return
        for key, other in itertools.islice(self.values.items(), self.order[first]):
            told = key[1] == "y" or key[0] in ("argument", "cotangent")
            if not told or other.shape != own.shape or np.array_equal(other, own) or np.all(other == other.flat[0]):
                continue
            if other.tobytes() not in seen:
                seen.add(other.tobytes())
                yield self.told(key), key

"""Mistakes in a constant: an epsilon forgotten, of another size, or added in another place."""

import functools

import jax.numpy as jnp
import numpy as np

from ..precision import compiled
from . import paths, words
from .bench import Bench
from .failure import Explanation
from .graph import Literals

SMALL = 2e-2  # a constant below guards against a division by zero: an epsilon
LIMITS = (1e30, -1e30)  # beyond whatever it is compared with
COMPARED = ("max", "min", "clamp", "lt", "le", "gt", "ge")
ROOTS = {"sqrt": lambda y, eps: y + eps, "rsqrt": lambda y, eps: 1 / (1 / y + eps)}


def other_constant(bench: Bench):
    """The gradient of the definition with one of its constants changed."""
    graph = bench.graph
    if not np.any(bench.failure.truth):  # what is zero throughout, some constant makes anything
        return None
    places = list(graph.literals)
    values = np.asarray([graph.literals[place] for place in places])
    rows, told = [], []
    for k, value in enumerate(values):
        same = np.flatnonzero(values == value)
        limits = LIMITS if graph.equations[places[k][0]].primitive.name in COMPARED else ()
        for other in (*limits, *_instead(float(value), values)):
            for which in [same] if len(same) == 1 else [same, [k]]:
                row = values.copy()
                row[which] = other
                rows.append(row)
                told.append((value, other, places[which[0]] if len(which) == 1 else None))
    if not rows or len(rows) > bench.room(len(values)):
        return None
    stacks = graph.with_literals(rows, bench.primals, bench.cotangent)
    for leaves in bench.sets:
        for i in leaves.explained(stacks):
            value, other, place = told[i]
            kind = "epsilon" if 0 < min(abs(value), abs(other) or 1) < SMALL else "local_derivative"
            text = f"the derivative of the definition with {other:.6g} in place of its constant {value:.6g}"
            if other in LIMITS:
                text = f"the derivative of the definition without its limit {value:.6g}"
            line = graph.lines.get(place[0]) if place else None
            code = f" in `{line.code}`" if line else ""
            return Explanation(kind, text + code + leaves.alone, line and str(line))
    return None


def _instead(value, values):
    if not np.isfinite(value) or abs(value) > 1e30:
        return []
    near = [0.0, 10 * value, value / 10, 2 * value, value / 2, 1 - value, -value, value**2, 1.0, value + 1, value - 1]
    near += [float(np.sqrt(abs(value))), *values.tolist()]
    if 0 < abs(value) < SMALL:
        near += [value * 10.0**k for k in (-6, -4, -3, -2, 2, 3, 4, 6)] + [10.0**-k for k in range(3, 13)]
    near += [1 / value] if value else []
    return [other for other in dict.fromkeys(near) if other != value and np.isfinite(other) and abs(other) < 1e30]


def left_out(bench: Bench):
    """A constant by which the definition multiplies or divides is left out of the backward pass, or there twice."""
    changes = []
    for use in bench.graph.free:
        other = use.path, 1 - use.operand
        divides = use.primitive == "div"
        if use.primitive not in ("mul", "div") or (divides and use.operand) or other not in bench.graph.fixed:
            continue
        value = np.unique(bench.values[0].get(other, 0))
        if value.size == 1 and abs(value[0]) not in (0, 1) and np.isfinite(value[0]) and not use.round:
            slope = 1 / float(value[0]) if divides else float(value[0])
            code = f" in `{use.line.code}`" if use.line else ""
            said = f"the {'division' if divides else 'multiplication'} by {value[0]:.6g}{code} is "
            # Its sign may have been kept all the same.
            factors = ((1 / slope, "left out of"), (slope, "there twice in"), (1 / abs(slope), "left out of"))
            changes += [(use, factor, f"{said}{where}") for factor, where in dict.fromkeys(factors)]
    effect = paths.effects(bench)[0] if changes else None
    for leaves in bench.sets:
        for use, factor, said in changes:
            if leaves.explained([a[None] for a in effect.scaled(use, factor)]):
                text = f"{said} the backward pass: off by a factor of {factor:.6g}{leaves.alone}"
                return Explanation("factor", text, words.where(use))
    return None


class _Moved(Literals):
    """An epsilon left out where it stands, and added to the root that follows or that comes before."""

    def __init__(self, graph, place, roots):
        super().__init__({place: 0}, jnp.zeros(1))
        self.roots, self.epsilon = roots, graph.literals[place]

    def give(self, path, equation, outs, loop):
        if path in self.roots:
            return [ROOTS[equation.primitive.name](outs[0], self.epsilon)]
        return outs


class _Inside(Literals):
    """An epsilon left out where it stands, after a root, and added under the root."""

    def __init__(self, graph, place, roots):
        super().__init__({place: 0}, jnp.zeros(1))
        self.roots, self.epsilon = roots, graph.literals[place]

    def take(self, path, equation, values, line, loop):
        values = super().take(path, equation, values, line, loop)
        return [values[0] + self.epsilon] if path in self.roots else values


def moved_epsilon(bench: Bench):
    """√(v + ε) for √v + ε, or the other way round."""
    graph = bench.graph
    for place, value in graph.literals.items():
        equation = graph.equations[place[0]]
        if not 0 < abs(value) < SMALL or equation.primitive.name not in ("add", "max"):
            continue
        scope = place[0][:-1]
        roots = [path for path, e in graph.equations.items() if path[:-1] == scope and e.primitive.name in ROOTS]
        after = [path for path in roots if _reaches(graph, scope, equation.outvars[0], graph.equations[path].invars[0])]
        before = [
            path
            for path in roots
            if any(_reaches(graph, scope, graph.equations[path].outvars[0], a) for a in equation.invars)
        ]
        for hooks, roots, text in ((_Moved, after, "outside of the root"), (_Inside, before, "under the root")):
            if not roots:
                continue
            program = compiled(functools.partial(graph.pull, hooks(graph, place, roots)))
            if found := bench.reproduces(graph.once(program, bench.primals, bench.cotangent)):
                said = f"epsilon in the wrong place: the derivative of the definition with {value:g} {text}"
                line = next((use for use in graph.uses if use.path == roots[0]), None)
                return Explanation("epsilon", said + found.alone, line and words.where(line))
    return None


def _reaches(graph, scope, start, end) -> bool:
    """Whether one value is another, but for its shape."""
    if start is end:
        return True
    makers = {e.outvars[0]: e for path, e in graph.equations.items() if path[:-1] == scope and len(e.outvars) == 1}
    while end in makers if not hasattr(end, "val") else False:
        maker = makers[end]
        if maker.primitive.name not in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "copy"):
            return False
        end = maker.invars[0]
        if end is start:
            return True
    return False

"""Mistakes in one local derivative: taken at another value, or another function altogether."""

import math

import jax
import numpy as np

from . import places, words
from .failure import Explanation, Failure
from .graph import Graph, Use
from .paths import Leaves, together

ROWS = 2048  # of candidates, and of elements whose multipliers are solved for
NUMBERS = 2**21  # in all rows of multipliers

_ROOT_PI = math.sqrt(math.pi)

# The derivative of a primitive with respect to an operand, in the forms in which it is written by hand: from the
# operands (a, b) or from the result y.
DERIVATIVES = {
    ("exp", 0): [("y", lambda y: y), ("a", np.exp)],
    ("log", 0): [("a", lambda a: 1 / a)],
    ("log1p", 0): [("a", lambda a: 1 / (1 + a))],
    ("expm1", 0): [("a", np.exp), ("y", lambda y: y + 1)],
    ("tanh", 0): [("y", lambda y: 1 - y * y), ("a", lambda a: 1 - np.tanh(a) ** 2)],
    ("logistic", 0): [("y", lambda y: y * (1 - y)), ("a", lambda a: 1 / (2 + np.exp(a) + np.exp(-a)))],
    ("sqrt", 0): [("y", lambda y: 0.5 / y), ("a", lambda a: 0.5 / np.sqrt(a))],
    ("rsqrt", 0): [("y", lambda y: -(y**3) / 2), ("a", lambda a: -0.5 * a**-1.5)],
    ("sin", 0): [("a", np.cos)],
    ("cos", 0): [("a", lambda a: -np.sin(a))],
    ("erf", 0): [("a", lambda a: 2 / _ROOT_PI * np.exp(-a * a))],
    ("square", 0): [("a", lambda a: 2 * a)],
    ("abs", 0): [("a", np.sign)],
    ("mul", 0): [("b", lambda b: b)],
    ("mul", 1): [("a", lambda a: a)],
    ("div", 0): [("b", lambda b: 1 / b)],
    ("div", 1): [("ab", lambda a, b: -a / b**2), ("yb", lambda y, b: -y / b)],
    ("pow", 0): [("ab", lambda a, b: b * a ** (b - 1)), ("yab", lambda y, a, b: b * y / a)],
    ("pow", 1): [("ya", lambda y, a: y * np.log(a)), ("ab", lambda a, b: a**b * np.log(a))],
}
LINEAR = ("add", "sub", "neg", "add_any", "copy", "convert_element_type", "stop_gradient")


def _forms(use: Use):
    if use.primitive == "integer_pow":
        n = use.equation.params["y"]
        return [("a", lambda a: n * a ** float(n - 1))]
    return DERIVATIVES.get((use.primitive, use.operand), [])


def at_another_value(failure: Failure, graph: Graph):
    """The derivative of one equation with one of its arguments taken from elsewhere in the computation."""
    width = sum(part.stop - part.start for part in graph.parts.values())
    if not width:
        return None
    values, outs = graph.values(failure.primals)
    arrays = _distinct(values, outs)
    rows, told = [], []
    for use in graph.pointwise:
        for text, multiplier in _alternatives(use, values, arrays):
            if (len(rows) + 1) * width > NUMBERS or len(rows) >= ROWS:
                break
            row = np.ones(width)
            row[graph.parts[use.index]] = multiplier.ravel()
            rows.append(row)
            told.append((use, text))
    if not rows:
        return None
    stacks = graph.multiplied(np.asarray(rows), failure.primals, failure.cotangent)
    for leaves, alone in together(failure):
        found = [told[i] for i in leaves.explained(stacks)]
        if found:
            use, text = max(found, key=lambda pair: (pair[0].line is not None, pair[0].index))
            what = words.operation(use)
            text = f"the derivative of {what} is computed {text}"
            return Explanation("wrong_residual", text + alone, words.where(use))
    return None


def _distinct(values, outs):
    found = []
    for array in [*outs, *values.values()]:
        plain = array.dtype.kind == "f" and array.size and np.isfinite(array).all()
        if plain and not any(a.shape == array.shape and np.array_equal(a, array) for a in found):
            found.append(array)
    return found


def _alternatives(use, values, arrays):
    """Words and multipliers: the other derivative over the right one."""
    here = {"a": values.get((use.path, 0)), "b": values.get((use.path, 1)), "y": values.get((use.path, "out"))}
    literals = {n: a.val for n, a in zip("ab", use.equation.invars, strict=False) if hasattr(a, "val")}
    here |= {name: np.asarray(value, np.float64) for name, value in literals.items()}
    for names, form in _forms(use):
        if any(here[name] is None for name in names):
            continue
        own = [here[name] for name in names]
        with np.errstate(all="ignore"):
            right = form(*own)
            for k, name in enumerate(names):
                for other in arrays:
                    if other.shape == own[k].shape and not np.array_equal(other, own[k]):
                        multiplier = form(*own[:k], other, *own[k + 1 :]) / right
                        if multiplier.shape == use.shape and np.isfinite(multiplier).all():
                            yield _words(name, other, here), multiplier


def _words(name, other, here) -> str:
    right = {"a": "its first operand", "b": "its second operand", "y": "its result"}
    if here["b"] is None:
        right["a"] = "its operand"
    same = (n for n, a in here.items() if n != name and a is not None and np.array_equal(a, other))
    taken = next((right[n] for n in same), "another value of the same shape")
    return f"at {taken} in place of {right[name]}"


# --- another function ------------------------------------------------------------------------------------------------


def another_function(failure: Failure, graph: Graph):
    """A multiplier for every element of one use, solved for from several cotangents at the same primals.

    There are more equations than unknowns, so that a solution says something.
    """
    judged = [(failure, failure.primals, failure.cotangent)]
    for seed in (1, 2) if failure.at else ():
        judged.append(_elsewhere(failure, seed))
    if any(j is None for j in judged):
        return None
    best = None
    for use in sorted(graph.pointwise, key=lambda u: (u.primitive in LINEAR, -u.index)):
        size = math.prod(use.shape)
        if not size or size > ROWS // 4 or size * sum(p.stop - p.start for p in graph.parts.values()) > NUMBERS:
            continue
        found = _solved(use, graph, judged)
        if found is not None:
            multiplier, alone = found
            explanation, simple = _told(use, multiplier, alone, failure, graph)
            if simple:
                return explanation
            best = best or explanation
    return best


def _elsewhere(failure, seed):
    """The failure at the same primals with another cotangent."""
    rng = np.random.default_rng(seed)
    change = lambda a: np.asarray(rng.standard_normal(np.shape(a)), np.asarray(a).dtype)  # noqa: E731
    cotangent = jax.tree.map(change, failure.cotangent)
    try:
        leaves = failure.at(failure.primals, cotangent)
    except Exception:  # the derivative may raise elsewhere
        return None
    if leaves.keys() != failure.leaves.keys():
        return None
    return Failure(failure.leaf, leaves, dtype=failure.dtype), failure.primals, cotangent


def _solved(use, graph, judged):
    part = graph.parts[use.index]
    width = max(p.stop for p in graph.parts.values())
    rows = np.ones((1 + part.stop - part.start, width))
    rows[np.arange(1, len(rows)), np.arange(part.start, part.stop)] = 0
    stacks = [graph.multiplied(rows, primals, cotangent) for _, primals, cotangent in judged]
    for names, alone in ((list(judged[0][0].leaves), ""), ([judged[0][0].leaf], "alone")):
        matrix, off = [], []
        for (failure, *_), stack in zip(judged, stacks, strict=True):
            leaves = Leaves(failure, names)
            effects = leaves.rows(stack)
            matrix.append((effects[:1] - effects[1:]).T)
            off.append(leaves.off)
        matrix, off = np.concatenate(matrix), np.concatenate(off)
        telling = np.count_nonzero(np.max(np.abs(matrix), axis=1, initial=0) > 1)
        if not np.isfinite(off).all() or not np.isfinite(matrix).all():
            continue
        solution, _, rank, _ = np.linalg.lstsq(matrix, off, rcond=None)
        if telling < rank + max(3, rank // 2) or np.max(np.abs(matrix @ solution - off), initial=0) > 2:
            continue
        seen = np.max(np.abs(matrix), axis=0) > 1
        return np.where(seen, 1 + solution, 1).reshape(use.shape), alone
    return None


def _told(use, multiplier, alone, failure, graph):
    """What is said of a multiplier, and whether it is simple: wrong at some places alone."""
    alone = f", in the cotangent of {failure.leaf} alone" if alone else ""
    values, _ = graph.values(failure.primals)
    operands = {
        f"operand {k} of it" if len(use.equation.invars) > 1 else "its operand": values[use.path, k].astype(np.float64)
        for k in range(len(use.equation.invars))
        if (use.path, k) in values and values[use.path, k].dtype.kind in "fiub"
    }
    wrong = np.abs(multiplier - 1) > 1e-6 * max(1.0, float(np.max(np.abs(multiplier))))
    what = words.operation(use)
    if not wrong.all() and (told := places.condition(wrong, operands) or places.place(wrong)):
        return Explanation(told[0], f"the derivative of {what} is wrong {told[1]}{alone}", words.where(use)), True
    worst = np.unravel_index(np.argmax(np.abs(multiplier - 1)), multiplier.shape)
    at = next((f" where {name} is {a[worst]:.4g}" for name, a in operands.items() if a.shape == multiplier.shape), "")
    text = f"the derivative of {what} is another function: off by a factor of {multiplier[worst]:.4g}{at}{alone}"
    return Explanation("local_derivative", text, words.where(use)), False

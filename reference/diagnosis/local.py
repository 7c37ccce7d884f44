"""Mistakes in one local derivative: taken at another value, or another function altogether."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ..allowance import unit
from ..precision import ELEMENTWISE
from ..tracing.interpreter import names
from . import places, words
from .bench import Bench, Leaves
from .derivatives import forms, mistaken
from .failure import Explanation, most, over
from .graph import Use, wide

SOLVED = 1024  # numbers that are solved for at a time

SLOPE, FACTOR, MISTAKE = "slope", "factor", "taken for "
LINEAR = names("add sub neg add_any copy convert_element_type stop_gradient")
POINTWISE = ELEMENTWISE | names("abs max min select_n clamp neg copy custom_jvp_call sign floor round")
GATES = names("max min clamp select_n abs sign floor ceil round reduce_max reduce_min")
NARROW = ("bfloat16", "float16", "float32")


def at_another_value(bench: Bench):
    """The derivative of one equation, in all rounds of a loop, with one of its arguments taken from elsewhere."""
    graph = bench.graph
    bodies: dict[tuple, list[Use]] = {}
    for use in graph.free:
        if forms(use):
            bodies.setdefault(use.body, []).append(use)
    changes, rows, told = [], [], {False: [], True: []}
    for uses in bodies.values():
        alternatives = [_numbered(_alternatives(use, bench)) for use in uses]
        for text, k in alternatives[0]:
            together = [other[text, k] for other in alternatives if (text, k) in other]
            if len(together) < len(uses) or len(changes) + len(rows) >= bench.room(graph.width):
                continue
            rounds = len(uses) > 1
            told[rounds].append((uses[0], text))
            if rounds:  # what flows back through one round passes through those before it: that is not linear
                row = np.ones(graph.width)
                for use, multiplier in zip(uses, together, strict=True):
                    row[graph.parts[use.index]] = multiplier.ravel()
                rows.append(row)
            else:
                use = uses[0]
                changes.append((use, together[0] * bench.values[1][use.path, use.operand]))
    for rounds, tried in ((False, changes), (True, rows)):
        if not tried:
            continue
        stacks = graph.multiplied(rows, bench.primals, bench.cotangent) if rounds else bench.injected(changes)
        for leaves in bench.sets:
            if found := [told[rounds][i] for i in leaves.explained(stacks)]:
                return _at_another(*max(found, key=_simplest), leaves)
    return None


def _numbered(alternatives) -> dict:
    """Multipliers by their words, and how many of the same words came before."""
    found, before = {}, collections.Counter()
    for text, multiplier in alternatives:
        found[text, before[text]] = multiplier
        before[text] += 1
    return found


def _simplest(found):
    use, text = found
    own = not text.startswith("at ") or text.startswith("at its ")
    return use.line is not None, own, use.index


def _at_another(use, text, leaves):
    what, kind = words.operation(use), "local_derivative"
    if text == SLOPE:
        said = f"the derivative of {what} is left out: its slope is taken for one"
    elif text == FACTOR:
        said = f"the derivative of {what} is taken for one: its other factor is left out"
    elif text.startswith(MISTAKE):
        one = sum(not hasattr(a, "val") for a in use.equation.invars) < 2
        of = "its operand a" if one else f"its {words.place(use.primitive, use.operand)} operand, of a and b,"
        result = ", where y is its result" if "y" in text.removeprefix(MISTAKE) else ""
        said = f"the derivative of {what} by {of} is {text}{result}"
    else:
        said = f"the derivative of {what} is computed {text}"
        kind = "dtype" if "rounded" in text else "wrong_residual"
    return Explanation(kind, said + leaves.alone, words.where(use))


def arguments(use: Use, bench: Bench) -> dict[str, np.ndarray | None]:
    """The operands a and b and the result y of an equation."""
    values = bench.values[0]
    here = {name: values.get((use.path, key)) for name, key in (("a", 0), ("b", 1), ("y", "y"))}
    literals = {n: a.val for n, a in zip("ab", use.equation.invars, strict=False) if hasattr(a, "val")}
    return here | {name: np.asarray(value, np.float64) for name, value in literals.items()}


def _alternatives(use: Use, bench: Bench):
    """Words and multipliers: the other derivative over the right one."""
    here = arguments(use, bench)
    yield from _mistaken(use, here)
    for letters, form in forms(use):
        if any(here[letter] is None for letter in letters):
            continue
        own = [here[letter] for letter in letters]
        with np.errstate(all="ignore"):
            right = form(*own)
            if here["b"] is None and np.shape(right) == use.shape and np.all(right != 0):
                yield SLOPE, 1 / right
            if use.primitive == "mul" and np.shape(right) == use.shape and np.all(right != 0):
                yield FACTOR, 1 / right
            for k, letter in enumerate(letters):
                for text, other in _others(use, bench, here, letter):
                    if other.shape != own[k].shape or np.array_equal(other, own[k]):
                        continue
                    multiplier = form(*own[:k], other, *own[k + 1 :]) / right
                    if multiplier.shape == use.shape and np.isfinite(multiplier).all():
                        yield text, multiplier


def _mistaken(use: Use, here):
    """Words and multipliers of what is often written for a derivative."""
    for letters, right in forms(use)[:1]:
        for text, own, wrong in mistaken(use):
            if all(here[letter] is not None for letter in {*letters, *own}):
                with np.errstate(all="ignore"):
                    multiplier = wrong(*(here[k] for k in own)) / right(*(here[k] for k in letters))
                if np.shape(multiplier) == use.shape and np.isfinite(multiplier).all():
                    yield f"{MISTAKE}{text}", multiplier


def _others(use: Use, bench: Bench, here, letter):
    """What may stand in the place of an argument, with words for it."""
    name = {"a": "its first operand", "b": "its second operand", "y": "its result"}
    if here["b"] is None:
        name["a"] = "its operand"
    own = here[letter]
    for other in here.keys() - {letter}:
        if here[other] is not None:
            yield f"at {name[other]} in place of {name[letter]}", here[other]
    for dtype in NARROW:
        if jnp.finfo(dtype).eps > 2 * unit(bench.failure.dtype):
            yield f"at {name[letter]} rounded to {dtype}", own.astype(jnp.dtype(dtype)).astype(np.float64)
    for axis, length in enumerate(own.shape):
        for shift in (1, -1) if length > 1 else ():
            yield f"at {name[letter]} shifted by {shift} along axis {axis}", np.roll(own, shift, axis)
    if not use.round:
        for array in bench.arrays:
            if array.shape == own.shape:
                yield f"at {bench.told(array)} in place of {name[letter]}", array
        return
    key = {"a": 0, "b": 1, "y": "y"}[letter]
    yield from rounds(use, bench, key, name[letter])


def rounds(use: Use, bench: Bench, key, name):
    """The values of the same round of a loop, and of the rounds before and after, with words that all rounds share."""
    step = next(i for i, step in enumerate(use.path) if isinstance(step, str))
    t = int(use.path[step][1:])
    values, graph = bench.values[0], bench.graph
    own = values[use.path, key]
    for other, when in ((t - 1, "before"), (t + 1, "after")):
        path = (*use.path[:step], f"@{other}", *use.path[step + 1 :])
        # The first round has none before it, and the last none after: whatever stands there then, its own or nothing.
        yield f"at {name} of the round {when}", values.get((path, key), own)
        yield f"at {name} of the round {when}, or at zero", values.get((path, key), 0 * own)
    for (path, other), value in values.items():
        if path[: step + 1] == use.path[: step + 1] and value.dtype.kind == "f":
            what = f"the result of the {graph.equations[path].primitive.name}" if other == "y" else "another value"
            yield f"at {what} of the same round in place of {name}", value


def ungated(bench: Bench):
    """What is cut off at some values is let through everywhere, or the other way round."""
    changes, told = [], []
    for use in bench.graph.free:
        bar, out = (bench.values[1].get((use.path, key)) for key in (use.operand, "y"))
        if use.primitive not in GATES or bar is None or out is None or bar.shape != out.shape or use.round:
            continue
        changes += [(use, out), (use, np.where(bar == 0, out, 0))]
        told += ["passes through everywhere", "passes through where it should be cut off, and only there"]
    if not changes or len(changes) > bench.room(bench.graph.width):
        return None
    stacks = bench.injected(changes)
    for leaves in bench.sets:
        for i in leaves.explained(stacks):
            use = changes[i][0]
            text = f"the cotangent {told[i]}, at {words.taken(use)}{leaves.alone}"
            if use.primitive == "abs":
                text = f"the derivative of {words.operation(use)} is taken for one: the sign is left out{leaves.alone}"
                return Explanation("local_derivative", text, words.where(use))
            return Explanation("values", text, words.where(use))
    return None


# --- another function ------------------------------------------------------------------------------------------------


def another_function(bench: Bench):
    """A multiplier for every element of one use, solved for from several cotangents at the same primals.

    There are more equations than unknowns, so that a solution says something.
    """
    if not bench.others:
        return None
    if own := _another_slope(bench):
        return own
    numbers = sum(np.size(bar) for bar in jax.tree.leaves(bench.cotangent))
    judged, best = [bench, *bench.others][:numbers], None  # more cotangents than that say nothing new
    uses = [use for use in bench.graph.free if use.primitive in POINTWISE and not use.round]
    for use in sorted(uses, key=lambda u: (u.primitive in LINEAR, -u.index)):
        size = math.prod(use.shape)
        if not 0 < size <= SOLVED or size * len(judged) > bench.room(bench.graph.width):
            continue
        found = _solved(use, judged)
        if found is not None:
            explanation, simple = _told(use, *found, bench)
            if simple:
                return explanation
            best = best or explanation
    return best


def _another_slope(bench: Bench):
    """Where every place is a function of its own: which equation of it is meant, nobody can tell."""
    failure, bars = bench.failure, jax.tree.leaves(bench.cotangent)
    values = {name: a for name, a in places.values(failure).items() if np.shape(a) == np.shape(failure.truth)}
    if len(bars) != 1 or np.shape(bars[0]) != np.shape(failure.truth) or not pointwise(bench):
        return None
    bar = np.asarray(bars[0], np.float64)
    true, taken = (np.where(bar == 0, 0, a / np.where(bar == 0, 1, bar)) for a in (failure.truth, failure.got))
    for other in bench.others:
        got, _, allowance = other.failure.leaves[failure.leaf]
        if most(over(got, taken * wide(jax.tree.leaves(other.cotangent)[0]), 4 * allowance)) > 1:
            return None
    worst = np.unravel_index(np.argmax(np.where(failure.wrong, np.abs(taken - true), 0)), true.shape)
    at = ", ".join(f"{name} is {a[worst]:.4g}" for name, a in values.items() if name in failure.names)
    text = f"the slope is another function's: where {at}, it is {true[worst]:.4g}, and taken for {taken[worst]:.4g}"
    return Explanation("local_derivative", text, vague=True) if at else None


def pointwise(bench: Bench) -> bool:
    """Whether all values have one shape: another derivative at each place is then no more than another function."""
    return len({a.shape for a in bench.arrays if a.ndim}) <= 1


def _solved(use: Use, judged: list[Bench]):
    size = math.prod(use.shape)
    stacks = []
    for bench in judged:
        bar = bench.values[1][use.path, use.operand]
        changes = [(use, bar + (np.arange(size) == i).reshape(bar.shape) * bar) for i in range(size)]
        found = bench.injected(changes)
        stacks.append([a - base for a, base in zip(found, bench.truth, strict=True)])
    for names_, alone in ((list(judged[0].failure.leaves), False), ([judged[0].failure.leaf], True)):
        matrix, off = [], []
        for bench, stack in zip(judged, stacks, strict=True):
            leaves = Leaves(bench.failure, names_)
            matrix.append(leaves.rows(stack).T)
            off.append(leaves.off)
        matrix, off = np.concatenate(matrix), np.concatenate(off)
        if not np.isfinite(off).all() or not np.isfinite(matrix).all():
            continue
        telling = np.count_nonzero(np.max(np.abs(matrix), axis=1, initial=0) > 1)
        solution, _, rank, _ = np.linalg.lstsq(matrix, off, rcond=None)
        if telling < rank + max(3, rank // 2) or np.max(np.abs(matrix @ solution - off), initial=0) > 2:
            continue
        seen = np.max(np.abs(matrix), axis=0) > 1
        return (
            np.where(seen, 1 + solution, 1).reshape(use.shape),
            1 / np.max(np.abs(matrix), axis=0, initial=1).max(),
            alone,
        )
    return None


def _told(use: Use, multiplier, resolution, alone, bench: Bench):
    """What is said of a multiplier, and whether it is simple: wrong at some places alone."""
    alone = f", in the cotangent of {bench.failure.leaf} alone" if alone else ""
    values = bench.values[0]
    operands = {
        f"operand {k} of it" if len(use.equation.invars) > 1 else "its operand": values[use.path, k].astype(np.float64)
        for k in range(len(use.equation.invars))
        if (use.path, k) in values and values[use.path, k].dtype.kind in "fiub"
    }
    wrong = np.abs(multiplier - 1) > max(resolution, 1e-6 * float(np.max(np.abs(multiplier))))
    what = words.operation(use)
    if not wrong.all() and wrong.any():
        told = places.place(wrong) or places.condition(wrong, operands)
        if told:
            return Explanation(told[0], f"the derivative of {what} is wrong {told[1]}{alone}", words.where(use)), True
    worst = np.unravel_index(np.argmax(np.abs(multiplier - 1)), multiplier.shape)
    at = next((f" where {name} is {a[worst]:.4g}" for name, a in operands.items() if a.shape == multiplier.shape), "")
    text = f"the derivative of {what} is another function: off by a factor of {multiplier[worst]:.4g}{at}{alone}"
    return Explanation("local_derivative", text, words.where(use), vague=True), False


def enters(bench: Bench):
    """All that is wrong flows back through one use, whatever it is: more equations than unknowns say so."""
    leaves = bench.sets[0]
    rows = []
    for use in bench.graph.free:
        size = math.prod(use.shape)
        if not 0 < size <= SOLVED or size * 2 > len(leaves.off) or use.round:
            continue
        bar = bench.values[1][use.path, use.operand]
        unit_changes = [(use, bar + (np.arange(size) == i).reshape(bar.shape)) for i in range(size)]
        if size > bench.room(bench.graph.width):
            continue
        stack = [a - base for a, base in zip(bench.injected(unit_changes), bench.truth, strict=True)]
        matrix = leaves.rows(stack).T
        if not np.isfinite(matrix).all() or not np.isfinite(leaves.off).all():
            continue
        solution, _, rank, _ = np.linalg.lstsq(matrix, leaves.off, rcond=None)
        telling = np.count_nonzero(np.max(np.abs(matrix), axis=1, initial=0) > 1)
        if telling >= rank + max(3, rank // 2) and np.max(np.abs(matrix @ solution - leaves.off), initial=0) <= 2:
            rows.append((size, -use.index, use))
    if not rows:
        return None
    use = min(rows, key=functools.partial(_smallest))[2]
    text = f"all that is wrong flows back through {words.taken(use)}: its derivative is wrong, or what comes after it"
    return Explanation("local_derivative", text, words.where(use), vague=True)


def _smallest(row):
    return row[:2]

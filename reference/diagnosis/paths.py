"""Mistakes in how cotangents are summed over paths: a use of a value held constant, counted twice, with a factor.

The gradient is linear in the scale of any one use outside of loops, so the factor that explains best what came is
found by least squares, with the allowance as the unit, over all leaves together, and then verified.
"""

import functools

import numpy as np

from ..allowance import unit
from . import numbers, words
from .bench import Bench, Leaves, bench_of
from .failure import Explanation
from .graph import Use

PAIRS = 24  # of this many uses with different effects, every two are tried together
GOALS = {"missing_path": 0.0, "counted_twice": 2.0, "sign": -1.0}
LOST = 2**10  # roundings: a factor that is no further from one is none
CHOICES = ("reduce_max", "reduce_min", "max", "min", "cummax", "cummin")  # often only there to keep numbers small


class Effects:
    """What each use contributes: the gradient, and a stack of those with one more use held constant."""

    def __init__(self, bench: Bench, still: tuple[Use, ...] = ()):
        self.bench, self.still = bench, still
        base = np.ones(len(bench.graph.uses))
        base[[use.index for use in still]] = 0
        self.base = base
        stacks = bench.scaled([base, *(base * (1 - np.eye(len(base))))])
        self.gradient, self.held = [a[0] for a in stacks], [a[1:] for a in stacks]

    def of(self, leaves: Leaves) -> np.ndarray:
        return leaves.rows([a[None] for a in self.gradient]) - leaves.rows(self.held)

    def scaled(self, use: Use, factor: float) -> list[np.ndarray]:
        return [a + (factor - 1) * (a - h[use.index]) for a, h in zip(self.gradient, self.held, strict=True)]


def effects(bench: Bench) -> list[Effects]:
    """As it is; and with the maxima held constant that change nothing, as long as nothing else is changed."""
    if not hasattr(bench, "effects"):
        found = [Effects(bench)]
        rows = found[0].of(bench.sets[0])
        nothing = [use for use in bench.graph.uses if np.max(np.abs(rows[use.index]), initial=0) <= 2]
        still = tuple(use for use in nothing if use.primitive in CHOICES)
        bench.effects = [*found, Effects(bench, still)] if still else found
    return bench.effects


def one_use(bench: Bench):
    """One use of a value is scaled."""
    for effect in effects(bench):
        for leaves in bench.sets:
            if explanation := _one_use(bench, effect, leaves):
                return explanation
    return None


def _one_use(bench, effect, leaves):
    rows = effect.of(leaves)
    off = leaves.truth + leaves.off - leaves.rows([a[None] for a in effect.gradient])[0]
    with np.errstate(all="ignore"):
        factors = 1 + (rows @ off) / np.sum(rows**2, axis=1)
        left = np.max(np.abs(off - (factors - 1)[:, None] * rows), axis=1, initial=0)
    fits = np.isfinite(factors) & (left <= np.maximum(64.0, np.max(np.abs(off), initial=0) / 4))
    likely = [use for use in bench.graph.uses if fits[use.index] and not use.loop and not use.round]

    def explains(use, factor):
        return bool(leaves.explained([a[None] for a in effect.scaled(use, factor)]))

    for kind, goal in GOALS.items():
        near = [use for use in likely if abs(factors[use.index] - goal) < 0.1]
        if found := [use for use in near if explains(use, goal)]:
            return _said(kind, words.simplest(found, bench.graph), leaves)
    telling = np.count_nonzero(np.abs(rows) > 2, axis=1) > 1
    found = [use for use in likely if telling[use.index] and explains(use, factors[use.index])]
    if not found:
        return None
    use = words.simplest(found, bench.graph)
    own = _of_a_square if use.primitive == "mul" and len(set(map(id, use.equation.invars))) == 1 else float
    factor = float(factors[use.index])
    if abs(factor - 1) < LOST * unit(bench.failure.dtype):
        text = (
            f"digits are lost: what flows through {words.taken(use)} nearly cancels, and its rounding is what is left"
        )
        return Explanation("cancellation", text + leaves.alone, words.where(use))
    constants = {f"the constant {abs(v):.6g} of the definition": abs(v) for v in bench.graph.literals.values() if v}
    there, shown = functools.partial(_scaled_there, use, leaves, own), factor if own is float else (factor + 1) / 2
    name = numbers.named(shown, lambda factor: explains(use, own(factor)), bench.failure, constants, there)
    name = name if name and _scales(bench.elsewhere, leaves, use, factor) else None
    if not name and not (np.size(bench.cotangent) > 1 and _scales(bench.others, leaves, use, factor)):
        return None
    which = f", which is {name}" if name and name != f"{shown:.6g}" else ""
    text = f"one path is off by a factor of {shown:.6g}{which}: through "
    through = words.taken(use) if own is float else f"both operands of {words.operation(use)}"
    kind = "factor" if name else "local_derivative"
    return Explanation(kind, f"{text}{through}{leaves.alone}", words.where(use))


def _of_a_square(factor: float) -> float:
    """What one operand of x x is off by, where both are off by a factor: what the other lacks it has besides."""
    return 2 * factor - 1


def _scaled_there(use, leaves, own, other):
    """Whether a factor at the same use gives what came at other lengths as well; None where that cannot be asked."""
    bench = bench_of(other)
    same = bench and next((u for u in bench.graph.free if (u.path, u.operand) == (use.path, use.operand)), None)
    if same is None:
        return None
    effect, row = Effects(bench), Leaves(other, leaves.names)
    return lambda factor: bool(row.explained([a[None] for a in effect.scaled(same, own(factor))]))


def _scales(others, leaves, use, factor) -> bool:
    """Whether it is the same factor for other cotangents, or for other primals as well."""
    return others is not None and all(
        Leaves(other.failure, leaves.names).explained([a[None] for a in Effects(other).scaled(use, factor)])
        for other in others
    )


def _said(kind, use: Use, leaves: Leaves, each=""):
    if kind == "sign" and use.primitive in ("imag", "complex", "conj"):
        text = "a complex conjugate too many or too few: the sign of an imaginary part is wrong, through "
        return Explanation("local_derivative", text + words.taken(use) + each + leaves.alone, words.where(use))
    text = {
        "missing_path": f"a path is missing: this is the gradient with {words.taken(use)} held constant",
        "counted_twice": f"a path is counted twice: the one through {words.taken(use)}",
        "sign": f"the sign is wrong along one path, through {words.taken(use)}",
    }[kind]
    return Explanation(kind, text + each + leaves.alone, words.where(use))


def in_loops(bench: Bench):
    """One use in a loop is scaled in every round, or in the first or last; that is not linear, so it is tried."""
    uses = bench.graph.uses
    bodies: dict[tuple, list[Use]] = {}
    for use in uses:
        if use.loop or use.round:
            bodies.setdefault(use.body, []).append(use)
    tried = [(kind, goal, body, "") for kind, goal in GOALS.items() for body in bodies.values()]
    rounds = [body for body in bodies.values() if len(body) > 1]
    tried += [("missing_path", 0.0, body[:1], " in the first round") for body in rounds]
    tried += [("missing_path", 0.0, body[-1:], " in the last round") for body in rounds]
    tried += [("missing_path", 0.0, body[1:], " after the first round") for body in rounds]
    tried += [("missing_path", 0.0, body[:-1], " before the last round") for body in rounds]
    if not tried or len(tried) > bench.room(len(uses)):
        return None
    rows = np.ones((len(tried), len(uses)))
    for row, (_, goal, body, _) in zip(rows, tried, strict=True):
        row[[use.index for use in body]] = goal
    stacks = bench.scaled(rows)
    for leaves in bench.sets:
        if found := leaves.explained(stacks):
            kind, _, _, each = tried[found[0]]
            same = [tried[i] for i in found if tried[i][0] == kind and tried[i][3] == each]
            return _said(kind, words.simplest([body[0] for *_, body, _ in same], bench.graph), leaves, each)
    return None


def two_uses(bench: Bench):
    """Two uses are changed together: statistics taken for constants, or what is not symmetric taken for symmetric."""
    leaves = Leaves(bench.failure, [bench.failure.leaf])
    for effect in effects(bench):
        rows, groups = effect.of(leaves), []
        for use in bench.graph.free:
            if np.max(np.abs(rows[use.index]), initial=0) <= 2:
                continue
            same = (group for group in groups if np.max(np.abs(rows[group[0].index] - rows[use.index])) <= 2)
            group = next(same, None)
            groups.append([use]) if group is None else group.append(use)
        groups = groups[:PAIRS]
        pairs = [(a, b, 0.0) for i, a in enumerate(groups) for b in groups[i + 1 :]]
        pairs += [(a, b, 2.0) for a in groups for b in groups if a is not b]
        if not pairs or len(pairs) > bench.room(len(effect.base)):
            continue
        scales = []
        for a, b, other in pairs:
            row = effect.base.copy()
            row[a[0].index], row[b[0].index] = 0.0, other
            scales.append(row)
        stacks = bench.scaled(scales)
        for leaves in bench.sets:
            for i in leaves.explained(stacks):
                *pair, other = pairs[i]
                first, second = (words.simplest(group, bench.graph) for group in pair)
                if other:
                    text = f"one path is counted twice and another not at all: {words.once(second)} stands for "
                    return Explanation("missing_path", text + words.once(first) + leaves.alone, words.where(first))
                text = f"two paths are missing: this is the gradient with {words.once(first)} and "
                return Explanation(
                    "missing_path", f"{text}{words.once(second)} held constant{leaves.alone}", words.where(second)
                )
    return None

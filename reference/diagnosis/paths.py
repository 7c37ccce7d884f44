"""Mistakes in how cotangents are summed over paths: a use of a value held constant, counted twice, with a factor.

The gradient is linear in the scale of any one use outside of loops, so the factor that explains what came best is
found by least squares, with the allowance as the unit, over all leaves together, and then verified.  A hand-written
derivative often has a formula for each leaf; where no mistake explains all leaves, one may explain this leaf.
"""

import numpy as np

from . import numbers, words
from .failure import Explanation, Failure
from .graph import Graph, Use

PAIRS = 20  # of this many uses with different effects, every two are tried together


class Leaves:
    """Some of the leaves of a failure in one row, in units of their allowances."""

    def __init__(self, failure: Failure, names):
        self.failure, self.names = failure, list(names)
        self.places = [list(failure.leaves).index(name) for name in self.names]
        judged = [np.isfinite(a) & np.isfinite(t) & (a > 0) for _, t, a in self._of(failure)]
        self.judged = [mask.ravel() for mask in judged]
        self.allowance = self._row([a for *_, a in self._of(failure)])
        self.truth = self._row([t for _, t, _ in self._of(failure)]) / self.allowance
        self.off = self._row([g for g, *_ in self._of(failure)]) / self.allowance - self.truth

    def _of(self, failure):
        return [failure.leaves[name] for name in self.names]

    def _row(self, leaves):
        return np.concatenate([np.ravel(a)[mask] for a, mask in zip(leaves, self.judged, strict=True)])

    def rows(self, stacks) -> np.ndarray:
        """Stacks of gradients, one for each float leaf, as rows in units of the allowance."""
        chosen = [stacks[i].reshape(len(stacks[i]), -1)[:, m] for i, m in zip(self.places, self.judged, strict=True)]
        return np.concatenate(chosen, axis=1) / self.allowance

    def explained(self, stacks) -> list[int]:
        """Which gradients of the stacks are what came."""
        left = np.max(np.abs(self.rows(stacks) - self.truth - self.off), axis=1, initial=0)
        likely = np.flatnonzero(left <= max(64.0, np.max(np.abs(self.off), initial=0) / 4))
        return [
            int(i)
            for i in likely
            if all(self._is(name, stacks[place][i]) for name, place in zip(self.names, self.places, strict=True))
        ]

    def _is(self, name, candidate) -> bool:
        if self.failure.explains(candidate, name):
            return True
        got, truth, allowance = self.failure.leaves[name]
        right = name != self.failure.leaf and not (np.abs(got - truth) > allowance).any()
        return right and not (np.abs(candidate - got) > 2 * allowance).any()


def together(failure: Failure):
    """All leaves, then the failing one alone; with the words that say so."""
    yield Leaves(failure, failure.leaves), ""
    if len(failure.leaves) > 1:
        yield Leaves(failure, [failure.leaf]), f", in the cotangent of {failure.leaf} alone"


def one_use(failure: Failure, graph: Graph):
    """One use of a value is scaled."""
    base, held = graph.without(failure.primals, failure.cotangent)
    for leaves, alone in together(failure):
        effects = leaves.rows([b[None] for b in base]) - leaves.rows(held)
        with np.errstate(all="ignore"):
            norms = np.sum(effects**2, axis=1)
            factors = 1 + (effects @ leaves.off) / norms
            left = np.max(np.abs(leaves.off - (factors - 1)[:, None] * effects), axis=1, initial=0)
        fits = np.isfinite(factors) & (left <= np.maximum(64.0, np.max(np.abs(leaves.off), initial=0) / 4))
        found = [(use, factors[use.index], effects[use.index]) for use in graph.uses if fits[use.index]]
        for kind, goal in (("missing_path", 0.0), ("counted_twice", 2.0), ("sign", -1.0), ("factor", None)):
            uses = [
                use
                for use, factor, effect in found
                if not use.loop
                and _scales(failure, leaves, base, held, use, factor if goal is None else goal)
                and (goal is not None or np.count_nonzero(np.abs(effect) > 1) > 1)
            ]
            if goal is None:
                uses = [use for use in uses if abs(factors[use.index] - 1) > 1e-9]
            if uses:
                use = words.simplest(uses, graph)
                return _said(kind, use, factors[use.index], alone, failure, leaves, base, held, graph)
    return None


def _scales(failure, leaves, base, held, use, factor) -> bool:
    candidates = [b + (factor - 1) * (b - h[use.index]) for b, h in zip(base, held, strict=True)]
    return bool(leaves.explained([c[None] for c in candidates]))


def _said(kind, use: Use, factor, alone, failure, leaves, base, held, graph):
    what = words.taken(use)
    if kind == "missing_path":
        text = f"a path is missing: this is the gradient with {what} held constant"
    elif kind == "counted_twice":
        text = f"a path is counted twice: the one through {what}"
    elif kind == "sign":
        text = f"the sign is wrong along one path, through {what}"
    else:
        constants = {f"the constant {abs(v):.6g} of the definition": abs(v) for v in graph.literals.values() if v}
        is_it = lambda value: _scales(failure, leaves, base, held, use, value)  # noqa: E731
        name = numbers.named(float(factor), is_it, failure, constants)
        kind = "factor" if name else "local_derivative"
        text = f"one path is off by a factor of {factor:.6g}{f', which is {name}' if name else ''}: through {what}"
    return Explanation(kind, text + alone, words.where(use))


def in_loops(failure: Failure, graph: Graph):
    """One use inside of a loop is scaled in every round; the gradient is not linear in that, so it is tried."""
    uses = [use for use in graph.uses if use.loop]
    if not uses:
        return None
    goals = (("missing_path", 0.0), ("counted_twice", 2.0), ("sign", -1.0))
    rows = np.ones((len(goals), len(uses), len(graph.uses)))
    for g, (_, goal) in enumerate(goals):
        for u, use in enumerate(uses):
            rows[g, u, use.index] = goal
    stacks = graph.scaled(rows.reshape(-1, len(graph.uses)), failure.primals, failure.cotangent)
    for leaves, alone in together(failure):
        found = leaves.explained(stacks)
        for g, (kind, goal) in enumerate(goals):
            if group := [uses[i - g * len(uses)] for i in found if i // len(uses) == g]:
                return _said(kind, words.simplest(group, graph), goal, alone, *[None] * 4, graph)
    return None


def two_uses(failure: Failure, graph: Graph):
    """Two uses are held constant together, as when statistics are taken for constants."""
    base, held = graph.without(failure.primals, failure.cotangent)
    leaves = Leaves(failure, [failure.leaf])
    effects = leaves.rows([b[None] for b in base]) - leaves.rows(held)
    groups: list[list[Use]] = []
    for use in graph.uses:
        effect = effects[use.index]
        if np.max(np.abs(effect), initial=0) <= 1:
            continue
        for group in groups:
            if np.max(np.abs(effects[group[0].index] - effect)) <= 1:
                group.append(use)
                break
        else:
            groups.append([use])
    groups = groups[:PAIRS]
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    if not pairs:
        return None
    rows = np.ones((len(pairs), len(graph.uses)))
    for row, pair in zip(rows, pairs, strict=True):
        row[[group[0].index for group in pair]] = 0
    stacks = graph.scaled(rows, failure.primals, failure.cotangent)
    for some, alone in together(failure):
        for i in some.explained(stacks):
            first, second = (words.simplest(group, graph) for group in pairs[i])
            text = f"two paths are missing: this is the gradient with {words.taken(first)} and {words.taken(second)}"
            return Explanation("missing_path", f"{text} held constant{alone}", words.where(second))
    return None

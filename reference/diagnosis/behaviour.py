"""Mistakes that show only in how the derivative behaves: with other cotangents, at other primals, when called twice."""

import jax
import numpy as np

from manual_backprop.signature import kind_of

from .failure import Explanation, Failure, most, over

POWERS = (1, -1, 10, -10)


def behaves(failure: Failure):
    """Asks the derivative under test itself, at most a dozen times."""
    if failure.at is None:
        return None
    try:
        return _impure(failure) or _nonlinear(failure) or _elsewhere(failure)
    except Exception:  # it may raise at other arguments, which then explains nothing
        return None


def _same(first, second, factor=1.0) -> bool:
    return all(
        most(over(np.asarray(second[name][0]), factor * np.asarray(got), factor * allowance)) <= 2
        for name, (got, _, allowance) in first.items()
        if np.isfinite(got).all()
    )


def _right(leaves, name) -> bool:
    return most(over(*leaves[name])) <= 1


def _impure(failure):
    again = failure.at(failure.primals, failure.cotangent)
    if not _same(failure.leaves, again):
        return Explanation("impure", "two equal calls give different cotangents: something is kept between them")
    return None


def _nonlinear(failure):
    bent, healed = [], []
    for power in POWERS:
        factor = 2.0**power
        leaves = failure.at(
            failure.primals, jax.tree.map(lambda a, f=factor: a * np.asarray(f, a.dtype), failure.cotangent)
        )
        if not _same(failure.leaves, leaves, factor):
            bent.append(factor)
        if _right(leaves, failure.leaf):
            healed.append(factor)
    if healed and max(healed) < 1:
        return Explanation("nonlinear", "right for small cotangents alone: something is clipped or rounded on the way")
    if healed and min(healed) > 1:
        return Explanation("nonlinear", "right for large cotangents alone: something small is cut off on the way")
    if bent:
        return Explanation(
            "nonlinear", f"not linear in the cotangent: {bent[0]:g} times it does not give {bent[0]:g} times the result"
        )
    opposite = failure.at(failure.primals, jax.tree.map(lambda a: -a, failure.cotangent))
    if not _same({n: (-np.asarray(g), t, a) for n, (g, t, a) in failure.leaves.items()}, opposite):
        return Explanation("nonlinear", "not linear in the cotangent: minus it does not give minus the result")
    return None


def _elsewhere(failure):
    """Right at other primals: what is particular about these?"""
    found = []
    for text, change in (
        ("large or at particular places", lambda a, rng: a / 8),
        ("small or at particular places", lambda a, rng: a * 8),
        ("particular", lambda a, rng: np.asarray(rng.permutation(np.ravel(a)).reshape(np.shape(a)))),
    ):
        rng = np.random.default_rng(0)
        primals = jax.tree.map(
            lambda a, rng=rng, change=change: (
                change(a, rng).astype(a.dtype) if kind_of(a) == "float" and hasattr(a, "dtype") else a
            ),
            failure.primals,
        )
        leaves = failure.at(primals, failure.cotangent)
        found.append((text, _right(leaves, failure.leaf)))
    if found[0][1] and not found[1][1]:
        return Explanation("values", "wrong where the primals are large alone: right at an eighth of them")
    if found[1][1] and not found[0][1]:
        return Explanation("values", "wrong where the primals are small alone: right at eight times them")
    return None

"""Mistakes that show only in how the derivative behaves: with other cotangents, at other primals, when called twice."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import unit
from .failure import Explanation, Failure, most, over

NARROW = ("float16", "bfloat16")


def impure_or_nonlinear(failure: Failure):
    """Asks the derivative under test for the same again, for twice the cotangent and for minus it."""
    return _asked(failure, _impure, _nonlinear)


def rounding(failure: Failure):
    """Asks it at primals that are moved by a few roundings: an error that jumps is rounding, somewhere on the way."""
    return _asked(failure, _erratic)


def at_other_primals(failure: Failure):
    """Asks it at larger and at smaller primals."""
    return _asked(failure, _elsewhere)


def _asked(failure, *questions):
    if failure.at is None:
        return None
    try:
        return next(filter(None, (question(failure) for question in questions)), None)
    except Exception:  # it may raise at other arguments, which then explains nothing
        return None


def _times(failure, factor):
    """Judged at a multiple of the cotangent."""

    def scaled(a):
        a = np.asarray(a)
        return a if a.dtype == jax.dtypes.float0 else (a * np.asarray(factor, a.dtype)).astype(a.dtype)

    return failure.at(failure.primals, jax.tree.map(scaled, failure.cotangent))


def _same(first, second, factor=1.0) -> bool:
    return all(
        most(over(np.asarray(second[name][0]), factor * np.asarray(got), abs(factor) * allowance)) <= 2
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
    bent = [factor for factor in (2.0, -1.0) if not _same(failure.leaves, _times(failure, factor), factor)]
    if not bent:
        return None
    if _right(_times(failure, 2.0**-10), failure.leaf):
        return Explanation("nonlinear", "right for small cotangents alone: something is clipped or rounded on the way")
    if _right(_times(failure, 2.0**10), failure.leaf):
        return Explanation("nonlinear", "right for large cotangents alone: something small is cut off on the way")
    times = f"{bent[0]:g} times the cotangent does not give {bent[0]:g} times the result"
    return Explanation("nonlinear", f"not linear in the cotangent: {times}")


def _erratic(failure):
    off = _off(failure.leaves[failure.leaf])
    size = most(np.abs(off))
    if not size:
        return None
    u = unit(failure.dtype)
    steps = {f"rounding in {failure.dtype} itself": 32 * u}
    steps |= {dtype: float(jnp.finfo(dtype).eps) for dtype in NARROW if jnp.finfo(dtype).eps > 64 * u}
    for what, step in steps.items():
        # A smooth error moves by a share of itself that is hardly more than the step, and by less for a smaller one.
        if not all(_jumps(failure, off, size, part) for part in (step, step / 8)):
            continue
        if step == 32 * u:
            return Explanation("cancellation", f"digits are lost: the error jumps as {what} does")
        return Explanation(
            "dtype", f"rounded to {what} on the way: the error jumps when the primals move by {step:.2g}"
        )
    return None


def _off(judged):
    got, truth, allowance = judged
    return np.where(np.isfinite(allowance), got - truth, 0)


def _jumps(failure, off, size, step) -> bool:
    """Whether the error is another one when the primals move by a step, and not gone, as it may be beside a kink."""
    leaf = failure.at(_moved(failure.primals, step), failure.cotangent)[failure.leaf]
    other = _off(leaf)
    large = size > most(np.abs(failure.truth)) / 8
    gone = large and not most(np.abs(other)) > size / 8
    return not gone and most(np.abs(other - off)) > max(size / 8, 64 * step * size)


def _moved(primals, step):
    rng = np.random.default_rng(0)

    def moved(a):
        if not hasattr(a, "dtype") or kind_of(a) != "float":
            return a
        return (np.asarray(a, np.float64) * (1 + step * rng.uniform(-1, 1, np.shape(a)))).astype(a.dtype)

    return jax.tree.map(moved, primals)


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

"""Mistakes that show only in how the derivative behaves: with other cotangents, at other primals, when called twice."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import SLACK, unit
from .failure import Explanation, Failure, most, over

NARROW = ("float32", "float16", "bfloat16")  # the finest first: what a step moves, a longer one moves too


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
    if constant := _constant_part(failure):
        return Explanation("nonlinear", constant)
    times = f"{bent[0]:g} times the cotangent does not give {bent[0]:g} times the result"
    return Explanation("nonlinear", f"not linear in the cotangent: {times}")


def _constant_part(failure):
    """Words for what is there whatever the cotangent, where the rest is linear in it."""
    none, twice, minus = (_times(failure, factor)[failure.leaf][0] for factor in (0.0, 2.0, -1.0))
    got, _, allowance = failure.leaves[failure.leaf]
    fits = (
        most(over(scaled - none, factor * (got - none), 4 * allowance)) <= 1
        for scaled, factor in ((twice, 2.0), (minus, -1.0))
    )
    if not np.any(none) or not all(fits):
        return None
    place = np.unravel_index(np.argmax(np.abs(none)), np.shape(none))
    at = f" at {list(map(int, place))}" if np.ndim(none) else ""
    return f"a part of it does not depend on the cotangent: where that is zero, it is {none[place]:.4g}{at}"


def _erratic(failure):
    off = _off(failure.leaves[failure.leaf])
    size = most(np.abs(off))
    if not size:
        return None
    u = unit(failure.dtype)
    steps = {f"rounding in {failure.dtype} itself": 32 * u}
    steps |= {dtype: float(jnp.finfo(dtype).eps) for dtype in NARROW if jnp.finfo(dtype).eps > 64 * u}
    # A smooth error would have moved by a share of itself that is hardly more than the step.
    jumping = {what: step for what, step in steps.items() if _jumps(failure, off, size, step)}
    if not jumping:
        return None
    what = next(iter(jumping))
    if (
        jumping[what] > 32 * u
    ):  # of a coarse rounding finer steps show something too: an error of its size speaks for it
        fitting = (other for other, step in jumping.items() if size <= step * most(np.abs(failure.truth)))
        what = next(fitting, what)
    if particular := _particular(failure, jumping[what]):
        return particular
    if jumping[what] == 32 * u:
        return Explanation("cancellation", f"digits are lost: the error jumps as {what} does")
    said = f"rounded to {what} on the way: the error jumps when the primals move by {jumping[what]:.2g}"
    return Explanation("dtype", said)


def _particular(failure, step):
    """Right as soon as the primals move, so that it is no rounding: something is particular about these."""
    if not _right(failure.at(_moved(failure.primals, step), failure.cotangent), failure.leaf):
        return None
    for i, name in enumerate(failure.names):
        moved = [_moved(a, step) if k == i else a for k, a in enumerate(failure.primals)]
        still = all(map(np.array_equal, moved, failure.primals))
        if not still and _right(failure.at(tuple(moved), failure.cotangent), failure.leaf):
            held = np.unique(failure.primals[i])
            at = f"where {name} is {held[0]:.6g}" if len(held) == 1 else f"at these values of {name}"
            return Explanation("values", f"wrong only {at} exactly: it is right as soon as {name} moves a little")
    return Explanation("values", "wrong only at exactly these primals: it is right as soon as they move a little")


def _off(judged):
    got, truth, allowance = judged
    return np.where(np.isfinite(allowance), got - truth, 0)


def _jumps(failure, off, size, step) -> bool:
    """Whether the error is another one when the primals move by a step, and the truth is not, as beside a kink."""
    leaf = failure.at(_moved(failure.primals, step), failure.cotangent)[failure.leaf]
    moved = np.where(np.isfinite(leaf[1]), leaf[1] - failure.truth, 0)
    kink = most(np.abs(moved)) > 64 * step * most(np.abs(failure.truth))
    return not kink and most(np.abs(_off(leaf) - off)) > max(size / 8, 64 * step * size)


def _moved(primals, step):
    rng = np.random.default_rng(0)

    def moved(a):
        if not hasattr(a, "dtype") or kind_of(a) != "float":
            return a
        return (np.asarray(a, np.float64) * (1 + step * rng.uniform(-1, 1, np.shape(a)))).astype(a.dtype)

    return jax.tree.map(moved, primals)


def _elsewhere(failure):
    """Right at other primals: what is particular about these?"""
    for factor, words in ((0.5, "large"), (2.0, "small")):
        last = failure.leaves
        for power in range(1, 4):

            def changed(a, factor=factor**power):
                return (a * factor).astype(a.dtype) if hasattr(a, "dtype") and kind_of(a) == "float" else a

            leaves = failure.at(jax.tree.map(changed, failure.primals), failure.cotangent)
            # An error that grows smoothly has no threshold.
            if _right(leaves, failure.leaf):
                if most(over(*last[failure.leaf])) <= SLACK:
                    break
                text = f"wrong where the primals are {words} alone: right at {factor**power:g} times them"
                return Explanation("values", text, vague=True)
            last = leaves
    return None

"""How far from the truth rounding may carry a right derivative: measured at the point, never chosen.

The truth is `jax.vjp` of the plain definition in float64.  In a dtype with unit roundoff u, element i of an answer
is allowed

    spread_i + SLACK (u scale + least)

    spread   how far the truth moves when everything is nudged by SLACK roundings of that dtype: the primals, the
             cotangent, and every intermediate result of the definition and of its derivative.  Whoever computes in
             that dtype cannot avoid it.  The nudges come in antithetic pairs, so that at a point within rounding
             of a kink one of the two crosses it.  Where an answer is not much further off than that, more copies
             are tried, and smaller nudges, which do not leap over what is steep in a narrow place.
    scale    the largest magnitude of the leaf at the point: one rounding of the answer's own size
    least    the smallest positive number that arithmetic in the dtype keeps

There is no number for a rule, a dtype or a test: SLACK is the only constant.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from .programs import compiled
from .pullback import nudges, stacked_pullback, to_numpy

SLACK = 16
PAIRS = 8
COPIES = 1 + 2 * PAIRS  # the point itself comes first
DTYPES = ("float64", "float32", "bfloat16", "float16")


def unit(dtype: str) -> float:
    """The unit roundoff u: the largest relative error of rounding to nearest.

    Of eight bits, where SLACK roundings are as much as the number itself, an eighth over SLACK.
    """
    return min(float(jnp.finfo(dtype).eps) / 2, 1 / (8 * SLACK))


@functools.cache
def least(dtype: str) -> float:
    """The smallest positive number that arithmetic keeps; whether it flushes subnormals is found by trying."""
    if dtype not in DTYPES:
        return _least((dtype,))[0]
    return dict(zip(DTYPES, _least(DTYPES), strict=True))[dtype]


@functools.cache
def _least(dtypes: tuple[str, ...]) -> list[float]:
    infos = [jnp.finfo(dtype) for dtype in dtypes]
    with jax.enable_x64(True):
        halve = compiled(lambda numbers: [x * 0.5 for x in numbers])  # one program for all
        halves = jax.device_get(halve([np.asarray(info.tiny, info.dtype) for info in infos]))
    return [float(i.smallest_subnormal if half != 0 else i.tiny) for i, half in zip(infos, halves, strict=True)]


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """The truth at a point and the allowance around it: each a tree (output, cotangents) of float64 arrays."""

    truth: Any
    allowance: Any


def yardsticks(
    rule, primals: tuple, cotangent, dtypes=DTYPES, given: str | None = None, draw: int = 0, came: Iterable = ()
) -> dict[str, Yardstick]:
    """Measure the truth and the allowance of a rule at a point, for answers in each of these dtypes, in one pass.

    The point is rounded to the same dtype first, or to the one `given`, where that keeps more digits.  Every `draw`
    nudges in another way, by SLACK roundings, a half of that, and so on down to one.

    came  what every piece of a network gave by hand in the one dtype: each has its truth at what it was given there
    """
    still = getattr(rule, "asked_for", ())
    stacks = [copies((primals, cotangent), dtype, given, still, draw) for dtype in dtypes]
    together = jax.tree.map(lambda *a: np.concatenate(a) if kind_of(a[0]) == "float" else a[0], *stacks)
    noises = tuple(noise for dtype in dtypes for noise in _noises(dtype, draw))
    instead = iter([copies(out, *dtypes) for out in came])
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        result = to_numpy(stacked_pullback(rule, noises, lambda gave: next(instead, gave))(*together))
    return {
        dtype: _yardstick(jax.tree.map(lambda a, i=i: a[i * COPIES : (i + 1) * COPIES], result), dtype)
        for i, dtype in enumerate(dtypes)
    }


def with_more_copies(before: Yardstick, rule, primals: tuple, cotangent, dtype: str) -> Iterator[Yardstick]:
    """The same with ever more copies, and smaller nudges: what is steep in few places is easily leapt over."""
    for draw in range(1, SLACK):
        more = yardsticks(rule, primals, cotangent, (dtype,), draw=draw)[dtype]
        before = Yardstick(before.truth, jax.tree.map(np.maximum, before.allowance, more.allowance))
        yield before


def _slack(draw):
    return SLACK / 2 ** (draw % SLACK.bit_length())


def _noises(dtype, draw):
    """No noise at the point itself, then antithetic pairs."""
    relative, absolute = _slack(draw) * unit(dtype), _slack(draw) * least(dtype)
    up = [(row, relative, absolute) for row in range(draw * PAIRS, (draw + 1) * PAIRS)]
    return (0, 0.0, 0.0), *up, *[(row, -relative, -absolute) for row, *_ in up]


def copies(point, dtype, given=None, still: tuple[float, ...] = (), draw: int = 0):
    """The point, rounded to the dtype, and its nudged copies, stacked along a new first axis.

    Equal numbers move together, whichever leaf they are in: a tie stays a tie, and what holds at ties can be told.
    So do `still` numbers stay: where a function asks for one exactly, it is another function beside it.
    """
    point = jax.tree.map(
        lambda a: np.asarray(round_to(a, given or dtype), np.float64) if kind_of(a) == "float" else a, point
    )
    floats = [np.ravel(a) for a in jax.tree.leaves(point) if kind_of(a) == "float"]
    distinct, which = np.unique(np.concatenate([np.zeros(0), *floats]), return_inverse=True)
    up = nudges(np.random.default_rng(draw), (PAIRS, len(distinct))) * ~np.isin(distinct, still)
    moves = iter(np.split(up[:, which], np.cumsum([a.size for a in floats])[:-1], axis=1)) if floats else iter(())

    def stack(a):
        if kind_of(a) != "float":
            return a
        up = _slack(draw) * unit(dtype) * next(moves).reshape(PAIRS, *np.shape(a))
        kept = np.where(np.abs(a) < least(dtype), 0.0, a)  # to arithmetic in the dtype it may be nothing at all
        return np.concatenate([a[None], a * (1 + up), kept * (1 - up)])

    return jax.tree.map(stack, point)


def _yardstick(stack, dtype):
    u, floor = unit(dtype), least(dtype)
    truth = jax.tree.map(lambda a: a[0], stack)
    allowance = jax.tree.map(lambda a: _spread(a) + SLACK * (u * scale(a[0]) + floor), stack)
    return Yardstick(truth, allowance)


def _spread(stack):
    """The largest distance of a copy from the point itself, elementwise; infinite where a copy is not finite."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(stack - stack[0])
    return np.max(np.where(np.isfinite(apart), apart, np.inf), axis=0)


def scale(leaf: np.ndarray) -> float:
    """The largest finite magnitude of a leaf."""
    sizes = np.abs(leaf)
    largest = np.max(sizes, initial=0)
    return float(largest if np.isfinite(largest) else np.max(sizes, where=np.isfinite(sizes), initial=0))


def round_to(tree, dtype: str):
    """The float leaves rounded to a dtype, as NumPy arrays of that dtype."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda a: np.asarray(a).astype(jnp.dtype(dtype)) if kind_of(a) == "float" else a, tree)

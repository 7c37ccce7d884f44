"""How far from the truth rounding may carry a right derivative: measured at the point, never chosen.

The truth is `jax.vjp` of the plain definition in float64.  In a dtype with unit roundoff u, element i of an answer
is allowed

    spread_i + SLACK (loss_i + u |truth_i| + least)

    spread   how far the truth moves when primals and cotangent are nudged by SLACK u, up and down: what nobody
             who rounds his inputs can avoid.  The nudges come in antithetic pairs, so that at a point within
             rounding of a kink one of the two crosses it.
    loss     how far autodiff of the definition lands from the truth in this very dtype, at the point and at the
             nudged copies: what evaluating the formula costs.  Where it overflows there, it is no excuse.
    least    the smallest positive number of the dtype

There is no number for a rule, a dtype or a test: SLACK is the only constant.  Nothing stands above float64, so its
loss is float32's, scaled down by the ratio of the two units.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..signature import kind_of
from .pullback import stacked_pullback, to_numpy

SLACK = 16
PAIRS = 4
DTYPES = ("float64", "float32", "bfloat16", "float16")


def unit(dtype: str) -> float:
    """The unit roundoff u: the largest relative error of rounding to nearest."""
    return float(jnp.finfo(dtype).eps) / 2


def least(dtype: str) -> float:
    """The smallest positive number of a dtype, which nothing can be resolved below."""
    return float(jnp.finfo(dtype).smallest_subnormal)


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """The truth at a point, the allowance around it, and where autodiff in the dtype was not finite.

    Each is a tree (output, cotangents) of float64 arrays.
    """

    truth: Any
    allowance: Any
    unstable: Any


def yardsticks(rule, primals: tuple, cotangent, dtypes=DTYPES) -> dict[str, Yardstick]:
    """Measure the truth and the allowance of a rule at a point, for answers in each of these dtypes.

    One pass in float64 serves all dtypes; each dtype but float64 adds a pass of its own.
    """
    measured = tuple(dict.fromkeys((*dtypes, "float32") if "float64" in dtypes else dtypes))
    copies = {dtype: _copies((primals, cotangent), dtype) for dtype in measured}
    exact = _run_all(rule, copies, "float64")
    losses, unstable = {}, {}
    for dtype in measured:
        if dtype != "float64":
            answers = _run(rule, round_to(copies[dtype], dtype), dtype)
            losses[dtype] = jax.tree.map(_largest_distance, answers, exact[dtype])
            unstable[dtype] = jax.tree.map(lambda a: ~np.isfinite(a).all(axis=0), answers)
    if "float64" in dtypes:
        scale = unit("float64") / unit("float32")
        losses["float64"] = jax.tree.map(lambda loss: loss * scale, losses["float32"])
        unstable["float64"] = jax.tree.map(lambda a: ~np.isfinite(a[0]), exact["float64"])
    return {dtype: _yardstick(exact[dtype], losses[dtype], unstable[dtype], dtype) for dtype in dtypes}


def _yardstick(exact, loss, unstable, dtype):
    u, floor = unit(dtype), least(dtype)
    truth = jax.tree.map(lambda a: a[0], exact)
    spread = jax.tree.map(lambda a: _largest_distance(a, a[:1]), exact)
    allowance = jax.tree.map(lambda t, s, off: s + SLACK * (off + u * np.abs(t) + floor), truth, spread, loss)
    return Yardstick(truth, allowance, unstable)


def round_to(tree, dtype: str):
    """The float leaves rounded to a dtype, as NumPy arrays of that dtype."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda a: np.asarray(a).astype(jnp.dtype(dtype)) if kind_of(a) == "float" else a, tree)


def _copies(point, dtype):
    """The point, rounded to the dtype, and its nudged copies, stacked along a new first axis."""
    rng = np.random.default_rng(0)

    def stack(a):
        if kind_of(a) != "float":
            return a
        signs = rng.choice([-1.0, 1.0], size=(PAIRS, *np.shape(a)))
        nudges = np.concatenate([np.zeros((1, *np.shape(a))), signs, -signs])
        return np.asarray(round_to(a, dtype), np.float64) * (1 + SLACK * unit(dtype) * nudges)

    return jax.tree.map(stack, point)


def _run_all(rule, copies, dtype):
    """One run over the copies of every dtype together, and its parts."""
    count = 2 * PAIRS + 1
    together = jax.tree.map(lambda *a: np.concatenate(a) if kind_of(a[0]) == "float" else a[0], *copies.values())
    result = _run(rule, together, dtype)
    return {
        name: jax.tree.map(lambda a, i=i: a[i * count : (i + 1) * count], result) for i, name in enumerate(copies)
    }


def _run(rule, point, dtype):
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        return to_numpy(stacked_pullback(rule)(*point))


def _largest_distance(stack, reference):
    """The largest distance over the copies, elementwise; one that is not finite does not count."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(stack - reference)
    return np.max(np.where(np.isfinite(apart), apart, 0), axis=0)

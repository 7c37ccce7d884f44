"""The truth of a subject at a point, and what rounding may do to it, by the road that applies there.

Reverse mode measures both at once (see `allowance`).  Where it does not apply, the truth is found in forward mode or by
differences, at the point and at its nudges; what rounding does inside of the function is then told by its output.
"""

import dataclasses

import jax
import numpy as np

from .allowance import COPIES, SLACK, Yardstick, copies, least, scale, unit, yardsticks
from .discrepancy import discrepancy, tells
from .finding import CannotTell
from .kinks import floating
from .local import Local
from .oracles.estimates import Abstains, Estimate
from .pullback import to_numpy
from .tracing.interpreter import settles
from .trials import Trial


def measure(local: Local, trial: Trial, dtype: str, by_differences: bool = False) -> Yardstick:
    """The truth and the allowance at a trial that is rounded to a dtype; by differences where autodiff is wrong."""
    if by_differences and not local.subject.outside:
        local.reverse, local.why = False, "differences contradict autodiff of the definition"
    if local.reverse is None:
        try:
            yardstick = _in_reverse(local, trial, dtype)
            local.reverse = True
            return yardstick
        except (ValueError, NotImplementedError, TypeError, AssertionError) as error:
            local.reverse = False
            local.why = str(error).split("\n")[0]
    if local.reverse:
        return _in_reverse(local, trial, dtype)
    found = _without_reverse(local, trial, dtype, by_differences)
    return _as_its_own(local, trial, dtype, found) if local.subject.outside else found


def barely(local: Local, at: Trial) -> Yardstick | None:
    """The truth alone at a rounded trial, with the least that is ever allowed around it; None where it is not finite.

    Most that is right is as near as that, and to measure what rounding may do is to compile more.
    """
    if local.reverse is False:
        return None
    try:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            truth = to_numpy(local.truth(at.primals, at.cotangent))
    except Exception:  # where reverse mode does not apply, measuring finds another way
        return None
    if not all(np.isfinite(a).all() for a in jax.tree.leaves(truth)):
        return None
    u, floor = unit(local.unit), least(local.unit)
    return Yardstick(truth, jax.tree.map(lambda a: np.full(a.shape, SLACK * (u * scale(a) + floor)), truth))


def _as_its_own(local, trial, dtype, found):
    """With the allowance of the function itself where that is more: a truth outside of JAX is rounded nowhere."""
    try:
        own = _in_reverse(local.own, trial, dtype) if local.own.reverse is not False else found
        local.own.reverse = own is not found
    except (ValueError, NotImplementedError, TypeError, AssertionError, jax.errors.JaxRuntimeError):
        local.own.reverse, own = False, found

    def more(allowed, of_own):
        known = allowed is not None and of_own is not None
        return np.where(np.isfinite(of_own), np.maximum(allowed, of_own), allowed) if known else allowed

    pairs = zip(found.allowance, own.allowance, strict=True)
    return Yardstick(found.truth, tuple(tuple(map(more, *pair)) for pair in pairs))


def _in_reverse(local, trial, dtype):
    return yardsticks(local, trial.primals, trial.cotangent, (local.unit,), given=dtype)[local.unit]


def _without_reverse(local, trial, dtype, by_differences):
    for name in ("richardson",) if by_differences else ("jacfwd", "richardson"):
        try:
            at = copies((trial.primals, trial.cotangent), local.unit, dtype, local.asked_for)
            rows = [jax.tree.map(lambda a, i=i: a[i] if floating(a) else a, at) for i in range(COPIES)]
            oracle = local.oracle(name)
            estimates = [oracle(*rows[0])]
            if name == "jacfwd":  # of differences, one is all that there is time for
                estimates += [oracle(*row, doubt=False) for row in rows[1:]]
                inside = oracle(*rows[0], relative=SLACK * unit(local.unit))  # every result inside moved as well
                estimates.append(Estimate(jax.tree.map(np.add, inside.value, inside.error), None))
        except Abstains as reason:
            local.why = reason.reason
            continue
        return _around(local, trial, rows, estimates, by_differences)
    raise CannotTell(f"no truth: {local.why}; give truth=, a plain implementation of the same function")


def _around(local, trial, rows, estimates, by_differences):
    """A yardstick from estimates at the rows: the point itself comes first, then its nudges."""
    u, floor = unit(local.unit), least(local.unit)
    with jax.enable_x64(True):
        outs = [tuple(np.asarray(o, np.float64) for o in local.value(*primals)) for primals, _ in rows]
    out, bars = outs[0], estimates[0].value

    # Differences of a number that does not move are as exact as those of numbers that do.
    searches = settles(local.equations)  # a search that ends leaves something, however small
    least_size = max((scale(bar) for bar in bars if bar is not None), default=0.0) * (by_differences or searches)

    def allowed(bar, error, size, *others):
        if bar is None:
            return None
        moved = [np.abs(other - bar) for other in others]
        rounding = SLACK * (error + u * max(scale(bar), size) + floor)
        if by_differences and searches:  # it ends in steps, which differences show, and tell nothing where they do not
            rounding = rounding + np.where(bar == 0, np.inf, scale(bar) / SLACK)
        return more * (np.max([np.zeros_like(bar), *moved], axis=0) + rounding)

    size = u * max([scale(a) for a in (*trial.primals, *out) if floating(a)], default=0.0)
    reach = tuple(
        np.max([np.abs(o - out[i]) for o in others], axis=0) + SLACK * (size + floor)
        for i, others in enumerate(zip(*outs, strict=True))
    )
    more = _underestimated(local, rows, outs, reach)
    allowances = tuple(
        allowed(bar, error, least_size, *(e.value[i] for e in estimates[1:]))
        for i, (bar, error) in enumerate(zip(bars, estimates[0].error, strict=True))
    )
    return Yardstick((out, bars), (tuple(more * a for a in reach), allowances))


def _underestimated(local, rows, outs, reach) -> float:
    """How many times more the function's own rounding moves its output than its arguments' rounding does."""
    if local.subject.definition is not None or local.subject.outside:  # what is written is what is asked about
        return 1.0
    worst = 0.0
    for (primals, _), out in zip(rows, outs, strict=True):
        for own, value, allowed in zip(local.plainly(primals), out, reach, strict=True):
            off = np.abs(np.asarray(own, np.float64) - value)
            worst = max(worst, float(np.max(off / allowed, where=np.isfinite(off), initial=0.0)))
    return max(1.0, SLACK * worst)


def steadied(local: Local, at: Trial, dtype: str, before: Yardstick) -> Yardstick:
    """With maxima held constant too: where that is the same function, its rounding is allowed."""
    other = yardsticks(local.steady, at.primals, at.cotangent, (local.unit,), given=dtype)[local.unit]

    def wider(truth, allowance, other_truth, other_allowance):
        if truth is None:
            return None
        with np.errstate(invalid="ignore"):
            same = np.abs(truth - other_truth) <= allowance + other_allowance
        return np.where(same, np.maximum(allowance, other_allowance), allowance)

    bars = zip(before.truth[1], before.allowance[1], other.truth[1], other.allowance[1], strict=True)
    return Yardstick(before.truth, (before.allowance[0], tuple(wider(*each) for each in bars)))


def beside(at: Trial, unit_of: str):
    """The trial, and every number of it moved by some roundings of itself, one way and the other."""
    rng, u = np.random.default_rng(0), SLACK * unit(unit_of)
    moves = [u * rng.choice([-1.0, 1.0], np.shape(a)) if floating(a) else None for a in at.primals]
    for way in (0, 1, -1):
        moved = zip(at.primals, moves, strict=True)
        yield dataclasses.replace(at, primals=tuple(a if m is None else a * (1 + way * m) for a, m in moved))


def far_off(unit_of: str, before: Yardstick, usual, answer) -> bool:
    """Whether some cotangent that came is further from autodiff than would be allowed if that were right."""
    u = unit(unit_of)

    def off(bar, truth, size):
        apart = np.abs(np.asarray(bar, np.float64) - truth)
        return bool(np.any(apart > np.sqrt(u) * scale(truth) + SLACK * u * size))

    bars = zip(answer, before.truth[1], usual, strict=True)
    return any(_comparable(bar, truth) and off(bar, truth, size) for bar, truth, size in bars)


def _comparable(bar, truth) -> bool:
    return truth is not None and bar is not None and np.shape(bar) == truth.shape and truth.size > 0


def without_cancelling(unit_of: str, before: Yardstick, found, usual, answer) -> Yardstick:
    """The yardstick by differences, of leaves where rounding leaves autodiff no digit and what came is far from them.

    Autodiff that is unstable is no excuse for agreeing with it.  What differences do beside the point is what rounding
    of the arguments does; digits that the function itself loses inside, its derivative loses as well.  A few roundings
    of what comes in, or of the derivative as it is at the example, are allowed too: p − 1, where a class is certain,
    has them.

    found   estimates at the point and beside it
    usual   how large the cotangents are at the example, or what comes in
    answer  the cotangents that came
    """
    u = unit(unit_of)
    outputs = [(scale(reach), scale(out)) for reach, out in zip(before.allowance[0], before.truth[0], strict=True)]
    inside = max(reach / size if size else np.inf for reach, size in outputs)

    def one(i, truth, allowance):
        if not _comparable(answer[i], truth) or tells(truth, allowance, unit_of):
            return truth, allowance
        slope, *others = (each.value[i] for each in found)
        doubt = SLACK * np.max([each.error[i] for each in found], axis=0)
        with np.errstate(invalid="ignore"):
            room = doubt + np.max([np.abs(other - slope) for other in others], axis=0)
            room = room + (np.sqrt(u) + SLACK * inside) * scale(slope) + SLACK * (u * usual[i] + least(unit_of))
            apart = discrepancy(np.asarray(answer[i], np.float64), slope, room, unit_of)
        return (slope, room) if apart and apart.ratio > 1 else (truth, allowance)

    bars = zip(before.truth[1], before.allowance[1], strict=True)
    truths, allowances = zip(*(one(i, *each) for i, each in enumerate(bars)), strict=True)
    return Yardstick((before.truth[0], truths), (before.allowance[0], allowances))
